"""The files of the repository: each loads, and the jobs together cover the published codecs and the kinds of source."""

from pathlib import Path

import pytest
import torch

from encodec_core import EncodecConfig, EncodecModel
from encodec_core.entropy import LanguageModel, LanguageModelConfig
from encodec_core.training import check_recipe
from tokenizer_jobs.cli.flags import job_flags
from tokenizer_jobs.codec_training import LanguageModelJob, TrainingJob
from tokenizer_jobs.config import JobConfig

FILES = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
LANGUAGE_MODELS = [path for path in FILES if path.stem.startswith("train_lm")]
CODECS = [path for path in FILES if path.stem.startswith("train_") and path not in LANGUAGE_MODELS]
CONFIGS = [path for path in FILES if not path.stem.startswith("train_")]
DEMO_LM = Path(__file__).parents[2] / "configs" / "train_lm_demo.yaml"
MAX_DEMO_LM_BYTES = 4_000_000

BANDWIDTHS = {
    "demo": (1.5, 3.0, 6.0),
    "facebook/encodec_24khz": (1.5, 3.0, 6.0, 12.0, 24.0),
    "facebook/encodec_48khz": (3.0, 6.0, 12.0, 24.0),
    "facebook/encodec_32khz": (2.2,),
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_loads_with_a_bandwidth_that_its_codec_offers(path: Path) -> None:
    codec = JobConfig.load(path).recipe.codec
    assert codec.bandwidth_kbps in BANDWIDTHS[codec.model]


@pytest.mark.parametrize("path", CODECS, ids=lambda path: path.stem)
def test_trains_a_codec_that_can_be_built(path: Path) -> None:
    job = TrainingJob.load(path)
    with torch.device("meta"):
        model = EncodecModel(EncodecConfig(**job.model))
    crop_samples = round(job.audio.crop_seconds * model.config.sampling_rate)
    check_recipe(job.training, model.config, crop_samples=crop_samples, batch_size=job.audio.batch_size)


@pytest.mark.parametrize("path", [path for path in CODECS if "encodec" in path.stem], ids=lambda path: path.stem)
def test_trains_on_as_many_crops_as_the_paper(path: Path) -> None:
    job = TrainingJob.load(path)
    assert job.training.num_updates * job.audio.batch_size * job.audio.crop_seconds == 300 * 2000 * 64


@pytest.mark.parametrize("path", LANGUAGE_MODELS, ids=lambda path: path.stem)
def test_trains_a_language_model_on_the_output_of_a_job_whose_crops_are_longer_than_its_context(path: Path) -> None:
    job = LanguageModelJob.load(path)
    assert job.codes.crop_seconds > job.model.context_seconds
    assert job.codes.output in {JobConfig.load(config).output for config in CONFIGS} | {"out/demo_codes"}


def test_the_language_model_of_the_demo_codec_is_a_small_file(tmp_path: Path) -> None:
    shape = LanguageModelJob.load(DEMO_LM).model
    assert shape.saved_as == "float16"
    with torch.random.fork_rng(devices=[]):
        model = LanguageModel(
            LanguageModelConfig(
                n_q=8,
                codebook_size=1024,
                past_context=262,
                dim=shape.dim,
                num_heads=shape.num_heads,
                num_layers=shape.num_layers,
                feed_forward_dim=shape.feed_forward_dim,
                codec_weights_sha256="ab" * 32,
            )
        )
    model.save_pretrained(tmp_path, dtype=torch.float16)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= MAX_DEMO_LM_BYTES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_opens_with_the_command_that_runs_it(path: Path) -> None:
    command = "train-lm" if path in LANGUAGE_MODELS else "train-codec" if path in CODECS else "run"
    comment = path.read_text().partition("\noutput:")[0]
    assert f"tokenizer-jobs {command} configs/{path.name}" in comment


def test_outputs_differ() -> None:
    outputs = [JobConfig.load(path).output for path in CONFIGS]
    outputs += [TrainingJob.load(path).output for path in CODECS]
    outputs += [LanguageModelJob.load(path).output for path in LANGUAGE_MODELS]
    assert len(set(outputs)) == len(outputs)


def test_every_codec_has_a_job() -> None:
    assert {JobConfig.load(path).recipe.codec.model for path in CONFIGS} == set(BANDWIDTHS)


def test_every_kind_of_source_has_a_job() -> None:
    (kind,) = (flag for flag in job_flags() if flag.key == ("selection", "source", "kind"))
    builtin = {value for value in kind.values if ":" not in value}
    assert {JobConfig.load(path).selection.source.kind for path in CONFIGS} == builtin
