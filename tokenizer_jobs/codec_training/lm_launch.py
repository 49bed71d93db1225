"""A language model's training from its file to its end: codes, updates, checkpoints, curves and a model.

OUTPUT/
  job.json            what was asked for; another recipe is refused
  codes/              the codes, copied, and what made them
  checkpoint.pt       everything the next update depends on
  curves.jsonl        one line for each point; tensorboard/ shows the same
  evaluations.jsonl   on held-out recordings
  lm/                 the model, as `LanguageModel.from_pretrained` loads it; its config names the codec's weights
"""

from collections.abc import Callable
from pathlib import Path

import torch

from encodec_core.entropy import LanguageModel, LanguageModelConfig
from encodec_core.training import LanguageModelTrainer
from tokenizer_jobs.codec_training.checkpoints import load_checkpoint
from tokenizer_jobs.codec_training.codes import StoredCodes, copy_codes
from tokenizer_jobs.codec_training.curves import Curves
from tokenizer_jobs.codec_training.interruption import stop_on_signals
from tokenizer_jobs.codec_training.launch import TrainingResult
from tokenizer_jobs.codec_training.lm_config import LanguageModelJob
from tokenizer_jobs.codec_training.lm_sitting import LanguageModelSitting
from tokenizer_jobs.codec_training.training_file import claim, held
from tokenizer_jobs.codec_training.updates import run_updates
from tokenizer_jobs.encoding import choose_device, limit_torch_threads
from tokenizer_jobs.errors import ConfigError

__all__ = ["train_language_model"]


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
    device = choose_device(job.runtime.device)
    with held(output, say=say):
        claim(output, job)
        codes = copy_codes(output / "codes", output=job.codes.output, max_hours=job.codes.max_hours)
        say(
            f"codes of snapshot {codes.origin.snapshot} of {codes.origin.output}: {len(codes.recordings)} recordings, "
            f"{codes.hours:.2f} h"
        )
        last_update = min(job.training.num_updates, max_updates or job.training.num_updates)
        threads_before = limit_torch_threads(job.runtime.threads)
        try:
            trainer = _train(job, codes, last_update=last_update, device=device, say=say)
        finally:
            limit_torch_threads(threads_before)
    return TrainingResult(output=output, updates=trainer.update, is_done=trainer.is_done)


def _train(
    job: LanguageModelJob, codes: StoredCodes, *, last_update: int, device: str, say: Callable[[str], None]
) -> LanguageModelTrainer:
    output = Path(job.output)
    trainer = _trainer(job, codes, device=device)
    state = load_checkpoint(output)
    if state is not None:
        trainer.load_state_dict(state)
        say(f"going on after {trainer.update} updates")
    curves = Curves(
        output,
        is_kept=True,
        updates_per_point=job.runtime.log_updates,
        num_updates=job.training.num_updates,
        update=trainer.update,
    )
    sitting = LanguageModelSitting(job, trainer, codes=codes, curves=curves, say=say)
    sitting.save_lost_model()
    with stop_on_signals() as stop, curves:
        run_updates(sitting, last_update=last_update, runtime=job.runtime, curves=curves, say=say, stop=stop)
    return trainer


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
