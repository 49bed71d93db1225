"""Where encoders and decode tasks go: pure functions of the nodes that are there and of `runtime`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor

from tokenizer_jobs.cluster.retry import MAX_UNITS_PER_ENCODER, MAX_UNITS_PER_GPU, UNITS_PER_ENCODER
from tokenizer_jobs.config import Runtime
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.wording import count_text

__all__ = [
    "ENCODER_RESOURCE",
    "EncoderPlace",
    "Node",
    "Placement",
    "describe_nodes",
    "follow",
    "missing",
    "num_placeable",
    "place",
]

ENCODER_RESOURCE = "encoder"
"""Custom resource of which a CPU encoder takes one: it must not take the CPUs that its decode tasks need."""

MAX_DECODE_TASKS = 16
"""Decode tasks of one unit that `auto` asks for, at most."""

_GPU_PARTS = 10_000
"""In which Ray counts a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One live machine of the cluster."""

    node_id: str
    cpus: float
    gpus: float
    encoder_slots: float
    """Amount of the custom resource `encoder`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderPlace:
    """What one encoder asks of the cluster."""

    gpus: float = 0.0
    """Share of one GPU."""
    encoder_slots: float = 0.0
    node_id: str | None = None
    """The node that it is bound to, where no resource says where it may go; None: Ray chooses."""

    def describe(self) -> str:
        """Name what it asks for."""
        if self.gpus:
            return f"{self.gpus:g} GPU"
        return f"{self.encoder_slots:g} of the resource {ENCODER_RESOURCE!r}" if self.encoder_slots else "a live node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where everything goes on the nodes that are there."""

    encoders: tuple[EncoderPlace, ...]
    """Those that are asked for; nodes for some may be still to come."""
    nodes: tuple[Node, ...]
    decode_tasks: int
    """For each unit in flight."""
    decode_cpus: float
    """That one decode task reserves."""
    units_per_encoder: int = UNITS_PER_ENCODER
    """In flight on one encoder, at most; more than two where each is a single recording, or comes in stretches."""
    bound: bool = False
    """Whether encoders are bound to nodes, since no resource says where they may go."""
    growing: bool = False
    """Whether it began on the first nodes of a cluster that had none."""

    @property
    def max_in_flight(self) -> int:
        """Units at once, on all encoders, that find places for all their decode tasks beside each other."""
        return max(1, _decode_places(self.nodes, self.decode_cpus) // self.decode_tasks)

    def describe(self) -> str:
        """One line for the log, such as `2 encoders on 1 node (2 CPUs), decode by 0.25-CPU tasks, 1 a unit`."""
        num_waiting = len(self.encoders) - num_placeable(self.encoders, self.nodes)
        return (
            f"{count_text(len(self.encoders), 'encoder')} on {describe_nodes(self.nodes)}, "
            f"decode by {self.decode_cpus:g}-CPU tasks, {self.decode_tasks} a unit"
            + (f"; no node has the resource {ENCODER_RESOURCE!r}, so encoders are spread by CPUs" if self.bound else "")
            + (f"; {num_waiting} of them wait for nodes to come" if num_waiting else "")
        )

    def num_threads(self, node_id: str) -> int:
        """Torch threads for an encoder on a node: the node's CPUs shared by the encoders that it will hold."""
        node = next((node for node in self.nodes if node.node_id == node_id), None)
        if node is None:
            return 1  # it left again
        return max(1, int(node.cpus) // max(1, self._expected_encoders(node)))

    def _expected_encoders(self, node: Node) -> int:
        if self.bound:
            return sum(place.node_id == node.node_id for place in self.encoders)
        if self.encoders[0].gpus:
            share = node.gpus / max(1.0, sum(other.gpus for other in self.nodes))
            return round(num_placeable(self.encoders, self.nodes) * share)
        return min(len(self.encoders), int(node.encoder_slots))


def missing(nodes: Sequence[Node], runtime: Runtime) -> str | None:
    """What a cluster lacks before anything can be placed on it; None: nothing.

    Where `runtime.device` is `auto`, nodes without GPUs are enough once they say so by the resource `encoder`, or
    where the caller has waited long enough for a GPU.
    """
    if not _decode_places(nodes, runtime.decode_cpus):
        return f"a node with {runtime.decode_cpus:g} CPUs, for decode tasks"
    if _wants_gpus(nodes, runtime) and not any(node.gpus >= 1 for node in nodes):
        return "a node with a GPU"
    return None


def place(nodes: Sequence[Node], runtime: Runtime, *, growing: bool = False) -> Placement:
    """Share the cluster's GPUs or CPUs among encoders, and check that decoding cannot be starved.

    Args:
        nodes: The live nodes.
        runtime: Encoders, device, decode fan-out.
        growing: The first nodes of a cluster that had none: encoders that find no place on them wait for others.

    Raises:
        ConfigError: the numbers cannot work; the message names them.
    """
    encoders = _place_encoders(nodes, runtime, growing=growing)
    num_encoders = max(1, num_placeable(encoders, nodes))
    decode_tasks = _decode_tasks(nodes, runtime, num_encoders=num_encoders)
    places = _decode_places(nodes, runtime.decode_cpus)
    if num_encoders * UNITS_PER_ENCODER * decode_tasks > places:
        raise _starved(nodes, runtime, num_encoders=num_encoders, decode_tasks=decode_tasks)
    return Placement(
        encoders=tuple(encoders),
        nodes=tuple(nodes),
        decode_tasks=decode_tasks,
        decode_cpus=runtime.decode_cpus,
        units_per_encoder=_units_per_encoder(
            places, num_encoders=num_encoders, decode_tasks=decode_tasks, on_gpus=encoders[0].gpus > 0
        ),
        bound=any(place.node_id for place in encoders),
        growing=growing,
    )


def follow(
    placement: Placement,
    nodes: Sequence[Node],
    runtime: Runtime,
    *,
    held: Sequence[EncoderPlace],
    vacant: Sequence[EncoderPlace],
) -> Placement:
    """The placement on other nodes than before: its encoders are those held, followed by those to be started.

    Encoders that lost their GPU or slot are asked for again whether or not it is there: one that waits for a place
    shows the cluster's autoscaler what is wanted. Those bound to a node go with it, and others come with new nodes.

    Args:
        placement: The one before.
        nodes: The nodes that may be given work.
        runtime: As for `place`.
        held: Encoders at work or waiting for a place.
        vacant: Places of encoders that were lost, or whose node leaves, and that were not started again.
    """
    if not placement.bound:
        new = list(vacant)
        if runtime.encoders == "auto":
            room = sum(_room(node, placement.encoders[0]) for node in nodes)
            new += [placement.encoders[0]] * (room - len(held) - len(vacant))
    elif runtime.encoders == "auto":
        on_node = Counter(place.node_id for place in held)
        hosts = [node.node_id for node in nodes for _ in range(int(node.cpus) - on_node[node.node_id])]
        new = [EncoderPlace(node_id=host) for host in hosts or _spread_by_cpus(nodes, 1 - len(held), held=held)]
    else:
        most = runtime.encoders if not placement.growing else _growing_number(nodes, runtime.encoders)
        hosts = _spread_by_cpus(nodes, most - len(held), held=held)
        new = [EncoderPlace(node_id=host) for host in hosts]
    encoders = (*held, *new)
    tasks = _decode_tasks(nodes, runtime, num_encoders=max(1, num_placeable(encoders, nodes)))
    return replace(
        placement,
        encoders=encoders or placement.encoders,
        nodes=tuple(nodes),
        decode_tasks=max(1, min(tasks, _decode_places(nodes, runtime.decode_cpus))),
    )


def num_placeable(encoders: Sequence[EncoderPlace], nodes: Sequence[Node]) -> int:
    """How many of the encoders find a place on these nodes, were they alone there."""
    if any(place.node_id for place in encoders):
        there = {node.node_id for node in nodes}
        return sum(place.node_id in there for place in encoders)
    if not encoders or not encoders[0].gpus:
        return min(len(encoders), sum(int(node.encoder_slots) for node in nodes))
    free = [_GPU_PARTS] * sum(int(node.gpus) for node in nodes)
    num_placed = 0
    for parts in sorted((floor(place.gpus * _GPU_PARTS + 0.5) for place in encoders), reverse=True):
        host = next((index for index, parts_free in enumerate(free) if parts_free >= parts), None)
        if host is not None:
            free[host] -= parts
            num_placed += 1
    return num_placed


def _room(node: Node, place: EncoderPlace) -> int:
    """Encoders of one kind that a node holds."""
    if place.gpus:
        return int(node.gpus) * (_GPU_PARTS // floor(place.gpus * _GPU_PARTS + 0.5))
    return int(node.encoder_slots)


def _wants_gpus(nodes: Sequence[Node], runtime: Runtime) -> bool:
    return runtime.device == "cuda" or (
        runtime.device == "auto" and (runtime.gpus_per_encoder != "auto" or any(node.gpus >= 1 for node in nodes))
    )


def _growing_number(nodes: Sequence[Node], num_encoders: int) -> int:
    """Encoders by CPUs while nodes are still to come: not more than CPUs, so that the first node gets not all."""
    return min(num_encoders, max(1, int(sum(node.cpus for node in nodes))))


def _place_encoders(nodes: Sequence[Node], runtime: Runtime, *, growing: bool) -> list[EncoderPlace]:
    num_gpus = sum(int(node.gpus) for node in nodes)
    num_slots = sum(int(node.encoder_slots) for node in nodes)
    asked = None if runtime.encoders == "auto" else runtime.encoders
    if _wants_gpus(nodes, runtime):
        if runtime.gpus_per_encoder == "auto":
            shares = _gpu_shares(asked or max(1, num_gpus), 0 if growing else num_gpus)
        else:
            share = floor(runtime.gpus_per_encoder * _GPU_PARTS + 0.5) / _GPU_PARTS
            shares = [share] * (asked or max(1, num_gpus * floor(1 / share)))
        return [EncoderPlace(gpus=share) for share in shares]
    if runtime.gpus_per_encoder != "auto":
        raise ConfigError(
            f"runtime.gpus_per_encoder = {runtime.gpus_per_encoder:g} with runtime.device = {runtime.device} has no "
            "effect: encoders on a CPU take no GPU; leave one of them out"
        )
    if num_slots:
        if asked and asked > num_slots and not growing:
            raise ConfigError(
                f"runtime.encoders = {asked}, but the cluster has {num_slots} of the resource {ENCODER_RESOURCE!r} "
                f"({describe_nodes(nodes)}); choose at most {num_slots}, or start nodes with more of it"
            )
        return [EncoderPlace(encoder_slots=1.0) for _ in range(asked or num_slots)]
    num_cpus = max(1, int(sum(node.cpus for node in nodes)))
    hosts = _spread_by_cpus(nodes, min(asked, num_cpus) if asked and growing else asked or num_cpus)
    return [EncoderPlace(node_id=host) for host in hosts]


def _gpu_shares(num_encoders: int, num_gpus: int) -> list[float]:
    """Shares of GPUs, large ones first, that can only be packed evenly: 3 on 2 GPUs are 1, 1/2, 1/2."""
    if num_encoders <= num_gpus or num_gpus == 0:
        return [1.0] * num_encoders
    fewest, num_fuller = divmod(num_encoders, num_gpus)
    per_gpu = [fewest] * (num_gpus - num_fuller) + [fewest + 1] * num_fuller
    # Rounding down keeps three thirds on one GPU.
    return [floor(_GPU_PARTS / count) / _GPU_PARTS for count in per_gpu for _ in range(count)]


def _spread_by_cpus(nodes: Sequence[Node], num_encoders: int, *, held: Sequence[EncoderPlace] = ()) -> list[str]:
    """Node ids for encoders, each to the node with the most CPUs per encoder so far; by name among equals.

    Nodes without CPUs get none: such a head has none because nothing but the driver shall run there.
    """
    on_node = Counter(place.node_id for place in held)
    hosts: list[str] = []
    candidates = [node for node in nodes if node.cpus]
    for _ in range(num_encoders if candidates else 0):
        host = min(candidates, key=lambda node: ((on_node[node.node_id] + 1) / node.cpus, node.node_id))
        on_node[host.node_id] += 1
        hosts.append(host.node_id)
    return hosts


def _decode_tasks(nodes: Sequence[Node], runtime: Runtime, *, num_encoders: int) -> int:
    if runtime.decode_tasks != "auto":
        return runtime.decode_tasks
    cpus = int(sum(node.cpus for node in nodes))
    return max(1, min(MAX_DECODE_TASKS, cpus // (num_encoders * UNITS_PER_ENCODER)))


def _units_per_encoder(places: int, *, num_encoders: int, decode_tasks: int, on_gpus: bool) -> int:
    """Units in flight on one encoder where each is a single recording, which one decode task decodes.

    On CPUs encoders and decode tasks share the cores: there are no more units than if each took all its tasks.
    """
    if on_gpus:
        return max(UNITS_PER_ENCODER, min(MAX_UNITS_PER_GPU, places // num_encoders))
    return max(UNITS_PER_ENCODER, min(MAX_UNITS_PER_ENCODER, places // (num_encoders * decode_tasks)))


def _decode_places(nodes: Sequence[Node], decode_cpus: float) -> int:
    return sum(int(node.cpus / decode_cpus) for node in nodes)


def _starved(nodes: Sequence[Node], runtime: Runtime, *, num_encoders: int, decode_tasks: int) -> ConfigError:
    in_flight = num_encoders * UNITS_PER_ENCODER
    return ConfigError(
        f"{count_text(num_encoders, 'encoder')} with {UNITS_PER_ENCODER} units in flight each and "
        f"{count_text(decode_tasks, 'decode task')} of runtime.decode_cpus = {runtime.decode_cpus:g} for each unit "
        f"need {in_flight * decode_tasks * runtime.decode_cpus:g} CPUs at once, but the cluster has "
        f"{describe_nodes(nodes)}, and the encoders would wait for each other; lower runtime.encoders, "
        "runtime.decode_tasks or runtime.decode_cpus, or add CPUs"
    )


def describe_nodes(nodes: Sequence[Node]) -> str:
    """Nodes and what they have together, such as `2 nodes (16 CPUs, 2 GPUs)`."""
    parts = [count_text(int(sum(node.cpus for node in nodes)), "CPU")]
    if gpus := int(sum(node.gpus for node in nodes)):
        parts.append(count_text(gpus, "GPU"))
    return f"{count_text(len(nodes), 'node')} ({', '.join(parts)})"
