"""The trainer: it learns, resumes in the same bits, and refuses what it cannot do."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from encodec_core import EncodecConfig, EncodecModel
from encodec_core.training import DiscriminatorSettings, QuantizerSettings, Stage, Trainer, TrainingSettings

CROP_SAMPLES = 960
EVERY_LOSS = {"waveform_l1": 0.1, "relative_error": 1.0, "mel": 1.0, "adversarial": 3.0, "feature_matching": 3.0}


def tiny_model(**changes: Any) -> EncodecModel:
    layout: dict[str, Any] = {
        "num_filters": 2,
        "hidden_size": 4,
        "upsampling_ratios": [2, 2],
        "codebook_size": 4,
        "num_lstm_layers": 1,
        "target_bandwidths": [12, 24],
    } | changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EncodecModel(EncodecConfig(**layout))


def settings(*stages: Stage, **changes: object) -> TrainingSettings:
    return TrainingSettings(
        stages=stages,
        quantizer=QuantizerSettings(dead_code_threshold=0.1, kmeans_iterations=3),
        discriminator=DiscriminatorSettings(num_filters=2, window_lengths=(256, 128)),
        **changes,  # type: ignore[arg-type]
    )


def waves(update: int, *, size: int = 4, channels: int = 1) -> Tensor:
    """Tones of random pitch; every update has its own, always the same."""
    generator = torch.Generator().manual_seed(update)
    hertz = 100 + 900 * torch.rand(size, channels, 1, generator=generator)
    return 0.3 * torch.sin(2 * torch.pi * hertz * torch.arange(CROP_SAMPLES) / 24_000)


def train(trainer: Trainer, *, until: int) -> list[dict[str, float]]:
    return list(_steps(trainer, until))


def _steps(trainer: Trainer, until: int) -> Iterator[dict[str, float]]:
    while trainer.update < until:
        if trainer.needs_codebooks:
            trainer.fit_codebooks([waves(trainer.update)])
        yield trainer.step(waves(trainer.update))


class TestLearning:
    def test_the_error_falls_on_waveforms_never_seen(self) -> None:
        stage = Stage(name="all", num_updates=60, losses={"relative_error": 1.0}, learning_rate=3e-3, quantize=False)
        trainer = Trainer(tiny_model(), settings(stage))
        trainer.scale_weights([waves(10_000)])
        metrics = train(trainer, until=60)
        assert metrics[0]["relative_error"] > 0.9
        assert sum(step["relative_error"] for step in metrics[-10:]) / 10 < 0.2

    def test_every_loss_and_network_takes_part(self) -> None:
        stage = Stage(name="all", num_updates=9, losses=EVERY_LOSS)
        trainer = Trainer(tiny_model(), settings(stage))
        before = copy.deepcopy(trainer.state_dict())
        metrics = train(trainer, until=9)
        after = trainer.state_dict()
        for name in EVERY_LOSS:
            assert all(step[name] > 0 for step in metrics), name
        assert 0 < sum("discriminator" in step for step in metrics) < 9  # it learns in some updates, not in all
        unchanged = [
            name
            for network in ("model", "discriminator")
            for name, tensor in before[network].items()
            if torch.equal(tensor, after[network][name])
        ]
        # Windows are constants; where a network is this small, some units of the discriminator never fire.
        assert {name for name in unchanged if not name.endswith(("window", "inited"))} <= {
            name for name in after["discriminator"] if name.endswith("bias")
        }

    @pytest.mark.parametrize("n_q", [1, 2])
    def test_bandwidths_are_drawn(self, n_q: int) -> None:
        trainer = Trainer(tiny_model(), settings(Stage(name="all", num_updates=20, losses={"relative_error": 1.0})))
        drawn = [trainer._draw_n_q() for _ in range(20)]
        assert 3 < drawn.count(n_q) < 17

    def test_windows_are_normalised(self) -> None:
        model = tiny_model(
            normalize=True, norm_type="time_group_norm", use_causal_conv=False, chunk_length_s=1.0, overlap=0.01
        )
        trainer = Trainer(
            model, settings(Stage(name="all", num_updates=1, losses={"relative_error": 1.0}, quantize=False))
        )
        quiet, loud = (trainer._reconstruct(gain * waves(0), trainer.stage, {})[0] for gain in (0.01, 1.0))
        torch.testing.assert_close(100 * quiet, loud, rtol=1e-4, atol=1e-5)


class TestResume:
    def test_interrupted_training_ends_in_the_same_bits(self) -> None:
        stages = (
            Stage(name="warm", num_updates=2, losses={"relative_error": 1.0}, quantize=False),
            Stage(name="codec", num_updates=5, losses=EVERY_LOSS, codebook_crops=4, final_learning_rate=1e-5),
        )
        straight = Trainer(tiny_model(), settings(*stages))
        train(straight, until=7)
        first = Trainer(tiny_model(), settings(*stages))
        train(first, until=4)
        state = copy.deepcopy(first.state_dict())
        resumed = Trainer(tiny_model(), settings(*stages, seed=5))
        resumed.load_state_dict(state)
        train(resumed, until=7)
        assert _differences(straight.state_dict(), resumed.state_dict()) == []

    def test_a_checkpoint_is_loaded_without_running_code(self, tmp_path: object) -> None:
        trainer = Trainer(tiny_model(), settings(Stage(name="all", num_updates=3, losses=EVERY_LOSS)))
        train(trainer, until=2)
        file = f"{tmp_path}/checkpoint.pt"
        torch.save(trainer.state_dict(), file)
        assert _differences(trainer.state_dict(), torch.load(file, weights_only=True)) == []


class TestRefusals:
    def test_training_ends(self) -> None:
        trainer = Trainer(tiny_model(), settings(Stage(name="all", num_updates=1, losses={"relative_error": 1.0})))
        train(trainer, until=1)
        assert trainer.is_done
        with pytest.raises(ValueError, match="beyond the recipe's 1"):
            trainer.step(waves(1))

    def test_an_unknown_loss_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"no loss 'l1'; choose from waveform_l1"):
            Stage(name="all", num_updates=1, losses={"l1": 1.0})

    def test_a_loss_of_no_weight_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"losses.mel = 0"):
            Stage(name="all", num_updates=1, losses={"mel": 0.0})


class TestLearningRate:
    def test_it_grows_then_falls_along_a_cosine(self) -> None:
        stage = Stage(
            name="all",
            num_updates=100,
            losses={"mel": 1.0},
            learning_rate=1.0,
            final_learning_rate=0.1,
            warmup_updates=10,
        )
        rates = [stage.learning_rate_at(update) for update in (0, 4, 50, 100)]
        assert rates == pytest.approx([0.1, 0.5 * (0.1 + 0.9 * 0.9960574), 0.55, 0.1], abs=1e-6)

    def test_stages_follow_each_other(self) -> None:
        first, second = (Stage(name=name, num_updates=3, losses={"mel": 1.0}) for name in ("first", "second"))
        recipe = settings(first, second)
        assert [recipe.locate(update)[0].name for update in (0, 2, 3, 5)] == ["first", "first", "second", "second"]
        assert recipe.locate(4) == (second, 1)


def _differences(one: object, other: object, path: str = "") -> list[str]:
    """Name what is not equal to the last bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = {*one, *other}
        return [d for key in keys for d in _differences(one.get(key), other.get(key), f"{path}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            d for index, pair in enumerate(zip(one, other, strict=True)) for d in _differences(*pair, f"{path}/{index}")
        ]
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return [] if torch.equal(one, other) else [path]
    return [] if one == other else [path]
