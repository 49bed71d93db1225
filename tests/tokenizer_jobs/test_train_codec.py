"""Training of a codec as the command runs it: audio, crops, checkpoints, processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encodec_core import EncodecConfig, EncodecModel
from tokenizer_jobs.cli import main
from tokenizer_jobs.codec_training import TrainingJob, train_codec
from tokenizer_jobs.codec_training.config import AudioSource, TrainingRuntime
from tokenizer_jobs.codec_training.crops import CropRules, Crops
from tokenizer_jobs.codec_training.held_out import split
from tokenizer_jobs.codec_training.waveforms import Waveforms, decode_waveforms
from tokenizer_jobs.config import FilesSource
from tokenizer_jobs.errors import ConfigError

RATE = 8000
RULES = CropRules(num_samples=400, gain_db=(-6.0, 0.0), min_rms_db=-60.0, mix_probabilities=(0.5, 0.5))


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five tones of half a second, a copy of one of them, silence, and a file that is no audio."""
    folder = tmp_path_factory.mktemp("audio")
    seconds = np.arange(RATE // 2) / RATE
    for index in range(5):
        soundfile.write(folder / f"tone{index}.wav", 0.4 * np.sin(2 * np.pi * (200 + 90 * index) * seconds), RATE)
    (folder / "zz_copy.wav").write_bytes((folder / "tone0.wav").read_bytes())
    soundfile.write(folder / "silence.wav", np.zeros(RATE // 2), RATE)
    (folder / "broken.wav").write_bytes(b"no audio at all" * 100)
    return folder


def job(audio: Path, output: Path, **changes: object) -> TrainingJob:
    stage = {"name": "all", "num_updates": 4, "losses": {"relative_error": 1, "mel": 1}, "codebook_crops": 4}
    content = {
        "output": str(output),
        "model": {
            "sampling_rate": RATE,
            "num_filters": 2,
            "hidden_size": 4,
            "codebook_size": 4,
            "num_lstm_layers": 1,
            "upsampling_ratios": [4, 2],
            "target_bandwidths": [2, 4],
        },
        "audio": {
            "sources": {"tones": {"source": {"kind": "files", "paths": [str(audio)]}, "held_out_fraction": 0.3}},
            "crop_seconds": 0.1,
            "batch_size": 2,
        },
        "training": {"stages": [stage], "quantizer": {"dead_code_threshold": 0.1, "kmeans_iterations": 2}},
        "runtime": {"device": "cpu", "log_updates": 2, "evaluation_updates": 2},
    }
    return TrainingJob.model_validate(content | changes)


def decoded(audio: Path, folder: Path) -> Waveforms:
    return decode_waveforms(folder, source=FilesSource(paths=(str(audio),)), sample_rate=RATE, channels=1)


class TestWaveforms:
    def test_what_decodes_is_kept_once(self, audio: Path, tmp_path: Path) -> None:
        waveforms = decoded(audio, tmp_path / "waveforms")
        ids = [recording.id for recording in waveforms.recordings]
        assert ids == ["silence.wav", "tone0.wav", "tone1.wav", "tone2.wav", "tone3.wav", "tone4.wav"]
        tone, _ = soundfile.read(audio / "tone3.wav", dtype="float32")
        crop = waveforms.crop(waveforms.recordings[4], start=100, num_samples=50)
        assert crop == pytest.approx(tone[None, 100:150], abs=1e-4)

    def test_a_crop_beyond_the_end_is_filled_with_silence(self, audio: Path, tmp_path: Path) -> None:
        waveforms = decoded(audio, tmp_path / "waveforms")
        crop = waveforms.crop(waveforms.recordings[1], start=RATE // 2 - 10, num_samples=30)
        assert crop.shape == (1, 30)
        assert crop[0, :10].any()
        assert not crop[0, 10:].any()

    def test_audio_is_decoded_once_and_again_where_a_decoding_was_cut_short(self, audio: Path, tmp_path: Path) -> None:
        folder = tmp_path / "waveforms"
        decoded(audio, folder)
        before = (folder / "samples.i16").stat().st_mtime_ns
        decoded(audio, folder)
        assert (folder / "samples.i16").stat().st_mtime_ns == before
        (folder / "index.json").unlink()
        (folder / "samples.i16").write_bytes(b"half")
        assert len(decoded(audio, folder).samples) == 6 * RATE // 2


class TestHeldOut:
    def test_the_parts_are_whole_and_apart(self, audio: Path, tmp_path: Path) -> None:
        waveforms = decoded(audio, tmp_path / "waveforms")
        source = AudioSource(source=FilesSource(paths=(str(audio),)), held_out_fraction=0.3)
        parts = split(waveforms, source)
        assert len(parts.held_out) == 2
        assert {*parts.held_out} | {*parts.training} == {*waveforms.recordings}
        assert not {*parts.held_out} & {*parts.training}

    def test_holding_out_everything_is_refused(self, audio: Path, tmp_path: Path) -> None:
        source = AudioSource(source=FilesSource(paths=(str(audio),)), held_out_fraction=0.99)
        with pytest.raises(ConfigError, match=r"held_out_fraction = 0.99 leaves none of 6 recordings"):
            split(decoded(audio, tmp_path / "waveforms"), source)


class TestCrops:
    def crops(self, audio: Path, folder: Path, *, rules: CropRules = RULES, seed: int = 0) -> Crops:
        waveforms = decoded(audio, folder / "waveforms")
        return Crops({"tones": (waveforms, waveforms.recordings)}, weights={"tones": 2.0}, rules=rules, seed=seed)

    def test_a_number_is_always_the_same_crop(self, audio: Path, tmp_path: Path) -> None:
        first, again = (self.crops(audio, tmp_path) for _ in range(2))
        other = self.crops(audio, tmp_path, seed=1)
        assert np.array_equal(first.crop(5), again.crop(5))
        assert not np.array_equal(first.crop(5), first.crop(6))
        assert not np.array_equal(first.crop(5), other.crop(5))

    def test_ranks_share_an_update_between_them(self, audio: Path, tmp_path: Path) -> None:
        crops = self.crops(audio, tmp_path)
        alone = crops.batch(3, size=4)
        shared = [crops.batch(3, size=2, rank=rank, num_ranks=2) for rank in range(2)]
        assert torch.equal(alone, torch.cat(shared))

    def test_silence_is_drawn_again(self, audio: Path, tmp_path: Path) -> None:
        crops = self.crops(audio, tmp_path).batch(0, size=64)
        assert crops.shape == (64, 1, 400)
        assert float(crops.square().mean((1, 2)).sqrt().min()) > 1e-3
        assert float(crops.abs().max()) <= 1

    def test_rules_that_nothing_keeps_are_refused(self, audio: Path, tmp_path: Path) -> None:
        loud = CropRules(num_samples=400, gain_db=(20.0, 20.0), min_rms_db=-60.0, mix_probabilities=(1.0,))
        with pytest.raises(ConfigError, match="100 crops in a row were silent or clipped"):
            self.crops(audio, tmp_path, rules=loud).crop(0)


class TestTraining:
    def test_it_leaves_a_codec_curves_and_evaluations(self, audio: Path, tmp_path: Path) -> None:
        lines: list[str] = []
        result = train_codec(job(audio, tmp_path / "out"), say=lines.append)
        assert (result.updates, result.is_done) == (4, True)
        model = EncodecModel.from_pretrained(tmp_path / "out" / "model")
        assert model.config.sampling_rate == RATE
        points = [json.loads(line) for line in (tmp_path / "out" / "curves.jsonl").read_text().splitlines()]
        assert [point["update"] for point in points] == [2, 4]
        assert all(point["mel"] > 0 for point in points)
        evaluations = [json.loads(line) for line in (tmp_path / "out" / "evaluations.jsonl").read_text().splitlines()]
        assert [evaluation["update"] for evaluation in evaluations] == [2, 4]
        assert set(evaluations[0]["si_snr_db"]) == {"2", "4"}
        assert any(line.startswith("held out, tones") for line in lines)
        board = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
        board.Reload()
        assert [event.value for event in board.Scalars("mel")] == pytest.approx([point["mel"] for point in points])
        assert [event.value for event in board.Scalars("tones/si_snr_db/4_kbps")] == pytest.approx(
            [evaluation["si_snr_db"]["4"] for evaluation in evaluations]
        )
        decoded_clip = board.Audio("tones/decoded")[0]
        assert decoded_clip.sample_rate == RATE
        assert decoded_clip.length_frames == RATE // 2

    def test_stopped_and_resumed_it_ends_in_the_same_weights(self, audio: Path, tmp_path: Path) -> None:
        train_codec(job(audio, tmp_path / "straight"), say=_silent)
        stopped = train_codec(job(audio, tmp_path / "resumed"), say=_silent, max_updates=3)
        assert (stopped.updates, stopped.is_done) == (3, False)
        train_codec(job(audio, tmp_path / "resumed"), say=_silent)
        straight, resumed = (
            EncodecModel.from_pretrained(tmp_path / name / "model").state_dict() for name in ("straight", "resumed")
        )
        assert [name for name in straight if not torch.equal(straight[name], resumed[name])] == []

    def test_two_processes_train_one_codec(self, audio: Path, tmp_path: Path) -> None:
        """Two of batch 2 and one of batch 4 see the same crops.

        Adam makes much of what rounding left of tiny gradients, so the way they went is compared, not every weight.
        """
        stages = [{"name": "all", "num_updates": 2, "losses": {"relative_error": 1, "mel": 1}}]
        single = job(audio, tmp_path / "one", training={"stages": stages, "quantizer": {"dead_code_threshold": 0}})
        double = single.model_copy(
            update={"output": str(tmp_path / "two"), "runtime": TrainingRuntime(device="cpu", num_processes=2)}
        )
        single = single.model_copy(update={"audio": single.audio.model_copy(update={"batch_size": 4})})
        train_codec(single, say=_silent)
        train_codec(double, say=_silent)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(single.training.seed)
            start = _weights(EncodecModel(EncodecConfig(**single.model)))
        one, two = (_weights(EncodecModel.from_pretrained(tmp_path / name / "model")) for name in ("one", "two"))
        assert float(torch.cosine_similarity(one - start, two - start, dim=0)) > 0.99

    def test_another_job_on_the_same_output_is_refused(self, audio: Path, tmp_path: Path) -> None:
        train_codec(job(audio, tmp_path / "out"), say=_silent, max_updates=1)
        other = job(audio, tmp_path / "out", model={"sampling_rate": RATE})
        with pytest.raises(ConfigError, match=r"holds a training whose model differed"):
            train_codec(other, say=_silent)

    def test_a_layout_that_is_none_is_refused(self, audio: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"model = .*'codebook_size': 5.* is no layout of a codec: .* power of 2"):
            train_codec(job(audio, tmp_path / "out", model={"codebook_size": 5}), say=_silent)
        with pytest.raises(ValueError, match="no key of EncodecConfig: num_filter;"):
            job(audio, tmp_path / "out", model={"num_filter": 2})

    def test_the_command_stops_resumable(self, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "job.yaml"
        file.write_text(json.dumps(job(audio, tmp_path / "out").model_dump(mode="json")))
        assert main(["train-codec", str(file), "--max-updates", "1"]) == 75
        assert main(["train-codec", str(file)]) == 0
        assert "4 updates are done; the codec is" in capsys.readouterr().out

    def test_an_unknown_key_is_named(self, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        content = job(audio, tmp_path / "out").model_dump(mode="json")
        content["training"]["stages"][0]["num_update"] = 3
        file = tmp_path / "job.yaml"
        file.write_text(json.dumps(content))
        assert main(["train-codec", str(file)]) == 1
        assert "unknown key training.stages.0.num_update; did you mean num_updates?" in capsys.readouterr().err


def _weights(model: EncodecModel) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def _silent(_: str) -> None:
    """Say nothing."""
