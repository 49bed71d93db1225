"""The command that hands a job to a cluster: `submit`."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizer_jobs.cli.arguments import add_run_arguments
from tokenizer_jobs.cli.flags import load_job
from tokenizer_jobs.cli.next_steps import command
from tokenizer_jobs.errors import EXIT_DONE

if TYPE_CHECKING:
    from tokenizer_jobs.submission import Submission

__all__ = ["EXIT_DETACHED", "add_submit_arguments", "run_flags", "submit_command"]

EXIT_DETACHED = 130
"""Ctrl-C ended the following, not the job."""


def add_submit_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `submit`."""
    parser.add_argument(
        "--address",
        metavar="URL",
        help="the cluster's dashboard, such as http://head:8265 (default: RAY_API_SERVER_ADDRESS, or RAY_ADDRESS)",
    )
    parser.add_argument(
        "--working-dir",
        metavar="FOLDER",
        help="send this folder too, for manifests and code of yours; not .git, .venv, out, data, nor what git ignores "
        "(default: the job file alone)",
    )
    parser.add_argument(
        "--send-package", action="store_true", help="send this package's source: the cluster has it not, or another"
    )
    parser.add_argument("--no-wait", action="store_true", help="return once the job is submitted")
    add_run_arguments(parser)


def submit_command(arguments: argparse.Namespace) -> int:
    """Of `submit`: hand the job over, say what to do next, follow it; its exit code, 130 where we let go of it."""
    from tokenizer_jobs.submission import packed

    config = load_job(arguments)
    working_dir = None if arguments.working_dir is None else Path(arguments.working_dir)
    with packed(
        config, working_dir=working_dir, send_package=arguments.send_package, flags=run_flags(arguments)
    ) as submission:
        from tokenizer_jobs.cluster.job_client import Jobs, jobs_address

        jobs = Jobs(jobs_address(arguments.address))
        jobs.connect()
        jobs.submit(submission)
    print(_submitted_screen(submission, address=jobs.address), flush=True)
    if arguments.no_wait:
        return EXIT_DONE
    try:
        end = jobs.follow(submission.submission_id, write=_write)
    except KeyboardInterrupt:
        print(
            f"\nlet go of {submission.submission_id}, which goes on; to stop it:\n"
            f"  {_ray_job('stop', submission, address=jobs.address)}",
            file=sys.stderr,
        )
        return EXIT_DETACHED
    print(f"{submission.submission_id}: {end.message}", file=sys.stderr)
    return end.exit_code_here


def run_flags(arguments: argparse.Namespace) -> list[str]:
    """The flags of `run` that are no keys of the job file, and so are not in the file that is sent."""
    replace = ["--replace"] if arguments.replace else []
    return [*replace, *(["--log-format", arguments.log_format] if arguments.log_format != "text" else [])]


def _submitted_screen(submission: "Submission", *, address: str) -> str:
    rows = [
        ("output", submission.metadata["output"]),
        ("status", command("status", submission.metadata["output"])),
        ("log", _ray_job("logs --follow", submission, address=address)),
        ("stop", f"{_ray_job('stop', submission, address=address)}   (what is in hand is finished first)"),
        ("resume", "the same `tokenizer-jobs submit` again"),
        ("report", command("report", submission.metadata["output"])),
    ]
    return "\n".join([f"submitted {submission.submission_id}", *(f"  {name:<8} {value}" for name, value in rows), ""])


def _ray_job(verb: str, submission: "Submission", *, address: str) -> str:
    auth = "RAY_AUTH_MODE=token " if os.environ.get("RAY_AUTH_MODE") == "token" else ""
    return f"{auth}ray job {verb} --address {address} {submission.submission_id}"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
