"""What the files of all training runs have in common, and the folder that a run claims."""

import json
import os
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.yaml_files import Frozen, load_yaml, validated

__all__ = ["TrainingFile", "claim"]


class TrainingFile(Frozen):
    """One training run."""

    output: str = Field(min_length=1)
    """Local folder; run again to resume."""

    @field_validator("output")
    @classmethod
    def _is_local(cls, value: str) -> str:
        if "://" in value:
            raise ValueError("training writes to a local folder; copy what it made afterwards")
        return value

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, output: str | None = None) -> Self:
        """Read and validate a training file.

        Args:
            path: A YAML file.
            output: Replaces the file's `output`; None keeps it.

        Raises:
            ConfigError: the file is missing, is not YAML, or a key or value is wrong.
        """
        content = load_yaml(path)
        if output is not None:
            content["output"] = output
        return validated(cls, content, origin=os.fspath(path))


def claim(output: Path, job: TrainingFile) -> None:
    """Note in the output what is trained there.

    Raises:
        ConfigError: it holds another training; only `output` and `runtime` may change.
    """
    wanted = json.loads(job.model_dump_json(exclude={"output", "runtime"}))
    path = output / "job.json"
    if not path.exists():
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted, indent=1) + "\n")
        return
    found = json.loads(path.read_text())
    changed = sorted(key for key in wanted | found if wanted.get(key) != found.get(key))
    if changed:
        raise ConfigError(
            f"{output} holds a training whose {', '.join(changed)} differed; give another output, or the same job"
        )
