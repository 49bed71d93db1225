"""Curves of a training: lines of JSON that always are there, and TensorBoard where it is installed."""

import importlib.util
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from encodec_core import BatchEncoder, EncodecModel
from encodec_core.training import CodeRates, Evaluation

__all__ = ["Curves"]


class Curves:
    """Collects what the updates report.

    Args:
        output: folder of the training.
        is_kept: False in all processes but one, which then write nothing.
        updates_per_point: of which each point is the mean.
    """

    def __init__(self, output: Path, *, is_kept: bool, updates_per_point: int) -> None:
        self._output, self._is_kept, self._updates_per_point = output, is_kept, updates_per_point
        self._sums: defaultdict[str, list[float]] = defaultdict(list)
        self._board: Any = None

    def __enter__(self) -> Self:
        if self._is_kept and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._output / "tensorboard"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._board is not None:
            self._board.close()

    def add(self, update: int, metrics: dict[str, float]) -> str | None:
        """Take what one update reports; the line to show where a point is full, else None."""
        for name, value in metrics.items():
            self._sums[name].append(value)
        if update % self._updates_per_point:
            return None
        means = {name: sum(values) / len(values) for name, values in self._sums.items()}
        self._sums.clear()
        self._keep("curves.jsonl", {"update": update, **means})
        self._draw(update, means)
        return f"update {update}: " + ", ".join(f"{name} {value:.4g}" for name, value in means.items())

    def add_evaluation(self, update: int, source: str, evaluation: Evaluation) -> str:
        """Take an evaluation of one source's held-out recordings; the line to show."""
        self._keep("evaluations.jsonl", {"update": update, "source": source, **asdict(evaluation)})
        curves = {f"{source}/si_snr_db/{kbps}_kbps": value for kbps, value in evaluation.si_snr_db.items()}
        curves |= {f"{source}/mel_distance/{kbps}_kbps": value for kbps, value in evaluation.mel_distance.items()}
        self._draw(update, curves)
        by_bandwidth = ", ".join(
            f"{kbps} kbps {snr:.2f} dB (mel {evaluation.mel_distance[kbps]:.3f})"
            for kbps, snr in evaluation.si_snr_db.items()
        )
        perplexities = " ".join(f"{value:.0f}" for value in evaluation.codebook_perplexity)
        return f"held out, {source}, {evaluation.num_recordings} recordings: {by_bandwidth}; perplexity {perplexities}"

    def add_code_rates(self, update: int, rates: CodeRates, *, kbps: Mapping[float, float]) -> str:
        """Take what a language model makes of held-out codes; the line to show.

        Args:
            update: that the model has come to.
            rates: in bits, by codebooks in use.
            kbps: the same in kilobits per second, by the codec's bandwidth.
        """
        self._keep("evaluations.jsonl", {"update": update, **asdict(rates), "kbps": kbps})
        self._draw(update, {f"held_out/kbps_of_{bandwidth:g}": rate for bandwidth, rate in kbps.items()})
        by_bandwidth = ", ".join(f"{rate:.3f} of {bandwidth:g} kbps" for bandwidth, rate in kbps.items())
        return f"held out, {rates.num_sequences} sequences of {rates.num_frames} frames: {by_bandwidth}"

    def add_audio(self, update: int, source: str, model: EncodecModel, clip: Tensor) -> None:
        """Let TensorBoard play a clip `[C, n]` and what the codec makes of it at its highest bandwidth."""
        if self._board is None:
            return
        encoder = BatchEncoder(model, max(model.config.target_bandwidths))
        (decoded,) = encoder.decode(encoder.encode([clip]))
        for name, waveform in (("original", clip), ("decoded", decoded[..., : clip.shape[-1]])):
            self._board.add_audio(f"{source}/{name}", waveform.mean(0), update, model.config.sampling_rate)

    def _draw(self, update: int, values: dict[str, float]) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, update)

    def _keep(self, file: str, record: dict[str, Any]) -> None:
        if self._is_kept:
            with (self._output / file).open("a") as lines:
                lines.write(json.dumps(record) + "\n")
