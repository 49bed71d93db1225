"""What training leaves for its next sitting and for the world: a checkpoint, and the model in a folder of its own."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["load_checkpoint", "publish_folder", "save", "save_model", "updates_done"]

CHECKPOINT = "checkpoint.pt"


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


def save(output: Path, state: Mapping[str, Any], *, model: Path, write: Callable[[Path], None]) -> None:
    """Publish the model as it is now, then the checkpoint.

    Args:
        output: of the training.
        state: of the trainer; goes into the checkpoint.
        model: folder of the model.
        write: writes the model's files into a folder.

    Crash points: before the model is published both are the older ones. In the middle of it, see `publish_folder`.
    After it, a newer model stands beside the older checkpoint, until the next sitting, which goes on from there, comes
    by again. So where the checkpoint is that of a training's end, the model is too.
    """
    staged = output / f"{CHECKPOINT}.staged"
    with staged.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    save_model(model, write=write)
    staged.replace(output / CHECKPOINT)


def save_model(model: Path, *, write: Callable[[Path], None]) -> None:
    """Publish the model alone."""
    staged = model.with_name(f"{model.name}.staged")
    write(staged)
    publish_folder(staged, model)


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
