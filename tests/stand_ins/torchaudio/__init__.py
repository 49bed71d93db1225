"""Stands in for torchaudio where encodec 0.1.1 is imported as a test oracle; see `tests/encodec_core/models.py`.

encodec imports torchaudio at its top, but its models never call it, and its discriminator only for a spectrogram. The
real package is built against one build of torch and breaks beside another, so it is no dependency of the tests. What is
missing here says so when it is called.
"""

from . import functional, transforms

__all__ = ["functional", "load", "save", "transforms"]
__version__ = "0"


def load(*args, **kwargs):
    raise NotImplementedError("this torchaudio is a stand-in for tests; read audio with soundfile")


def save(*args, **kwargs):
    raise NotImplementedError("this torchaudio is a stand-in for tests; write audio with soundfile")
