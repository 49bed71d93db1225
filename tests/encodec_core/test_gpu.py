"""On a GPU: the codes of the plain model on a CPU, true float32, copies that overlap, memory that runs out.

    python -m pytest --gpu tests/encodec_core/test_gpu.py

Nothing here needs a peer or a file. `test_gpu_encoder.py` and `test_padded.py` run the same route on a CPU.
"""

import copy
import gc
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from encodec_core import BatchEncoder, Codes, EncodecConfig, EncodecModel, compare_codes
from encodec_core.fast.gpu.encoder import GpuEncoder
from encodec_core.fast.gpu.memory import bytes_per_sample, free_bytes
from encodec_core.fast.gpu.plan import Budget, FrameBatch
from encodec_core.fast.gpu.quantizer import DeviceQuantizer
from encodec_core.fast.gpu.transfers import SideStream
from encodec_core.fast.layers import fold_encoder
from encodec_core.fast.placement import why_not_faster
from encodec_core.fast.precision import Precision, exact_float32
from encodec_core.streaming import StreamingLanes
from tests.fitted_models import make_fitted_model, synthetic_waveform

SMALL: dict[str, Any] = {"num_filters": 8, "hidden_size": 32}
CONFIGS = {
    "24khz": EncodecConfig.encodec_24khz(**SMALL),
    "48khz": EncodecConfig.encodec_48khz(**SMALL),
    "musicgen": EncodecConfig.musicgen_32khz(**SMALL, codebook_size=256, target_bandwidths=(0.4, 0.8, 1.6)),
}
LENGTHS = (1, 319, 321, 1921, 2240, 24_000, 24_001, 47_521, 48_000, 95_100, 100_000, 240_000, 240_000)
every_config = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(autouse=True)
def _on_gpu(gpu: torch.device) -> Iterator[None]:
    yield
    gc.collect()
    torch.cuda.empty_cache()


@cache
def model(name: str) -> EncodecModel:
    return make_fitted_model(CONFIGS[name], seed=0).requires_grad_(False)


@cache
def full_size() -> EncodecModel:
    return make_fitted_model(EncodecConfig.encodec_24khz(), seed=0).requires_grad_(False)


def audio_of(config: EncodecConfig, *lengths: int) -> list[Tensor]:
    return [
        synthetic_waveform(
            num_samples, num_channels=config.audio_channels, sampling_rate=config.sampling_rate, seed=900 + index
        )
        for index, num_samples in enumerate(lengths)
    ]


def gpu_encoder(codec: EncodecModel, gpu: torch.device, *, budget: Budget | None) -> GpuEncoder:
    return GpuEncoder(
        fold_encoder(codec.encoder, device=gpu, convolution_dtype=codec.dtype),
        DeviceQuantizer(codec.quantizer.codebooks[:8], device=gpu, dtype=codec.dtype),
        convolution_dtype=codec.dtype,
        normalize=codec.config.normalize,
        budget=budget,
    )


class TestCodes:
    @every_config
    def test_equal_the_plain_models_on_a_cpu_but_for_near_ties(self, name: str, gpu: torch.device) -> None:
        codec = model(name)
        bandwidth = 1.6 if name == "musicgen" else 6.0
        encoder, audio = BatchEncoder(codec, bandwidth, gpu), audio_of(codec.config, *LENGTHS)
        found = [
            compare_codes(codec, waveform, codes, bandwidth_kbps=bandwidth)
            for waveform, codes in zip(audio, encoder.encode(audio), strict=True)
        ]
        assert all(agreement.is_faithful for agreement in found)
        assert sum(agreement.num_near_tie_frames for agreement in found) <= 3

    def test_of_the_full_size_equal_the_plain_models(self, gpu: torch.device) -> None:
        """The contract: at most 5 codes in 100,000 at n_q = 8, each the fault of a near tie."""
        codec = full_size()
        audio = audio_of(codec.config, *[240_000] * 4, 123_457, 50_000)
        encoded = BatchEncoder(codec, 6.0, gpu).encode(audio)
        found = [
            compare_codes(codec, waveform, codes, bandwidth_kbps=6.0)
            for waveform, codes in zip(audio, encoded, strict=True)
        ]
        assert all(agreement.is_faithful for agreement in found)
        num_codes = sum(agreement.num_codes for agreement in found)
        assert num_codes - sum(agreement.num_equal for agreement in found) <= max(8, 5e-5 * num_codes)

    @every_config
    def test_latents_in_float64_are_those_of_a_cpu(self, name: str, gpu: torch.device) -> None:
        codec = copy.deepcopy(model(name)).double()
        audio = [waveform.double() for waveform in audio_of(codec.config, *LENGTHS)]
        bandwidth = codec.config.target_bandwidths[0]
        expected = BatchEncoder(codec, bandwidth, "cpu").latents(audio)
        for one, other in zip(BatchEncoder(codec, bandwidth, gpu).latents(audio), expected, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=0, atol=1e-9)

    def test_long_items_in_tiles_are_those_of_whole_items(self, gpu: torch.device) -> None:
        codec = copy.deepcopy(model("24khz")).double()
        audio = [waveform.double() for waveform in audio_of(codec.config, 2_500_000, 240_000)]
        whole = gpu_encoder(codec, gpu, budget=Budget(samples=2**23, frames=2**20))
        tiles = gpu_encoder(codec, gpu, budget=Budget(samples=2**16, frames=2**20))
        for one, other in zip(whole.encode(audio), tiles.encode(audio), strict=True):
            assert torch.equal(one.codes, other.codes)

    def test_streams_of_the_full_size_have_the_codes_that_each_has_alone(self, gpu: torch.device) -> None:
        codec = full_size()
        lanes, audio = StreamingLanes(codec, 6.0, device=gpu), audio_of(codec.config, 240_000, 240_000, 123_457)

        def streamed(*waveforms: Tensor) -> list[Tensor]:
            streams = [lanes.start() for _ in waveforms]
            found: list[list[Tensor]] = [[] for _ in waveforms]
            for start in range(0, 240_000, 60_000):
                pushes = [
                    (stream, waveform[:, start : start + 60_000])
                    for stream, waveform in zip(streams, waveforms, strict=True)
                ]
                for own, codes in zip(found, lanes.push(pushes), strict=True):
                    own.append(codes)
            return [torch.cat([*own, last], -1) for own, last in zip(found, lanes.flush(streams), strict=True)]

        for waveform, codes in zip(audio, streamed(*audio), strict=True):
            assert torch.equal(codes, streamed(waveform)[0])
            assert compare_codes(codec, waveform, Codes(codes=codes), bandwidth_kbps=6.0).is_faithful

    @every_config
    def test_decoding_is_that_of_a_cpu(self, name: str, gpu: torch.device) -> None:
        codec, bandwidth = model(name), CONFIGS[name].target_bandwidths[0]
        here, there = BatchEncoder(codec, bandwidth, "cpu"), BatchEncoder(codec, bandwidth, gpu)
        codes = here.encode(audio_of(codec.config, 48_000, 95_100, 48_000, 320))
        for one, other in zip(here.decode(codes), there.decode(codes), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


class TestPrecision:
    def test_fp32_is_float32_and_tf32_and_bf16_are_not(self, gpu: torch.device) -> None:
        """Relative errors against float64, with TF32 allowed in the process as torch comes."""
        if why_not_faster(gpu) is not None:
            with pytest.raises(ValueError, match="gains nothing"):
                BatchEncoder(full_size(), 6.0, gpu, "tf32")
            return
        codec, audio = full_size(), audio_of(full_size().config, 240_000, 24_001)
        exact = BatchEncoder(copy.deepcopy(codec).double(), 6.0, gpu).latents([one.double() for one in audio])
        errors: dict[Precision, float] = {}
        for precision in ("fp32", "tf32", "bf16"):
            found = BatchEncoder(codec, 6.0, gpu, precision).latents(audio)
            errors[precision] = max(
                float((one.double() - other).norm() / other.norm()) for one, other in zip(found, exact, strict=True)
            )
        # Measured on a CPU: 1e-6 in float32, 1e-2 with bfloat16 convolutions. TF32 has 10 bits of fraction, float32 23.
        assert errors["fp32"] < 2e-5, errors
        assert 5e-5 < errors["tf32"] < 2e-2, errors
        assert errors["tf32"] < errors["bf16"] < 0.2, errors

    def test_autocast_of_the_caller_changes_no_code(self, gpu: torch.device) -> None:
        codec, audio = model("24khz"), audio_of(CONFIGS["24khz"], 48_000, 24_001)
        encoder = BatchEncoder(codec, 6.0, gpu)
        expected = encoder.encode(audio)
        with torch.autocast("cuda", torch.float16):
            found = encoder.encode(audio)
        assert all(torch.equal(one.codes, other.codes) for one, other in zip(found, expected, strict=True))

    def test_every_operation_obeys(self, gpu: torch.device) -> None:
        """Convolution, LSTM and product, one by one: an error of TF32 would be near 3e-4."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(64, 512, 512, generator=generator).to(gpu)
        conv, lstm = torch.nn.Conv1d(512, 512, 5, device=gpu), torch.nn.LSTM(512, 512, device=gpu)
        weight = torch.randn(512, 512, generator=generator).to(gpu)
        with torch.no_grad(), exact_float32():
            pairs = {
                "conv": (conv(x), copy.deepcopy(conv).double()(x.double())),
                "lstm": (lstm(x)[0], copy.deepcopy(lstm).double()(x.double())[0]),
                "product": (x @ weight, x.double() @ weight.double()),
            }
        errors = {name: float((a.double() - b).norm() / b.norm()) for name, (a, b) in pairs.items()}
        assert max(errors.values()) < 1e-5, errors


class TestTransfers:
    def test_batches_in_flight_do_not_disturb_each_other(self, gpu: torch.device) -> None:
        """Twenty times the same eight batches: bits that change would be a race."""
        codec = model("48khz")
        audio = audio_of(codec.config, *range(40_000, 56_000, 1000)) * 4
        encoder = gpu_encoder(codec, gpu, budget=Budget(samples=200_000, frames=1200))
        first = encoder.encode(audio)
        for _ in range(20):
            for one, other in zip(first, encoder.encode(audio), strict=True):
                assert torch.equal(one.codes, other.codes)
                assert one.scale is not None
                assert other.scale is not None
                assert torch.equal(one.scale, other.scale)

    def test_uploads_are_there_when_they_are_read(self, gpu: torch.device) -> None:
        transfers = SideStream(gpu)
        busy = torch.randn(4096, 4096, device=gpu, generator=torch.Generator(gpu).manual_seed(0))
        waits = []
        for number in range(50):
            host = transfers.empty((1 << 20,), torch.float32).fill_(number)
            assert host.is_pinned()
            there = transfers.upload(host)
            del host
            for _ in range(3):
                busy = (busy @ busy).clamp(-1, 1)
            waits.append((number, transfers.download(there * 2)))
        for number, wait in waits:
            assert wait().eq(2 * number).all()

    @every_config
    def test_the_host_waits_for_nothing_before_the_codes(self, name: str, gpu: torch.device) -> None:
        codec = model(name)
        encoder = gpu_encoder(codec, gpu, budget=Budget(samples=2**22, frames=2**16))
        audio = audio_of(codec.config, *LENGTHS)
        encoder.encode(audio)
        order = sorted(range(len(audio)), key=lambda index: -LENGTHS[index])
        frames, quantizer = encoder._frames, encoder._quantizer
        groups: tuple[tuple[int, ...], ...] = tuple((index,) for index in order)
        if frames.can_share_batches:
            groups = (tuple(order[:5]), tuple(order[5:]))
        with torch.no_grad():
            torch.cuda.set_sync_debug_mode("error")
            try:
                batch = frames.encode(audio, FrameBatch(groups=groups), max_lstm_frames=2**15)
                quantizer.encode(frames.frames(batch))
            finally:
                torch.cuda.set_sync_debug_mode("default")


class TestMemory:
    def test_encoding_goes_on_where_memory_runs_out(self, gpu: torch.device) -> None:
        codec = full_size()
        audio = audio_of(codec.config, *[240_000] * 24)
        expected = BatchEncoder(codec, 6.0, gpu).encode(audio)
        gc.collect()
        torch.cuda.empty_cache()
        # Sized for a device with room, as another process may have left it when the first call came.
        encoder = gpu_encoder(codec, gpu, budget=Budget(samples=2**23, frames=2**20))
        total = torch.cuda.mem_get_info(gpu)[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, 1.2e9 / total), gpu)
        try:
            found = encoder.encode(audio)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, gpu)
        assert encoder.budget.samples < 2**23
        equal = sum(int((a.codes.int() == b.codes.int()).sum()) for a, b in zip(found, expected, strict=True))
        assert equal >= (1 - 1e-3) * sum(codes.codes.numel() for codes in expected)

    def test_a_batch_takes_what_its_budget_says(self, gpu: torch.device) -> None:
        codec = full_size()
        encoder = gpu_encoder(codec, gpu, budget=None)
        free = free_bytes(gpu)
        budget = encoder.budget
        audio = audio_of(codec.config, *[240_000] * 32)
        encoder.encode(audio)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated(gpu)
        torch.cuda.reset_peak_memory_stats(gpu)
        encoder.encode(audio)
        taken = torch.cuda.max_memory_allocated(gpu) - before
        assert taken < 0.8 * free
        samples = min(budget.samples, 32 * 240_000)
        # Frames, the LSTM's workspace and distances come on top: 24,000 frames at some 20 KB, and 256 MB.
        assert taken < 3 * bytes_per_sample(fold_encoder(codec.encoder, device=gpu, convolution_dtype=codec.dtype)) * (
            samples
        ) + (2 << 30)


class TestKernel:
    """CUDA builds of torch bring Triton."""

    def test_it_finds_the_nearest_entries(self, gpu: torch.device) -> None:
        from encodec_core.fast.gpu import nearest

        generator = torch.Generator().manual_seed(0)
        entries = torch.randn(1024, 128, generator=generator).to(gpu)
        for num_frames in (1, 63, 65, 10_000):
            frames = torch.randn(num_frames, 128, generator=generator).to(gpu)
            residual = frames.clone()
            codes = torch.full((num_frames,), -1, dtype=torch.int16, device=gpu)
            nearest.quantize_level(residual, entries, entries.pow(2).sum(1), codes=codes)
            expected = torch.cdist(frames.double(), entries.double()).argmin(1)
            assert int((codes.long() != expected).sum()) <= num_frames // 5000
            assert torch.equal(residual, frames - entries[codes.long()])

    def test_codes_are_those_of_products_and_a_search(self, gpu: torch.device) -> None:
        from encodec_core.fast.gpu import nearest

        quantizer = DeviceQuantizer(full_size().quantizer.codebooks[:8], device=gpu, dtype=torch.float32)
        audio = audio_of(full_size().config, 240_000, 240_000)
        with exact_float32():
            latents = torch.cat(BatchEncoder(full_size(), 6.0, gpu).latents(audio), -1).t().contiguous()
            expected = quantizer.encode(latents)
            quantizer._kernel = nearest
            found = quantizer.encode(latents)
        assert float((found != expected).float().mean()) < 1e-4
