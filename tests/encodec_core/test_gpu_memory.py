"""Memory that runs out on the route of GPUs, at every step, on a device that is none."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from encodec_core.fast.gpu.encoder import SMALLEST_TILE
from encodec_core.fast.gpu.memory import attempt, free_bytes, measured_bytes_per_sample
from encodec_core.fast.gpu.plan import Budget, FrameBatch
from encodec_core.fast.gpu.transfers import pinned_memory, transfers_for
from tests.encodec_core.gpu_parts import CPU, LENGTHS, audio_of, gpu_encoder
from tests.encodec_core.models import CONFIGS

every_config = pytest.mark.parametrize("name", CONFIGS)


class TestMemory:
    """A device whose memory is a number of bytes per upload."""

    @every_config
    def test_too_large_batches_are_halved(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        audio = audio_of(name, *LENGTHS)
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
            encoder.encode(audio_of("causal_mono", *LENGTHS))

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

    def test_an_item_for_which_there_is_no_room_goes_in_tiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        audio = audio_of("causal_mono", 150_000, 140_000, 9000)
        encoder = gpu_encoder("causal_mono")
        start, run, sizes, tiles = encoder._start, encoder._run_lanes, [], []

        def start_limited(waveforms: Sequence[Tensor], batch: FrameBatch) -> Any:
            sizes.append([waveforms[index].shape[-1] for index in batch.items])
            if max(sizes[-1]) > 100_000:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return start(waveforms, batch)

        def run_limited(waveforms: Sequence[Tensor], indices: Sequence[int]) -> Any:
            tiles.append((len(indices), encoder._tile_samples()))
            if tiles[-1] != (1, SMALLEST_TILE):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return run(waveforms, indices)

        monkeypatch.setattr(encoder, "_start", start_limited)
        monkeypatch.setattr(encoder, "_run_lanes", run_limited)
        encoded = encoder.encode(audio)
        for one, waveform in zip(encoded, audio, strict=True):
            assert torch.equal(one.codes, gpu_encoder("causal_mono").encode([waveform])[0].codes)
        assert sizes == [[150_000, 140_000, 9000], [150_000], [9000]]
        assert tiles == [(2, 75_000), (1, 75_000), (1, SMALLEST_TILE), (1, SMALLEST_TILE)]

    def test_where_the_smallest_tile_does_not_fit_it_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = gpu_encoder("causal_mono", budget=Budget(samples=1000, frames=10**6))
        monkeypatch.setattr(encoder, "_run_lanes", raising(torch.OutOfMemoryError("CUDA out of memory")))
        with pytest.raises(torch.OutOfMemoryError):
            encoder.encode(audio_of("causal_mono", 9000, 9001))

    def test_where_there_is_no_room_to_measure_a_sample_counts_thrice(self, caplog: pytest.LogCaptureFixture) -> None:
        run = raising(torch.OutOfMemoryError("CUDA out of memory"))
        assert measured_bytes_per_sample(run, device=torch.device("cuda", 0), expected=500) == 1500
        assert "cuda:0 has no memory" in caplog.text

    def test_a_share_of_the_device_is_all_there_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """80 GB, of which this process may have a quarter and has 5, and others have 30."""
        facts = {"mem_get_info": (45, 80), "memory_reserved": 5, "memory_allocated": 3}
        for name, value in (facts | {"get_per_process_memory_fraction": 0.25}).items():
            monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
        assert free_bytes(torch.device("cuda", 0)) == 15 + 2
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)
        assert free_bytes(torch.device("cuda", 0)) == 45 + 2

    def test_memory_that_cannot_be_pinned_is_plain(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        plain = torch.empty

        def empty(*shape: Any, pin_memory: bool = False, **settings: Any) -> Tensor:
            if pin_memory:
                raise torch.AcceleratorError("CUDA error: out of memory")
            return plain(*shape, **settings)

        monkeypatch.setattr(torch, "empty", empty)
        found = pinned_memory((2, 3), torch.int16)
        assert (found.shape, found.dtype, found.is_pinned()) == ((2, 3), torch.int16, False)
        assert "12 bytes of the host cannot be pinned" in caplog.text

    def test_other_errors_are_not_taken_for_it(self) -> None:
        with pytest.raises(RuntimeError, match="illegal memory access"):
            attempt(raising(RuntimeError("CUDA error: an illegal memory access was encountered")), can_shrink=True)
        for text in (
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        ):
            assert attempt(raising(RuntimeError(text)), can_shrink=True) is None
        assert attempt(raising(torch.OutOfMemoryError("CUDA out of memory")), can_shrink=True) is None

    def test_what_filled_the_memory_is_gone_before_the_next_attempt(self) -> None:
        held: list[weakref.ref[Tensor]] = []

        def fill() -> None:
            tensor = torch.zeros(1)
            held.append(weakref.ref(tensor))
            raise torch.OutOfMemoryError("CUDA out of memory")

        assert attempt(fill, can_shrink=True) is None
        assert held[0]() is None


def raising(error: Exception) -> Callable[..., None]:
    def run(*_: Any) -> None:
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
