"""Progress of a run, and of commands that go through an output: live on a terminal, elsewhere a line now and then."""

from tokenizer_jobs.progress.display import ProgressDisplay
from tokenizer_jobs.progress.lines import LINE_SECONDS, progress_line
from tokenizer_jobs.progress.speed import Pace
from tokenizer_jobs.progress.steps import StepDisplay

__all__ = ["LINE_SECONDS", "Pace", "ProgressDisplay", "StepDisplay", "progress_line"]
