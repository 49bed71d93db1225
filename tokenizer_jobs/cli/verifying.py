"""The command that proves an output, `verify`, and its screen."""

import argparse
import sys
from typing import TYPE_CHECKING

from tokenizer_jobs.cli.endings import complain
from tokenizer_jobs.cli.facts import table, totals
from tokenizer_jobs.cli.streams import show
from tokenizer_jobs.wording import count_text

if TYPE_CHECKING:
    from tokenizer_jobs.reencoding import ReencodeResult
    from tokenizer_jobs.verification import VerifyResult

__all__ = ["verify_command", "verify_screen"]


def verify_command(arguments: argparse.Namespace) -> int:
    """Of `verify`.

    Raises:
        ConfigError: there is no output, or nothing of it can be encoded again.
    """
    from tokenizer_jobs.progress import StepDisplay
    from tokenizer_jobs.verification import verify

    with StepDisplay(sys.stderr) as display:
        result = verify(arguments.output, reencode=arguments.reencode, model=arguments.model, report=display.report)
    show(result.model_dump_json() if arguments.json else verify_screen(result))
    return complain(result.problems)


def verify_screen(result: "VerifyResult") -> str:
    """What verification found; the last line is the digest."""
    head = "sound" if not result.problems else f"not sound: {count_text(len(result.problems), 'fault')}"
    facts = [
        *totals(result),
        ("items", f"{result.items:,} planned"),
        ("rejects", f"{result.rejects:,} ({result.filtered:,} by a filter)"),
        ("snapshot", "none" if result.snapshot is None else str(result.snapshot)),
    ]
    if result.reencoded is not None:
        facts.append(("reencoded", _reencoded_text(result.reencoded)))
    return "\n".join([head, *table(facts), result.digest])


def _reencoded_text(found: "ReencodeResult") -> str:
    share = f"{100 * found.equal / found.codes:.4f} % equal" if found.codes else "nothing compared"
    text = (
        f"{count_text(found.items, 'item')}, {count_text(found.codes, 'code')}: {share}, "
        f"{count_text(found.near_tie_frames, 'frame')} of near ties, {count_text(found.wrong_frames, 'frame')} wrong"
    )
    if found.partly:
        text += f"; of {count_text(found.partly, 'item')} ten minutes only"
    return f"{text}; {found.gone:,} sampled inputs are gone or changed" if found.gone else text
