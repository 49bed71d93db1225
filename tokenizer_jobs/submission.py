"""A job made ready for a cluster's job API: the folder that is sent, the command, and what the cluster is told.

    job file + flags ─▶ checked: nothing in it is relative to this folder ─▶ a temporary folder that holds it ─▶ sent

Only what the job needs is sent: the job file, the source's own code where it is a plug-in, and what was asked for.
Audio is not sent, and credentials are not either: the cluster's machines must reach both by themselves.
"""

import importlib.metadata
import importlib.util
import json
import math
import re
import secrets
import shlex
import site
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tokenizer_jobs.config import JobConfig, is_own_codec
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.source_config import PluginSource
from tokenizer_jobs.sources import lives_in_memory, local_locations
from tokenizer_jobs.storage import is_url, local_path, public_uri

__all__ = ["Submission", "check_submitted_version", "packed"]

JOB_FILE = "submitted-job.yaml"
"""Name of the job file in the folder that is sent; a folder of the user's holds none of that name."""

PACKAGES = ("tokenizer_jobs", "encodec_core")

EXCLUDES = (".git", ".venv", "venv", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", "/out", "/data")
"""Patterns, as in a .gitignore, of what is never sent."""

STOP_MARGIN_SECONDS = 30
"""After the grace period: for the encoders to end and the lease to be released."""

VERSION_KEY = "tokenizer_jobs_version"
_METADATA_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What is handed to the job API."""

    submission_id: str
    """Readable, and never used twice: a cluster refuses one that it has seen."""
    entrypoint: str
    working_dir: Path
    """The folder that is sent, and in which the command runs."""
    py_modules: tuple[Path, ...]
    """Folders that are sent and importable on the cluster before what is installed there."""
    env_vars: Mapping[str, str]
    metadata: Mapping[str, str]
    """Shown by the cluster beside the job."""
    output: str

    @property
    def runtime_env(self) -> dict[str, Any]:
        """As Ray wants it."""
        content: dict[str, Any] = {
            "working_dir": str(self.working_dir),
            "excludes": list(EXCLUDES),
            "env_vars": dict(self.env_vars),
        }
        if self.py_modules:
            content["py_modules"] = [str(module) for module in self.py_modules]
        return content


@contextmanager
def packed(
    config: JobConfig,
    *,
    working_dir: Path | None = None,
    send_package: bool = False,
    flags: Sequence[str] = (),
) -> Iterator[Submission]:
    """Make a job ready to be sent; the folder to send exists while the context is open.

    Args:
        config: The job, with every flag over it.
        working_dir: A folder to send as well: its files are found by paths relative to it.
        send_package: Send this package's own source, for a cluster that lacks it or has another version.
        flags: Further words of `run`, as they are typed.

    Raises:
        ConfigError: the job cannot run on a cluster as it is written.
    """
    _check(config, working_dir=working_dir)
    with tempfile.TemporaryDirectory(prefix="tokenizer-jobs-submit-") as folder:
        sent = Path(folder, "sent")
        sent.mkdir()
        if working_dir is not None:
            _link_entries(working_dir, sent)
        for module in _plugin_files(config):
            _link(module, sent)
        text = yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
        (sent / JOB_FILE).write_text(text, encoding="utf-8")
        words = ["python", "-m", "tokenizer_jobs", "run", JOB_FILE, *flags]
        version = importlib.metadata.version("tokenizer-jobs")
        yield Submission(
            submission_id=_submission_id(config.output),
            entrypoint=shlex.join(words),
            working_dir=sent,
            py_modules=_own_modules(Path(folder), version=version) if send_package else (),
            env_vars={"RAY_JOB_STOP_WAIT_TIME_S": str(_stop_seconds(config))},
            metadata={"output": _shown_output(config), "recipe": _recipe_line(config), VERSION_KEY: version},
            output=config.output,
        )


def check_submitted_version(environment: Mapping[str, str]) -> None:
    """Check, where a Ray job runs, that the package is of the version that submitted it.

    Args:
        environment: Of the job's command; Ray puts the job's metadata into it. Without it there is nothing to check.

    Raises:
        ConfigError: the cluster has another version.
    """
    try:
        metadata = json.loads(environment.get(_METADATA_VARIABLE, "{}")).get("metadata") or {}
    except (ValueError, AttributeError):
        return  # not of our making
    submitted, here = metadata.get(VERSION_KEY), importlib.metadata.version("tokenizer-jobs")
    if submitted is not None and submitted != here:
        raise ConfigError(
            f"this job was submitted by tokenizer-jobs {submitted}, and the cluster has {here}; install one version in "
            "both places, or send yours along: tokenizer-jobs submit --send-package"
        )


def _check(config: JobConfig, *, working_dir: Path | None) -> None:
    runtime = config.runtime
    if working_dir is not None and not working_dir.is_dir():
        raise ConfigError(f"--working-dir {str(working_dir)!r} is no folder; expected one whose files the job needs")
    if working_dir is not None and (working_dir / JOB_FILE).exists():
        raise ConfigError(f"--working-dir holds a file {JOB_FILE!r}, the name the job is sent under; rename that file")
    if runtime.executor == "inline":
        raise ConfigError(
            "runtime.executor = inline would tokenize everything in one process of the head node; leave the key out, "
            "or give --runtime.executor ray"
        )
    if runtime.ray_address != "auto":
        raise ConfigError(
            f"runtime.ray_address = {runtime.ray_address!r}, but a submitted job runs on the cluster that it is "
            "submitted to; leave the key out, and name the cluster by --address"
        )
    if lives_in_memory(config.selection.source) or config.output.startswith("memory://"):
        raise ConfigError("memory:// is the memory of one process, which no cluster can read; give a URL or a folder")
    _check_paths(config, working_dir=working_dir)


def _check_paths(config: JobConfig, *, working_dir: Path | None) -> None:
    output = local_path(config.output)
    if output is not None and not output.expanduser().is_absolute():
        raise _relative("output", str(output), flag="--output")
    for path in map(Path, local_locations(config.selection.source)):
        if not path.expanduser().is_absolute() and not _is_sent(path, working_dir):
            raise _relative("selection.source", str(path), flag=None)
    model = config.recipe.codec.model
    if model != "demo" and not is_url(model) and Path(model).exists() and not Path(model).expanduser().is_absolute():
        raise _relative("recipe.codec.model", model, flag="--recipe.codec.model")


def _relative(key: str, path: str, *, flag: str | None) -> ConfigError:
    absolute = Path(path).expanduser().absolute()
    where = f"{flag} {absolute}" if flag else str(absolute)
    sent = (
        "" if flag else "; a small file, such as a manifest, may be sent: --working-dir with the folder that holds it"
    )
    return ConfigError(
        f"{key} = {path!r} is relative to a folder of this machine; the cluster needs a URL, or an absolute path at "
        f"which all its machines mount the same storage (if they mount this one: {where}){sent}"
    )


def _is_sent(path: Path, working_dir: Path | None) -> bool:
    return working_dir is not None and any(True for _ in working_dir.glob(str(path)))


def _link_entries(folder: Path, sent: Path) -> None:
    """Show a folder's entries in the one that is sent; Ray reads through links, and leaves out what git ignores."""
    for entry in sorted(folder.resolve().iterdir()):
        if entry.name == ".gitignore":
            # The job file must get through whatever the folder's owner ignores.
            text = entry.read_text(encoding="utf-8", errors="surrogateescape")
            (sent / entry.name).write_text(f"{text}\n!/{JOB_FILE}\n", encoding="utf-8", errors="surrogateescape")
        else:
            _link(entry, sent)


def _link(path: Path, sent: Path) -> None:
    link = sent / path.name
    if not link.exists():
        link.symlink_to(path)


def _plugin_files(config: JobConfig) -> Sequence[Path]:
    """The user's own modules or packages that source and codec live in; none that is installed."""
    source, model = config.selection.source, config.recipe.codec.model
    classes = [source.kind] if isinstance(source, PluginSource) else []
    classes += [model] if is_own_codec(model) else []
    return tuple(dict.fromkeys(path for each in classes for path in _own_files(each)))


def _own_files(class_name: str) -> Sequence[Path]:
    name = class_name.partition(":")[0].partition(".")[0]
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        return ()  # it may be on the cluster; if not, the job says so
    path = Path(found.origin)
    path = path.parent if path.name == "__init__.py" else path
    installed = {*site.getsitepackages(), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}
    is_installed = name in PACKAGES or any(path.is_relative_to(folder) for folder in installed)
    return () if is_installed else (path,)


def _own_modules(folder: Path, *, version: str) -> tuple[Path, ...]:
    """This package's source, and the record by which Python knows its version."""
    record = folder / f"tokenizer_jobs-{version}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tokenizer-jobs\nVersion: {version}\n")
    modules = []
    for name in PACKAGES:
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        modules.append(Path(found.origin).parent)
    return (*modules, record)


def _submission_id(output: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", public_uri(output).rstrip("/").rpartition("/")[2].lower()).strip("-")[:40]
    return f"tokenize-{name or 'output'}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def _stop_seconds(config: JobConfig) -> int:
    return math.ceil(config.runtime.grace_seconds) + STOP_MARGIN_SECONDS


def _shown_output(config: JobConfig) -> str:
    return public_uri(config.output) if is_url(config.output) else config.output


def _recipe_line(config: JobConfig) -> str:
    codec = config.recipe.codec
    name = public_uri(codec.model) if is_url(codec.model) else codec.model
    return f"{name} at {codec.bandwidth_kbps:g} kbps, {codec.precision}"
