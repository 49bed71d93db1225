"""The head of a private Ray: where Ray keeps what it knows (GCS), the node's scheduler (raylet), nothing beside them.

`ray.init` would start six more processes, for clusters that people look at, grow and send runtime environments to:
dashboard, its agent on the node, agent of runtime environments, autoscaler, log monitor. On two cores they took
2.4 s and 2.6 s of CPU before the first task, and 1.3 s to end (Ray 2.60); the two here take 0.4 s and 0.1 s.
"""

import os
import resource
import select
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ray._private import services
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray._private.resource_isolation_config import ResourceIsolationConfig
from ray._raylet import (  # type: ignore[attr-defined]
    DASHBOARD_AGENT_LISTEN_PORT_NAME,
    METRICS_AGENT_PORT_NAME,
    METRICS_EXPORT_PORT_NAME,
    RUNTIME_ENV_AGENT_PORT_NAME,
    persist_port,
)

__all__ = ["own_head"]

MAX_OPEN_FILES = 65_536
"""As `ray.init` allows itself and what it starts."""

END_SECONDS = 2.0
"""For workers to be gone that were killed: the kernel frees gigabytes of some."""

_NO_AGENT = "cat"
"""Run in an agent's place, since a raylet ends when an agent does: it reads what never comes, until the raylet dies."""


@contextmanager
def own_head(
    *, num_cpus: int, num_gpus: int | None, resources: Mapping[str, float], store_bytes: int, folder: str, metrics: bool
) -> Iterator[str]:
    """Start a head on this machine, which dies with this thread, and end it with all of its workers.

    Args:
        num_cpus: That it counts.
        num_gpus: That it counts; None: those it finds.
        resources: Custom ones.
        store_bytes: Of its object store.
        folder: For its sockets and logs.
        metrics: Whether an agent serves metrics, at a port that Ray draws.

    Yields:
        Its address.
    """
    _allow_open_files()
    params = RayParams(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources=dict(resources),
        object_store_memory=store_bytes,
        temp_dir=folder,
        include_dashboard=False,
        include_log_monitor=False,  # type: ignore[arg-type]  # it says str and means bool
        no_monitor=True,
        resource_isolation_config=ResourceIsolationConfig(),
    )
    head = _Head(params, metrics=metrics)
    try:
        yield head.gcs_address
    finally:
        head.end()


class _Head(Node):
    """Ray's own node, less what only others than its driver would use.

    Args:
        params: As of `Node`.
        metrics: Whether an agent serves metrics.
    """

    def __init__(self, params: RayParams, *, metrics: bool) -> None:
        self._metrics = metrics
        self.all_processes: dict[str, Any] = {}  # as the base does, but before anything can fail
        try:
            super().__init__(params, head=True, shutdown_at_exit=False, spawn_reaper=True)
        except BaseException:
            self.end()  # what was started by then; a signal may come at any moment
            raise

    def start_api_server(self, **_: Any) -> None:
        """Start no dashboard."""
        self._webui_url = ""

    def start_raylet(self, *arguments: Any, **options: Any) -> None:
        """Start the raylet without its agents."""
        absent = ["runtime_env_agent"] if self._metrics else ["runtime_env_agent", "dashboard_agent"]
        ports = [RUNTIME_ENV_AGENT_PORT_NAME]
        if not self._metrics:
            ports += [METRICS_AGENT_PORT_NAME, METRICS_EXPORT_PORT_NAME, DASHBOARD_AGENT_LISTEN_PORT_NAME]
        for name in ports:  # as an agent without its dependencies says that it does not serve there
            persist_port(self._session_dir, self._node_id, name, -1)
        with _without_agents(absent):
            super().start_raylet(*arguments, **options)

    def end(self) -> None:
        """End all processes, and wait until the workers are gone, which a dying raylet does not."""
        with ExitStack() as stack:
            workers = self._workers()
            for worker in workers:
                stack.callback(os.close, worker)
            self.kill_all_processes(check_alive=False, allow_graceful=True)
            for worker in workers:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(worker, signal.SIGKILL)
            _await_ends(workers)

    def _workers(self) -> list[int]:
        """Descriptors of the raylet's children: unlike their numbers these stay theirs."""
        if not hasattr(os, "pidfd_open"):  # of a Python that was built on a system before Linux 5.3
            return []
        found = []
        for process in self.all_processes.get(PROCESS_TYPE_RAYLET, []):
            if process.process.poll() is not None:
                continue  # it has ended, and its number may be a stranger's
            pid = process.process.pid
            with suppress(OSError):  # the kernel keeps no list of children
                for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                    with suppress(OSError):
                        found.append(os.pidfd_open(int(child)))
        return found


def _await_ends(processes: Sequence[int]) -> None:
    poll, deadline, left = select.poll(), time.monotonic() + END_SECONDS, set(processes)
    for process in left:
        poll.register(process, select.POLLIN)
    while left and (seconds := deadline - time.monotonic()) > 0:
        for process, _ in poll.poll(1000 * seconds):
            poll.unregister(process)
            left.discard(process)


@contextmanager
def _without_agents(absent: Sequence[str]) -> Iterator[None]:
    """Have raylets started without some agents, whose commands Ray makes itself and hands to this function of its."""
    start = services.start_ray_process
    commands = tuple(f"--{name}_command=" for name in absent)

    def start_without(command: list[str], *arguments: Any, **options: Any) -> Any:
        stripped = [word.partition("=")[0] + f"={_NO_AGENT}" if word.startswith(commands) else word for word in command]
        return start(stripped, *arguments, **options)

    services.start_ray_process = start_without
    try:
        yield
    finally:
        services.start_ray_process = start


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
