"""The route of GPUs, run on a CPU: plans, budgets, copies that are late, codes and waveforms."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from encodec_core import BatchEncoder, EncodecConfig, EncodecModel, batch_encoder, compare_codes
from encodec_core.fast.gpu import quantizer as gpu_quantizer
from encodec_core.fast.gpu.decoder import decode_in_batches
from encodec_core.fast.gpu.frames import FrameEncoder
from encodec_core.fast.gpu.memory import bytes_per_sample, choose_budget
from encodec_core.fast.gpu.plan import Budget, FrameBatch, plan_batches
from encodec_core.fast.gpu.quantizer import DeviceQuantizer
from encodec_core.fast.gpu.transfers import transfers_for
from encodec_core.fast.layers import FoldedEncoder, fold_encoder
from encodec_core.fast.placement import resolve_device
from tests.encodec_core.gpu_parts import CPU, LENGTHS, audio_of, folded, gpu_encoder, quantizer
from tests.encodec_core.models import CONFIGS, fitted_model

every_config = pytest.mark.parametrize("name", CONFIGS)


class TestPlan:
    @given(
        lengths=st.lists(st.integers(1, 2_000_000), max_size=400),
        samples=st.integers(1, 10_000_000),
        frames=st.integers(1, 100_000),
        can_share_batches=st.booleans(),
    )
    def test_every_item_once_within_the_budget(
        self, lengths: list[int], samples: int, frames: int, can_share_batches: bool
    ) -> None:
        batches = plan_batches(
            lengths,
            hop_length=320,
            budget=Budget(samples=samples, frames=frames),
            can_share_batches=can_share_batches,
        )
        assert sorted(index for batch in batches for index in batch.items) == list(range(len(lengths)))
        for batch in batches:
            own = [lengths[index] for index in batch.items]
            assert own == sorted(own, reverse=True)
            assert len(own) == 1 or len(own) * -(-own[0] // 320) <= frames
            for group in batch.groups:
                sizes = [lengths[index] for index in group]
                assert len(sizes) == 1 or len(sizes) * sizes[0] <= samples
                assert can_share_batches or len(set(sizes)) == 1
                assert sum(sizes) >= 0.9 * len(sizes) * sizes[0] or len(sizes) * sizes[0] <= 262_144

    @given(lengths=st.lists(st.integers(1, 100_000), min_size=1, max_size=300))
    def test_the_lstm_has_many_items_wherever_there_are_many(self, lengths: list[int]) -> None:
        budget = Budget(samples=10**9, frames=10**9)
        batches = plan_batches(lengths, hop_length=320, budget=budget, can_share_batches=True)
        assert all(len(batch.items) >= 64 for batch in batches[:-1])


def test_padding_is_what_fills_items_up_to_the_longest_of_their_batch() -> None:
    encoder = gpu_encoder("causal_mono")
    encoder.encode(audio_of("causal_mono", 3200))
    assert encoder.num_padded_samples == 0
    encoder.encode(audio_of("causal_mono", 3200, 2000, 2900))
    assert encoder.num_padded_samples == 1200 + 300


class TestBudget:
    @given(free=st.integers(0, 2**40), per_sample=st.integers(64, 4096), per_frame=st.integers(1000, 100_000))
    def test_it_fits_and_changes_in_powers_of_two(self, free: int, per_sample: int, per_frame: int) -> None:
        budget = choose_budget(free=free, per_sample=per_sample, per_frame=per_frame)
        assert budget.samples.bit_count() == budget.frames.bit_count() == 1
        assert budget.samples == 2**16 or budget.samples * per_sample <= free / 2
        assert budget.frames == 1 or budget.frames * per_frame <= free / 2

    @pytest.mark.parametrize("preset", ["encodec_24khz", "encodec_48khz", "musicgen_32khz"])
    def test_bytes_of_a_sample_are_those_that_exist_at_once(self, preset: str) -> None:
        """At full width, counted tensor by tensor; no numbers are computed."""
        with torch.device("meta"):
            model = EncodecModel(getattr(EncodecConfig, preset)())
        encoder = fold_encoder(model.encoder, device=torch.device("meta"), convolution_dtype=torch.float32)
        frames = frame_encoder(encoder, normalize=model.config.normalize)
        num_samples = 480_000
        with LiveBytes() as memory:
            # Of different lengths, for which a norm needs most.
            audio = [torch.zeros(model.config.audio_channels, num_samples - shorter) for shorter in (0, 1000)]
            frames.convolve(frames.load(audio))
        assert 0.85 < memory.peak / (2 * num_samples) / bytes_per_sample(encoder) <= 1.05


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors on the meta device that exist at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if not isinstance(tensor, Tensor) or tensor.device.type != "meta":
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self._sizes.pop, storage._cdata, None)
        self.peak = max(self.peak, sum(self._sizes.values()))
        return result


def frame_encoder(encoder: FoldedEncoder, *, normalize: bool) -> FrameEncoder:
    return FrameEncoder(
        encoder,
        convolution_dtype=torch.float32,
        normalize=normalize,
        transfers=transfers_for(encoder.device),
        filler=0.0,
    )


@every_config
def test_nothing_on_the_way_asks_the_device(name: str) -> None:
    """The meta device has shapes and no numbers: a question to it is an error, and so is a mix with the CPU's."""
    meta = torch.device("meta")
    frames = frame_encoder(folded(name, meta), normalize=CONFIGS[name].normalize)
    audio = audio_of(name, 7000, 6999, 321, 320, 7, 1)
    batch = frames.encode(audio, FrameBatch(groups=((0, 1), (2, 3, 4), (5,))), max_lstm_frames=100)
    num_frames = [22, 22, 2, 1, 1, 1] if CONFIGS[name].hop_length == 320 else None
    if num_frames is not None:
        assert list(batch.lengths) == num_frames
    codes = quantizer(name, meta).encode(frames.frames(batch))
    assert codes.shape == (4, sum(batch.lengths))


class LateTransfers:
    """Copies that are as late as an event allows: nothing is read before it is waited for, nothing sent changes."""

    def __init__(self) -> None:
        self.num_under_way = 0
        self.most_under_way = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        poison = torch.nan if dtype.is_floating_point else torch.iinfo(dtype).max
        return torch.full(tuple(shape), poison, dtype=dtype)

    def upload(self, host: Tensor) -> Tensor:
        there = host.clone()
        host.fill_(torch.nan if host.is_floating_point() else torch.iinfo(host.dtype).max)
        return there

    def download(self, result: Tensor) -> Callable[[], Tensor]:
        self.num_under_way += 1
        self.most_under_way = max(self.most_under_way, self.num_under_way)

        def wait() -> Tensor:
            self.num_under_way -= 1
            return result.clone()

        return wait


@every_config
def test_copies_may_be_late(name: str) -> None:
    audio = audio_of(name, *LENGTHS)
    late = LateTransfers()
    found = gpu_encoder(name, transfers=late, budget=Budget(samples=10_000, frames=40)).encode(audio)
    for one, waveform in zip(found, audio, strict=True):
        assert torch.equal(one.codes, gpu_encoder(name).encode([waveform])[0].codes)
    assert late.num_under_way == 0
    assert late.most_under_way == (4 if CONFIGS[name].normalize else 2), "the next batch starts before one is awaited"


def test_results_keep_no_batch_alive() -> None:
    long, short = gpu_encoder("causal_mono").encode(audio_of("causal_mono", 9000, 320))
    assert (long.codes.untyped_storage().nbytes(), short.codes.untyped_storage().nbytes()) == (2 * 4 * 29, 2 * 4)


@contextmanager
def route_of_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(batch_encoder, "takes_large_batches", lambda device: True)
        yield


@every_config
def test_codes_are_the_plain_models_but_for_near_ties(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, bandwidth = fitted_model(name), 1.6 if name == "musicgen" else 6.0
    with route_of_gpus(monkeypatch):
        encoder = BatchEncoder(model, bandwidth, "cpu")
    audio = audio_of(name, 100_000, 48_000, 700, 47_521, 1)
    found = [
        compare_codes(model, waveform, codes, bandwidth_kbps=bandwidth)
        for waveform, codes in zip(audio, encoder.encode(audio), strict=True)
    ]
    assert all(agreement.is_faithful for agreement in found)
    assert sum(agreement.num_near_tie_frames for agreement in found) <= 1
    assert encoder.encode([]) == []


def test_autocast_of_the_caller_changes_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    with route_of_gpus(monkeypatch):
        encoder = BatchEncoder(fitted_model("causal_mono"), 6.0, "cpu")
    audio = audio_of("causal_mono", 24_000, 9000)
    expected = encoder.encode(audio)
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder.encode(audio)
    assert all(torch.equal(one.codes, other.codes) for one, other in zip(found, expected, strict=True))


def test_a_gpu_has_its_number_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that decodes later may have another current GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert [resolve_device(device) for device in ("auto", "cuda", "cuda:1", CPU)] == [
        torch.device("cuda", 3),
        torch.device("cuda", 3),
        torch.device("cuda", 1),
        CPU,
    ]


def test_a_precision_that_gains_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = iter([(7, 5), (8, 0)])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: next(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    gpu = torch.device("cuda", 0)
    with pytest.raises(ValueError, match=r"Tesla T4 has compute capability 7\.5, and it takes 8\.0; choose fp32"):
        batch_encoder._check_precision("bf16", torch.float32, gpu)
    batch_encoder._check_precision("bf16", torch.float32, gpu)
    batch_encoder._check_precision("fp32", torch.float32, gpu)


@every_config
def test_decoding_in_batches_is_decoding_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, bandwidth = fitted_model(name), CONFIGS[name].target_bandwidths[0]
    plain = BatchEncoder(model, bandwidth, "cpu")
    with route_of_gpus(monkeypatch):
        batched = BatchEncoder(model, bandwidth, "cpu")
    codes = plain.encode(audio_of(name, 96_000, 320, 48_000, 96_000, 320, 47_521))
    for one, other in zip(plain.decode(codes), batched.decode(codes), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert batched.decode([]) == []


def test_decoding_that_runs_out_of_memory_goes_on_with_half() -> None:
    sizes = []

    def decode(codes: Tensor) -> Tensor:
        sizes.append(len(codes))
        if len(codes) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return codes.float().repeat_interleave(10, dim=-1)

    codes = [torch.full((1, 3 + place % 2), place) for place in range(9)]
    found = decode_in_batches(codes, hop_length=10, decode=decode, max_samples=150)
    assert all(torch.equal(one, two.float().repeat_interleave(10, -1)) for one, two in zip(found, codes, strict=True))
    assert sizes == [5, 2, 3, 1, 2, 3, 1, 2, 1]


def test_codes_above_the_range_of_int16_come_back() -> None:
    config = EncodecConfig.encodec_24khz(num_filters=4, hidden_size=16, codebook_size=65_536, target_bandwidths=(1.2,))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EncodecModel(config).requires_grad_(False)
    codebook = model.quantizer.codebooks[0]
    found = DeviceQuantizer([codebook], device=CPU, dtype=torch.float32).encode(codebook.embed[[5, 40_000, 65_535]])
    assert found.view(torch.uint16).tolist() == [[5, 40_000, 65_535]]


class FakeKernel:
    """In the kernel's place: right to the bit, or as wrong as one that ignores what the earlier codebooks took."""

    def __init__(self, *, is_right: bool) -> None:
        self._is_right = is_right

    def quantize_level(self, residual: Tensor, entries: Tensor, squares: Tensor, *, codes: Tensor) -> None:
        codes[:] = torch.addmm(squares, residual, -2 * entries.t()).argmin(1)
        if self._is_right:
            residual -= entries[codes.long()]


@pytest.mark.parametrize(
    ("is_right", "seconds", "reason"),
    [(True, 0.5, None), (True, 0.9, "takes 0.90 of their time"), (False, 0.5, "differs in 0.")],
)
def test_a_kernel_is_used_where_it_is_right_and_faster(
    is_right: bool, seconds: float, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([1.0, seconds])
    monkeypatch.setattr(gpu_quantizer, "_timed", lambda run: (run(), next(measured)))
    monkeypatch.setattr(gpu_quantizer, "PROBE_FRAMES", 500)
    tried = quantizer("causal_mono")
    found = tried._try_kernel(cast(ModuleType, FakeKernel(is_right=is_right)))
    assert (found is None, tried.uses_kernel) == (reason is None, reason is None)
    assert reason is None or reason in str(found)
