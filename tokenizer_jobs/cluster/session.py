"""Connecting to Ray: which cluster, probed before it is joined, and a private one where none is named.

`ray.init` without an address joins whatever cluster a file in the temporary folder names, or hangs on it when it
is gone. So this module always says which cluster, and asks it first, in a process of its own and with a deadline.
"""

import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import ray
import ray._private.worker as ray_worker
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.exceptions import RayError

from tokenizer_jobs.cluster.head import own_head
from tokenizer_jobs.cluster.placement import ENCODER_RESOURCE, Node
from tokenizer_jobs.cluster.ray_state import draining_nodes
from tokenizer_jobs.config import Runtime
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.machine import available_cpus

__all__ = ["connected", "live_nodes", "private_ray", "probe", "resolve_address", "usable_nodes"]

CONNECT_SECONDS = 5.0
"""To open a socket to a given address."""

PROBE_SECONDS = 20.0
"""For the cluster behind it to answer."""

MAX_OBJECT_STORE_BYTES = 2 << 30
"""Of a private Ray: decode tasks hold three lists each, some 10 MB, so this is room for very long recordings."""

KEPT_WORKERS = "RAY_num_workers_soft_limit"
"""Ray's own name for how many worker processes a node keeps; idle ones beyond it end after a second."""

KEPT_WORKERS_A_CPU = 3
"""Of a private Ray, unless `KEPT_WORKERS` is set: an encoder, and two decode workers that wait for their next tasks.
Ray would keep one of the three, and start others for the next unit, which takes 1.1 s of CPU each (2 cores of an AMD
EPYC)."""

_AUTHENTICATION_HELP = (
    "the cluster asks for its token: set RAY_AUTH_MODE=token, and give the token in ~/.ray/auth_token, "
    "RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN"
)


def resolve_address(ray_address: str, *, environment: Mapping[str, str]) -> str | None:
    """Say which cluster `runtime.ray_address` means: `host:port`, or None for a private one.

    Ray sets RAY_ADDRESS for the entry point of a Ray job, so that covers the job we are in.

    Args:
        ray_address: As in the job file.
        environment: Of this process.

    Raises:
        ConfigError: it is no address of a cluster.
    """
    origin, address = "runtime.ray_address", ray_address
    if address == "auto":
        origin, address = "RAY_ADDRESS", environment.get("RAY_ADDRESS", "local")
    if address in ("local", ""):
        return None
    host, separator, port = address.rpartition(":")
    if "://" in address or not separator or not host or not port.isdigit():
        raise ConfigError(
            f"{origin} = {address!r} does not name a cluster; expected host:port of its head (by default port 6379), "
            "or `local`; to reach a cluster from outside by its dashboard (http://...:8265), use "
            "`tokenizer-jobs submit`"
        )
    return address


@contextmanager
def connected(runtime: Runtime) -> Iterator[str]:
    """Be connected to the cluster that `runtime` means; what was connected or started here is ended again.

    A process that is connected already stays so: its cluster is used when `runtime` names none, or that one.

    Yields:
        What we are connected to, for the log.

    Raises:
        ConfigError: the cluster does not answer, or refuses us.
    """
    address = resolve_address(runtime.ray_address, environment=os.environ)
    if ray.is_initialized():
        yield _join_present(address, runtime.ray_address)
        return
    with ExitStack() as stack:
        if address is None:
            cpus = available_cpus()
            slots = cpus if runtime.encoders == "auto" else runtime.encoders
            stack.enter_context(private_ray(num_cpus=cpus, encoder_slots=slots))
            yield "a private Ray on this machine"
        else:
            probe(address)
            stack.enter_context(_quiet_raylet())
            stack.callback(_shut_down)
            _init(address)
            yield f"the Ray cluster at {address}"


def live_nodes() -> list[Node]:
    """The cluster's live nodes with their resources, in order of their ids."""
    nodes = [
        Node(
            node_id=node["NodeID"],
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            encoder_slots=node["Resources"].get(ENCODER_RESOURCE, 0.0),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    return sorted(nodes, key=lambda node: node.node_id)


def usable_nodes() -> list[Node]:
    """The live nodes that may be given work: all but those that are about to leave."""
    leaving = draining_nodes()
    return [node for node in live_nodes() if node.node_id not in leaving]


def _join_present(address: str | None, ray_address: str) -> str:
    present = ray.get_runtime_context().gcs_address
    if ray_address != "auto" and address is not None and _resolved(address) != _resolved(present):
        raise ConfigError(
            f"runtime.ray_address = {ray_address!r}, but this process is connected to the Ray cluster at {present}; "
            "call ray.shutdown() first, or leave ray_address at auto"
        )
    return f"the Ray cluster at {present}, which this process was connected to"


def _resolved(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    try:
        return socket.gethostbyname(host.strip("[]")), port
    except OSError:
        return host, port


def probe(address: str) -> None:
    """Ask what listens at an address whether it is a Ray cluster that takes us, in a process that may hang.

    Raises:
        ConfigError: it does not answer in time, or refuses us.
    """
    host, _, port = address.rpartition(":")
    advice = "check that the cluster runs and is reachable from here, or set runtime.ray_address: local"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(f"no Ray cluster answers at {address} ({error}); {advice}") from error
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        message = f"what listens at {address} did not answer as a Ray cluster within {PROBE_SECONDS:g} s; {advice}"
        raise ConfigError(message) from None
    if answer.returncode != 0:
        raise ConfigError(f"the Ray cluster at {address} refuses us: {_refusal(answer.stderr)}")


def _refusal(output: str) -> str:
    if "AuthenticationError" in output or "InvalidAuthToken" in output:
        return _AUTHENTICATION_HELP
    _, found, versions = output.partition("Version mismatch: ")
    if found:
        told = " ".join(versions.split())
        return f"other versions ({told}); install one version of Python and of Ray on every node and here"
    last = output.strip().rsplit("\n", 1)[-1]
    return last or "no reason was given"


def _init(address: str) -> None:
    try:
        _connect(address)
    except (RayError, RuntimeError, ConnectionError, ValueError) as error:
        raise ConfigError(f"the Ray cluster at {address} refuses us: {_refusal(str(error))}") from error


def _connect(address: str) -> None:
    # The handler that Ray's C++ part sets first ends the process: a SIGTERM waits until ours is back.
    with _sigterm_waits(), _own_signal_handler():
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)


@contextmanager
def private_ray(
    *, num_cpus: int, encoder_slots: int, num_gpus: int | None = None, metrics: bool = False
) -> Iterator[None]:
    """Start a Ray on this machine, be connected to it, and end it.

    Args:
        num_cpus: That it counts.
        encoder_slots: Amount of the custom resource `encoder`.
        num_gpus: That it counts; None: those it finds.
        metrics: Whether it serves metrics: at a port that nobody knows, and a second later.
    """
    folder = tempfile.mkdtemp(prefix="tokenizer-jobs-", dir=_short_folder())
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        kept_workers = os.environ.get(KEPT_WORKERS, str(KEPT_WORKERS_A_CPU * num_cpus))
        stack.enter_context(_environment({**_private_environment(), KEPT_WORKERS: kept_workers}))
        head = own_head(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            resources={ENCODER_RESOURCE: encoder_slots},
            store_bytes=_object_store_bytes(),
            folder=folder,
            metrics=metrics,
        )
        address = stack.enter_context(head)
        stack.enter_context(_quiet_raylet())
        stack.callback(_shut_down)
        with _same_environment():
            _connect(address)
        yield


def _private_environment() -> dict[str, str | None]:
    """Environment of a private Ray and of its workers, which inherit it; None: without the variable."""
    return {
        # A token of its own: Ray's default would write one into the home folder, where later clusters find it.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Without it each worker without GPUs warns about a change in Ray's defaults.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Else Ray starts another worker for a task beside the one that the task gets: half a second of a core each.
        "RAY_enable_worker_prestart": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # The runtime environment of the Ray job that this process is in is its own environment already; another Ray
        # would make it anew, for which a private one has no agent.
        "RAY_JOB_CONFIG_JSON_ENV_VAR": None,
        "RAY_RUNTIME_ENV_HOOK": None,
    }


@contextmanager
def _same_environment() -> Iterator[None]:
    """Keep Ray from packing a runtime environment where `uv run` is among our parents.

    Workers of a private Ray have this process's interpreter and environment already, and it has no agent to make
    another: tasks would wait for ever. The variable of the flag's name is read once, when Ray is imported (2.60).
    """
    before = ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False
    try:
        yield
    finally:
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = before


@contextmanager
def _quiet_raylet() -> Iterator[None]:
    """Keep Ray from printing to our stdout which processes died: the driver says so, with unit and cause.

    `log_to_driver=False` lets these lines through (Ray 2.60, `listen_error_messages`); the flag is the one by which
    Ray's own debugger silences them.
    """
    before = ray_worker._worker_logs_enabled
    ray_worker._worker_logs_enabled = False
    try:
        yield
    finally:
        ray_worker._worker_logs_enabled = before


def _shut_down() -> None:
    # Ray's C++ part leaves SIGTERM without any handler, not even Python's own.
    with _sigterm_waits(), _own_signal_handler():
        ray.shutdown()


@contextmanager
def _own_signal_handler() -> Iterator[None]:
    # `ray.init` sets a handler for SIGTERM that exits with 1: a run that is asked to stop while it waits for its first
    # encoder would not end as one that can be resumed.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _sigterm_waits() -> Iterator[None]:
    """Hold a SIGTERM to this thread back. Children inherit that, so start none inside."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(values: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    _set_environment(values)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _read_environment_again()


def _read_environment_again() -> None:
    # Ray 2.60 reads the mode and the token of authentication once in a process; its own `ray.init` does the same.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _short_folder() -> str:
    # Ray puts sockets below it, and the path of a socket may have 107 bytes, of which Ray's part takes some 70.
    folder = tempfile.gettempdir()
    return folder if len(folder) <= 16 or not Path("/tmp").is_dir() else "/tmp"


def _object_store_bytes() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(MAX_OBJECT_STORE_BYTES, memory // 4)
