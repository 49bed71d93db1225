"""The commands that let an output be seen and heard: `report` and `decode`."""

import argparse

from tokenizer_jobs.cli.endings import complain
from tokenizer_jobs.cli.streams import show
from tokenizer_jobs.errors import EXIT_DONE
from tokenizer_jobs.wording import bytes_text, count_text, span_text

__all__ = ["decode_command", "report_command"]


def report_command(arguments: argparse.Namespace) -> int:
    """Of `report`.

    Raises:
        ConfigError: there is no output, or the page cannot be written.
    """
    from tokenizer_jobs.report import make_report

    result = make_report(
        arguments.output,
        destination=arguments.html,
        samples=arguments.samples,
        model=arguments.model,
        budget_seconds=arguments.max_seconds or None,
    )
    if arguments.json:
        show(result.statistics.model_dump_json())
        return complain(result.problems)
    content = result.statistics.content
    lines = [f"done: {bytes_text(result.page_bytes)}, {count_text(result.samples, 'sample')}"]
    if content is not None:
        sampled = f", a sample of {content.shards:,}: --max-seconds 0 reads all" if content.is_sampled else ""
        lines.append(
            f"read {count_text(content.rows, 'row')} in {count_text(content.shards_read, 'shard')}{sampled}, in "
            f"{span_text(content.seconds)}"
        )
    if result.others:
        lines.append(f"wrote {' and '.join(result.others)} beside it")
    lines += [f"left {name} alone: it is somebody else's, or was edited" for name in result.left_alone]
    lines.append(f"the page, for any browser: {result.page}")
    show("\n".join(lines))
    return complain(result.problems)


def decode_command(arguments: argparse.Namespace) -> int:
    """Of `decode`."""
    from tokenizer_jobs.audition import decode_to_wav

    decoded = decode_to_wav(arguments.output, row_id=arguments.id, destination=arguments.wav, model=arguments.model)
    show(
        f"wrote {decoded.path}: {decoded.num_samples / decoded.sample_rate:.3f} s, {decoded.sample_rate} Hz, "
        f"{count_text(decoded.channels, 'channel')}, 32-bit float, decoded by {decoded.codec}"
    )
    return EXIT_DONE
