"""Ray: whether it is there, the token that clusters ask for, and clusters that are named here and are gone."""

import os
import socket
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tokenizer_jobs.doctor.findings import Finding
from tokenizer_jobs.doctor.software import imported
from tokenizer_jobs.errors import ConfigError

__all__ = ["check_ray"]

PROBE_SECONDS = 2.0
"""For an address to take a connection."""


def check_ray() -> Iterator[Finding]:
    """Look at Ray and at what the environment says of clusters."""
    try:
        found = version("ray")
    except PackageNotFoundError:
        detail = "not installed; jobs run in one process only"
        yield Finding(subject="ray", state="missing", detail=detail, remedy="pip install 'ray[default]>=2.60,<2.61'")
        return
    room = imported("ray")
    if not isinstance(room, str):
        room = imported("tokenizer_jobs.cluster")  # which takes parts of Ray that other versions may not have
    if isinstance(room, str):
        remedy = "pip install --force-reinstall 'ray[default]>=2.60,<2.61'"
        yield Finding(subject="ray", state="missing", detail=f"{found}, {room}", remedy=remedy)
        return
    yield Finding(subject="ray", state="ok", detail=found)
    yield from _check_token()
    if os.environ.get("RAY_ADDRESS"):
        yield _check_named_cluster()
    if os.environ.get("RAY_API_SERVER_ADDRESS"):
        yield _check_dashboard()
    yield from _check_left_behind()


def _check_token() -> Iterator[Finding]:
    mode = os.environ.get("RAY_AUTH_MODE")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    in_file = path.is_file() and path.stat().st_size > 0
    has_token = bool(os.environ.get("RAY_AUTH_TOKEN")) or in_file
    if mode == "token" and not has_token:
        yield Finding(
            subject="ray token",
            state="missing",
            detail=f"RAY_AUTH_MODE=token, but there is no token in RAY_AUTH_TOKEN or {path}",
            remedy="ray get-auth-token --generate, or copy the head node's token file here",
        )
    elif mode is None and has_token:
        yield Finding(
            subject="ray token",
            state="note",
            detail="there is a token, but RAY_AUTH_MODE is not set: clusters ask for it and `ray job submit` fails",
            remedy="export RAY_AUTH_MODE=token  (for head and client alike)",
        )
    else:
        said = f"RAY_AUTH_MODE={mode}" if mode else "no token and RAY_AUTH_MODE not set; local jobs need neither"
        yield Finding(subject="ray token", state="ok", detail=said)
    if in_file and path.stat().st_mode & 0o077:
        yield Finding(
            subject="ray token file",
            state="note",
            detail=f"others on this machine may read {path}; who has the token runs any code on the cluster",
            remedy=f"chmod 600 {path}",
        )


def _check_named_cluster() -> Finding:
    """Ask the cluster that RAY_ADDRESS names as a job would: all of them go there, unless their file says otherwise."""
    from tokenizer_jobs.cluster.session import probe, resolve_address

    subject, named = "RAY_ADDRESS", os.environ["RAY_ADDRESS"]
    remedy = "unset RAY_ADDRESS, or start the cluster it names; runtime.ray_address: local does without for one job"
    try:
        address = resolve_address("auto", environment=os.environ)
        if address is None:
            return Finding(subject=subject, state="ok", detail=f"{named or 'empty'}: a private Ray on this machine")
        probe(address)
    except ConfigError as error:
        return Finding(subject=subject, state="missing", detail=str(error), remedy=remedy, is_needed=True)
    return Finding(subject=subject, state="ok", detail=f"the cluster at {address} answers, and takes us")


def _check_dashboard() -> Finding:
    """Ask the dashboard that `submit` goes to."""
    from tokenizer_jobs.cluster.job_client import Jobs, jobs_address

    subject = "RAY_API_SERVER_ADDRESS"
    try:
        address = jobs_address(None)
        Jobs(address).connect()
    except ConfigError as error:
        remedy = f"unset {subject}, or start the cluster it names"
        return Finding(subject=subject, state="missing", detail=str(error), remedy=remedy)
    return Finding(subject=subject, state="ok", detail=f"the job API at {address} answers, and takes us")


def _check_left_behind() -> Iterator[Finding]:
    """Look for the file by which Ray's own tools find a cluster of this machine; jobs never follow it."""
    file = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray", "ray_current_cluster")
    if not file.is_file():
        return
    address = file.read_text(encoding="utf-8", errors="replace").strip()
    host, _, port = address.rpartition(":")
    remedy = f"rm {file}  (left by a cluster that is gone; `ray status` and ray.init() would follow it)"
    if not host or not port.isdigit():
        detail = f"{file} holds {address!r}, which is no address"
        yield Finding(subject="ray cluster", state="missing", detail=detail, remedy=remedy)
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except OSError as error:
        detail = f"{address} does not answer ({error.strerror or error})"
        yield Finding(subject="ray cluster", state="missing", detail=detail, remedy=remedy)
        return
    detail = f"one at {address} answers; jobs go there where RAY_ADDRESS={address} is set"
    yield Finding(subject="ray cluster", state="ok", detail=detail)
