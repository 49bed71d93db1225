"""Distributed batch tokenization of audio datasets into EnCodec codes.

from tokenizer_jobs import JobConfig, plan, run, verify
result = run(JobConfig.load("job.yaml"))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizer_jobs.config import JobConfig
    from tokenizer_jobs.dry_run import plan
    from tokenizer_jobs.integrations.datasets_map import TokenizeAudio
    from tokenizer_jobs.job import run
    from tokenizer_jobs.results import PlanResult, RunResult
    from tokenizer_jobs.training import DelayPattern, TokenDataset
    from tokenizer_jobs.verification import verify

__all__ = [
    "DelayPattern",
    "JobConfig",
    "PlanResult",
    "RunResult",
    "TokenDataset",
    "TokenizeAudio",
    "plan",
    "run",
    "verify",
]

# Imported on first use: torch takes seconds, and `tokenizer-jobs --help` or a decode worker need none of it.
_HOMES = {
    "DelayPattern": "tokenizer_jobs.training",
    "TokenDataset": "tokenizer_jobs.training",
    "TokenizeAudio": "tokenizer_jobs.integrations.datasets_map",
    "JobConfig": "tokenizer_jobs.config",
    "PlanResult": "tokenizer_jobs.results",
    "RunResult": "tokenizer_jobs.results",
    "plan": "tokenizer_jobs.dry_run",
    "run": "tokenizer_jobs.job",
    "verify": "tokenizer_jobs.verification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
