"""Decoding with the kernels: the plain model's audio, the same bits in any company and in any pieces.

Letters in shapes: K codebooks, T frames, C channels, S stride.
"""

import copy
from collections.abc import Sequence
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from encodec_core import BatchEncoder, Codes, EncodecConfig, EncodecModel, StreamingDecoder
from encodec_core.fast.layers import FoldedConv, FoldedDecoder, FoldedUpsampling, fold_decoder
from encodec_core.fast.native import decoder as native_decoder
from encodec_core.fast.native import kernels, why_absent
from encodec_core.fast.native.blocked import block, unblock
from encodec_core.fast.native.chain import Chain, Workspace
from encodec_core.fast.native.decoder import BlockedDecoder, can_decode_blocked
from encodec_core.modules.conv import TrimmedConvTranspose1d
from tests.encodec_core.models import CONFIGS, fitted_model
from tests.encodec_core.streams import CAUSAL, VARIANTS, cut

pytestmark = pytest.mark.skipif(kernels() is None, reason=f"no kernels: {why_absent()}")
with_torchs_kernels = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="torch's own kernels are not those for AVX-512 here"
)

ROUNDING = 1e-6
"""Root mean square of a difference over that of the audio, float32; measured up to 5e-7."""
BLOCKED_VARIANTS = [name for name in VARIANTS if VARIANTS[name].get("pad_mode") != "replicate"]
WITH_NORMS = ("windows_wide", "windows_wide_mono")
DECODED = (*CAUSAL, "musicgen", *BLOCKED_VARIANTS, *WITH_NORMS)


@cache
def model_of(name: str) -> EncodecModel:
    """Return a codec of `CONFIGS`, of `VARIANTS`, or one with windows whose norms have whole blocks of channels."""
    if name in CONFIGS:
        return fitted_model(name)
    if name in WITH_NORMS:
        config = EncodecConfig.encodec_48khz(
            num_filters=32,
            upsampling_ratios=(4, 3),
            hidden_size=24,
            chunk_length_s=0.02,
            target_bandwidths=(160.0,),
            audio_channels=1 if name.endswith("mono") else 2,
        )
    else:
        small: dict[str, Any] = {
            "num_filters": 4,
            "upsampling_ratios": (4, 3, 2),
            "hidden_size": 8,
            "target_bandwidths": (40.0,),
        }
        config = EncodecConfig.encodec_24khz(**small | VARIANTS[name])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = EncodecModel(config).eval().requires_grad_(False)
        for codebook in model.quantizer.codebooks:
            codebook.embed.normal_()
    return model


@cache
def decoder_of(name: str) -> BlockedDecoder:
    return BlockedDecoder(folded(name), hop_length=model_of(name).config.hop_length)


@cache
def folded(name: str) -> FoldedDecoder:
    return fold_decoder(model_of(name).decoder, device=torch.device("cpu"))


def some_codes(name: str, num_frames: int, *, n_q: int = 4, seed: int = 0) -> Tensor:
    """Return codes int64 `[K, T]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model_of(name).config.codebook_size, (n_q, num_frames), generator=generator)


def decoded(name: str, items: Sequence[Tensor]) -> list[Tensor]:
    def latents(codes: Tensor) -> Tensor:
        return model_of(name).quantizer.dequantize(codes[None])[0]

    return decoder_of(name).decode(items, begin=latents)


def plain(name: str, codes: Tensor) -> Tensor:
    return model_of(name).decode_window(codes[None], None)[0]


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt())


class TestAgreement:
    @pytest.mark.parametrize("num_frames", [1, 2, 6, 7, 8, 76, 400])
    @pytest.mark.parametrize("name", DECODED)
    def test_audio_is_the_plain_models(self, name: str, num_frames: int) -> None:
        assert can_decode_blocked(folded(name))
        codes = some_codes(name, num_frames)
        (found,) = decoded(name, [codes])
        assert relative_error(found, plain(name, codes)) < ROUNDING

    def test_windows_are_joined(self) -> None:
        model = model_of("windows_wide")
        codes = Codes(
            codes=some_codes("windows_wide", 170).to(torch.uint16),
            scales=torch.tensor([1.0, 0.3, 2.0]),
            window_frames=torch.tensor([80, 80, 10], dtype=torch.int32),
        )
        (found,) = BatchEncoder(model, 160.0, "cpu").decode([codes])
        (expected,) = BatchEncoder(copy.deepcopy(model).double(), 160.0, "cpu").decode([codes])
        assert relative_error(found, expected.float()) < ROUNDING
        decoder = StreamingDecoder(model, device="cpu")
        assert torch.equal(torch.cat([decoder.push_windows([codes]), decoder.flush()], -1), found)

    def test_without_kernels_torch_decodes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        name, codes = "causal_stereo", some_codes("causal_stereo", 30)
        record = Codes(codes=codes.to(torch.uint16))
        (expected,) = BatchEncoder(model_of(name), 6.0, "cpu").decode([record])
        monkeypatch.setattr(native_decoder, "kernels", lambda: None)
        assert not can_decode_blocked(folded(name))
        (found,) = BatchEncoder(model_of(name), 6.0, "cpu").decode([record])
        assert relative_error(found, expected) < ROUNDING
        decoder = StreamingDecoder(model_of(name), device="cpu")
        assert relative_error(torch.cat([decoder.push(codes), decoder.flush()], -1), expected) < ROUNDING

    @pytest.mark.parametrize("name", ["replicas", "windows_stereo"])
    def test_what_cannot_be_blocked_is_refused(self, name: str) -> None:
        assert not can_decode_blocked(folded(name))

    def test_float64_is_left_to_torch(self) -> None:
        model = copy.deepcopy(model_of("causal_mono")).double()
        assert not can_decode_blocked(fold_decoder(model.decoder, device=torch.device("cpu")))


class TestBits:
    @settings(max_examples=30, deadline=None)
    @given(
        name=st.sampled_from([*CAUSAL, *BLOCKED_VARIANTS]),
        num_frames=st.integers(1, 40),
        places=st.lists(st.integers(0, 40), max_size=8),
    )
    def test_any_cuts_equal_the_whole(self, name: str, num_frames: int, places: list[int]) -> None:
        codes = some_codes(name, num_frames)
        decoder = StreamingDecoder(model_of(name), device="cpu")
        found = torch.cat([*(decoder.push(piece) for piece in cut(codes, places)), decoder.flush()], -1)
        assert torch.equal(found, decoded(name, [codes])[0])

    @pytest.mark.parametrize("name", ["causal_stereo", "musicgen", "windows_wide"])
    def test_company_and_threads_do_not_matter(self, name: str, restore_num_threads: None) -> None:
        lengths = (1, 30, 2, 7, 100, 1, 31, 8, 5, 90, 3, 12, 20, 6, 1, 9, 40, 50)
        items = [some_codes(name, num_frames, seed=seed) for seed, num_frames in enumerate(lengths)]
        torch.set_num_threads(1)
        alone = [decoded(name, [item])[0] for item in items]
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            for found, expected in zip(decoded(name, items), alone, strict=True):
                assert torch.equal(found, expected)

    @pytest.mark.parametrize("name", ["causal_mono", "musicgen", "half_trimmed", "dilated"])
    @pytest.mark.parametrize("tile_samples", [1, 2_000, 10**9])
    def test_tiles_and_rounds_do_not_matter(
        self, name: str, tile_samples: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        items = [model_of(name).quantizer.dequantize(some_codes(name, num_frames)[None])[0] for num_frames in (90, 33)]
        decode = partial(BlockedDecoder.decode, begin=lambda frames: frames)
        expected = decode(decoder_of(name), items)
        monkeypatch.setattr(native_decoder, "TILE_SAMPLES", tile_samples)
        found = decode(BlockedDecoder(folded(name), hop_length=model_of(name).config.hop_length), items)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))

    def test_codebooks_of_other_bandwidths_beside_each_other(self) -> None:
        items = [some_codes("causal_mono", 20, n_q=n_q) for n_q in (2, 32, 8)]
        for found, item in zip(decoded("causal_mono", items), items, strict=True):
            assert torch.equal(found, decoded("causal_mono", [item])[0])

    def test_nothing_becomes_nothing(self) -> None:
        nothing, something = decoded("causal_mono", [some_codes("causal_mono", 0), some_codes("causal_mono", 9)])
        assert nothing.shape == (1, 0)
        assert torch.equal(something, decoded("causal_mono", [some_codes("causal_mono", 9)])[0])


def whole_push(stage: FoldedConv | FoldedUpsampling, x: Tensor, *, ends_in_audio: bool = False) -> Tensor:
    chain = Chain([stage], is_audio=False, ends_in_audio=ends_in_audio)
    return unblock(chain.push(block(x), chain.start(x.shape[-1]), Workspace(), is_last=True))


def transposed(
    in_channels: int, out_channels: int, stride: int, *, causal: bool = True, trim: float = 1.0
) -> TrimmedConvTranspose1d:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(in_channels)
        return TrimmedConvTranspose1d(
            in_channels,
            out_channels,
            2 * stride,
            stride=stride,
            causal=causal,
            trim_right_ratio=trim,
            norm_type="weight_norm",
        ).requires_grad_(False)


def upsampling_of(layer: TrimmedConvTranspose1d) -> FoldedUpsampling:
    # As part of a decoder, which is the only way to fold one.
    layers = [*model_of("causal_mono").decoder.layers[:2], layer]
    decoder: Any = SimpleNamespace(layers=layers, parameters=layer.parameters)
    (stage,) = fold_decoder(decoder, device=torch.device("cpu")).back
    assert isinstance(stage, FoldedUpsampling)
    return stage


@with_torchs_kernels
class TestBitsOfTorch:
    """Of products of a few columns MKL adds up otherwise; how many are few depends on the shape."""

    @pytest.mark.parametrize(
        ("in_channels", "out_channels", "stride"), [(512, 256, 8), (256, 128, 5), (128, 64, 4), (64, 32, 2)]
    )
    @pytest.mark.parametrize("num_steps", [150, 377])
    def test_upsamplings_of_the_24_khz_codec(
        self, in_channels: int, out_channels: int, stride: int, num_steps: int
    ) -> None:
        layer = transposed(in_channels, out_channels, stride)
        x = torch.randn(in_channels, num_steps, generator=torch.Generator().manual_seed(0))
        assert torch.equal(whole_push(upsampling_of(layer), x), layer(x[None])[0])

    @pytest.mark.parametrize("causal", [True, False])
    @pytest.mark.parametrize("stride", [2, 3, 5])
    def test_trimming(self, stride: int, causal: bool) -> None:
        for trim in (0.0, 0.4, 1.0) if causal else (1.0,):
            layer = transposed(32, 16, stride, causal=causal, trim=trim)
            x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
            assert torch.equal(whole_push(upsampling_of(layer), x), layer(x[None])[0]), trim

    @pytest.mark.parametrize("out_channels", [1, 2, 3])
    @pytest.mark.parametrize("num_steps", [700, 896, 1001])
    def test_audio(self, out_channels: int, num_steps: int) -> None:
        generator = torch.Generator().manual_seed(num_steps)
        weight, bias, x = (torch.randn(shape, generator=generator) for shape in ((out_channels, 32, 7), 3, (32, 1001)))
        conv = FoldedConv(
            weight=weight,
            bias=bias[:out_channels].clone(),
            stride=1,
            dilation=1,
            left=6,
            right=0,
            pad_mode="constant",
            norm=None,
            elu_before=False,
        )
        x = x[:, :num_steps].contiguous()
        expected = functional.conv1d(functional.pad(x, (6, 0))[None], weight, conv.bias)[0]
        assert torch.equal(whole_push(conv, x, ends_in_audio=True), expected)


def test_audio_of_any_length_is_near_torchs() -> None:
    last = folded("causal_stereo").back[-1]
    assert isinstance(last, FoldedConv)
    for num_steps in (1, 15, 16, 17, 121, 122, 123, 128, 129, 300):
        x = torch.randn(4, num_steps, generator=torch.Generator().manual_seed(num_steps))
        found = whole_push(last, x, ends_in_audio=True)
        padded = functional.elu(x)[None]
        fill = max(0, 7 - num_steps)
        padded = functional.pad(functional.pad(padded, (0, fill)), (6, 0), "reflect")[..., : 6 + num_steps]
        assert relative_error(found, functional.conv1d(padded, last.weight, last.bias)[0]) < ROUNDING
