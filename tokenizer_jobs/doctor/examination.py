"""The whole examination, in the order in which a job would meet what is looked at."""

from collections.abc import Callable, Iterator

from tokenizer_jobs.doctor.clusters import check_ray
from tokenizer_jobs.doctor.codecs import check_demo_codec, check_model_cache
from tokenizer_jobs.doctor.findings import Finding
from tokenizer_jobs.doctor.formats import check_audio, check_formats
from tokenizer_jobs.doctor.software import check_kernels, check_modules, check_python, check_torch, check_torchaudio
from tokenizer_jobs.doctor.system import check_clock, check_open_files, check_space

__all__ = ["examine"]

_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_torch,
    check_kernels,
    check_audio,
    check_formats,
    check_modules,
    check_demo_codec,
    check_torchaudio,
    check_ray,
    check_model_cache,
    check_space,
    check_open_files,
    check_clock,
)


def examine() -> list[Finding]:
    """Look at everything a job may need."""
    return [finding for check in _CHECKS for finding in check()]
