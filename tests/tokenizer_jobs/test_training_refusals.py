"""What a training refuses: outputs that hold another training or are in use, and recipes that could only fail."""

import json
import os
from pathlib import Path

import pytest
import torch

from tests.tokenizer_jobs.tiny_training import RATE, silent, stages, tiny_job, write_audio, write_job
from tokenizer_jobs.cli import main
from tokenizer_jobs.codec_training import TrainingJob, train_codec
from tokenizer_jobs.codec_training.config import TrainingAudio
from tokenizer_jobs.codec_training.training_file import claim, held
from tokenizer_jobs.errors import ConfigError, OutputBusyError


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_audio(tmp_path_factory.mktemp("audio"))


class TestClaim:
    BEGUN = stages({}, {"num_updates": 5}, {})
    """Three of nine updates are done: the second stage has begun."""

    def changed(self, audio: Path, output: Path, *, begun: dict[str, object], **changes: object) -> TrainingJob:
        """Return another job on an output whose training was begun."""
        claim(output, tiny_job(audio, output, training=begun))
        torch.save({"update": 3}, output / "checkpoint.pt")
        return tiny_job(audio, output, **changes)

    @pytest.mark.parametrize(
        "training",
        [
            stages({}, {"num_updates": 5}, {"num_updates": 9, "losses": {"mel": 1}}),
            stages({}, {"num_updates": 5}, {}, {"learning_rate": 1e-5}),
            stages({}, {"num_updates": 8}),
        ],
        ids=["later stage differs", "stage added", "begun stage longer"],
    )
    def test_what_has_not_begun_may_change(self, audio: Path, tmp_path: Path, training: dict[str, object]) -> None:
        other = self.changed(audio, tmp_path, begun=self.BEGUN, training=training)
        claim(tmp_path, other)
        assert json.loads((tmp_path / "job.json").read_text())["training"] == other.model_dump(mode="json")["training"]

    @pytest.mark.parametrize(
        "training",
        [
            stages({"num_updates": 3}, {"num_updates": 5}, {}),
            stages({}, {"num_updates": 5, "losses": {"mel": 1}}, {}),
            stages({}),
            BEGUN | {"seed": 1},
        ],
        ids=["done stage longer", "begun stage differs", "begun stage gone", "seed"],
    )
    def test_what_has_begun_may_not(self, audio: Path, tmp_path: Path, training: dict[str, object]) -> None:
        other = self.changed(audio, tmp_path, begun=self.BEGUN, training=training)
        with pytest.raises(ConfigError, match="holds a training whose training differed"):
            claim(tmp_path, other)

    def test_a_stage_whose_rate_falls_may_not_be_longer(self, audio: Path, tmp_path: Path) -> None:
        falling: dict[str, object] = {"final_learning_rate": 1e-5}
        begun = stages({}, falling | {"num_updates": 5})
        other = self.changed(audio, tmp_path, begun=begun, training=stages({}, falling | {"num_updates": 8}))
        with pytest.raises(ConfigError, match="holds a training whose training differed"):
            claim(tmp_path, other)

    def test_another_codec_on_the_same_output_is_refused(self, audio: Path, tmp_path: Path) -> None:
        other = self.changed(audio, tmp_path, begun=self.BEGUN, training=self.BEGUN, model={"sampling_rate": RATE})
        with pytest.raises(ConfigError, match="holds a training whose model differed"):
            claim(tmp_path, other)

    def test_before_the_first_update_everything_may_change(self, audio: Path, tmp_path: Path) -> None:
        claim(tmp_path, tiny_job(audio / "mistyped", tmp_path))
        claim(tmp_path, tiny_job(audio, tmp_path))
        assert "mistyped" not in (tmp_path / "job.json").read_text()

    def test_a_file_that_says_nothing_is_refused(self, audio: Path, tmp_path: Path) -> None:
        (tmp_path / "job.json").write_text('{"model": {')
        with pytest.raises(ConfigError, match=r"job\.json does not say what is trained there"):
            claim(tmp_path, tiny_job(audio, tmp_path))

    def test_two_runs_on_one_output_are_refused(self, audio: Path, tmp_path: Path) -> None:
        with (
            held(tmp_path / "out", say=silent),
            pytest.raises(OutputBusyError, match=rf"is being trained in by process {os.getpid()}; wait"),
        ):
            train_codec(tiny_job(audio, tmp_path / "out"), say=silent)
        assert train_codec(tiny_job(audio, tmp_path / "out"), say=silent, max_updates=1).updates == 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model": {"codebook_size": 5}}, r"model = .*'codebook_size': 5.* is no layout of a codec: .* power of 2"),
            ({"training": stages({"losses": {"adversarial": 1}})}, "shorter than the discriminator's longest window"),
            ({"model": {"sampling_rate": 8000}}, "make .* latents for codebooks of 1024 entries"),
        ],
        ids=["layout", "window", "codebooks"],
    )
    def test_a_recipe_that_must_fail_does_so_before_audio_is_decoded(
        self, audio: Path, tmp_path: Path, changes: dict[str, object], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            train_codec(tiny_job(audio, tmp_path / "out", **changes), say=silent)
        assert not (tmp_path / "out").exists()

    def test_unknown_keys_of_a_layout(self, audio: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no key of EncodecConfig: num_filter;"):
            tiny_job(audio, tmp_path / "out", model={"num_filter": 2})

    @pytest.mark.parametrize("bounds", [(6.0, -10.0), (0.0, 4000.0)])
    def test_bounds_of_a_gain_that_are_none(self, audio: Path, tmp_path: Path, bounds: tuple[float, float]) -> None:
        content = tiny_job(audio, tmp_path / "out").audio.model_dump() | {"gain_db": bounds}
        with pytest.raises(ValueError, match="expected the lower bound, then the upper one"):
            TrainingAudio.model_validate(content)

    @pytest.mark.parametrize("number", ["0", "-1"])
    def test_fewer_than_one_update(
        self, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: str
    ) -> None:
        file = write_job(tmp_path, tiny_job(audio, tmp_path / "out"))
        assert main(["train-codec", str(file), f"--max-updates={number}"]) == 1
        assert f"--max-updates: {number} is not above 0" in capsys.readouterr().err

    def test_an_unknown_key_is_named(self, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = write_job(tmp_path, tiny_job(audio, tmp_path / "out"))
        file.write_text(file.read_text().replace("num_updates", "num_update"))
        assert main(["train-codec", str(file)]) == 1
        assert "unknown key training.stages.0.num_update; did you mean num_updates?" in capsys.readouterr().err
