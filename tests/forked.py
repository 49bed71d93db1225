"""Processes that are forked from a fresh one which has done the imports: what is killed need not import anew."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["run_forked"]

_PARENT = """
import json, os, sys
imports, body, calls = json.loads(sys.argv[1])
names = {"__name__": "__main__"}
exec(imports, names)
children = []
for words in calls:
    children.append(os.fork())
    if not children[-1]:
        sys.argv[1:] = words
        exec(body, names)
        sys.exit()
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


def run_forked(imports: str, body: str, calls: Sequence[Sequence[str]]) -> list[int]:
    """Run Python in several processes at once.

    Args:
        imports: What is run once, in the process that the others are forked from.
        body: What each process runs then. It prints nothing.
        calls: Words of each process, in its `sys.argv` from 1 on.

    Returns:
        Exit codes of the processes; minus the signal of what was killed.
    """
    command = [sys.executable, "-c", _PARENT, json.dumps([imports, body, calls])]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    exit_codes: list[int] = json.loads(done.stdout)
    return exit_codes
