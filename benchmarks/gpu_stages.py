"""Where the time of BatchEncoder goes on a GPU: the same batch, sent one stage further each time."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.gpu_rows import Contender, take_turns
from encodec_core import EncodecModel
from encodec_core.fast.gpu.encoder import GpuEncoder
from encodec_core.fast.gpu.frames import FrameEncoder
from encodec_core.fast.gpu.plan import FrameBatch, plan_batches
from encodec_core.fast.gpu.quantizer import DeviceQuantizer
from encodec_core.fast.gpu.transfers import transfers_for
from encodec_core.fast.layers import fold_encoder
from encodec_core.fast.precision import Precision, exact_float32

__all__ = ["stage_lines"]


def stage_lines(
    model: EncodecModel,
    waveforms: Sequence[Tensor],
    *,
    n_q: int,
    device: str,
    precision: Precision,
    turns: tuple[int, float],
) -> Iterator[str]:
    """Yield rows of a table: each stage, its microseconds per second of audio, and its share.

    A stage's time is the difference to the one before, each synchronised once at its end. `turns` are so many, or as
    many as begin within so many seconds.
    """
    seconds = sum(waveform.shape[-1] for waveform in waveforms) / model.config.sampling_rate
    with torch.no_grad(), exact_float32(tf32_convolutions=precision == "tf32"):
        stages = _stages(model, waveforms, n_q=n_q, device=torch.device(device), precision=precision)
        contenders = [Contender(name=name, audio_seconds=seconds, run=run) for name, run in stages.items()]
        timings = take_turns(contenders, device=device, repeats=turns[0], limit_seconds=turns[1])
    microseconds = {name: 1e6 / timing.median for name, timing in timings.items()}
    *_, whole = microseconds.values()
    before = 0.0
    for name, total in microseconds.items():
        yield f"| {precision} | {n_q} | {name} | {total - before:.1f} | {(total - before) / whole:.0%} |"
        before = total


def _stages(
    model: EncodecModel, waveforms: Sequence[Tensor], *, n_q: int, device: torch.device, precision: Precision
) -> dict[str, Callable[[], object]]:
    convolution_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    encoder = fold_encoder(model.encoder, device=device, convolution_dtype=convolution_dtype)
    quantizer = DeviceQuantizer(model.quantizer.codebooks[:n_q], device=device, dtype=torch.float32)
    normalize = model.config.normalize
    whole = GpuEncoder(encoder, quantizer, convolution_dtype=convolution_dtype, normalize=normalize)
    frames = FrameEncoder(
        encoder,
        convolution_dtype=convolution_dtype,
        normalize=normalize,
        transfers=transfers_for(device),
        filler=0.0,
    )
    batches = plan_batches(
        [waveform.shape[-1] for waveform in waveforms],
        hop_length=frames.hop_length,
        budget=whole.budget,
        can_share_batches=frames.can_share_batches,
    )
    quantizer.choose_kernel()

    def load() -> None:
        for group in _groups(batches):
            frames.load([waveforms[index] for index in group])

    def convolve() -> None:
        for group in _groups(batches):
            frames.convolve(frames.load([waveforms[index] for index in group]))

    def encode() -> None:
        for batch in batches:
            frames.encode(waveforms, batch, max_lstm_frames=whole.budget.frames // 4)

    def quantize() -> None:
        for batch in batches:
            quantizer.encode(frames.frames(frames.encode(waveforms, batch, max_lstm_frames=whole.budget.frames // 4)))

    return {
        "packing and sending audio": load,
        "convolutions before the LSTM": convolve,
        "LSTM and last convolution": encode,
        f"quantizer ({'Triton' if quantizer.uses_kernel else 'products and a search'})": quantize,
        "codes back, one record each": lambda: whole.encode(waveforms),
    }


def _groups(batches: Sequence[FrameBatch]) -> Iterator[tuple[int, ...]]:
    for batch in batches:
        yield from batch.groups
