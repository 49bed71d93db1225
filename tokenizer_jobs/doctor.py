"""What this machine has, what is missing, and the command that mends it. Reads and probes, changes nothing."""

import importlib
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Literal

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.wording import bytes_text

__all__ = ["Finding", "examine", "findings_text"]

State = Literal["ok", "missing", "note"]

OLDEST_PYTHON = (3, 11)
LITTLE_DISK_BYTES = 2e9
LITTLE_SHM_BYTES = 1e9
PROBE_SECONDS = 2.0
CPU_TORCH = "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the examination."""

    subject: str
    state: State
    """ok; missing: something does not work; note: works, and there is something to know."""
    detail: str
    remedy: str | None = None
    """The command, or the act, that mends it."""
    is_needed: bool = False
    """Whether the default job, the demo source with the demo codec, cannot run without it."""

    @property
    def is_fatal(self) -> bool:
        """Whether the default job could not run."""
        return self.is_needed and self.state == "missing"


def examine() -> list[Finding]:
    """Look at everything a job may need, in the order in which it would meet it."""
    return [finding for check in _CHECKS for finding in check()]


def findings_text(findings: list[Finding]) -> str:
    """The findings as lines: subject, state, detail; below a line, what mends it."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.subject:<{width}}  {finding.state:<7}  {finding.detail}")
        if finding.remedy is not None:
            lines.append(f"{'':<{width}}           -> {finding.remedy}")
    fatal = [finding.subject for finding in findings if finding.is_fatal]
    verdict = (
        f"jobs cannot run here before this is mended: {', '.join(fatal)}"
        if fatal
        else "the default job can run here: tokenizer-jobs run configs/quickstart.yaml"
    )
    return "\n".join([*lines, "", verdict])


def _check_python() -> Iterator[Finding]:
    found = sys.version_info[:2]
    yield Finding(
        subject="Python",
        state="ok" if found >= OLDEST_PYTHON else "missing",
        detail=f"{sys.version.split()[0]} at {sys.executable}",
        remedy=None if found >= OLDEST_PYTHON else "install Python 3.11 or newer, then make a new virtual environment",
        is_needed=True,
    )


def _check_torch() -> Iterator[Finding]:
    torch = _import("torch")
    if isinstance(torch, str):
        yield Finding(subject="torch", state="missing", detail=torch, remedy=CPU_TORCH, is_needed=True)
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Finding(
        subject="torch",
        state="ok",
        detail=f"{torch.__version__} ({build}), {torch.get_num_threads()} threads",
        is_needed=True,
    )
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            yield Finding(subject=f"GPU {index}", state="ok", detail=f"{facts.name}, {bytes_text(facts.total_memory)}")
    elif _has_nvidia_device():
        yield Finding(
            subject="GPU",
            state="missing",
            detail=f"this machine has an NVIDIA GPU, but torch ({build}) cannot use it",
            remedy="pip install torch==2.13.0" if torch.version.cuda is None else "nvidia-smi  (the driver must work)",
        )
    else:
        yield Finding(subject="GPU", state="note", detail="none; encoders run on CPU cores")


def _check_kernels() -> Iterator[Finding]:
    """Look for the encoder's kernels for CPUs: without them torch's operators do the work, more slowly."""
    try:
        from encodec_core.fast.native import why_absent
    except (ImportError, OSError):  # no torch: told above
        return
    reason = why_absent()
    if reason is None:
        yield Finding(subject="CPU kernels", state="ok", detail="AVX-512; encoders on CPU cores use them")
        return
    detail, _, remedy = reason.partition(": ")
    yield Finding(
        subject="CPU kernels",
        state="note",
        detail=f"none, {detail}; encoders on CPU cores use torch's operators, which take longer",
        remedy=remedy or None,
    )


def _check_audio() -> Iterator[Finding]:
    soundfile = _import("soundfile")
    if isinstance(soundfile, str):
        yield Finding(
            subject="soundfile", state="missing", detail=soundfile, remedy="pip install soundfile", is_needed=True
        )
    else:
        containers = soundfile.available_formats()
        subtypes = set(soundfile.available_subtypes())
        readable = [name for name in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "CAF", "W64") if name in containers]
        readable += ["OPUS"] if "OPUS" in subtypes else []
        lacking = {"FLAC", "OGG", "MP3", "OPUS"} - set(readable)
        yield Finding(
            subject="soundfile",
            state="missing" if lacking else "ok",
            detail=f"{soundfile.__version__}, libsndfile {soundfile.__libsndfile_version__}; reads {' '.join(readable)}"
            + (f"; lacks {' '.join(sorted(lacking))}" if lacking else ""),
            remedy="pip install --force-reinstall soundfile  (its wheel brings a full libsndfile)" if lacking else None,
        )
    yield from _check_module("soxr", needed=True)
    av = _import("av")
    yield Finding(
        subject="PyAV",
        state="note" if isinstance(av, str) else "ok",
        detail=f"{av}; m4a, aac, webm and wma cannot be read without it" if isinstance(av, str) else av.__version__,
        remedy="pip install av" if isinstance(av, str) else None,
    )


def _check_data() -> Iterator[Finding]:
    for name in ("numpy", "pyarrow", "fsspec", "datasets", "safetensors"):
        yield from _check_module(name, needed=True)


def _check_torchaudio() -> Iterator[Finding]:
    """Look for the torchaudio that was built for another torch: it breaks whoever merely asks whether it is there."""
    if importlib.util.find_spec("torchaudio") is None:
        return
    torchaudio = _import("torchaudio")
    if isinstance(torchaudio, str):
        yield Finding(
            subject="torchaudio",
            state="missing",
            detail=f"installed and broken ({torchaudio}); not used here, but transformers and datasets trip over it",
            remedy="pip uninstall -y torchaudio",
        )
    else:
        yield Finding(subject="torchaudio", state="ok", detail=f"{torchaudio.__version__} (not used here)")


def _check_demo_codec() -> Iterator[Finding]:
    try:
        from tokenizer_jobs.config import CodecRecipe
        from tokenizer_jobs.encoding import describe_codec

        codec = describe_codec(CodecRecipe(model="demo"))
    except (ImportError, OSError, ConfigError) as error:
        yield Finding(
            subject="demo codec",
            state="missing",
            detail=f"cannot be loaded: {error}",
            remedy="pip install --force-reinstall --no-deps .  (in the checkout; its weights are files of the package)",
            is_needed=True,
        )
    else:
        yield Finding(
            subject="demo codec", state="ok", detail=f"loads; weights {codec.weights_sha256[:16]}…", is_needed=True
        )


def _check_ray() -> Iterator[Finding]:
    try:
        yield Finding(subject="ray", state="ok", detail=version("ray"))
    except PackageNotFoundError:
        yield Finding(
            subject="ray",
            state="missing",
            detail="not installed; jobs run in one process only",
            remedy="pip install 'ray[default]>=2.60,<2.61'",
        )
        return
    yield _ray_authentication()
    address = os.environ.get("RAY_ADDRESS")
    if address:
        yield _ray_cluster(address, subject="RAY_ADDRESS", remedy="unset RAY_ADDRESS, or start the cluster it names")
    dashboard = os.environ.get("RAY_API_SERVER_ADDRESS")
    if dashboard:
        subject = "RAY_API_SERVER_ADDRESS"
        yield _ray_cluster(dashboard, subject=subject, remedy=f"unset {subject}, or start the cluster it names")
    left_behind = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray", "ray_current_cluster")
    if left_behind.is_file():
        address = left_behind.read_text(encoding="utf-8", errors="replace").strip()
        yield _ray_cluster(address, subject="ray cluster", remedy=f"rm {left_behind}  (left by a cluster that is gone)")


def _ray_authentication() -> Finding:
    mode = os.environ.get("RAY_AUTH_MODE")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    has_token = bool(os.environ.get("RAY_AUTH_TOKEN")) or path.is_file()
    if mode == "token" and not has_token:
        return Finding(
            subject="ray token",
            state="missing",
            detail=f"RAY_AUTH_MODE=token, but there is no token in RAY_AUTH_TOKEN or {path}",
            remedy="ray get-auth-token --generate, or copy the head node's token file here",
        )
    if mode is None and has_token:
        return Finding(
            subject="ray token",
            state="note",
            detail="there is a token, but RAY_AUTH_MODE is not set: clusters ask for it and `ray job submit` fails",
            remedy="export RAY_AUTH_MODE=token  (for head and client alike)",
        )
    return Finding(
        subject="ray token",
        state="ok",
        detail=f"RAY_AUTH_MODE={mode}" if mode else "no token and RAY_AUTH_MODE not set; local jobs need neither",
    )


def _ray_cluster(address: str, *, subject: str, remedy: str) -> Finding:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return Finding(subject=subject, state="note", detail=f"{address!r}; not an address that can be probed")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except OSError as error:
        detail = f"{address} does not answer ({error.strerror or error})"
        return Finding(subject=subject, state="missing", detail=detail, remedy=remedy)
    return Finding(subject=subject, state="ok", detail=f"{address} answers")


def _check_space() -> Iterator[Finding]:
    for subject, folder, little, remedy in (
        ("disk", Path.cwd(), LITTLE_DISK_BYTES, "free some space, or give --output a folder on another disk"),
        ("shared memory", Path("/dev/shm"), LITTLE_SHM_BYTES, "in a container: docker run --shm-size=8g"),
    ):
        if not folder.is_dir():
            continue
        free = shutil.disk_usage(folder).free
        is_little = free < little
        yield Finding(
            subject=subject,
            state="missing" if is_little else "ok",
            detail=f"{bytes_text(free)} free at {folder}" + (f", less than {bytes_text(little)}" if is_little else ""),
            remedy=remedy if is_little else None,
        )


def _check_models() -> Iterator[Finding]:
    constants = _import("huggingface_hub.constants")
    if isinstance(constants, str):
        yield Finding(
            subject="huggingface_hub",
            state="missing",
            detail=constants,
            remedy="pip install huggingface_hub",
        )
        return
    cache = Path(constants.HF_HUB_CACHE)
    codecs = sorted(path.name.removeprefix("models--").replace("--", "/") for path in cache.glob("models--*encodec*"))
    offline = bool(constants.HF_HUB_OFFLINE)
    yield Finding(
        subject="model cache",
        state="note" if offline or not codecs else "ok",
        detail=f"{cache}: {', '.join(codecs) or 'no codec yet'}"
        + ("; HF_HUB_OFFLINE is set, so only these can be loaded by name" if offline else "; others are downloaded"),
        remedy="unset HF_HUB_OFFLINE  (or give recipe.codec.model a local folder)" if offline else None,
    )


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _check_python,
    _check_torch,
    _check_kernels,
    _check_audio,
    _check_data,
    _check_demo_codec,
    _check_torchaudio,
    _check_ray,
    _check_models,
    _check_space,
)


def _check_module(name: str, *, needed: bool) -> Iterator[Finding]:
    module = _import(name)
    if isinstance(module, str):
        yield Finding(subject=name, state="missing", detail=module, remedy=f"pip install {name}", is_needed=needed)
    else:
        yield Finding(subject=name, state="ok", detail=str(module.__version__), is_needed=needed)


def _import(name: str) -> ModuleType | str:
    """The module, or why it cannot be had; a broken native library raises OSError or RuntimeError."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        return "not installed"
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"cannot be imported: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".strip()


def _has_nvidia_device() -> bool:
    return Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
