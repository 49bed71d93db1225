"""The commands that train: `train-codec` and `train-lm`."""

import argparse

from tokenizer_jobs.cli.endings import sigterm_as_interrupt
from tokenizer_jobs.cli.streams import show, tell
from tokenizer_jobs.errors import EXIT_DONE, EXIT_STOPPED

__all__ = ["train_codec_command", "train_lm_command"]


def train_codec_command(arguments: argparse.Namespace) -> int:
    """Of `train-codec`."""
    from tokenizer_jobs.codec_training import TrainingJob, train_codec

    job = TrainingJob.load(arguments.config, output=arguments.output)
    try:
        with sigterm_as_interrupt():
            result = train_codec(job, say=show, max_updates=arguments.max_updates)
    except KeyboardInterrupt:  # before the first update, or a second time
        tell("stopped; the same command goes on from the last checkpoint")
        return EXIT_STOPPED
    if not result.is_done:
        tell(f"stopped after update {result.updates}; the same command goes on from there")
        return EXIT_STOPPED
    show(f"{result.updates} updates are done; the codec is {result.output / 'model'}")
    return EXIT_DONE


def train_lm_command(arguments: argparse.Namespace) -> int:
    """Of `train-lm`."""
    from tokenizer_jobs.codec_training import LanguageModelJob, train_language_model

    job = LanguageModelJob.load(arguments.config, output=arguments.output)
    try:
        with sigterm_as_interrupt():
            result = train_language_model(job, say=show, max_updates=arguments.max_updates)
    except KeyboardInterrupt:
        tell("stopped; the same command goes on from the last checkpoint")
        return EXIT_STOPPED
    show(f"{result.updates} updates are done; the language model is {result.output / 'lm'}")
    return EXIT_DONE if result.is_done else EXIT_STOPPED
