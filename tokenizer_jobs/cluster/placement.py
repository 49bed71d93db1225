"""Where encoders and decode tasks go: a pure function of the cluster's resources and `runtime`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

from tokenizer_jobs.cluster.retry import MAX_UNITS_PER_ENCODER, UNITS_PER_ENCODER
from tokenizer_jobs.config import Runtime
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.wording import count_text

__all__ = ["ENCODER_RESOURCE", "EncoderPlace", "Node", "Placement", "describe_nodes", "place"]

ENCODER_RESOURCE = "encoder"
"""Custom resource of which a CPU encoder takes one: it must not take the CPUs that its decode tasks need."""

MAX_DECODE_TASKS = 16
"""Decode tasks of one unit that `auto` asks for, at most."""


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

    name: str
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
    """Where everything goes."""

    encoders: tuple[EncoderPlace, ...]
    nodes: tuple[Node, ...]
    decode_tasks: int
    """For each unit in flight."""
    decode_cpus: float
    """That one decode task reserves."""
    units_per_encoder: int = UNITS_PER_ENCODER
    """In flight on one encoder, at most; more than two where each is a single recording."""

    def describe(self) -> str:
        """One line for the log, such as `2 encoders on 1 node (2 CPUs), decode by 0.25-CPU tasks, 1 a unit`."""
        bound = any(place.node_id for place in self.encoders)
        return (
            f"{count_text(len(self.encoders), 'encoder')} on {describe_nodes(self.nodes)}, "
            f"decode by {self.decode_cpus:g}-CPU tasks, {self.decode_tasks} a unit"
            + (f"; no node has the resource {ENCODER_RESOURCE!r}, so encoders are spread by CPUs" if bound else "")
        )

    def num_threads(self, node_id: str) -> int:
        """Torch threads for an encoder on a node: the node's CPUs shared by the encoders that it will hold."""
        node = next((node for node in self.nodes if node.node_id == node_id), None)
        if node is None:
            return 1  # it joined later
        return max(1, int(node.cpus) // max(1, self._expected_encoders(node)))

    def _expected_encoders(self, node: Node) -> int:
        if any(place.node_id for place in self.encoders):
            return sum(place.node_id == node.node_id for place in self.encoders)
        if self.encoders[0].gpus:
            share = node.gpus / max(1.0, sum(other.gpus for other in self.nodes))
            return round(len(self.encoders) * share)
        return min(len(self.encoders), int(node.encoder_slots))


def place(nodes: Sequence[Node], runtime: Runtime) -> Placement:
    """Share the cluster's GPUs or CPUs among encoders, and check that decoding cannot be starved.

    Args:
        nodes: The live nodes.
        runtime: Encoders, device, decode fan-out.

    Raises:
        ConfigError: the numbers cannot work; the message names them.
    """
    encoders = _place_encoders(nodes, runtime)
    decode_tasks = _decode_tasks(nodes, runtime, num_encoders=len(encoders))
    return Placement(
        encoders=tuple(encoders),
        nodes=tuple(nodes),
        decode_tasks=decode_tasks,
        decode_cpus=runtime.decode_cpus,
        units_per_encoder=min(
            MAX_UNITS_PER_ENCODER,
            max(UNITS_PER_ENCODER, _decode_places(nodes, runtime) // (len(encoders) * decode_tasks)),
        ),
    )


def _place_encoders(nodes: Sequence[Node], runtime: Runtime) -> list[EncoderPlace]:
    num_gpus = int(sum(node.gpus for node in nodes))
    num_slots = int(sum(node.encoder_slots for node in nodes))
    asked = None if runtime.encoders == "auto" else runtime.encoders
    if runtime.device == "cuda" or (runtime.device == "auto" and num_gpus):
        shares = _gpu_shares(asked or max(1, num_gpus), num_gpus)
        return [EncoderPlace(name=f"encoder-{i}", gpus=share) for i, share in enumerate(shares)]
    if num_slots:
        if asked and asked > num_slots:
            raise ConfigError(
                f"runtime.encoders = {asked}, but the cluster has {num_slots} of the resource {ENCODER_RESOURCE!r} "
                f"({describe_nodes(nodes)}); choose at most {num_slots}, or start nodes with more of it"
            )
        return [EncoderPlace(name=f"encoder-{i}", encoder_slots=1.0) for i in range(asked or num_slots)]
    hosts = _spread_by_cpus(nodes, asked or max(1, int(sum(node.cpus for node in nodes))))
    return [EncoderPlace(name=f"encoder-{i}", node_id=host) for i, host in enumerate(hosts)]


def _gpu_shares(num_encoders: int, num_gpus: int) -> list[float]:
    """Shares of GPUs, large ones first, that can only be packed evenly: 3 on 2 GPUs are 1, 1/2, 1/2."""
    if num_encoders <= num_gpus or num_gpus == 0:
        return [1.0] * num_encoders
    fewest, num_fuller = divmod(num_encoders, num_gpus)
    per_gpu = [fewest] * (num_gpus - num_fuller) + [fewest + 1] * num_fuller
    # Ray counts GPUs in 1/10000; rounding down keeps three thirds on one GPU.
    return [floor(10_000 / count) / 10_000 for count in per_gpu for _ in range(count)]


def _spread_by_cpus(nodes: Sequence[Node], num_encoders: int) -> list[str]:
    """Node ids for encoders, each to the node with the most CPUs per encoder so far; by name among equals."""
    held: Counter[str] = Counter()
    hosts = []
    for _ in range(num_encoders):
        host = min(nodes, key=lambda node: ((held[node.node_id] + 1) / max(node.cpus, 1e-9), node.node_id))
        held[host.node_id] += 1
        hosts.append(host.node_id)
    return hosts


def _decode_tasks(nodes: Sequence[Node], runtime: Runtime, *, num_encoders: int) -> int:
    in_flight = num_encoders * UNITS_PER_ENCODER
    places = _decode_places(nodes, runtime)
    if runtime.decode_tasks == "auto":
        cpus = int(sum(node.cpus for node in nodes))
        tasks = max(1, min(MAX_DECODE_TASKS, cpus // in_flight))
    else:
        tasks = runtime.decode_tasks
    if in_flight * tasks > places:
        raise ConfigError(
            f"{count_text(num_encoders, 'encoder')} with {UNITS_PER_ENCODER} units in flight each and "
            f"{count_text(tasks, 'decode task')} of runtime.decode_cpus = {runtime.decode_cpus:g} for each unit need "
            f"{in_flight * tasks * runtime.decode_cpus:g} CPUs at once, but the cluster has {describe_nodes(nodes)}, "
            "and the encoders would wait for each other; lower runtime.encoders, runtime.decode_tasks or "
            "runtime.decode_cpus, or add CPUs"
        )
    return tasks


def _decode_places(nodes: Sequence[Node], runtime: Runtime) -> int:
    return sum(int(node.cpus / runtime.decode_cpus) for node in nodes)


def describe_nodes(nodes: Sequence[Node]) -> str:
    """Nodes and what they have together, such as `2 nodes (16 CPUs, 2 GPUs)`."""
    parts = [count_text(int(sum(node.cpus for node in nodes)), "CPU")]
    if gpus := int(sum(node.gpus for node in nodes)):
        parts.append(count_text(gpus, "GPU"))
    return f"{count_text(len(nodes), 'node')} ({', '.join(parts)})"
