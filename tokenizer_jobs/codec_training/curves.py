"""Curves of a training: lines of JSON that always are there, and TensorBoard where it is installed."""

import importlib.util
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from encodec_core import BatchEncoder, EncodecModel
from encodec_core.training import CodeRates, Evaluation
from tokenizer_jobs.wording import span_text

__all__ = ["Curves"]

POINTS, EVALUATIONS = "curves.jsonl", "evaluations.jsonl"


class Curves:
    """Collects what the updates report.

    A sitting that ended without a checkpoint has left points of updates that are now done again: they are dropped.

    Args:
        output: folder of the training.
        is_kept: False in all processes but one, which then write nothing.
        updates_per_point: of which each point is the mean.
        num_updates: of the whole training.
        update: that training goes on from.
    """

    def __init__(self, output: Path, *, is_kept: bool, updates_per_point: int, num_updates: int, update: int) -> None:
        self._output, self._is_kept, self._updates_per_point = output, is_kept, updates_per_point
        self._num_updates, self._first_update = num_updates, update
        self._sums: defaultdict[str, list[float]] = defaultdict(list)
        self._latest = (update, time.monotonic())
        self._board: Any = None

    def __enter__(self) -> Self:
        if not self._is_kept:
            return self
        for file in (POINTS, EVALUATIONS):
            _drop_points(self._output / file, after=self._first_update)
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._output / "tensorboard"), purge_step=self._first_update + 1)
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
        self._keep(POINTS, {"update": update, **means})
        self._draw(update, means)
        described = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
        return f"update {update} of {self._num_updates}: {described}; {self._pace(update)}"

    def add_evaluation(self, update: int, source: str, evaluation: Evaluation) -> str:
        """Take an evaluation of one source's held-out recordings; the line to show."""
        self._keep(EVALUATIONS, {"update": update, "source": source, **asdict(evaluation)})
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
        self._keep(EVALUATIONS, {"update": update, **asdict(rates), "kbps": kbps})
        self._draw(update, {f"held_out/kbps_of_{bandwidth:g}": rate for bandwidth, rate in kbps.items()})
        by_bandwidth = ", ".join(f"{rate:.3f} of {bandwidth:g} kbps" for bandwidth, rate in kbps.items())
        return f"held out, {rates.num_sequences} sequences of {rates.num_frames} frames: {by_bandwidth}"

    def add_audio(self, update: int, source: str, model: EncodecModel, clip: Tensor) -> None:
        """Let TensorBoard play a clip `[C, n]` and what the codec makes of it at its highest bandwidth."""
        if self._board is None:
            return
        encoder = BatchEncoder(model, max(model.config.target_bandwidths), model.device)
        (decoded,) = encoder.decode(encoder.encode([clip]))
        for name, waveform in (("original", clip), ("decoded", decoded[..., : clip.shape[-1]])):
            self._board.add_audio(f"{source}/{name}", waveform.mean(0), update, model.config.sampling_rate)

    def is_evaluated(self, update: int, *, source: str | None = None) -> bool:
        """Whether an evaluation at that update is kept: of one source, or of held-out codes, which have none."""
        records = _records(self._output / EVALUATIONS)
        return any(record["update"] == update and record.get("source") == source for record in records)

    def _pace(self, update: int) -> str:
        """Speed since the last point, and the time left at that speed."""
        latest, then = self._latest
        self._latest = update, time.monotonic()
        seconds = (time.monotonic() - then) / (update - latest)
        return f"{1 / seconds:.3g} updates/s, {span_text(seconds * (self._num_updates - update))} left"

    def _draw(self, update: int, values: dict[str, float]) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, update)

    def _keep(self, file: str, record: dict[str, Any]) -> None:
        if self._is_kept:
            with (self._output / file).open("a") as lines:
                lines.write(json.dumps(record) + "\n")


def _drop_points(path: Path, *, after: int) -> None:
    if not path.exists():
        return
    kept = [record for record in _records(path) if record["update"] <= after]
    staged = path.with_name(f"{path.name}.staged")
    staged.write_text("".join(json.dumps(record) + "\n" for record in kept))
    # A crash before this line leaves all points; the next sitting drops them.
    staged.replace(path)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open() as lines:
        for line in lines:
            if line.endswith("\n"):  # a line without its end was being written when the process died
                yield json.loads(line)
