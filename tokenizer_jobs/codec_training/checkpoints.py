"""What training leaves for its next sitting and for the world: a checkpoint, and the codec in a folder of its own."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from encodec_core.training import Trainer

__all__ = ["MODEL", "load_checkpoint", "publish_folder", "save", "save_model", "updates_done"]

CHECKPOINT, MODEL = "checkpoint.pt", "model"


def updates_done(output: Path) -> int:
    """Return how many updates the checkpoint of an output stands for; 0 where there is none."""
    path = output / CHECKPOINT
    if not path.exists():
        return 0
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["update"])


def load_checkpoint(output: Path) -> dict[str, Any] | None:
    """Return the state of a trainer, on the CPU; None where there is no checkpoint."""
    path = output / CHECKPOINT
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def save(output: Path, trainer: Trainer) -> None:
    """Publish the codec as it is now, then the checkpoint.

    Crash points: before the codec is published both are the older ones. In the middle of it, see `publish_folder`.
    After it, a newer codec stands beside the older checkpoint, until the next sitting, which goes on from there, comes
    by again. So where the checkpoint is that of a training's end, the codec is too.
    """
    staged = output / f"{CHECKPOINT}.staged"
    with staged.open("wb") as file:
        torch.save(trainer.state_dict(), file)
        file.flush()
        os.fsync(file.fileno())
    save_model(output, trainer)
    staged.replace(output / CHECKPOINT)


def save_model(output: Path, trainer: Trainer) -> None:
    """Publish the codec alone."""
    staged = output / f"{MODEL}.staged"
    trainer.model.save_pretrained(staged)
    publish_folder(staged, output / MODEL)


def publish_folder(staged: Path, final: Path) -> None:
    """Put a folder in the place of another.

    Crash points: before the second rename there is no folder `final` for a moment, and the caller has to see to it
    when it starts again; after it, the older one is left aside until the next call.
    """
    aside = final.with_name(f"{final.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if final.exists():
        final.rename(aside)
    staged.rename(final)
    shutil.rmtree(aside, ignore_errors=True)
