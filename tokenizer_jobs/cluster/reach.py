"""Whether every node sees the output and the source as the driver does; a folder of one machine is not on others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tokenizer_jobs.cluster.placement import Node
from tokenizer_jobs.errors import ConfigError, TransientError
from tokenizer_jobs.source_config import SourceConfig
from tokenizer_jobs.sources import local_locations
from tokenizer_jobs.storage import CredentialsError, Storage, local_path

__all__ = ["ReachChecks", "absolute_paths", "check_reach"]

_EVIDENCE = "recipe.json"
"""Every output that is being written holds it."""


def absolute_paths(source: SourceConfig) -> tuple[str, ...]:
    """The local files and folders that a source names, without their globs."""
    return tuple(str(_without_glob(Path(path).expanduser().absolute())) for path in local_locations(source))


def check_reach(output: str, *, paths: Sequence[str]) -> None:
    """Check that the output and the local paths are here.

    Raises:
        ConfigError: they are not, or this machine has no credentials for the output, or may not write it.
        TransientError: the output's storage does not serve now.
    """
    missing = [path for path in paths if not Path(path).exists()]
    advice = "on a cluster, use storage that every node mounts at the same place, or a URL"
    if missing:
        raise ConfigError(f"the source {missing[0]} is not on every node; {advice}")
    # Opening a local output would make it.
    folder = local_path(output)
    if (folder is not None and not folder.expanduser().is_dir()) or not _opened(output).exists(_EVIDENCE):
        raise ConfigError(f"the output {output} is not on every node; {advice}")


def _opened(output: str) -> Storage:
    """Open an output that the driver has opened: what fails here may pass, unless it is this machine's fault."""
    try:
        return Storage.open(output)
    except ConfigError as error:
        if isinstance(error.__cause__, TransientError) and not isinstance(error.__cause__, CredentialsError):
            raise error.__cause__ from None
        raise


class ReachChecks:
    """Checks the reach of nodes, each once and on the node itself.

    Args:
        output: URL or absolute path of the output.
        source: Whose local files and folders must be there.
    """

    def __init__(self, *, output: str, source: SourceConfig) -> None:
        self._output = output
        self._paths = absolute_paths(source)
        self._started: set[str] = set()
        self._checks: list[Any] = []

    def start(self, nodes: Sequence[Node]) -> None:
        """Start to check those nodes that were not checked yet."""
        checker: Any = ray.remote
        for node in nodes:
            if node.node_id in self._started:
                continue
            self._started.add(node.node_id)
            check = checker(check_reach).options(
                name="check that a node sees the output",
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
            )
            self._checks.append(check.remote(self._output, paths=self._paths))

    def look(self, *, timeout_seconds: float) -> None:
        """Wait so long for answers; a node that gives none is left to the encoders' own check.

        Raises:
            ConfigError: a node does not see the output or the source.
        """
        if not self._checks:
            return
        answered, self._checks = ray.wait(self._checks, num_returns=len(self._checks), timeout=timeout_seconds)
        for check in answered:
            try:
                ray.get(check)
            except ConfigError as error:
                raise getattr(error, "cause", error) from None
            except RayError:
                continue  # the node is gone


def _without_glob(path: Path) -> Path:
    while any(character in path.name for character in "*?["):
        path = path.parent
    parents = [parent for parent in path.parents if any(character in parent.name for character in "*?[")]
    return parents[-1].parent if parents else path
