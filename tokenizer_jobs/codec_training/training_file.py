"""What the files of all training runs have in common, and the folder that a run claims and keeps others out of."""

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, field_validator

from tokenizer_jobs.codec_training.checkpoints import updates_done
from tokenizer_jobs.errors import ConfigError, OutputBusyError
from tokenizer_jobs.yaml_files import OutputFile

__all__ = ["TrainingFile", "claim", "held"]

JOB, LOCK = "job.json", "lock"
UNCLAIMED = frozenset({"output", "runtime"})
"""Keys that may change between sittings."""
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})
"""What file systems without locks say."""


class TrainingFile(OutputFile):
    """One training run."""

    output: str = Field(min_length=1)
    """Local folder; run again to resume."""

    @field_validator("output")
    @classmethod
    def _is_local(cls, value: str) -> str:
        if "://" in value:
            raise ValueError("training writes to a local folder; copy what it made afterwards")
        return value

    def changes_since(self, earlier: Self, *, num_updates: int) -> list[str]:
        """Return the keys in which a training that was begun as `earlier` can not go on as this one.

        Args:
            earlier: As it was begun.
            num_updates: Done since.
        """
        del num_updates
        keys = sorted(type(self).model_fields.keys() - UNCLAIMED)
        return [key for key in keys if getattr(self, key) != getattr(earlier, key)]


def claim(output: Path, job: TrainingFile) -> None:
    """Note in the output what is trained there.

    Raises:
        ConfigError: it holds another training, see `TrainingFile.changes_since`; `output` and `runtime` may change.
    """
    content = json.dumps(json.loads(job.model_dump_json(exclude=set(UNCLAIMED))), indent=1) + "\n"
    path = output / JOB
    if path.exists():
        changed = job.changes_since(_read(path, job), num_updates=updates_done(output))
        if changed:
            raise ConfigError(
                f"{output} holds a training whose {', '.join(changed)} differed; give another output, or the same job"
            )
        if path.read_text() == content:
            return
    output.mkdir(parents=True, exist_ok=True)
    staged = output / f"{JOB}.staged"
    staged.write_text(content)
    # A crash before this line leaves the output as it was, with a staged file that nobody reads.
    staged.replace(path)


def _read(path: Path, job: TrainingFile) -> TrainingFile:
    try:
        return type(job).model_validate(json.loads(path.read_text()) | {"output": job.output})
    except (ValueError, ValidationError) as error:
        raise ConfigError(
            f"{path} does not say what is trained there, or says it as another version of this package did ({error}); "
            "give another output"
        ) from error


@contextmanager
def held(output: Path, *, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other runs, of this machine at least, out of an output; the system lets go when the process ends.

    Raises:
        OutputBusyError: another run holds it.
    """
    output.mkdir(parents=True, exist_ok=True)
    with (output / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise OutputBusyError(
                f"{output} is being trained in by process {file.read().strip() or '(unknown)'}; wait for it to end, or "
                "stop it: the same command then goes on from its last checkpoint"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            say(f"{output} is on a file system without locks: see to it that no other run trains there")
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
