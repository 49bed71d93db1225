"""The encoder of kernels gives the bits of `EncodecModel` alone on one thread, in any company.

Letters in shapes: C audio channels, n samples, D latent channels, T frames, K codebooks.

Where bits of torch are compared, they are those of `torch.no_grad`: with gradients torch runs another LSTM.
"""

import copy
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from encodec_core import BatchEncoder, EncodecConfig, EncodecModel, StreamingEncoder, compare_codes
from encodec_core.fast.layers import fold_encoder
from encodec_core.fast.native import kernels, shared_object, why_absent
from encodec_core.fast.native.encoder import BlockedEncoder, can_run_blocked
from encodec_core.spans import window_spans
from encodec_core.windows import loudness
from tests.encodec_core.native_parts import needs_kernels, needs_mkl_on_amd
from tests.fitted_models import make_fitted_model, synthetic_waveform

CONFIGS = {
    "24 kHz": EncodecConfig.encodec_24khz(num_filters=8, hidden_size=32),
    "24 kHz, no shortcuts": EncodecConfig.encodec_24khz(
        num_filters=8, hidden_size=32, use_conv_shortcut=False, pad_mode="constant", num_residual_layers=2
    ),
    "48 kHz": EncodecConfig.encodec_48khz(num_filters=16, hidden_size=16, compress=1),
    "32 kHz": EncodecConfig.musicgen_32khz(
        num_filters=8, hidden_size=32, codebook_size=256, target_bandwidths=(0.4, 0.8, 1.6)
    ),
}
"""Norms are of 16 channels or a multiple in a codec that the kernels run, and products of fewer than 4 output channels
are rounded otherwise: a little wider than other tests' codecs."""
NAMES = (*CONFIGS, "demo")
every_codec = pytest.mark.parametrize("name", NAMES)
LEAST_FRAMES = 12
"""Of a recording, or a window, whose bits are promised: shorter ones have products of fewer than 12 columns."""
LAST_FRAMES = {True: 2, False: 5}
"""Frames, if the codec is causal and if it is not, that read the last numbers of an activation."""
ROUND = 96_000
"""Samples of a lane per round."""


@cache
def model_of(name: str) -> EncodecModel:
    """Return the codec. It is shared: do not change it."""
    if name == "demo":
        return EncodecModel.from_pretrained("demo").requires_grad_(False)
    config = CONFIGS[name]
    return make_fitted_model(config, seed=0, waveforms=[clip(config, 3 * config.sampling_rate)]).requires_grad_(False)


@cache
def encoder_of(name: str) -> BatchEncoder:
    return BatchEncoder(model_of(name), model_of(name).config.target_bandwidths[-1], "cpu")


def clip(config: EncodecConfig, num_samples: int) -> Tensor:
    return synthetic_waveform(
        num_samples, num_channels=config.audio_channels, sampling_rate=config.sampling_rate, seed=num_samples
    )


def audio(name: str, num_samples: int) -> Tensor:
    return clip(model_of(name).config, num_samples)


@cache
def alone(name: str, num_samples: int) -> tuple[Tensor, Tensor]:
    """Return latents and codes of an item that is alone in its call."""
    waveform = audio(name, num_samples)
    return encoder_of(name).latents([waveform])[0], encoder_of(name).encode([waveform])[0].codes


@torch.no_grad()
def plain(name: str, waveform: Tensor) -> tuple[Tensor, Tensor]:
    """Return latents `[D, T]` and codes `[K, T]` of `EncodecModel`'s own modules."""
    model = model_of(name)
    config, latents = model.config, []
    for span in window_spans(waveform.shape[-1], length=config.chunk_length, stride=config.chunk_stride):
        window = waveform[None, :, span]
        latents.append(model.encoder(window / loudness(window) if config.normalize else window))
    n_q = config.n_q_for(config.target_bandwidths[-1])
    codes = [model.quantizer.quantize(piece, n_q=n_q)[0] for piece in latents]
    return torch.cat(latents, -1)[0], torch.cat(codes, -1)


@contextmanager
def elu_sizes(name: str) -> Iterator[list[int]]:
    """Collect how many numbers each ELU of the model gets."""
    sizes: list[int] = []
    hooks = [
        module.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].numel()))
        for module in model_of(name).encoder.modules()
        if isinstance(module, nn.ELU)
    ]
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()


def lengths_of(name: str) -> list[int]:
    """Return lengths in samples, among them those at which torch goes from products to oneDNN."""
    config = model_of(name).config
    hop, channels = config.hop_length, config.audio_channels
    wholes = [LEAST_FRAMES * hop, 13 * hop, 15 * hop + 32, 20 * hop + 100, 33 * hop - 2]
    switches = [20_480 // channels - 6, 20_480 // channels, 1280 * hop // 10]
    odd = [LEAST_FRAMES * hop + 1, 14 * hop - 1, 20_481 // channels, 20_480 // channels - 5]
    tiles = [24_000, 36_000, 107_520] if config.chunk_length is None else [47_520, 47_520 + 13 * hop, 95_040]
    return wholes + switches + odd + tiles


class TestBitsOfTheModel:
    @needs_kernels
    @needs_mkl_on_amd
    @every_codec
    def test_latents_and_codes(self, name: str) -> None:
        encoder, num_exact = encoder_of(name), 0
        config = model_of(name).config
        for num_samples in lengths_of(name):
            waveform = audio(name, num_samples)
            with elu_sizes(name) as sizes:
                latents, codes = plain(name, waveform)
            found = encoder.latents([waveform])[0]
            assert found.shape == latents.shape
            # torch computes what is left over of 32 numbers in another way.
            if any(size % 32 for size in sizes):
                # Norms spread the last numbers over all frames.
                last = found.shape[1] if config.norm_type == "time_group_norm" else LAST_FRAMES[config.use_causal_conv]
                assert torch.equal(found[:, :-last], latents[:, :-last]), f"{num_samples} samples"
                torch.testing.assert_close(found, latents, rtol=0, atol=1e-5)
                agreement = compare_codes(
                    model_of(name),
                    waveform,
                    encoder.encode([waveform])[0],
                    bandwidth_kbps=config.target_bandwidths[-1],
                )
                assert agreement.is_faithful
                continue
            num_exact += 1
            assert torch.equal(found, latents), f"{num_samples} samples"
            assert torch.equal(encoder.encode([waveform])[0].codes.long(), codes), f"{num_samples} samples"
        assert num_exact >= 6

    @needs_kernels
    @every_codec
    def test_shorter_items_differ_in_near_ties_alone(self, name: str) -> None:
        config, encoder = model_of(name).config, encoder_of(name)
        lengths = [1, 2, 7, 100] + [frames * config.hop_length + frames % 3 for frames in range(1, 12)]
        waveforms = [audio(name, num_samples) for num_samples in lengths]
        for waveform, codes, latents in zip(
            waveforms, encoder.encode(waveforms), encoder.latents(waveforms), strict=True
        ):
            expected = plain(name, waveform)[0]
            torch.testing.assert_close(latents, expected, rtol=0, atol=1e-5 * float(expected.abs().max().clamp(min=1)))
            agreement = compare_codes(model_of(name), waveform, codes, bandwidth_kbps=config.target_bandwidths[-1])
            assert agreement.is_faithful, f"{waveform.shape[1]} samples: {agreement}"


@needs_kernels
class TestCompany:
    lengths = (1, 319, 321, 2240, 5001, ROUND, ROUND + 11_000, 120_000)
    """The rests of a round that ends are longer than a round that goes on."""

    @pytest.mark.parametrize("name", ["24 kHz", "48 kHz", "32 kHz"])
    @pytest.mark.parametrize("num_threads", [1, 2])
    @pytest.mark.usefixtures("restore_num_threads")
    def test_any_batch_on_any_number_of_threads(self, name: str, num_threads: int) -> None:
        lengths = [length for length in self.lengths if name != "48 kHz" or length <= ROUND]
        waveforms = [audio(name, num_samples) for num_samples in lengths]
        expected = [alone(name, num_samples) for num_samples in lengths]
        torch.set_num_threads(num_threads)
        encoder = encoder_of(name)
        for latents, codes, one in zip(encoder.latents(waveforms), encoder.encode(waveforms), expected, strict=True):
            assert torch.equal(latents, one[0])
            assert torch.equal(codes.codes, one[1])

    @settings(max_examples=8, deadline=None)
    @given(lengths=st.lists(st.sampled_from(lengths), min_size=1, max_size=5))
    def test_any_items_in_any_order(self, lengths: list[int]) -> None:
        found = encoder_of("24 kHz").latents([audio("24 kHz", num_samples) for num_samples in lengths])
        for latents, num_samples in zip(found, lengths, strict=True):
            assert torch.equal(latents, alone("24 kHz", num_samples)[0])

    def test_more_items_than_lanes(self) -> None:
        lengths = [320 * frames for frames in range(1, 41)]
        found = encoder_of("24 kHz").encode([audio("24 kHz", num_samples) for num_samples in lengths])
        for codes, num_samples in zip(found, lengths, strict=True):
            assert torch.equal(codes.codes, encoder_of("24 kHz").encode([audio("24 kHz", num_samples)])[0].codes)

    def test_callers_in_several_threads(self) -> None:
        encoder = BatchEncoder(model_of("24 kHz"), 24.0, "cpu")
        lengths = [5000 + 320 * index for index in range(24)]
        with ThreadPoolExecutor(4) as callers:
            found = list(callers.map(lambda length: encoder.encode([audio("24 kHz", length)])[0].codes, lengths))
        for codes, num_samples in zip(found, lengths, strict=True):
            assert torch.equal(codes, encoder.encode([audio("24 kHz", num_samples)])[0].codes)

    @pytest.mark.parametrize("num_threads", [1, 2])
    @pytest.mark.usefixtures("restore_num_threads")
    def test_after_an_error_it_goes_on(self, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        model = model_of("24 kHz")
        folded = fold_encoder(model.encoder, device=torch.device("cpu"), convolution_dtype=torch.float32)
        encoder = BlockedEncoder(folded, model.quantizer.codebooks[:2], hop_length=320)
        good = audio("24 kHz", 5000)
        expected = encoder.encode([good])[0]
        with pytest.raises(RuntimeError, match="broadcast shape"):
            encoder.encode([good, torch.zeros(3, 5000), good])
        assert torch.equal(encoder.encode([good, good])[1], expected)

    def test_memory_of_any_layout(self) -> None:
        waveform = audio("48 kHz", 60_000)
        interleaved = waveform.t().contiguous().t()
        assert torch.equal(encoder_of("48 kHz").encode([interleaved])[0].codes, alone("48 kHz", 60_000)[1])


@needs_kernels
class TestCopies:
    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))])
    def test_a_copy_lives_without_the_original(self, copied: object) -> None:
        assert callable(copied)
        encoder, waveform = BatchEncoder(model_of("24 kHz"), 6.0, "cpu"), audio("24 kHz", 5000)
        expected = encoder.encode([waveform])[0].codes
        other = copied(encoder)
        blocked = encoder._blocked
        assert blocked is not None
        # What is left of it is overwritten, as other owners of its memory would.
        blocked._quantizer._packed.fill_(torch.nan)
        blocked._quantizer._entries.fill_(torch.nan)
        assert torch.equal(other.encode([waveform])[0].codes, expected)

    @pytest.mark.parametrize("num_threads", [1, 2])
    @pytest.mark.usefixtures("restore_num_threads")
    def test_inference_mode_may_come_and_go(self, num_threads: int) -> None:
        encoder, waveforms = BatchEncoder(model_of("demo"), 6.0, "cpu"), [audio("demo", 50_000), audio("demo", 9_000)]
        torch.set_num_threads(num_threads)
        with torch.inference_mode():
            within = encoder.encode(waveforms)
            decoded_within = encoder.decode(within)
        outside = encoder.encode(waveforms)
        decoded_outside = encoder.decode(outside)
        assert all(torch.equal(one.codes, other.codes) for one, other in zip(within, outside, strict=True))
        assert all(torch.equal(one, other) for one, other in zip(decoded_within, decoded_outside, strict=True))

    def test_torch_may_have_another_default_dtype(self) -> None:
        waveform, before = audio("24 kHz", 5000), torch.get_default_dtype()
        expected = encoder_of("24 kHz").encode([waveform])[0].codes
        torch.set_default_dtype(torch.float64)
        try:
            codes = BatchEncoder(model_of("24 kHz"), 24.0, "cpu").encode([waveform])[0].codes
        finally:
            torch.set_default_dtype(before)
        assert torch.equal(codes, expected)


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine where they were not built."""
    with monkeypatch.context() as patch:
        patch.setattr(shared_object, "_load", lambda: None)
        for cached in (kernels, why_absent):
            cached.cache_clear()
        yield
    for cached in (kernels, why_absent):
        cached.cache_clear()


@pytest.mark.usefixtures("without_kernels")
class TestWithoutKernels:
    def test_it_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert kernels() is None
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        why_absent.cache_clear()
        assert "install a C compiler" in str(why_absent())
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        why_absent.cache_clear()
        assert "this CPU is aarch64" in str(why_absent())

    @every_codec
    def test_codes_are_those_of_the_model_but_for_near_ties(self, name: str) -> None:
        model, bandwidth = model_of(name), model_of(name).config.target_bandwidths[-1]
        encoder = BatchEncoder(model, bandwidth, "cpu")
        assert encoder._blocked is None
        waveforms = [audio(name, num_samples) for num_samples in (100, 24_001, 50_000)]
        for waveform, codes in zip(waveforms, encoder.encode(waveforms), strict=True):
            assert compare_codes(model, waveform, codes, bandwidth_kbps=bandwidth).is_faithful

    @pytest.mark.parametrize("name", ["24 kHz", "48 kHz"])
    def test_streams_are_still_equal_to_batches(self, name: str) -> None:
        bandwidth, waveform = model_of(name).config.target_bandwidths[-1], audio(name, 60_000)
        stream = StreamingEncoder(model_of(name), bandwidth, device="cpu")
        codes = torch.cat([*(stream.push(piece) for piece in torch.split(waveform, 7001, -1)), stream.flush()], -1)
        assert torch.equal(codes, BatchEncoder(model_of(name), bandwidth, "cpu").encode([waveform])[0].codes)


def with_config(**changes: object) -> EncodecModel:
    with torch.random.fork_rng(devices=[]):
        return EncodecModel(EncodecConfig(**{"num_filters": 8, "hidden_size": 32, **changes}))  # type: ignore[arg-type]


def can_run(model: EncodecModel, *, dtype: torch.dtype = torch.float32) -> bool:
    encoder = fold_encoder(model.encoder, device=torch.device("cpu"), convolution_dtype=dtype)
    return can_run_blocked(encoder, model.quantizer.codebooks)


@needs_kernels
class TestLimits:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"pad_mode": "constant", "use_causal_conv": False, "use_conv_shortcut": False},
            {"num_filters": 1, "compress": 1, "num_lstm_layers": 1},
            {"num_filters": 3, "hidden_size": 48, "audio_channels": 5},
            {"num_filters": 16, "compress": 1, "norm_type": "time_group_norm"},
        ],
    )
    def test_codecs_that_run(self, changes: dict[str, object]) -> None:
        model = with_config(**changes)
        assert can_run(model)
        waveform = torch.rand(model.config.audio_channels, 5000, generator=torch.Generator().manual_seed(0)) - 0.5
        with torch.no_grad():
            expected = model.encoder(waveform[None])[0]
        found = BatchEncoder(model, model.config.target_bandwidths[0], "cpu").latents([waveform])[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)

    @pytest.mark.parametrize(
        "changes",
        [
            {"pad_mode": "replicate"},
            {"pad_mode": "circular"},
            {"norm_type": "time_group_norm"},
            {"hidden_size": 40},
            {"hidden_size": 208},
            {"codebook_size": 8},
            {"codebook_size": 2**17, "hidden_size": 16, "target_bandwidths": [1.5]},
            {"num_filters": 8, "upsampling_ratios": [2], "hidden_size": 24},
            {"num_filters": 4, "upsampling_ratios": [2]},
        ],
        ids=str,
    )
    def test_codecs_that_are_left_to_torch(self, changes: dict[str, object]) -> None:
        assert not can_run(with_config(**changes))

    def test_other_precisions_are_left_to_torch(self) -> None:
        model = with_config()
        assert not can_run(model, dtype=torch.bfloat16)
        assert not can_run(model.double(), dtype=torch.float64)

    def test_weights_that_are_not_finite_are_left_to_torch(self) -> None:
        model = with_config()
        model.quantizer.codebooks[3].embed[0, 0] = torch.nan
        assert not can_run(model)
