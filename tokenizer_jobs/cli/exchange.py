"""The commands that exchange codes with other tools: `export` and `import-codes`."""

import argparse
import sys
from typing import TYPE_CHECKING

from tokenizer_jobs.cli.endings import complain, sigterm_as_interrupt
from tokenizer_jobs.errors import EXIT_DONE, EXIT_STOPPED

if TYPE_CHECKING:
    from tokenizer_jobs.importing import DumpSaid

__all__ = ["dump_said", "export_command", "import_command", "note"]


def export_command(arguments: argparse.Namespace) -> int:
    """Of `export`."""
    from tokenizer_jobs.cli.screens import export_screen
    from tokenizer_jobs.exporting import export

    result = export(
        arguments.output,
        arguments.destination,
        to=arguments.to,
        snapshot=arguments.snapshot,
        codebooks=arguments.codebooks,
        push_to=arguments.push,
    )
    print(result.model_dump_json() if arguments.json else export_screen(result))
    return EXIT_DONE


def import_command(arguments: argparse.Namespace) -> int:
    """Of `import-codes`."""
    from tokenizer_jobs.cli.screens import import_screen
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
                say=note,
            )
    except KeyboardInterrupt:
        print("stopped; nothing is lost, and the same command resumes", file=sys.stderr)
        return EXIT_STOPPED
    if arguments.codec is not None:
        note(f"warning: nothing proves that {arguments.codec} made these codes; decode some and listen")
    print(result.model_dump_json() if arguments.json else import_screen(result))
    return complain(result.problems)


def note(line: str) -> None:
    """Say a line on stderr while a command works."""
    print(line, file=sys.stderr, flush=True)


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
