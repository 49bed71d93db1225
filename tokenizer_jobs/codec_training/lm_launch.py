"""A language model's training from its file to its end: codes, updates, checkpoints, curves and a model.

OUTPUT/
  job.json            what was asked for; another recipe is refused
  codes/              the codes, copied, and what made them
  checkpoint.pt       everything the next update depends on
  curves.jsonl        one line for each point; tensorboard/ shows the same
  evaluations.jsonl   on held-out recordings
  lm/                 the model, as `LanguageModel.from_pretrained` loads it; its config names the codec's weights
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from encodec_core.entropy import LanguageModel, LanguageModelConfig
from encodec_core.training import LanguageModelTrainer, code_rates
from tokenizer_jobs.codec_training.checkpoints import load_checkpoint, save, save_model
from tokenizer_jobs.codec_training.code_crops import CodeCrops
from tokenizer_jobs.codec_training.codes import CodedRecording, StoredCodes, copy_codes
from tokenizer_jobs.codec_training.curves import Curves
from tokenizer_jobs.codec_training.interruption import stop_on_signals
from tokenizer_jobs.codec_training.launch import TrainingResult
from tokenizer_jobs.codec_training.lm_config import LanguageModelJob
from tokenizer_jobs.codec_training.training_file import claim, held
from tokenizer_jobs.errors import ConfigError

__all__ = ["train_language_model"]

MODEL = "lm"


def train_language_model(
    job: LanguageModelJob, *, say: Callable[[str], None] = print, max_updates: int | None = None
) -> TrainingResult:
    """Train a language model, or go on where an earlier call of the same job stopped.

    SIGINT and SIGTERM end the training after the update at hand, with a checkpoint; a second one ends it at once.

    Args:
        job: what to train, on what.
        say: gets one line now and then.
        max_updates: stop once this many updates are done in all; None: when the recipe is done.

    Raises:
        ConfigError: the output holds another job's training, or codes of another codec; or the job cannot be done here.
        IntegrityError: the codes are damaged.
    """
    if max_updates is not None and max_updates < 1:
        raise ConfigError(f"max_updates = {max_updates}; expected at least 1, or None for the whole recipe")
    output = Path(job.output)
    device = _device(job)
    with held(output, say=say):
        claim(output, job)
        codes = copy_codes(output / "codes", output=job.codes.output, max_hours=job.codes.max_hours)
        say(
            f"codes of snapshot {codes.origin.snapshot} of {codes.origin.output}: {len(codes.recordings)} recordings, "
            f"{codes.hours:.2f} h"
        )
        torch.set_num_threads(job.runtime.threads)
        trainer = _trainer(job, codes, device=device)
        state = load_checkpoint(output)
        if state is not None:
            trainer.load_state_dict(state)
            say(f"going on after {trainer.update} updates")
            if not (output / MODEL).exists():
                save_model(output / MODEL, write=partial(_write_model, job, trainer))
        curves = Curves(
            output,
            is_kept=True,
            updates_per_point=job.runtime.log_updates,
            num_updates=job.training.num_updates,
            update=trainer.update,
        )
        last_update = min(job.training.num_updates, max_updates or job.training.num_updates)
        with stop_on_signals() as stop, curves:
            _loop(job, trainer, codes=codes, curves=curves, last_update=last_update, stop=stop, say=say)
    return TrainingResult(output=output, updates=trainer.update, is_done=trainer.is_done)


def _device(job: LanguageModelJob) -> str:
    has_gpu = torch.cuda.is_available()
    if job.runtime.device == "cuda" and not has_gpu:
        raise ConfigError("runtime.device = cuda, and torch sees no GPU; `tokenizer-jobs doctor` says why")
    return "cuda" if has_gpu and job.runtime.device != "cpu" else "cpu"


def _trainer(job: LanguageModelJob, codes: StoredCodes, *, device: str) -> LanguageModelTrainer:
    codec, shape = codes.origin.codec, job.model
    try:
        config = LanguageModelConfig(
            n_q=codes.num_codebooks,
            codebook_size=codec.codebook_size,
            past_context=int(shape.context_seconds * codec.frame_rate),
            dim=shape.dim,
            num_heads=shape.num_heads,
            num_layers=shape.num_layers,
            feed_forward_dim=shape.feed_forward_dim,
            codec_weights_sha256=codes.origin.weights_sha256,
        )
    except ValueError as error:
        raise ConfigError(f"model is no layout of a language model: {error}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.training.seed)
        model = LanguageModel(config)
    n_q_choices = tuple(codes.origin.n_q_of_bandwidths.values())
    return LanguageModelTrainer(model, job.training, n_q_choices=n_q_choices, device=device)


def _loop(
    job: LanguageModelJob,
    trainer: LanguageModelTrainer,
    *,
    codes: StoredCodes,
    curves: Curves,
    last_update: int,
    stop: threading.Event,
    say: Callable[[str], None],
) -> None:
    training, held_out = codes.split(job.codes.held_out_fraction)
    num_frames = round(job.codes.crop_seconds * codes.origin.codec.frame_rate)
    crops = CodeCrops(codes.sequences(training), num_frames=num_frames, seed=job.training.seed)
    evaluated = _tensors(codes, held_out[: job.runtime.evaluation_recordings])
    saved_at, saved_update = time.monotonic(), trainer.update
    while trainer.update < last_update and not stop.is_set():
        metrics = trainer.step(crops.batch(trainer.update, size=job.codes.batch_size))
        line = curves.add(trainer.update, metrics)
        if line is not None:
            say(line)
        is_evaluated = trainer.update == last_update or trainer.update % job.runtime.evaluation_updates == 0
        if is_evaluated or time.monotonic() - saved_at > 60 * job.runtime.checkpoint_minutes:
            _save(job, trainer)
            saved_at, saved_update = time.monotonic(), trainer.update
        if evaluated and is_evaluated:
            say(_evaluate(trainer, evaluated, codes=codes, curves=curves))
    if trainer.update > saved_update:
        _save(job, trainer)


def _tensors(codes: StoredCodes, recordings: Sequence[CodedRecording]) -> list[Tensor]:
    return [torch.from_numpy(sequence.astype(np.int64)) for sequence in codes.sequences(recordings)]


def _evaluate(trainer: LanguageModelTrainer, sequences: Sequence[Tensor], *, codes: StoredCodes, curves: Curves) -> str:
    bandwidths = codes.origin.n_q_of_bandwidths
    rates = code_rates(trainer.model, sequences, n_q_choices=bandwidths.values(), device=str(trainer.device))
    frame_rate = codes.origin.codec.frame_rate
    kbps = {bandwidth: rates.kbps(n_q, frame_rate=frame_rate) for bandwidth, n_q in bandwidths.items()}
    return curves.add_code_rates(trainer.update, rates, kbps=kbps)


def _save(job: LanguageModelJob, trainer: LanguageModelTrainer) -> None:
    output = Path(job.output)
    save(output, trainer.state_dict(), model=output / MODEL, write=partial(_write_model, job, trainer))


def _write_model(job: LanguageModelJob, trainer: LanguageModelTrainer, folder: Path) -> None:
    trainer.model.save_pretrained(folder, dtype=getattr(torch, job.model.saved_as))
