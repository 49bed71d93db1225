"""`report`: measure an output, make its page, and leave card and statistics beside it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tokenizer_jobs.catalog import newest_snapshot
from tokenizer_jobs.errors import EXIT_DONE, EXIT_FAILED, ConfigError
from tokenizer_jobs.recipe import read_recipe
from tokenizer_jobs.report.card import CARD_PATH, PAGE_PATH, STATS_PATH, write_card, write_statistics
from tokenizer_jobs.report.facts import read_plans, source_kind
from tokenizer_jobs.report.html import page
from tokenizer_jobs.report.samples import draw_samples
from tokenizer_jobs.report.statistics import BUDGET_SECONDS, Statistics, measure
from tokenizer_jobs.storage import Storage

__all__ = ["DEMO_SAMPLES", "ReportResult", "make_report"]

DEMO_SAMPLES = 6
"""Of an output whose source is the demo: nobody's audio, so that it is shown unasked."""


class ReportResult(BaseModel):
    """What was made."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    page: str
    """Where the page is."""
    page_bytes: int
    others: tuple[str, ...]
    """The other files that were written."""
    left_alone: tuple[str, ...]
    """Files of that name that are somebody else's, and were left as they are."""
    samples: int
    statistics: Statistics
    problems: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 when nothing is wrong, else 1."""
        return EXIT_FAILED if self.problems else EXIT_DONE


def make_report(
    output: str,
    *,
    destination: str | Path | None = None,
    samples: int | None = None,
    model: str | None = None,
    budget_seconds: float | None = BUDGET_SECONDS,
) -> ReportResult:
    """Make the page of an output, finished or not.

    Crash points: each file appears whole, over an older one, and is made anew by the same command.

    Args:
        output: Local path or fsspec URL.
        destination: File for the page; nothing is written to the output then. None: `report.html` in the output,
            beside `stats.json` and the card.
        samples: Rows to listen to; None: a few of the demo source, else none, since audio may be private.
        model: Where the codec is now; None: where the recipe says.
        budget_seconds: For reading shards; a sample of them is read when they take longer. None: no limit.

    Raises:
        ConfigError: there is no output, or the page cannot be written.
        IntegrityError: recipe, plans, commits or catalog are damaged.
    """
    path = None if destination is None else Path(destination)
    if path is not None and not path.parent.is_dir():
        raise ConfigError(f"-o {str(path)!r}: there is no folder {str(path.parent)!r}; make it first")
    storage = Storage.at(output)
    statistics = measure(storage, budget_seconds=budget_seconds)
    plans = read_plans(storage)
    is_demo = bool(plans) and all(source_kind(plan) == "demo" for plan in plans)
    asked = samples if samples is not None else DEMO_SAMPLES if is_demo else 0
    drawn, notes = draw_samples(storage, recipe=read_recipe(storage), plans=plans, number=asked, model=model)
    content = page(statistics, name=storage.name, samples=drawn, notes=notes, asked=asked).encode()
    others, left_alone = tuple[str, ...](), tuple[str, ...]()
    if path is not None:
        _write(path, content)
    else:
        storage.replace(PAGE_PATH, content)
        write_statistics(storage, statistics)
        is_ours = write_card(storage, statistics, snapshot=newest_snapshot(storage))
        others, left_alone = ((STATS_PATH, CARD_PATH), ()) if is_ours else ((STATS_PATH,), (CARD_PATH,))
    return ReportResult(
        page=str(path) if path is not None else f"{storage.name}/{PAGE_PATH}",
        page_bytes=len(content),
        others=others,
        left_alone=left_alone,
        samples=len(drawn),
        statistics=statistics,
        problems=statistics.problems,
    )


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"-o {str(path)!r} cannot be written: {error}; choose another file") from error
