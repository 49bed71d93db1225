"""The commands: what each is called, takes, and shows as its example; what it does is in the room of its subject."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from tokenizer_jobs.cli.arguments import (
    add_audit_arguments,
    add_decode_arguments,
    add_doctor_arguments,
    add_drop_arguments,
    add_export_arguments,
    add_import_arguments,
    add_plan_arguments,
    add_report_arguments,
    add_retry_arguments,
    add_run_arguments,
    add_status_arguments,
    add_training_arguments,
    add_verify_arguments,
)
from tokenizer_jobs.cli.auditing import audit_command
from tokenizer_jobs.cli.dropping import drop_command
from tokenizer_jobs.cli.exchange import export_command, import_command
from tokenizer_jobs.cli.machine import doctor_command
from tokenizer_jobs.cli.planning import plan_command
from tokenizer_jobs.cli.reporting import decode_command, report_command
from tokenizer_jobs.cli.running import retry_command, run_command
from tokenizer_jobs.cli.submission import add_submit_arguments, submit_command
from tokenizer_jobs.cli.training import train_codec_command, train_lm_command
from tokenizer_jobs.cli.verifying import verify_command
from tokenizer_jobs.cli.watching import status_command

__all__ = ["COMMANDS", "Command"]


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
            execute=run_command,
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
            execute=plan_command,
        ),
        Command(
            name="status",
            operands="OUTPUT",
            group=_DAILY,
            summary="what is committed, running and left; works from any machine",
            examples=(
                "tokenizer-jobs status out/speech --watch",
                "tokenizer-jobs status out/speech --rejects 50",
                "tokenizer-jobs status s3://bucket/speech --json",
            ),
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
            execute=verify_command,
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
            execute=retry_command,
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
            execute=drop_command,
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
            execute=train_codec_command,
        ),
        Command(
            name="train-lm",
            operands="CONFIG",
            group=_TRAINING,
            summary="train the entropy coder's language model on an output's codes; resumes what was begun",
            examples=("tokenizer-jobs train-lm configs/train_lm.yaml --output out/my_lm",),
            add_arguments=add_training_arguments,
            execute=train_lm_command,
        ),
        Command(
            name="doctor",
            operands="",
            group=_MACHINE,
            summary="what this machine has, what is missing, and the command that mends it",
            examples=("tokenizer-jobs doctor", "tokenizer-jobs doctor --json"),
            add_arguments=add_doctor_arguments,
            execute=doctor_command,
        ),
    )
}
