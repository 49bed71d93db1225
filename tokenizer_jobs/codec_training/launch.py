"""Run a codec training: decode the audio once, train in one process or several, leave checkpoints, curves and a model.

OUTPUT/
  job.json            what was asked for; another recipe is refused
  waveforms/          decoded audio, one folder for each source
  checkpoint.pt       everything the next update depends on
  curves.jsonl        one line for each point; tensorboard/ shows the same, with audio
  evaluations.jsonl   on held-out recordings
  model/              the codec, as `EncodecModel.from_pretrained` loads it
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from encodec_core import EncodecConfig, EncodecModel
from encodec_core.training import Trainer, evaluate
from encodec_core.training.ranks import num_ranks, rank
from tokenizer_jobs.codec_training.config import TrainingJob
from tokenizer_jobs.codec_training.crops import CropRules, Crops
from tokenizer_jobs.codec_training.curves import Curves
from tokenizer_jobs.codec_training.held_out import SplitAudio, held_out_clips, split
from tokenizer_jobs.codec_training.training_file import claim
from tokenizer_jobs.codec_training.waveforms import Waveforms, decode_waveforms
from tokenizer_jobs.errors import ConfigError

__all__ = ["TrainingResult", "train_codec"]

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a training run left."""

    output: Path
    updates: int
    """Done in all, earlier sittings included."""
    is_done: bool
    """False where it was stopped before its recipe's end."""


def train_codec(
    job: TrainingJob, *, say: Callable[[str], None] = print, max_updates: int | None = None
) -> TrainingResult:
    """Train a codec, or go on where an earlier call of the same job stopped.

    Args:
        job: what to train, on what.
        say: gets one line now and then.
        max_updates: stop once this many updates are done in all; None: when the recipe is done.

    Raises:
        ConfigError: the output holds another job's training, or the job cannot be done here.
    """
    output = Path(job.output)
    claim(output, job)
    _decode_all(job, say=say)
    device, num_processes = _placement(job)
    if num_processes == 1:
        _train(job, device=device, say=say, max_updates=max_updates)
    else:
        with tempfile.TemporaryDirectory() as folder:
            arguments = (job, device, num_processes, f"file://{folder}/rendezvous", max_updates)
            spawn(_train_rank, args=arguments, nprocs=num_processes)  # type: ignore[no-untyped-call]
    updates = int(torch.load(output / CHECKPOINT, weights_only=True)["update"])
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


def _decode_all(job: TrainingJob, *, say: Callable[[str], None]) -> None:
    config = _starting_model(job).config
    for name in job.audio.sources:
        start = time.monotonic()
        waveforms = _waveforms(job, name, config)
        hours = len(waveforms.samples) / config.sampling_rate / 3600
        say(f"{name}: {len(waveforms.recordings)} recordings, {hours:.2f} h, in {time.monotonic() - start:.0f} s")


def _waveforms(job: TrainingJob, name: str, config: EncodecConfig) -> Waveforms:
    return decode_waveforms(
        Path(job.output) / "waveforms" / name,
        source=job.audio.sources[name].source,
        sample_rate=config.sampling_rate,
        channels=config.audio_channels,
    )


def _placement(job: TrainingJob) -> tuple[str, int]:
    """Return the kind of device and the number of processes."""
    has_gpu = torch.cuda.is_available()
    if job.runtime.device == "cuda" and not has_gpu:
        raise ConfigError("runtime.device = cuda, and torch sees no GPU; `tokenizer-jobs doctor` says why")
    device = "cuda" if has_gpu and job.runtime.device != "cpu" else "cpu"
    available = torch.cuda.device_count() if device == "cuda" else 1
    num_processes = available if job.runtime.num_processes == "auto" else job.runtime.num_processes
    if device == "cuda" and num_processes > available:
        raise ConfigError(f"runtime.num_processes = {num_processes}, and there are {available} GPUs; lower it")
    return device, num_processes


def _train_rank(
    rank: int, job: TrainingJob, device: str, num_processes: int, rendezvous: str, max_updates: int | None
) -> None:
    distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo", init_method=rendezvous, rank=rank, world_size=num_processes
    )
    try:
        place = f"{device}:{rank}" if device == "cuda" else device
        _train(job, device=place, say=print if rank == 0 else _say_nothing, max_updates=max_updates)
    finally:
        distributed.destroy_process_group()


def _say_nothing(_: str) -> None:
    """Let the first rank speak."""


def _train(job: TrainingJob, *, device: str, say: Callable[[str], None], max_updates: int | None) -> None:
    """Train in this process, as the one rank or as one of several."""
    torch.set_num_threads(job.runtime.threads)
    output = Path(job.output)
    model = _starting_model(job)
    audio = {name: split(_waveforms(job, name, model.config), source) for name, source in job.audio.sources.items()}
    trainer = Trainer(model, job.training, device=device)
    if (output / CHECKPOINT).exists():
        trainer.load_state_dict(torch.load(output / CHECKPOINT, map_location="cpu", weights_only=True))
        say(f"going on after {trainer.update} updates")
    crops = _crops(job, audio, sample_rate=model.config.sampling_rate)
    last_update = min(job.training.num_updates, max_updates or job.training.num_updates)
    with Curves(output, is_kept=rank() == 0, updates_per_point=job.runtime.log_updates) as curves:
        _loop(job, trainer, crops=crops, audio=audio, curves=curves, last_update=last_update, say=say)


def _loop(
    job: TrainingJob,
    trainer: Trainer,
    *,
    crops: Crops,
    audio: Mapping[str, SplitAudio],
    curves: Curves,
    last_update: int,
    say: Callable[[str], None],
) -> None:
    def batch(update: int) -> Tensor:
        return crops.batch(update, size=job.audio.batch_size, rank=rank(), num_ranks=num_ranks())

    def batches(num_crops: int) -> Iterator[Tensor]:
        for offset in range(-(-num_crops // job.audio.batch_size)):
            yield batch(trainer.update + offset)

    if trainer.update == 0 and job.training.unit_variance_crops:
        trainer.scale_weights(batches(job.training.unit_variance_crops))
    saved_at = time.monotonic()
    while trainer.update < last_update:
        if trainer.needs_codebooks:
            say(f"stage {trainer.stage.name}: fitting codebooks")
            trainer.fit_codebooks(batches(trainer.stage.codebook_crops))
        metrics = trainer.step(batch(trainer.update))
        line = curves.add(trainer.update, metrics)
        if line is not None:
            say(line)
        is_last = trainer.update == last_update
        if is_last or trainer.update % job.runtime.evaluation_updates == 0:
            _evaluate(job, trainer, audio=audio, curves=curves, say=say)
        if is_last or time.monotonic() - saved_at > 60 * job.runtime.checkpoint_minutes:
            _save(Path(job.output), trainer)
            saved_at = time.monotonic()


def _crops(job: TrainingJob, audio: Mapping[str, SplitAudio], *, sample_rate: int) -> Crops:
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


def _evaluate(
    job: TrainingJob,
    trainer: Trainer,
    *,
    audio: Mapping[str, SplitAudio],
    curves: Curves,
    say: Callable[[str], None],
) -> None:
    if rank() != 0:
        return
    for name, split_audio in audio.items():
        recordings = split_audio.held_out[: job.runtime.evaluation_recordings]
        if recordings:
            clips = held_out_clips(split_audio, recordings, sample_rate=trainer.model.config.sampling_rate)
            result = evaluate(trainer.model, clips, device=str(trainer.device))
            say(curves.add_evaluation(trainer.update, name, result))
            curves.add_audio(trainer.update, name, trainer.model, clips[0])


def _save(output: Path, trainer: Trainer) -> None:
    if rank() != 0:
        return
    staged = output / f"{CHECKPOINT}.staged"
    torch.save(trainer.state_dict(), staged)
    trainer.model.save_pretrained(output / "model.staged")
    # A crash between the next lines leaves the older checkpoint, or a newer one beside an older model: both are whole.
    staged.replace(output / CHECKPOINT)
    shutil.rmtree(output / "model", ignore_errors=True)
    (output / "model.staged").replace(output / "model")
