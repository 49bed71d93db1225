"""From recordings to crops: decoding once, what is held out, and crops that a number alone decides."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.tokenizer_jobs.tiny_training import RATE, silent, write_audio
from tokenizer_jobs.codec_training import decoding
from tokenizer_jobs.codec_training.config import AudioSource
from tokenizer_jobs.codec_training.crops import CropRules, Crops
from tokenizer_jobs.codec_training.decoding import decode_waveforms
from tokenizer_jobs.codec_training.held_out import held_out_clips, split
from tokenizer_jobs.codec_training.waveforms import Waveforms, open_waveforms
from tokenizer_jobs.decode import decode_item
from tokenizer_jobs.errors import ConfigError, IntegrityError
from tokenizer_jobs.source_config import FilesSource

RULES = CropRules(num_samples=400, gain_db=(-6.0, 0.0), min_rms_db=-60.0, mix_probabilities=(0.5, 0.5))


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_audio(tmp_path_factory.mktemp("audio"))


@pytest.fixture(scope="module")
def folder(audio: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where that audio is decoded. It is shared: do not change it."""
    folder = tmp_path_factory.mktemp("decoded") / "tones"
    decoded(audio, folder)
    return folder


@pytest.fixture(scope="module")
def waveforms(folder: Path) -> Waveforms:
    return open_waveforms(folder)


def decoded(audio: Path, folder: Path) -> Waveforms:
    source = FilesSource(paths=(str(audio),))
    return decode_waveforms(folder, source=source, sample_rate=RATE, channels=1, say=silent)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestDecoding:
    def test_what_decodes_is_kept_once(self, audio: Path, waveforms: Waveforms) -> None:
        ids = [recording.id for recording in waveforms.recordings]
        assert ids == ["silence.wav", "tone0.wav", "tone1.wav", "tone2.wav", "tone3.wav", "tone4.wav"]
        assert waveforms.num_copies == 1
        tone, _ = soundfile.read(audio / "tone3.wav", dtype="float32")
        crop = waveforms.crop(waveforms.recordings[4], start=100, num_samples=50)
        assert crop == pytest.approx(tone[None, 100:150], abs=1e-4)

    def test_what_does_not_is_named_with_its_reason(self, waveforms: Waveforms) -> None:
        assert [(item.id, item.reason) for item in waveforms.undecoded] == [("broken.wav", "not_audio")]

    def test_a_crop_beyond_the_end_is_filled_with_silence(self, waveforms: Waveforms) -> None:
        crop = waveforms.crop(waveforms.recordings[1], start=RATE // 2 - 10, num_samples=30)
        assert crop.shape == (1, 30)
        assert crop[0, :10].any()
        assert not crop[0, 10:].any()

    @pytest.mark.parametrize("num_decoded", [0, 3])
    def test_an_interrupted_decoding_goes_on_to_the_same_files(
        self, audio: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_decoded: int
    ) -> None:
        calls: list[str] = []

        def decode_some(item, **arguments):  # type: ignore[no-untyped-def]
            calls.append(item.id)
            if len(calls) > num_decoded:
                raise KeyboardInterrupt
            return decode_item(item, **arguments)

        monkeypatch.setattr(decoding, "decode_item", decode_some)
        with pytest.raises(KeyboardInterrupt):
            decoded(audio, tmp_path / "tones")
        with (tmp_path / "tones" / "samples.i16").open("ab") as samples:
            samples.write(b"half of a recording")
        with (tmp_path / "tones" / "decoded.jsonl").open("a") as journal:
            journal.write('{"recording": {"id": "half of')
        done, num_decoded = calls[:num_decoded], 100
        calls.clear()
        decoded(audio, tmp_path / "tones")
        assert not set(done) & set(calls)
        assert content(tmp_path / "tones") == content(folder)

    def test_samples_lost_with_the_machine_are_decoded_again(self, audio: Path, folder: Path, tmp_path: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        lines = [index["origin"], *({"recording": recording} for recording in index["recordings"])]
        (tmp_path / "tones").mkdir()
        (tmp_path / "tones" / "decoded.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (tmp_path / "tones" / "samples.i16").write_bytes((folder / "samples.i16").read_bytes()[:-1])
        decoded(audio, tmp_path / "tones")
        assert content(tmp_path / "tones") == content(folder)

    def test_recordings_longer_than_a_block_are_written_whole(
        self, audio: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(decoding, "BLOCK_SAMPLES", 999)
        decoded(audio, tmp_path / "tones")
        assert content(tmp_path / "tones") == content(folder)

    def test_audio_is_decoded_once(self, audio: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decoding, "decode_item", None)
        assert len(decoded(audio, folder).recordings) == 6

    def test_a_folder_of_other_audio_is_refused_and_left(self, folder: Path, tmp_path: Path) -> None:
        before = content(folder)
        with pytest.raises(ConfigError, match="holds audio decoded from"):
            decoded(tmp_path, folder)
        assert content(folder) == before

    def test_audio_of_which_nothing_decodes_is_refused_until_it_is_mended(self, tmp_path: Path) -> None:
        (tmp_path / "audio").mkdir()
        (tmp_path / "audio" / "tone.wav").write_bytes(b"no audio at all" * 100)
        with pytest.raises(ConfigError, match=r"no recording of .* could be decoded: not_audio 1"):
            decoded(tmp_path / "audio", tmp_path / "tones")
        soundfile.write(tmp_path / "audio" / "tone.wav", np.ones(RATE) / 2, RATE)
        assert len(decoded(tmp_path / "audio", tmp_path / "tones").recordings) == 1

    def test_samples_that_are_too_few_are_noticed(self, folder: Path, tmp_path: Path) -> None:
        for name, value in content(folder).items():
            (tmp_path / name).write_bytes(value[:-2] if name == "samples.i16" else value)
        with pytest.raises(IntegrityError, match="holds 47998 bytes, its index says 48000"):
            open_waveforms(tmp_path)

    def test_an_index_that_lists_recordings_alone_is_read(self, folder: Path, tmp_path: Path) -> None:
        for name, value in content(folder).items():
            (tmp_path / name).write_bytes(value)
        index = json.loads((tmp_path / "index.json").read_text())
        (tmp_path / "index.json").write_text(json.dumps({key: index[key] for key in ("origin", "recordings")}))
        assert open_waveforms(tmp_path).recordings == open_waveforms(folder).recordings


class TestHeldOut:
    def source(self, fraction: float) -> AudioSource:
        return AudioSource(source=FilesSource(paths=("anywhere",)), held_out_fraction=fraction)

    def test_the_parts_are_whole_and_apart(self, waveforms: Waveforms) -> None:
        parts = split({"tones": (waveforms, self.source(0.3))})["tones"]
        assert len(parts.held_out) == 2
        assert {*parts.held_out} | {*parts.training} == {*waveforms.recordings}
        assert not {*parts.held_out} & {*parts.training}

    def test_what_one_source_holds_out_no_other_trains_on(self, waveforms: Waveforms) -> None:
        parts = split({"some": (waveforms, self.source(0.3)), "all": (waveforms, self.source(0))})
        assert len(parts["all"].training) == 4
        assert not {*parts["some"].held_out} & {*parts["all"].training}

    def test_holding_out_everything_is_refused(self, waveforms: Waveforms) -> None:
        with pytest.raises(
            ConfigError, match=r"held_out_fraction = 0.99 of source tones.* leaves none of 6 recordings"
        ):
            split({"tones": (waveforms, self.source(0.99))})

    @pytest.fixture
    def clips(self, tmp_path: Path) -> list[torch.Tensor]:
        """Clips of what begins with sound, begins with 25 s of silence, is a whisper, is silent, and is short."""
        sound = 0.5 * np.sin(np.arange(2 * RATE))
        waves = {
            "begins": np.concatenate([sound, np.zeros(20 * RATE)]),
            "later": np.concatenate([np.zeros(25 * RATE), sound]),
            "whisper": np.concatenate([np.zeros(11 * RATE), 1e-3 * sound, np.zeros(20 * RATE)]),
            "silent": np.zeros(12 * RATE),
            "zz_short": sound,
        }
        (tmp_path / "audio").mkdir()
        for name, wave in waves.items():
            soundfile.write(tmp_path / "audio" / f"{name}.wav", wave, RATE, subtype="FLOAT")
        found = decoded(tmp_path / "audio", tmp_path / "out")
        parts = split({"all": (found, self.source(0.0))})["all"]
        order = {recording.id: recording for recording in parts.training}
        parts = type(parts)(waveforms=found, training=(), held_out=tuple(order[name] for name in sorted(order)))
        return held_out_clips(parts)

    def test_a_clip_is_where_there_is_sound(self, clips: list[torch.Tensor]) -> None:
        begins, later, whisper, short = clips
        assert begins[0, : 2 * RATE].square().mean() > 0.1
        assert later[0, -2 * RATE :].square().mean() > 0.1
        assert whisper.any()
        assert [clip.shape[-1] / RATE for clip in (begins, later, whisper, short)] == [10, 10, 10, 2]


class TestCrops:
    def crops(self, waveforms: Waveforms, *, rules: CropRules = RULES, seed: int = 0) -> Crops:
        return Crops({"tones": (waveforms, waveforms.recordings)}, weights={"tones": 2.0}, rules=rules, seed=seed)

    def test_a_number_is_always_the_same_crop(self, waveforms: Waveforms) -> None:
        first, again, other = self.crops(waveforms), self.crops(waveforms), self.crops(waveforms, seed=1)
        assert np.array_equal(first.crop(5), again.crop(5))
        assert not np.array_equal(first.crop(5), first.crop(6))
        assert not np.array_equal(first.crop(5), other.crop(5))

    def test_ranks_share_an_update_between_them(self, waveforms: Waveforms) -> None:
        crops = self.crops(waveforms)
        alone = crops.batch(3, size=4)
        shared = [crops.batch(3, size=2, rank=rank, num_ranks=2) for rank in range(2)]
        assert torch.equal(alone, torch.cat(shared))

    def test_silence_is_drawn_again(self, waveforms: Waveforms) -> None:
        crops = self.crops(waveforms).batch(0, size=64)
        assert crops.shape == (64, 1, 400)
        assert float(crops.square().mean((1, 2)).sqrt().min()) > 1e-3
        assert float(crops.abs().max()) <= 1

    def test_rules_that_nothing_keeps_are_refused(self, waveforms: Waveforms) -> None:
        loud = CropRules(num_samples=400, gain_db=(20.0, 20.0), min_rms_db=-60.0, mix_probabilities=(1.0,))
        with pytest.raises(ConfigError, match=r"100 crops in a row were silent or clipped; lower audio\.min_rms_db"):
            self.crops(waveforms, rules=loud).crop(0)
