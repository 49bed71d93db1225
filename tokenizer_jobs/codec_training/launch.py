"""Run a codec training: decode the audio once, train in one process or several, leave checkpoints, curves and a model.

OUTPUT/
  job.json            what was asked for; another recipe is refused
  lock                of the run that is at work here
  waveforms/          decoded audio, one folder for each source
  checkpoint.pt       everything the next update depends on
  curves.jsonl        one line for each point; tensorboard/ shows the same, with audio
  evaluations.jsonl   on held-out recordings
  model/              the codec, as `EncodecModel.from_pretrained` loads it
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from encodec_core import EncodecConfig, EncodecModel
from encodec_core.training import Trainer, check_recipe
from encodec_core.training.ranks import rank
from tokenizer_jobs.codec_training.checkpoints import load_checkpoint, save_model, updates_done
from tokenizer_jobs.codec_training.codec_sitting import MODEL, CodecSitting
from tokenizer_jobs.codec_training.config import TrainingJob
from tokenizer_jobs.codec_training.crops import CropRules, Crops
from tokenizer_jobs.codec_training.curves import Curves
from tokenizer_jobs.codec_training.decoding import decode_waveforms
from tokenizer_jobs.codec_training.held_out import SplitAudio, split
from tokenizer_jobs.codec_training.interruption import stop_on_signals
from tokenizer_jobs.codec_training.ranks import run_ranks
from tokenizer_jobs.codec_training.training_file import claim, held
from tokenizer_jobs.codec_training.updates import run_updates
from tokenizer_jobs.codec_training.waveforms import open_waveforms
from tokenizer_jobs.encoding import choose_device, limit_torch_threads
from tokenizer_jobs.errors import ConfigError

__all__ = ["TrainingResult", "train_codec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a training run left."""

    output: Path
    updates: int
    """Done in all, earlier sittings included, and kept in the checkpoint."""
    is_done: bool
    """False where it was stopped before its recipe's end."""


def train_codec(
    job: TrainingJob, *, say: Callable[[str], None] = print, max_updates: int | None = None
) -> TrainingResult:
    """Train a codec, or go on where an earlier call of the same job stopped.

    SIGINT and SIGTERM end the training after the update at hand, with a checkpoint; a second one ends it at once.

    Args:
        job: what to train, on what.
        say: gets one line now and then.
        max_updates: stop once this many updates are done in all; None: when the recipe is done.

    Raises:
        ConfigError: the output holds another job's training, or another run is at work there; or the job cannot be
            done here.
        KeyboardInterrupt: interrupted before training began, or twice; the next call goes on from the last checkpoint.
    """
    if max_updates is not None and max_updates < 1:
        raise ConfigError(f"max_updates = {max_updates}; expected at least 1, or None for the whole recipe")
    output = Path(job.output)
    device, num_ranks = _placement(job)
    config = _starting_model(job).config
    _check(job, config)
    with held(output, say=say):
        claim(output, job)
        _decode(job, config, say=say)
        _crops(job, _open(job)).crop(0)
        last_update = min(job.training.num_updates, max_updates or job.training.num_updates)
        work = partial(_train, job, last_update=last_update)
        with stop_on_signals() as stop:
            if num_ranks == 1:
                threads_before = torch.get_num_threads()
                try:
                    work(device=device, say=say, stop=stop)
                finally:
                    limit_torch_threads(threads_before)
            else:
                run_ranks(work, device=device, num_ranks=num_ranks, say=say, stop=stop)
        updates = updates_done(output)
    return TrainingResult(output=output, updates=updates, is_done=updates >= job.training.num_updates)


def _starting_model(job: TrainingJob) -> EncodecModel:
    if job.start_from is not None:
        try:
            return EncodecModel.from_pretrained(job.start_from)
        except (OSError, ValueError) as error:
            raise ConfigError(f"start_from = {job.start_from!r} cannot be loaded: {error}") from error
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.training.seed)
            return EncodecModel(EncodecConfig(**job.model))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model = {job.model} is no layout of a codec: {error}") from error


def _check(job: TrainingJob, config: EncodecConfig) -> None:
    """Refuse, before hours of decoding, what could only fail after them."""
    try:
        check_recipe(
            job.training,
            config,
            crop_samples=round(job.audio.crop_seconds * config.sampling_rate),
            batch_size=job.audio.batch_size,
            is_trained=job.start_from is not None,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _decode(job: TrainingJob, config: EncodecConfig, *, say: Callable[[str], None]) -> None:
    for name, source in job.audio.sources.items():
        decode_waveforms(
            _folder(job, name),
            source=source.source,
            sample_rate=config.sampling_rate,
            channels=config.audio_channels,
            say=say,
        )


def _folder(job: TrainingJob, name: str) -> Path:
    return Path(job.output) / "waveforms" / name


def _open(job: TrainingJob) -> dict[str, SplitAudio]:
    sources = job.audio.sources
    return split({name: (open_waveforms(_folder(job, name)), source) for name, source in sources.items()})


def _crops(job: TrainingJob, audio: Mapping[str, SplitAudio]) -> Crops:
    (sample_rate,) = {split_audio.waveforms.sample_rate for split_audio in audio.values()}
    rules = CropRules(
        num_samples=round(job.audio.crop_seconds * sample_rate),
        gain_db=job.audio.gain_db,
        min_rms_db=job.audio.min_rms_db,
        mix_probabilities=job.audio.mix_probabilities,
    )
    return Crops(
        {name: (split_audio.waveforms, split_audio.training) for name, split_audio in audio.items()},
        weights={name: source.weight for name, source in job.audio.sources.items()},
        rules=rules,
        seed=job.training.seed,
    )


def _placement(job: TrainingJob) -> tuple[str, int]:
    """Return the kind of device and the number of processes."""
    device = choose_device(job.runtime.device)
    available = torch.cuda.device_count() if device == "cuda" else 1
    num_ranks = available if job.runtime.num_processes == "auto" else job.runtime.num_processes
    if device == "cuda" and num_ranks > available:
        raise ConfigError(f"runtime.num_processes = {num_ranks}, and there are {available} GPUs; lower it")
    if job.audio.batch_size % num_ranks:
        choices = [count for count in range(1, num_ranks) if job.audio.batch_size % count == 0]
        raise ConfigError(
            f"audio.batch_size = {job.audio.batch_size} cannot be shared evenly by {num_ranks} processes; set "
            f"runtime.num_processes to one of {', '.join(map(str, choices))}, which changes nothing that is learned"
        )
    return device, num_ranks


def _train(
    job: TrainingJob, *, last_update: int, device: str, say: Callable[[str], None], stop: threading.Event
) -> None:
    """Train in this process, as the one rank or as one of several."""
    limit_torch_threads(job.runtime.threads)
    output = Path(job.output)
    audio = _open(job)
    trainer = Trainer(_starting_model(job), job.training, device=device)
    checkpoint = load_checkpoint(output)
    if checkpoint is not None:
        trainer.load_state_dict(checkpoint)
        say(f"going on after {trainer.update} updates")
        if rank() == 0 and not (output / MODEL).exists():  # the last sitting ended while the codec was published
            save_model(output / MODEL, write=trainer.model.save_pretrained)
    curves = Curves(
        output,
        is_kept=rank() == 0,
        updates_per_point=job.runtime.log_updates,
        num_updates=job.training.num_updates,
        update=trainer.update,
    )
    sitting = CodecSitting(job, trainer, crops=_crops(job, audio), audio=audio, curves=curves, say=say)
    with curves:
        run_updates(sitting, last_update=last_update, runtime=job.runtime, curves=curves, say=say, stop=stop)
