"""The trainer: it learns, resumes in the same bits, and refuses what it cannot do."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from encodec_core import EncodecConfig, EncodecModel
from encodec_core.training import DiscriminatorSettings, QuantizerSettings, Stage, Trainer, TrainingSettings

CROP_SAMPLES = 960
WINDOWS = {
    "normalize": True,
    "norm_type": "time_group_norm",
    "use_causal_conv": False,
    "chunk_length_s": 1.0,
    "overlap": 0.01,
}
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
        quantizer=QuantizerSettings(kmeans_iterations=3),
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
        trainer = Trainer(
            tiny_model(**WINDOWS),
            settings(Stage(name="all", num_updates=1, losses={"relative_error": 1.0}, quantize=False)),
        )
        quiet, loud = (trainer._reconstruct(gain * waves(0), trainer.stage, {})[0] for gain in (0.01, 1.0))
        torch.testing.assert_close(100 * quiet, loud, rtol=1e-4, atol=1e-5)

    def test_stereo_in_windows_at_48_khz_takes_part(self) -> None:
        model = tiny_model(**WINDOWS, sampling_rate=48_000, audio_channels=2, target_bandwidths=[24, 48])
        recipe = settings(Stage(name="all", num_updates=4, losses=EVERY_LOSS, learning_rate=1e-3, codebook_crops=4))
        trainer = Trainer(model, recipe)
        crops = waves(0, channels=2)
        trainer.fit_codebooks([crops])
        before = copy.deepcopy(trainer.state_dict())
        metrics = [trainer.step(crops) for _ in range(4)]
        assert metrics[-1]["relative_error"] < metrics[0]["relative_error"]
        assert any("discriminator" in step for step in metrics)
        unchanged = [
            name
            for network in ("model", "discriminator")
            for name, tensor in trainer.state_dict()[network].items()
            if torch.equal(tensor, before[network][name])
        ]
        # Windows are constants; a bias before a norm over time and channels of one group may have no gradient.
        assert [name for name in unchanged if not name.endswith(("window", "inited", "bias"))] == []

    def test_left_and_right_are_judged_by_themselves(self) -> None:
        stage = Stage(name="all", num_updates=1, losses={"adversarial": 1.0, "feature_matching": 1.0})
        stereo, mono = (Trainer(tiny_model(audio_channels=channels), settings(stage)) for channels in (2, 1))
        real, fake = (waves(update, channels=2) for update in (0, 1))
        with torch.no_grad():
            both = stereo._losses(stage, real, fake)
            each = mono._losses(stage, real.reshape(-1, 1, CROP_SAMPLES), fake.reshape(-1, 1, CROP_SAMPLES))
        assert _differences(both, each) == []


class TestCodebooks:
    STAGE = Stage(name="all", num_updates=9, losses={"relative_error": 1.0})

    def test_random_ones_start_from_the_first_batch_that_uses_them(self) -> None:
        rules = QuantizerSettings(kmeans_iterations=3, dead_code_share=0)
        recipe = TrainingSettings(stages=(self.STAGE,), quantizer=rules)
        trainer = Trainer(tiny_model(codebook_size=64, target_bandwidths=[36, 72]), recipe)
        train(trainer, until=9)
        with torch.no_grad():
            farthest = max(float(trainer.model.encoder(waves(update)).norm(dim=1).max()) for update in range(9))
        for codebook in trainer.model.quantizer.codebooks:
            assert codebook.inited.item() == 1
            assert codebook.cluster_size.sum() == pytest.approx(4 * CROP_SAMPLES / 4, rel=0.01)
            # Averages begun from nothing put entries up to a hundred times beyond the latents.
            assert codebook.embed.norm(dim=1).max() < 1.5 * farthest

    @pytest.mark.parametrize("has_averages", [True, False])
    def test_those_of_a_codec_that_is_gone_on_from_stay(self, tmp_path: Path, has_averages: bool) -> None:
        first = Trainer(tiny_model(codebook_size=16), settings(self.STAGE))
        train(first, until=9)
        first.model.save_pretrained(tmp_path)
        if not has_averages:
            file = tmp_path / "model.safetensors"
            left_out = ("inited", "cluster_size", "embed_avg")
            kept = {name: tensor for name, tensor in load_file(file).items() if not name.endswith(left_out)}
            save_file(kept, file, metadata={"format": "pt"})
        model = EncodecModel.from_pretrained(tmp_path)
        before = [codebook.embed.clone() for codebook in model.quantizer.codebooks]
        metrics = Trainer(model, settings(self.STAGE)).step(waves(9))
        assert has_averages or metrics["replaced_entries"] == 0
        assert metrics["replaced_entries"] < 8
        for entries, codebook in zip(before, model.quantizer.codebooks, strict=True):
            moved = (codebook.embed - entries).norm(dim=1)
            assert moved.median() < 0.1 * entries.norm(dim=1).median()


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

    def test_weights_of_a_trained_codec_are_not_scaled(self) -> None:
        trainer = Trainer(tiny_model(), settings(Stage(name="all", num_updates=2, losses={"relative_error": 1.0})))
        trainer.step(waves(0))
        before = copy.deepcopy(trainer.model.state_dict())
        with pytest.raises(ValueError, match=r"trained before.*unit_variance_crops to 0"):
            trainer.scale_weights([waves(1)])
        assert _differences(before, trainer.model.state_dict()) == []

    def test_a_layout_that_undoes_scaling_is_refused(self) -> None:
        stage = Stage(name="all", num_updates=1, losses={"relative_error": 1.0})
        with pytest.raises(ValueError, match="time_group_norm undoes any scaling"):
            Trainer(tiny_model(**WINDOWS), settings(stage)).scale_weights([waves(0)])

    def test_crops_too_few_for_the_codebooks_are_refused(self) -> None:
        stage = Stage(name="all", num_updates=1, losses={"relative_error": 1.0}, codebook_crops=1)
        trainer = Trainer(tiny_model(codebook_size=1024), settings(stage))
        with pytest.raises(ValueError, match=r"240 latents cannot make 1024 entries; raise the stage's codebook_crops"):
            trainer.fit_codebooks([waves(0, size=1)])


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
