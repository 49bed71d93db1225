"""What is said of encoders that find no place or cannot start."""

from collections.abc import Iterable

import ray
from ray.exceptions import ActorDiedError

from tokenizer_jobs.cluster.faults import first_line
from tokenizer_jobs.cluster.placement import EncoderPlace, describe_nodes
from tokenizer_jobs.cluster.session import live_nodes
from tokenizer_jobs.config import Runtime
from tokenizer_jobs.errors import ConfigError

__all__ = ["cannot_start", "import_failure", "not_placed", "what_is_missing"]


def what_is_missing(waiting: Iterable[EncoderPlace]) -> str:
    """What the encoders that wait for places ask for, and what of it the cluster has."""
    places = list(waiting)
    asked = " or ".join(sorted({place.describe() for place in places})) or "a live node with CPUs"
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return (
        f"{len(places)} asked for {asked} each; the cluster has {describe_nodes(live_nodes())}, "
        f"of which {free.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} GPUs and "
        f"{free.get('encoder', 0):g} 'encoder' are free"
    )


def not_placed(waiting: Iterable[EncoderPlace], runtime: Runtime) -> str:
    """That none of the encoders found a place in time, and what to do."""
    places = list(waiting)
    return (
        f"no encoder found a place on the cluster within {runtime.placement_timeout_seconds:g} s: "
        f"{what_is_missing(places)}; start nodes that have it, wait for what holds it, "
        f"{'set runtime.device: cpu, ' if any(place.gpus for place in places) else ''}or raise "
        "runtime.placement_timeout_seconds where nodes are slow to come"
    )


def cannot_start(name: str, reason: str) -> ConfigError:
    """An encoder dies at its start, and others would too."""
    return ConfigError(
        f"{name} cannot start on the cluster ({reason}); check that this package and its dependencies are installed on "
        "every node, or sent along (working_dir or pip in the runtime environment), and that its memory holds the codec"
    )


def import_failure(error: ActorDiedError) -> str:
    """The line of an actor's death that says what failed."""
    lines = [line for line in str(error).splitlines() if "Error" in line]
    return lines[-1].strip() if lines else first_line(error)
