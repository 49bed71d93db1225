"""Waiting for the first nodes of a cluster that has none yet: a head alone, and an autoscaler or spot nodes to come.

The autoscaler adds nodes for what waits for a place. So while there is nothing to place encoders on, tasks that do
nothing ask for what they will need: a decode task's CPUs, and a GPU unless `runtime.device` is `cpu`.
"""

import logging
import time
from typing import Any

import ray

from tokenizer_jobs.cluster.placement import Node, describe_nodes, missing
from tokenizer_jobs.cluster.session import live_nodes, usable_nodes
from tokenizer_jobs.config import Runtime
from tokenizer_jobs.errors import ConfigError

__all__ = ["await_nodes"]

_log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5


def await_nodes(runtime: Runtime) -> list[Node]:
    """Wait until the cluster has nodes that encoders and decode tasks can be placed on, and give them.

    Where `runtime.device` is `auto`, nodes without GPUs are taken at once if they offer the resource `encoder`, and
    otherwise when no GPU came in time: nodes for decoding may come before those with GPUs.

    Raises:
        ConfigError: what is needed did not come within `runtime.placement_timeout_seconds`.
    """
    nodes = usable_nodes()
    lacking = missing(nodes, runtime)
    if lacking is None:
        return nodes
    deadline = time.monotonic() + runtime.placement_timeout_seconds
    _log.warning(
        "the cluster has %s; waiting up to %g s for %s",
        describe_nodes(nodes), runtime.placement_timeout_seconds, lacking,
    )  # fmt: skip
    demand = _show_demand(runtime)
    try:
        while lacking is not None or (runtime.device == "auto" and not _is_decided(nodes)):
            if time.monotonic() > deadline:
                break
            time.sleep(LOOK_SECONDS)
            nodes = usable_nodes()
            lacking = missing(nodes, runtime)
    finally:
        for task in demand:
            ray.cancel(task)
    if lacking is not None:
        raise ConfigError(
            f"the cluster has {describe_nodes(live_nodes())} and lacks {lacking}, which did not come within "
            f"{runtime.placement_timeout_seconds:g} s; start such nodes, {_remedy(runtime)}or raise "
            "runtime.placement_timeout_seconds where nodes are slow to come"
        )
    return nodes


def _is_decided(nodes: list[Node]) -> bool:
    return any(node.gpus >= 1 or node.encoder_slots >= 1 for node in nodes)


def _remedy(runtime: Runtime) -> str:
    return "set runtime.device: cpu, " if runtime.device == "cuda" else ""


def _show_demand(runtime: Runtime) -> list[Any]:
    """Start tasks that do nothing, but wait for a node with CPUs, and for one with a GPU where that is wanted."""
    task: Any = ray.remote(_nothing)
    gpus = [0] if runtime.device == "cpu" else [0, 1]
    return [
        task.options(name="wait for a node", num_cpus=runtime.decode_cpus, num_gpus=count, max_retries=0).remote()
        for count in gpus
    ]


def _nothing() -> None:
    """Hold a place for a moment."""
