"""The arguments of each command; what a job file's keys add is made from its fields in `flags`."""

import argparse

from tokenizer_jobs.cli.flags import add_job_flags

__all__ = [
    "add_audit_arguments",
    "add_decode_arguments",
    "add_doctor_arguments",
    "add_drop_arguments",
    "add_export_arguments",
    "add_import_arguments",
    "add_plan_arguments",
    "add_report_arguments",
    "add_retry_arguments",
    "add_run_arguments",
    "add_status_arguments",
    "add_training_arguments",
    "add_verify_arguments",
]


SHOWN_REJECTS = 20
"""That `status --rejects` shows unless it is told how many."""


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a job file, and a flag for every key of it."""
    parser.add_argument("config", metavar="CONFIG", help="the job file (YAML); flags below replace single keys of it")
    add_job_flags(parser)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Take an output."""
    parser.add_argument("output", metavar="OUTPUT", help="the output of a job: a local folder or an fsspec URL")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    add_job_arguments(parser)
    parser.add_argument(
        "--replace",
        action="store_true",
        help="tokenize inputs anew that changed under a known id, and take their old rows out; else they are left",
    )
    add_log_format(parser)


def add_log_format(parser: argparse.ArgumentParser) -> None:
    """Offer logs for machines."""
    parser.add_argument(
        "--log-format",
        metavar="text|json",
        choices=("text", "json"),
        default="text",
        help="json: progress, events and warnings as one JSON object a line on stderr, in Ray's workers too",
    )


def add_retry_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `retry`."""
    add_output_arguments(parser)
    parser.add_argument(
        "--reason", metavar="REASON", action="append", default=[], help="only rejects of this reason; may be repeated"
    )
    parser.add_argument("--filtered", action="store_true", help="also rejects of stage filter")
    parser.add_argument(
        "--config", metavar="JOB", help="the job file, for its source, filters and runtime (default: as it was planned)"
    )
    add_log_format(parser)


def add_drop_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `drop`."""
    add_output_arguments(parser)
    parser.add_argument("--ids", metavar="FILE", help="ids of items or rows, one a line; - reads stdin")
    parser.add_argument(
        "--where", metavar="SQL", help='a condition on the columns of rows, such as "silent_fraction > 0.9"'
    )
    parser.add_argument("--missing-ok", action="store_true", help="go on where ids are not in the output")
    parser.add_argument("--dry-run", action="store_true", help="only count what would be dropped; writes nothing")
    add_json_flag(parser)


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Offer JSON."""
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `plan`."""
    add_job_arguments(parser)
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="also do about a minute of the job, on a temporary output, and predict how long all of it takes",
    )
    parser.add_argument(
        "--price",
        metavar="FILE",
        help="calibrate, and say what the job costs on machines of the kinds in this YAML file: a list `machines` "
        "of {name, cores, gpus, price_per_hour, currency}, as in examples/prices.yaml",
    )
    add_json_flag(parser)


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `status`."""
    add_output_arguments(parser)
    add_json_flag(parser)
    parser.add_argument("--watch", action="store_true", help="look again every few seconds until no unit is left")
    parser.add_argument(
        "--rejects",
        metavar="N",
        nargs="?",
        type=_positive,
        const=SHOWN_REJECTS,
        help="show the first N rejects with what was wrong instead, those of a filter last (default: %(const)s)",
    )


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `verify`."""
    add_output_arguments(parser)
    parser.add_argument(
        "--reencode",
        metavar="FRACTION",
        type=_number,
        default=0.0,
        help="also encode this share of the rows again from their audio, 0 to 1, and report the match (default: 0)",
    )
    add_model_flag(parser)
    add_json_flag(parser)


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `report`."""
    add_output_arguments(parser)
    parser.add_argument(
        "-o",
        "--html",
        metavar="HTML",
        help="file for the page; the output is left as it is then (default: report.html, README.md and stats.json in "
        "the output)",
    )
    parser.add_argument(
        "--samples",
        metavar="N",
        type=_not_negative,
        help="rows to listen to, original and decoded (default: a few of the demo source, else none: audio may be "
        "private)",
    )
    parser.add_argument(
        "--max-seconds",
        metavar="N",
        type=_not_negative,
        default=240,
        help="for reading shards; where they take longer, a sample of them is read, and the page says so; 0 reads all "
        "(default: 240)",
    )
    add_model_flag(parser)
    add_json_flag(parser)


def add_decode_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `decode`."""
    add_output_arguments(parser)
    parser.add_argument("--id", metavar="ID", required=True, help="the row's id, as in its column `id`")
    parser.add_argument("-o", "--wav", metavar="WAV", required=True, help="file to write: WAV, 32-bit float")
    add_model_flag(parser)


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `export`."""
    add_output_arguments(parser)
    parser.add_argument("destination", metavar="DEST", help="an empty place, or none yet: a local folder or a URL")
    parser.add_argument(
        "--to",
        metavar="FORMAT",
        required=True,
        choices=("webdataset", "megatron", "numpy", "arrow", "huggingface"),
        help="webdataset, megatron, numpy, arrow or huggingface",
    )
    parser.add_argument("--snapshot", metavar="N", type=_positive, help="which snapshot (default: the newest)")
    parser.add_argument("--codebooks", metavar="N", type=_positive, help="only the first N codebooks (default: all)")
    parser.add_argument("--push", metavar="REPO", help="with huggingface: also upload it to the hub as OWNER/NAME")
    add_json_flag(parser)


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `import-codes`."""
    parser.add_argument(
        "dump", metavar="DUMP", nargs="+", help="folder, glob or files of .npy, .npz, .pt, .tar, .parquet or .arrow"
    )
    add_output_arguments(parser)
    parser.add_argument("--codec", metavar="MODEL", help="codec that made the codes: a hub id, a folder, a .th file")
    parser.add_argument("--revision", metavar="REVISION", help="of a codec of the hub")
    parser.add_argument("--sample-rate", metavar="HZ", type=_positive, help="of a codec that is not at hand")
    parser.add_argument("--frame-rate", metavar="HZ", type=_number, help="frames per second of such a codec")
    parser.add_argument("--codebook-size", metavar="N", type=_positive, help="entries of a codebook of such a codec")
    add_layout_flags(parser)
    parser.add_argument("--dry-run", action="store_true", help="only say what was guessed, and why; writes nothing")
    add_json_flag(parser)


def add_audit_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `audit`."""
    parser.add_argument(
        "dump",
        metavar="DUMP",
        nargs="+",
        help="folder, glob or files of .npy, .npz, .pt, .tar, .parquet or .arrow; or an output",
    )
    parser.add_argument(
        "--audio",
        metavar="SOURCE",
        action="append",
        required=True,
        help="folder, glob or file of audio; .tar, .parquet, .jsonl, .csv or .tsv; or a job file (.yaml), whose source "
        "is taken; may be repeated",
    )
    parser.add_argument(
        "--codec",
        metavar="MODEL",
        action="append",
        default=[],
        help="hub id, folder or .th file of the codec that should have made the codes; may be repeated, the one that "
        "agrees best is taken (default: those in the hub's cache, and the demo)",
    )
    parser.add_argument("--revision", metavar="REVISION", help="of a codec of the hub")
    parser.add_argument(
        "--bandwidth-kbps", metavar="KBPS", type=_number, help="that the codes should have (default: any)"
    )
    parser.add_argument(
        "--sample", metavar="N", type=_positive, default=100, help="items to encode again (default: 100)"
    )
    parser.add_argument("--seed", metavar="N", type=_any_whole, default=0, help="of the sample (default: 0)")
    add_layout_flags(parser)
    add_json_flag(parser)


def add_layout_flags(parser: argparse.ArgumentParser) -> None:
    """Offer what can be said of somebody else's arrays."""
    parser.add_argument("--num-codebooks", metavar="N", type=_positive, help="in the dump (default: guessed)")
    parser.add_argument(
        "--layout",
        metavar="AXES",
        choices=("KT", "TK", "flat", "flat-by-codebook"),
        help="of each array: KT, TK, flat (by frame) or flat-by-codebook (default: guessed)",
    )
    parser.add_argument(
        "--offsets",
        metavar="WHICH",
        choices=("none", "codebook"),
        help="none, or codebook: codebook k holds ids from k x size on (default: guessed)",
    )
    parser.add_argument("--key", metavar="NAME", help="array in a file, column of a table, or ending in a tar")
    parser.add_argument("--id", metavar="RULE", help="path, name, or field:NAME (default: guessed)")


def add_model_flag(parser: argparse.ArgumentParser) -> None:
    """Offer another place of the codec."""
    parser.add_argument("--model", metavar="MODEL", help="where the codec is now, if it moved; its weights must match")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the trainings."""
    parser.add_argument("config", metavar="CONFIG", help="the training file (YAML)")
    parser.add_argument("--output", metavar="FOLDER", help="replaces the file's `output`")
    parser.add_argument(
        "--max-updates", metavar="N", type=_positive, help="stop once N updates are done in all; resumable"
    )


def _positive(word: str) -> int:
    return _whole(word, least=1)


def _not_negative(word: str) -> int:
    return _whole(word, least=0)


def _any_whole(word: str) -> int:
    return _whole(word, least=None)


def _whole(word: str, *, least: int | None) -> int:
    expected = "" if least is None else f"; expected one from {least} on"
    try:
        number = int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number{expected}") from None
    if least is not None and number < least:
        raise argparse.ArgumentTypeError(f"{number} is not above {least - 1}{expected}")
    return number


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is no number") from None


def add_doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `doctor`."""
    add_json_flag(parser)
