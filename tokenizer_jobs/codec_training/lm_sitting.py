"""A language model between two updates: its crops, its checkpoint, its evaluation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from encodec_core.training import LanguageModelTrainer, code_rates
from tokenizer_jobs.codec_training.checkpoints import save, save_model
from tokenizer_jobs.codec_training.code_crops import CodeCrops
from tokenizer_jobs.codec_training.codes import StoredCodes
from tokenizer_jobs.codec_training.curves import Curves
from tokenizer_jobs.codec_training.lm_config import LanguageModelJob

__all__ = ["LanguageModelSitting"]

MODEL = "lm"
"""Folder of the language model in the output."""


class LanguageModelSitting:
    """What the updates of a sitting work with.

    Args:
        job: what is trained.
        trainer: where training is.
        codes: to train on, and those that are held out.
        curves: of the training.
        say: gets one line now and then.

    Raises:
        ConfigError: no codes are left to train on.
    """

    def __init__(
        self,
        job: LanguageModelJob,
        trainer: LanguageModelTrainer,
        *,
        codes: StoredCodes,
        curves: Curves,
        say: Callable[[str], None],
    ) -> None:
        self._job, self._trainer, self._origin, self._curves, self._say = job, trainer, codes.origin, curves, say
        training, held_out = codes.split(job.codes.held_out_fraction)
        num_frames = round(job.codes.crop_seconds * codes.origin.codec.frame_rate)
        self._crops = CodeCrops(codes.sequences(training), num_frames=num_frames, seed=job.training.seed)
        evaluated = codes.sequences(held_out[: job.runtime.evaluation_recordings])
        self._held_out = [torch.from_numpy(sequence.astype(np.int64)) for sequence in evaluated]

    @property
    def update(self) -> int:
        """Updates done."""
        return self._trainer.update

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        return self._trainer.device

    def step(self) -> dict[str, float]:
        """Do one update."""
        return self._trainer.step(self._crops.batch(self.update, size=self._job.codes.batch_size))

    def save(self) -> None:
        """Keep what the next update depends on, and publish the model."""
        output = Path(self._job.output)
        save(output, self._trainer.state_dict(), model=output / MODEL, write=self._write_model)

    def save_lost_model(self) -> None:
        """Publish the model where the last sitting ended while it was published."""
        model = Path(self._job.output) / MODEL
        if self.update > 0 and not model.exists():
            save_model(model, write=self._write_model)

    def evaluate(self) -> None:
        """Code what is held out, unless that was done at this update."""
        if not self._held_out or self._curves.is_evaluated(self.update):
            return
        bandwidths = self._origin.n_q_of_bandwidths
        rates = code_rates(
            self._trainer.model, self._held_out, n_q_choices=bandwidths.values(), device=str(self.device)
        )
        frame_rate = self._origin.codec.frame_rate
        kbps = {bandwidth: rates.kbps(n_q, frame_rate=frame_rate) for bandwidth, n_q in bandwidths.items()}
        self._say(self._curves.add_code_rates(self.update, rates, kbps=kbps))

    def _write_model(self, folder: Path) -> None:
        self._trainer.model.save_pretrained(folder, dtype=getattr(torch, self._job.model.saved_as))
