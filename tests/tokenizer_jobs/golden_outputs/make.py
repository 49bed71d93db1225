"""Make the golden output of the present format version.

    python -m tests.tokenizer_jobs.golden_outputs.make tests/tokenizer_jobs/golden_outputs/v1

It is made once for each version, and stays as it is when the code changes: that is what it is for. Clips of the demo
source go through the demo codec, in two generations, the first of two work units, with a reject; then one item is
dropped. So there is one file of every kind, and of the three snapshots one is retired.
"""

import argparse
import socket
from pathlib import Path

from tokenizer_jobs import JobConfig, run
from tokenizer_jobs.removal import drop

FIRST = ("noise-4-flac", "tone-220-wav", "tone-880-wav")
"""1, 1 and 0.2 s: a unit with two rows, and one whose only clip is too short."""
SECOND = ("chirp-150-flac", "noise-1-wav")
"""1 and 0.25 s: a unit, whose shard is written once more without the second."""
DROPPED = "noise-1-wav"


def golden_job(output: str, *ids: str) -> JobConfig:
    """The job that tokenizes some of the demo's clips."""
    content = {
        "output": output,
        "recipe": {"codec": {"model": "demo", "bandwidth_kbps": 1.5}, "audio": {"channels": "mono"}},
        "selection": {
            "source": {"kind": "demo"},
            "include": list(ids),
            "filters": {"min_seconds": 0.22},
            "shards": {"unit_minutes": 0.035},
        },
        "runtime": {"executor": "inline"},
    }
    return JobConfig.parse(content, origin="the golden job")


def make(output: str) -> None:
    """Make it where nothing is yet."""
    run(golden_job(output, *FIRST))
    run(golden_job(output, *FIRST, *SECOND))
    drop(output, ids=[DROPPED])
    Path(output, "_staging").rmdir()  # empty, and git keeps no empty folders


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="a folder that is not there yet")
    arguments = parser.parse_args()
    if Path(arguments.output).exists():
        parser.error(f"{arguments.output} is there already; the golden output of a version is made once")
    socket.gethostname = lambda: "golden"  # commits and receipts name the machine
    make(arguments.output)
