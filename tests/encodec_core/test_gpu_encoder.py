"""The route of GPUs, run on a CPU: plans, budgets, memory that runs out, copies that are late, one nearest entry."""

import importlib.util
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from encodec_core import BatchEncoder, EncodecConfig, EncodecModel, batch_encoder, compare_codes
from encodec_core.fast.gpu.decoder import decode_in_batches
from encodec_core.fast.gpu.encoder import GpuEncoder
from encodec_core.fast.gpu.frames import FrameEncoder
from encodec_core.fast.gpu.memory import attempt, bytes_per_sample, choose_budget
from encodec_core.fast.gpu.plan import Budget, FrameBatch, plan_batches
from encodec_core.fast.gpu.quantizer import DeviceQuantizer
from encodec_core.fast.gpu.transfers import transfers_for
from encodec_core.fast.layers import FoldedEncoder, fold_encoder
from tests.encodec_core.models import CONFIGS, fitted_model, waveforms

CPU = torch.device("cpu")
every_config = pytest.mark.parametrize("name", CONFIGS)


def folded(name: str, device: torch.device = CPU) -> FoldedEncoder:
    return fold_encoder(fitted_model(name).encoder, device=device, convolution_dtype=torch.float32)


def quantizer(name: str, device: torch.device = CPU) -> DeviceQuantizer:
    return DeviceQuantizer(fitted_model(name).quantizer.codebooks[:4], device=device, dtype=torch.float32)


def gpu_encoder(name: str, **settings: Any) -> GpuEncoder:
    settings = {"budget": Budget(samples=10**6, frames=10**6)} | settings
    return GpuEncoder(
        folded(name),
        quantizer(name),
        convolution_dtype=torch.float32,
        normalize=CONFIGS[name].normalize,
        **settings,
    )


def audio_of(name: str, *lengths: int) -> list[Tensor]:
    return [waveforms(name, num_samples)[0] for num_samples in lengths]


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


class TestMemory:
    """A device whose memory is a number of bytes per upload."""

    lengths = (9000, 3000, 8999, 3001, 1, 700, 5000, 9000)

    @every_config
    def test_too_large_batches_are_halved(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        audio = audio_of(name, *self.lengths)
        size = 4 * CONFIGS[name].audio_channels * 9000
        encoder = gpu_encoder(name, transfers=LimitedTransfers(max_bytes=2 * size))
        encoded = encoder.encode(audio)
        for one, waveform in zip(encoded, audio, strict=True):
            alone = gpu_encoder(name).encode([waveform])[0]
            assert torch.equal(one.codes, alone.codes)
            assert (one.scale is None) == (alone.scale is None)
            assert one.scale is None or alone.scale is None or one.scale.isclose(alone.scale, rtol=1e-6)
        assert "from now on" in caplog.text
        caplog.clear()
        encoder.encode(audio)
        assert not caplog.text, "later batches are small from the start"

    def test_an_item_that_does_not_fit_alone_is_an_error(self) -> None:
        encoder = gpu_encoder("causal_mono", transfers=LimitedTransfers(max_bytes=4 * 8000))
        with pytest.raises(torch.OutOfMemoryError, match="as large as this"):
            encoder.encode(audio_of("causal_mono", *self.lengths))

    def test_lanes_of_long_items_are_halved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        audio = audio_of("causal_mono", 9000, 9001, 9002)
        encoder = gpu_encoder("causal_mono", budget=Budget(samples=1000, frames=10**6))
        run, sizes = encoder._run_lanes, []

        def limited(waveforms: Sequence[Tensor], indices: Sequence[int]) -> Any:
            sizes.append(len(indices))
            if len(indices) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return run(waveforms, indices)

        monkeypatch.setattr(encoder, "_run_lanes", limited)
        for one, waveform in zip(encoder.encode(audio), audio, strict=True):
            assert torch.equal(one.codes, gpu_encoder("causal_mono").encode([waveform])[0].codes)
        assert sorted(sizes) == [1, 1, 1, 2, 3]

    def test_other_errors_are_not_taken_for_it(self) -> None:
        with pytest.raises(RuntimeError, match="illegal memory access"):
            attempt(raising(RuntimeError("CUDA error: an illegal memory access was encountered")), num_items=2)
        assert attempt(raising(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")), num_items=2) is None
        assert attempt(raising(torch.OutOfMemoryError("CUDA out of memory")), num_items=2) is None

    def test_what_filled_the_memory_is_gone_before_the_next_attempt(self) -> None:
        held: list[weakref.ref[Tensor]] = []

        def fill() -> None:
            tensor = torch.zeros(1)
            held.append(weakref.ref(tensor))
            raise torch.OutOfMemoryError("CUDA out of memory")

        assert attempt(fill, num_items=2) is None
        assert held[0]() is None


def raising(error: Exception) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


class LimitedTransfers:
    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._direct = transfers_for(CPU)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return self._direct.empty(shape, dtype)

    def upload(self, host: Tensor) -> Tensor:
        if host.is_floating_point() and host.nbytes > self._max_bytes:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {host.nbytes} bytes, as large as this")
        return self._direct.upload(host)

    def download(self, result: Tensor) -> Callable[[], Tensor]:
        return self._direct.download(result)


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
    audio = audio_of(name, *TestMemory.lengths)
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


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is missing: pip install triton")
def test_the_kernel_finds_the_nearest_entries() -> None:
    """In Triton's interpreter, which computes on the CPU; it is chosen before triton is imported."""
    script = """
import torch
from encodec_core.fast.gpu import nearest
generator = torch.Generator().manual_seed(0)
entries = torch.randn(256, 64, generator=generator)
entries[110] = entries[200] = entries[100]
for num_frames in (1, 63, 64, 65, 150):
    frames = torch.randn(num_frames, 64, generator=generator)
    frames[0] = entries[100]
    residual, codes = frames.clone(), torch.full((num_frames,), -1, dtype=torch.int16)
    nearest.quantize_level(residual, entries, entries.pow(2).sum(1), codes=codes)
    expected = torch.cdist(frames.double(), entries.double()).argmin(1)
    assert torch.equal(codes.long(), expected), (codes, expected)
    assert codes[0] == 100, "equal distances go to the lower code"
    assert torch.equal(residual, frames - entries[expected])
"""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)
