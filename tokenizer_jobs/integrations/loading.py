"""The codec of a process: loaded when it is first used, once, whatever number of objects name it."""

import multiprocessing
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Literal

import multiprocess
import torch

from tokenizer_jobs.config import CodecRecipe, Filters, Recipe
from tokenizer_jobs.decode import AudioTarget
from tokenizer_jobs.encoding import Codec, DeviceName, choose_device, describe_codec, limit_torch_threads, make_codec
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.recipe import CodecFacts
from tokenizer_jobs.yaml_files import validated

__all__ = ["OnError", "codec_facts", "codec_here", "device_of_rank", "make_recipe", "on_one_thread", "target_of"]

OnError = Literal["raise", "null"]
"""What becomes of a row that cannot be tokenized: the call fails, or the row has null codes and a reason."""


def make_recipe(codec: dict[str, Any], audio: dict[str, Any], *, on_error: str, origin: str) -> Recipe:
    """Validate what decides the codes of a row.

    Args:
        codec: Fields of `recipe.codec`.
        audio: Fields of `recipe.audio`.
        on_error: As the caller gave it.
        origin: Who asks, for messages.

    Raises:
        ConfigError: a value is not offered, or cannot be kept where each row stays one row.
    """
    recipe = validated(Recipe, {"codec": codec, "audio": audio}, origin=origin)
    if recipe.audio.channels == "each":
        raise ConfigError(
            f"{origin}: channels = 'each' makes a row of every channel, and here each row stays one row; choose "
            "left and right in two passes, or run a job"
        )
    if on_error not in ("raise", "null"):
        raise ConfigError(f"{origin}: on_error = {on_error!r}; expected 'raise' or 'null'")
    return recipe


@lru_cache(maxsize=8)
def codec_facts(recipe: CodecRecipe) -> CodecFacts:
    """Say what a codec is, down to the sha256 of its weights; they are read once in a process.

    Raises:
        ConfigError: the model cannot be found or read, or does not offer the bandwidth.
    """
    return describe_codec(recipe)


def codec_here(recipe: CodecRecipe, *, device: DeviceName) -> Codec:
    """The codec on the current device, loaded once in a process.

    Raises:
        ConfigError: as `make_codec`.
    """
    torch_device = choose_device(device)
    return _loaded(recipe, torch_device, torch.cuda.current_device() if torch_device == "cuda" else 0)


def target_of(facts: CodecFacts, recipe: Recipe) -> AudioTarget:
    """What waveforms are made into.

    Raises:
        ConfigError: the recipe asks for what the codec cannot do.
    """
    return AudioTarget.for_codec(facts, audio=recipe.audio, filters=Filters())


def device_of_rank(rank: int | None, *, device: DeviceName) -> AbstractContextManager[object]:
    """Make the GPU of a worker the current one: its rank over the number of GPUs; nothing on a CPU or without rank."""
    if rank is None or choose_device(device) == "cpu":
        return nullcontext()
    return torch.cuda.device(rank % torch.cuda.device_count())


def on_one_thread() -> None:
    """Compute with one torch thread in a process that others share the machine with: a worker of a pool or loader.

    A process that was forked could not use its parent's threads anyhow: OpenMP waits for them for ever.
    """
    is_worker = multiprocess.parent_process() is not None or multiprocessing.parent_process() is not None
    if is_worker and torch.get_num_threads() != 1:
        limit_torch_threads(1)


@lru_cache(maxsize=4)
def _loaded(recipe: CodecRecipe, device: Literal["cpu", "cuda"], index: int) -> Codec:  # noqa: ARG001  # index: a key
    return make_codec(recipe, device=device)
