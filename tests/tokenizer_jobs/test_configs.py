"""The job files of the repository: each loads, and together they cover the published codecs and the kinds of source."""

from pathlib import Path

import pytest

from tokenizer_jobs.cli.flags import job_flags
from tokenizer_jobs.config import JobConfig

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))

BANDWIDTHS = {
    "demo": (1.5, 3.0, 6.0, 12.0, 24.0),
    "facebook/encodec_24khz": (1.5, 3.0, 6.0, 12.0, 24.0),
    "facebook/encodec_48khz": (3.0, 6.0, 12.0, 24.0),
    "facebook/encodec_32khz": (2.2,),
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_loads_with_a_bandwidth_that_its_codec_offers(path: Path) -> None:
    codec = JobConfig.load(path).recipe.codec
    assert codec.bandwidth_kbps in BANDWIDTHS[codec.model]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_opens_with_the_command_that_runs_it(path: Path) -> None:
    comment = path.read_text().partition("\noutput:")[0]
    assert f"tokenizer-jobs run configs/{path.name}" in comment


def test_outputs_differ() -> None:
    outputs = [JobConfig.load(path).output for path in CONFIGS]
    assert len(set(outputs)) == len(outputs)


def test_every_codec_has_a_job() -> None:
    assert {JobConfig.load(path).recipe.codec.model for path in CONFIGS} == set(BANDWIDTHS)


def test_every_kind_of_source_has_a_job() -> None:
    (kind,) = (flag for flag in job_flags() if flag.key == ("selection", "source", "kind"))
    builtin = {value for value in kind.values if ":" not in value}
    assert {JobConfig.load(path).selection.source.kind for path in CONFIGS} == builtin
