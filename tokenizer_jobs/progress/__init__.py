"""Progress of a run: a live view on a terminal, elsewhere one parseable line now and then, or a JSON object."""

from tokenizer_jobs.progress.display import ProgressDisplay
from tokenizer_jobs.progress.lines import LINE_SECONDS, progress_line
from tokenizer_jobs.progress.speed import Pace

__all__ = ["LINE_SECONDS", "Pace", "ProgressDisplay", "progress_line"]
