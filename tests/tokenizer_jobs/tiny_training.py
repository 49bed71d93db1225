"""A training of a codec as small as it gets, and the audio that it hears."""

import json
from pathlib import Path

import numpy as np
import soundfile

from tokenizer_jobs.codec_training import TrainingJob

__all__ = ["RATE", "silent", "stages", "tiny_job", "write_audio", "write_job"]

RATE = 8000
LAYOUT = {
    "sampling_rate": RATE,
    "num_filters": 2,
    "hidden_size": 4,
    "codebook_size": 4,
    "num_lstm_layers": 1,
    "upsampling_ratios": [4, 2],
    "target_bandwidths": [2, 4],
}


def write_audio(folder: Path) -> Path:
    """Write five tones of half a second, a copy of one of them, silence, and a file that is no audio."""
    seconds = np.arange(RATE // 2) / RATE
    for index in range(5):
        soundfile.write(folder / f"tone{index}.wav", 0.4 * np.sin(2 * np.pi * (200 + 90 * index) * seconds), RATE)
    (folder / "zz_copy.wav").write_bytes((folder / "tone0.wav").read_bytes())
    soundfile.write(folder / "silence.wav", np.zeros(RATE // 2), RATE)
    (folder / "broken.wav").write_bytes(b"no audio at all" * 100)
    return folder


def tiny_job(audio: Path, output: Path, **changes: object) -> TrainingJob:
    """Make a job of four updates; `changes` replace whole keys of the file."""
    content = {
        "output": str(output),
        "model": LAYOUT,
        "audio": {
            "sources": {"tones": {"source": {"kind": "files", "paths": [str(audio)]}, "held_out_fraction": 0.3}},
            "crop_seconds": 0.1,
            "batch_size": 2,
        },
        "training": stages({"num_updates": 4, "losses": {"relative_error": 1, "mel": 1}}),
        "runtime": {"device": "cpu", "log_updates": 2, "evaluation_updates": 2},
    }
    return TrainingJob.model_validate(content | changes)


def stages(*changes: dict[str, object]) -> dict[str, object]:
    """Make a recipe of as many stages, two updates each but for the changes."""
    stage = {"num_updates": 2, "losses": {"relative_error": 1}, "codebook_crops": 4}
    return {
        "stages": [{"name": f"stage{number}"} | stage | change for number, change in enumerate(changes)],
        "quantizer": {"dead_code_share": 0.1, "kmeans_iterations": 2},
    }


def write_job(folder: Path, job: TrainingJob) -> Path:
    """Write the file of a job."""
    file = folder / "job.yaml"
    file.write_text(json.dumps(job.model_dump(mode="json")))
    return file


def silent(_: str) -> None:
    """Say nothing."""
