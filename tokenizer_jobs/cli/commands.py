"""What each command takes and does: a thin layer over the functions of the same names."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizer_jobs.cli.arguments import (
    add_audit_arguments,
    add_decode_arguments,
    add_drop_arguments,
    add_export_arguments,
    add_import_arguments,
    add_no_arguments,
    add_plan_arguments,
    add_report_arguments,
    add_retry_arguments,
    add_run_arguments,
    add_status_arguments,
    add_training_arguments,
    add_verify_arguments,
)
from tokenizer_jobs.cli.auditing import audit_command
from tokenizer_jobs.cli.endings import complain, example_id, sigterm_as_interrupt
from tokenizer_jobs.cli.exchange import export_command, import_command
from tokenizer_jobs.cli.flags import as_words, load_job, overrides_in
from tokenizer_jobs.cli.reporting import decode_command, report_command
from tokenizer_jobs.cli.submission import add_submit_arguments, submit_command
from tokenizer_jobs.cli.watching import status_command
from tokenizer_jobs.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, ConfigError

if TYPE_CHECKING:
    from tokenizer_jobs.job import Report
    from tokenizer_jobs.logs import LogFormat
    from tokenizer_jobs.results import RunResult

__all__ = ["COMMANDS", "Command", "load_job"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command of the command line."""

    name: str
    operands: str
    """As help shows them behind the name."""
    group: str
    """Heading in the help."""
    summary: str
    examples: tuple[str, ...]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace], int]
    """Does the work and gives the exit code."""

    @property
    def usage(self) -> str:
        """Name and operands."""
        return f"{self.name} {self.operands}".strip()


def _run(arguments: argparse.Namespace) -> int:
    from tokenizer_jobs.submission import check_submitted_version

    check_submitted_version(os.environ)
    config = load_job(arguments)

    def work(report: "Report") -> "RunResult":
        from tokenizer_jobs.job import run  # imports torch: seconds, in which the display already says something

        return run(config, replace=arguments.replace, report=report)

    return _do(work, log_format=arguments.log_format)


def _retry(arguments: argparse.Namespace) -> int:
    from tokenizer_jobs.config import JobConfig

    config = None if arguments.config is None else JobConfig.load(arguments.config, output=arguments.output)

    def work(report: "Report") -> "RunResult":
        from tokenizer_jobs.retrying import retry

        return retry(
            arguments.output,
            reasons=arguments.reason,
            filtered=arguments.filtered,
            config=config,
            report=report,
        )

    return _do(work, log_format=arguments.log_format)


def _do(work: "Callable[[Report], RunResult]", *, log_format: "LogFormat") -> int:
    """Work under the progress display, and say how it ended."""
    from tokenizer_jobs.cli.screens import run_screen
    from tokenizer_jobs.logs import json_logs
    from tokenizer_jobs.progress import ProgressDisplay

    try:
        with sigterm_as_interrupt():
            with (
                json_logs(sys.stderr) if log_format == "json" else nullcontext(),
                ProgressDisplay(sys.stderr, log_format=log_format) as display,
            ):
                result = work(display.report)
            shown_id = example_id(result)
    except KeyboardInterrupt:  # while loading, planning or publishing; with units in hand `run` stops by itself
        print("stopped; nothing is lost, and the same command resumes", file=sys.stderr)
        return EXIT_STOPPED
    print(run_screen(result, example_id=shown_id))
    complain(result.problems)
    return result.exit_code


def _plan(arguments: argparse.Namespace) -> int:
    config = load_job(arguments)
    from tokenizer_jobs.cli.screens import plan_screen
    from tokenizer_jobs.dry_run import PriceList, plan

    prices = None if arguments.price is None else PriceList.load(arguments.price)
    result = plan(config, calibrated=arguments.calibrate, prices=prices)
    words = ["tokenizer-jobs", "run", arguments.config, *as_words(overrides_in(arguments))]
    print(result.model_dump_json() if arguments.json else plan_screen(result, run_command=shlex.join(words)))
    return complain(result.problems)


def _verify(arguments: argparse.Namespace) -> int:
    from tokenizer_jobs.cli.screens import verify_screen
    from tokenizer_jobs.verification import verify

    result = verify(arguments.output, reencode=arguments.reencode, model=arguments.model)
    print(result.model_dump_json() if arguments.json else verify_screen(result))
    return complain(result.problems)


def _drop(arguments: argparse.Namespace) -> int:
    from tokenizer_jobs.cli.screens import drop_screen
    from tokenizer_jobs.removal import drop

    ids = None if arguments.ids is None else _read_ids(arguments.ids)
    try:
        with sigterm_as_interrupt():
            result = drop(
                arguments.output,
                ids=ids,
                where=arguments.where,
                missing_ok=arguments.missing_ok,
                dry_run=arguments.dry_run,
            )
    except KeyboardInterrupt:
        print("stopped; the same command finishes it", file=sys.stderr)
        return EXIT_STOPPED
    print(result.model_dump_json() if arguments.json else drop_screen(result))
    return EXIT_DONE


def _read_ids(path: str) -> list[str]:
    """Ids as they stand in a file, one a line; empty lines are none."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--ids {path!r} cannot be read: {error}; expected a text file of one id a line") from error
    ids = [line for line in text.split("\n") if line]
    if not ids:
        raise ConfigError(f"--ids {path!r} holds no id; expected one a line")
    return [line.removesuffix("\r") for line in ids]


def _train_codec(arguments: argparse.Namespace) -> int:
    from tokenizer_jobs.codec_training import TrainingJob, train_codec

    job = TrainingJob.load(arguments.config, output=arguments.output)
    try:
        with sigterm_as_interrupt():
            result = train_codec(job, say=_say, max_updates=arguments.max_updates)
    except KeyboardInterrupt:  # before the first update, or a second time
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return EXIT_STOPPED
    if not result.is_done:
        print(f"stopped after update {result.updates}; the same command goes on from there", file=sys.stderr)
        return EXIT_STOPPED
    print(f"{result.updates} updates are done; the codec is {result.output / 'model'}")
    return EXIT_DONE


def _train_lm(arguments: argparse.Namespace) -> int:
    from tokenizer_jobs.codec_training import LanguageModelJob, train_language_model

    job = LanguageModelJob.load(arguments.config, output=arguments.output)
    try:
        with sigterm_as_interrupt():
            result = train_language_model(job, say=_say, max_updates=arguments.max_updates)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return EXIT_STOPPED
    print(f"{result.updates} updates are done; the language model is {result.output / 'lm'}")
    return EXIT_DONE if result.is_done else EXIT_STOPPED


def _say(line: str) -> None:
    print(line, flush=True)


def _doctor(_: argparse.Namespace) -> int:
    from tokenizer_jobs.doctor import examine, findings_text

    findings = examine()
    print(findings_text(findings))
    return EXIT_FAILED if any(finding.is_fatal for finding in findings) else EXIT_DONE


_DAILY = "jobs"
_CLUSTER = "on a cluster"
_CHANGES = "changing an output"
_CODES = "using the codes"
_TRAINING = "training of codecs and their language models"
_MACHINE = "this machine"

COMMANDS = {
    command.name: command
    for command in (
        Command(
            name="run",
            operands="CONFIG",
            group=_DAILY,
            summary="tokenize what is new and publish a snapshot; resumes what was begun",
            examples=(
                "tokenizer-jobs run configs/quickstart.yaml",
                "tokenizer-jobs run job.yaml --output out/low --recipe.codec.bandwidth-kbps 3",
            ),
            add_arguments=add_run_arguments,
            execute=_run,
        ),
        Command(
            name="plan",
            operands="CONFIG",
            group=_DAILY,
            summary="dry run: what `run` would do; writes nothing",
            examples=(
                "tokenizer-jobs plan job.yaml",
                "tokenizer-jobs plan job.yaml --json",
                "tokenizer-jobs plan job.yaml --calibrate --price examples/prices.yaml",
                "    # prices.yaml: machines: [{name: small, cores: 4, gpus: 0, price_per_hour: 0.2, currency: EUR}]",
            ),
            add_arguments=add_plan_arguments,
            execute=_plan,
        ),
        Command(
            name="status",
            operands="OUTPUT",
            group=_DAILY,
            summary="what is committed, running and left; works from any machine",
            examples=("tokenizer-jobs status out/speech --watch", "tokenizer-jobs status s3://bucket/speech --json"),
            add_arguments=add_status_arguments,
            execute=status_command,
        ),
        Command(
            name="verify",
            operands="OUTPUT",
            group=_DAILY,
            summary="prove that every item is there once and undamaged; last line: the digest",
            examples=("tokenizer-jobs verify out/speech", "tokenizer-jobs verify out/speech --reencode 0.01"),
            add_arguments=add_verify_arguments,
            execute=_verify,
        ),
        Command(
            name="report",
            operands="OUTPUT",
            group=_DAILY,
            summary="one page that shows what was made and how it went, and the card; also while the job runs",
            examples=(
                "tokenizer-jobs report out/speech",
                "tokenizer-jobs report s3://bucket/speech -o speech.html --samples 8",
            ),
            add_arguments=add_report_arguments,
            execute=report_command,
        ),
        Command(
            name="submit",
            operands="CONFIG",
            group=_CLUSTER,
            summary="the same job on a Ray cluster, through its job API; follows the log, exits with the job's result",
            examples=(
                "tokenizer-jobs submit job.yaml --address http://head:8265 --output s3://bucket/speech",
                "tokenizer-jobs submit job.yaml --address http://head:8265 --working-dir . --no-wait",
            ),
            add_arguments=add_submit_arguments,
            execute=submit_command,
        ),
        Command(
            name="retry",
            operands="OUTPUT",
            group=_CHANGES,
            summary="try rejects again; a success is a row of a new shard in the next snapshot",
            examples=(
                "tokenizer-jobs retry out/speech",
                "tokenizer-jobs retry out/speech --reason unreadable --config job.yaml",
            ),
            add_arguments=add_retry_arguments,
            execute=_retry,
        ),
        Command(
            name="drop",
            operands="OUTPUT --ids FILE | --where SQL",
            group=_CHANGES,
            summary="take items out, for good: rewritten shards, a receipt, and a new snapshot",
            examples=(
                "tokenizer-jobs drop out/speech --ids withdrawn.txt",
                "tokenizer-jobs drop out/speech --where \"silent_fraction > 0.9 OR speaker = 'p225'\" --dry-run",
            ),
            add_arguments=add_drop_arguments,
            execute=_drop,
        ),
        Command(
            name="decode",
            operands="OUTPUT --id ID -o WAV",
            group=_CODES,
            summary="the codes of one row back to audio",
            examples=("tokenizer-jobs decode out/speech --id speaker1/hello.flac -o hello.wav",),
            add_arguments=add_decode_arguments,
            execute=decode_command,
        ),
        Command(
            name="export",
            operands="OUTPUT --to FORMAT DEST",
            group=_CODES,
            summary="a snapshot as WebDataset, Megatron, NumPy, Arrow or Hugging Face data set",
            examples=(
                "tokenizer-jobs export out/speech --to webdataset out/speech-tars",
                "tokenizer-jobs export out/speech --to megatron s3://bucket/tokens --codebooks 4",
            ),
            add_arguments=add_export_arguments,
            execute=export_command,
        ),
        Command(
            name="import-codes",
            operands="DUMP OUTPUT",
            group=_CODES,
            summary="make an output of another tool's codes; shows what it guessed of their layout",
            examples=(
                "tokenizer-jobs import-codes dump/ out/imported --codec facebook/encodec_24khz --dry-run",
                "tokenizer-jobs import-codes 'dump/*.npz' out/imported --key codes --sample-rate 24000 "
                "--frame-rate 75 --codebook-size 1024",
            ),
            add_arguments=add_import_arguments,
            execute=import_command,
        ),
        Command(
            name="audit",
            operands="DUMP --audio SOURCE",
            group=_CODES,
            summary="check anyone's token dump against its audio: counts all of it, encodes a sample again",
            examples=(
                "tokenizer-jobs audit dump/ --audio data/audio --codec facebook/encodec_24khz",
                "tokenizer-jobs audit 'dump/*.parquet' --audio job.yaml --key tokens --id field:utt --sample 300",
            ),
            add_arguments=add_audit_arguments,
            execute=audit_command,
        ),
        Command(
            name="train-codec",
            operands="CONFIG",
            group=_TRAINING,
            summary="train a codec on audio; resumes what was begun",
            examples=("tokenizer-jobs train-codec configs/train_encodec_24khz.yaml --output out/my_codec",),
            add_arguments=add_training_arguments,
            execute=_train_codec,
        ),
        Command(
            name="train-lm",
            operands="CONFIG",
            group=_TRAINING,
            summary="train the entropy coder's language model on an output's codes; resumes what was begun",
            examples=("tokenizer-jobs train-lm configs/train_lm.yaml --output out/my_lm",),
            add_arguments=add_training_arguments,
            execute=_train_lm,
        ),
        Command(
            name="doctor",
            operands="",
            group=_MACHINE,
            summary="what this machine has, what is missing, and the command that mends it",
            examples=("tokenizer-jobs doctor",),
            add_arguments=add_no_arguments,
            execute=_doctor,
        ),
    )
}
