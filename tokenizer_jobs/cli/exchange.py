"""The commands that exchange codes with other tools: `export` and `import-codes`."""

import argparse
import sys
from typing import TYPE_CHECKING

from tokenizer_jobs.cli.endings import complain, example_id, sigterm_as_interrupt
from tokenizer_jobs.cli.facts import rejects_text, table, totals
from tokenizer_jobs.cli.next_steps import after_work
from tokenizer_jobs.cli.streams import show, tell
from tokenizer_jobs.errors import EXIT_DONE, EXIT_STOPPED
from tokenizer_jobs.wording import bytes_text, count_text

if TYPE_CHECKING:
    from tokenizer_jobs.exporting import ExportResult
    from tokenizer_jobs.importing import DumpSaid, ImportResult

__all__ = ["dump_said", "export_command", "export_screen", "import_command", "import_screen"]


def export_command(arguments: argparse.Namespace) -> int:
    """Of `export`."""
    from tokenizer_jobs.exporting import export
    from tokenizer_jobs.progress import StepDisplay

    with StepDisplay(sys.stderr) as display:
        result = export(
            arguments.output,
            arguments.destination,
            to=arguments.to,
            snapshot=arguments.snapshot,
            codebooks=arguments.codebooks,
            push_to=arguments.push,
            report=display.report,
        )
    show(result.model_dump_json() if arguments.json else export_screen(result))
    return EXIT_DONE


def import_command(arguments: argparse.Namespace) -> int:
    """Of `import-codes`."""
    from tokenizer_jobs.importing import CodecClaim, import_codes

    codec = CodecClaim(
        model=arguments.codec,
        revision=arguments.revision,
        sample_rate=arguments.sample_rate,
        frame_rate=arguments.frame_rate,
        codebook_size=arguments.codebook_size,
    )
    try:
        with sigterm_as_interrupt():
            result = import_codes(
                arguments.dump,
                arguments.output,
                codec=codec,
                said=dump_said(arguments),
                dry_run=arguments.dry_run,
                say=tell,
            )
            # Decoding needs the codec, which nobody has where only its numbers were given.
            can_decode = arguments.codec is not None and not result.dry_run and not arguments.json
            shown_id = example_id(result.output, snapshot=result.snapshot) if can_decode else None
    except KeyboardInterrupt:
        tell("stopped; nothing is lost, and the same command resumes")
        return EXIT_STOPPED
    if arguments.codec is not None:
        tell(f"warning: nothing proves that {arguments.codec} made these codes; decode some and listen")
    show(result.model_dump_json() if arguments.json else import_screen(result, example_id=shown_id))
    return complain(result.problems)


def dump_said(arguments: argparse.Namespace) -> "DumpSaid":
    """What the arguments say of a dump of other tools."""
    from tokenizer_jobs.importing import DumpSaid

    return DumpSaid(
        axes=arguments.layout,
        num_codebooks=arguments.num_codebooks,
        offsets=arguments.offsets,
        key=arguments.key,
        ids=arguments.id,
    )


def export_screen(result: "ExportResult") -> str:
    """What was exported, and to where."""
    facts = [
        ("output", f"{result.output}, snapshot {result.snapshot}"),
        ("export", f"{result.destination}, {result.format}"),
        (
            "rows",
            f"{result.rows:,}, {count_text(result.frames, 'frame')} of {count_text(result.codebooks, 'codebook')}",
        ),
        ("size", f"{bytes_text(result.bytes)} in {count_text(result.files, 'file')}"),
        ("digest", result.digest),
    ]
    facts += [("pushed to", result.pushed_to)] if result.pushed_to is not None else []
    return "\n".join(["done: this export was there already" if result.was_there else "done", *table(facts)])


def import_screen(result: "ImportResult", *, example_id: str | None) -> str:
    """What was understood of a dump, and what was made of it.

    Args:
        result: Of the import.
        example_id: Of a row that can be decoded; None where there is none.
    """
    head = "would be imported (nothing was written)" if result.dry_run else "failed" if result.problems else "done"
    facts = [("dump", line) for line in result.evidence]
    facts += [("codec", result.codec), ("output", result.output)]
    if result.dry_run:
        end = ["", "the same command without --dry-run imports it"]
        return "\n".join([head, *table([*facts, ("items", f"{result.items:,}")]), *end])
    facts += [
        ("new rows", f"{result.new_rows:,}"),
        *totals(result),
        ("rejects", rejects_text(result.rejects, result.rejects_by_reason)),
    ]
    facts += (
        [("changed", f"{count_text(result.changed, 'item')}; their rows stay as they are")] if result.changed else []
    )
    facts += [("snapshot", str(result.snapshot)), ("digest", result.digest)]
    steps = after_work(result.output, example_id=example_id, num_rejects=result.rejects - result.filtered)
    return "\n".join([head, *table(facts), *steps])
