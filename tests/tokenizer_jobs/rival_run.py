"""One of two runs at once on one output: a process of its own, and no lease that keeps it out.

    python -m tests.tokenizer_jobs.rival_run OUTPUT AUDIO START [FREEZE]

It begins at START (seconds since 1970), does what a scheduler would do with a run that lost a race (starts it again),
and with FREEZE stops itself right before it publishes the first file whose path begins so.
"""

import os
import signal
import sys
import time
from typing import Any

from tokenizer_jobs import job
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.errors import OutputBusyError
from tokenizer_jobs.lease import Lease
from tokenizer_jobs.storage.local import LocalStorage

MOST_STARTS = 5


class NoLease(Lease):
    """As if each run had found the output free."""

    def acquire(self) -> None:
        """Take nothing."""

    def release(self) -> None:
        """Give nothing back."""

    def look(self) -> None:
        """See nobody."""


def freeze_before(start: str) -> None:
    """Stop this process once, before it gives the first file its name."""
    put, frozen = LocalStorage.put_if_absent, list[str]()

    def freeze(self: Any, path: str, content: bytes) -> bool:
        if path.startswith(start) and not frozen:
            frozen.append(path)
            os.kill(os.getpid(), signal.SIGSTOP)
        return put(self, path, content)

    LocalStorage.put_if_absent = freeze  # type: ignore[method-assign]


def main() -> None:
    """Run until the run is done."""
    output, audio, start, *freeze = sys.argv[1:]
    content = {
        "output": output,
        "recipe": {"codec": {"model": "demo"}},
        "selection": {"source": {"kind": "files", "paths": [audio]}, "shards": {"unit_minutes": 0.01}},
        "runtime": {"executor": "inline", "encoders": 1},
    }
    setattr(job, "Lease", NoLease)  # noqa: B010  # a type checker refuses to replace a class
    for begins in freeze:
        freeze_before(begins)
    time.sleep(max(0.0, float(start) - time.time()))
    for _ in range(MOST_STARTS):
        try:
            result = job.run(JobConfig.parse(content, origin="rival"))
        except OutputBusyError as error:
            print(f"lost a race: {error}", flush=True)
        else:
            print(f"rows {result.rows}, new {result.new_rows}, {result.problems}", flush=True)
            sys.exit(result.exit_code)
    sys.exit(1)


if __name__ == "__main__":
    main()
