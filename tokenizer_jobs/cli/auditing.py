"""The command `audit`, and its screen."""

import argparse
from typing import TYPE_CHECKING

from tokenizer_jobs.cli.endings import complain
from tokenizer_jobs.cli.exchange import dump_said
from tokenizer_jobs.cli.streams import show, tell
from tokenizer_jobs.wording import count_text, span_text

if TYPE_CHECKING:
    from tokenizer_jobs.auditing import AuditResult

__all__ = ["audit_command", "audit_screen"]


def audit_command(arguments: argparse.Namespace) -> int:
    """Of `audit`."""
    from tokenizer_jobs.auditing import audit

    result = audit(
        arguments.dump,
        audio=arguments.audio,
        codec=arguments.codec,
        revision=arguments.revision,
        bandwidth_kbps=arguments.bandwidth_kbps,
        sample=arguments.sample,
        seed=arguments.seed,
        said=dump_said(arguments),
        say=tell,
    )
    show(result.model_dump_json() if arguments.json else audit_screen(result))
    return complain(result.problems)


def audit_screen(result: "AuditResult") -> str:
    """What is printed: counts, the sample, notes, and what the sample cannot say; faults go to stderr."""
    bandwidth = "no bandwidth of it" if result.bandwidth_kbps is None else f"{result.bandwidth_kbps:g} kbit/s"
    facts = [
        ("dump", f"{count_text(result.items, 'item')}, {result.matched:,} of them matched with audio by {result.ids}"),
        ("audio", count_text(result.recordings, "recording")),
        ("codec", f"{result.codec}, weights {result.weights_sha256[:16]}…"),
        ("codes", f"{result.num_codebooks} codebooks ({bandwidth}), layout {result.layout}"),
        (
            "sample",
            f"{count_text(result.sampled, 'item')} of {result.matched:,}, seed {result.seed}, "
            f"{span_text(result.seconds)} of audio: {result.agreeing:,} agree in full; first codebook "
            f"{result.first_codebook:.1%}",
        ),
    ]
    lines = [f"  {name:<8} {value}" for name, value in facts]
    lines += [f"note: {line}" for line in result.notes]
    if result.lengths_unknown:
        lines.append(f"note: no header tells the length of {count_text(result.lengths_unknown, 'recording')}")
    return "\n".join([_verdict(result), *lines, _bound(result)])


def _verdict(result: "AuditResult") -> str:
    if result.problems:
        return f"{count_text(len(result.problems), 'kind')} of fault found"
    return "no fault found"


def _bound(result: "AuditResult") -> str:
    if result.sampled == 0:
        return "nothing was encoded again: no item of the dump has audio"
    if result.unseen == 0:
        return "doubles, gaps, ranges and lengths were looked for in everything, and everything was encoded again"
    return (
        "doubles, gaps, ranges and lengths were looked for in everything; what only encoding shows, and none of the "
        f"sample of {result.sampled:,} has, {result.unseen:.1%} of the items may have at most (95 % confidence)"
    )
