"""Recipes that mean nothing are refused when they are read; those that do not fit together, before audio is decoded."""

import math
from typing import Any

import pytest

from encodec_core import EncodecConfig
from encodec_core.training import DiscriminatorSettings, Stage, TrainingSettings, check_recipe

PAPER = {"waveform_l1": 0.1, "mel": 1.0, "adversarial": 3.0, "feature_matching": 3.0}
MONO, STEREO = EncodecConfig.encodec_24khz(), EncodecConfig.encodec_48khz()


def stage(**changes: Any) -> Stage:
    fields: dict[str, Any] = {"name": "all", "num_updates": 10, "losses": PAPER}
    return Stage(**(fields | changes))


def recipe(*stages: Stage, **changes: Any) -> TrainingSettings:
    return TrainingSettings(stages=stages or (stage(),), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name = '' of a stage is empty"),
        ({"num_updates": 0}, "stage all: num_updates = 0"),
        ({"losses": {"mel": math.inf}}, "losses.mel = inf"),
        ({"learning_rate": math.nan}, "learning_rate = nan"),
        ({"final_learning_rate": -1}, "final_learning_rate = -1; expected 0 or more, or null"),
        ({"warmup_updates": -5}, "warmup_updates = -5"),
        ({"codebook_crops": -1}, "codebook_crops = -1"),
        ({"codebook_crops": 8, "quantize": False}, "codebook_crops = 8, but quantize = false"),
    ],
)
def test_a_stage_refuses_what_means_nothing(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stage(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"adam_betas": (1.0, 0.9)},
        {"adam_betas": (0.5,)},
        {"unit_variance_crops": -1},
        {"commitment_weight": -3},
        {"balancer_decay": 1.5},
        {"seed": -1},
    ],
)
def test_a_recipe_refuses_what_means_nothing(changes: dict[str, Any]) -> None:
    ((name, _),) = changes.items()
    with pytest.raises(ValueError, match=f"{name} = .*; expected"):
        recipe(**changes)


def test_stages_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="stages share the name all; give every stage its own"):
        recipe(stage(), stage(name="other"), stage())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_filters": 0}, "num_filters = 0"),
        ({"window_lengths": ()}, "window_lengths is empty"),
        ({"window_lengths": (128, 2)}, "window_lengths: 2 is no window whose hop is a quarter"),
        ({"learning_rate": -1}, "learning_rate = -1"),
        ({"update_probability": 7}, "update_probability = 7"),
        ({"update_probability": 0}, "update_probability = 0"),
    ],
)
def test_a_discriminator_refuses_what_means_nothing(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiscriminatorSettings(**changes)


def test_recipes_of_the_paper_pass() -> None:
    check_recipe(recipe(), MONO, crop_samples=24_000, batch_size=64)
    check_recipe(recipe(stage(codebook_crops=256)), STEREO, crop_samples=48_000, batch_size=64)


@pytest.mark.parametrize(
    ("settings", "config", "crop_samples", "message"),
    [
        (recipe(), MONO, 2047, r"2047 samples at 24000 Hz are shorter than the discriminator's longest window, 2048"),
        (recipe(), MONO, 0, "0 samples at 24000 Hz are shorter than one frame of the codec, 320 samples"),
        (recipe(), STEREO, 48_001, "48001 samples at 48000 Hz are longer than the window .*, 48000 samples; shorten"),
        (recipe(stage(codebook_crops=64)), MONO, 2400, "codebook_crops = 64 make 512 latents for codebooks of 1024"),
        (recipe(), MONO, 2400, "batch_size = 64 crops make 512 latents; raise batch_size, or set .* codebook_crops"),
        (recipe(unit_variance_crops=8), STEREO, 48_000, "unit_variance_crops = 8 does nothing .*time_group_norm"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    settings: TrainingSettings, config: EncodecConfig, crop_samples: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_recipe(settings, config, crop_samples=crop_samples, batch_size=64)


def test_the_edges_pass() -> None:
    check_recipe(recipe(), MONO, crop_samples=5120, batch_size=64)  # 64 x 16 frames
    check_recipe(recipe(), STEREO, crop_samples=48_000, batch_size=7)  # 7 x 150 frames
    check_recipe(recipe(stage(codebook_crops=65)), MONO, crop_samples=2400, batch_size=64)  # 2 batches of 64 x 8 frames
    short = recipe(stage(losses={"mel": 1.0}, codebook_crops=1024), unit_variance_crops=1)
    check_recipe(short, MONO, crop_samples=320, batch_size=1)


def test_a_discriminator_that_no_stage_needs_asks_nothing_of_crops() -> None:
    check_recipe(recipe(stage(losses={"mel": 1.0})), MONO, crop_samples=640, batch_size=512)


def test_a_trained_codec_needs_no_batch_for_its_codebooks_and_keeps_its_weights() -> None:
    check_recipe(recipe(), MONO, crop_samples=2400, batch_size=1, is_trained=True)
    with pytest.raises(ValueError, match="unit_variance_crops = 8 would rescale weights that are trained already"):
        check_recipe(recipe(unit_variance_crops=8), MONO, crop_samples=24_000, batch_size=64, is_trained=True)
