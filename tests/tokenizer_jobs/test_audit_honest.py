"""Dumps that were made in honest, other ways: no false alarm, or the true reason in place of a worse one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr

from tests.tokenizer_jobs.audits import (
    RATE,
    Codes,
    Corpus,
    audit_arrays,
    encode,
    fault_of,
    make_corpus,
    no_fault,
    only_fault,
)
from tests.tokenizer_jobs.dumps import save_npy
from tokenizer_jobs.auditing import Kind, audit
from tokenizer_jobs.auditing.lengths import AudioLength
from tokenizer_jobs.errors import ConfigError

Way = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("speech") / "audio", number=5)


def encoded(corpus: Corpus, change: Way) -> Codes:
    return {name: encode(change(waveform)) for name, waveform in corpus.waveforms.items()}


class TestIds:
    @pytest.mark.parametrize("name", ["{}_codes", "enc-{}", "encodec.{}.24k"])
    def test_the_same_words_around_every_id(self, name: str, speech: Corpus, tmp_path: Path) -> None:
        codes = {name.format(each): array for each, array in speech.codes.items()}
        assert no_fault(audit_arrays(speech, tmp_path / "dump", codes)).agreeing == 5

    def test_words_that_differ_from_id_to_id_are_not_taken_away(self, speech: Corpus, tmp_path: Path) -> None:
        codes = {f"{each}_{number:04}": array for number, (each, array) in enumerate(speech.codes.items())}
        with pytest.raises(ConfigError, match="no codes of the dump have the id"):
            audit_arrays(speech, tmp_path / "dump", codes)

    def test_part_of_a_word_is_no_id(self, speech: Corpus, tmp_path: Path) -> None:
        codes = {f"1{each}": array for each, array in speech.codes.items()}
        with pytest.raises(ConfigError, match="no codes of the dump have the id"):
            audit_arrays(speech, tmp_path / "dump", codes)

    def test_folders_run_together_with_names(self, speech: Corpus, tmp_path: Path) -> None:
        codes = Codes()
        for number, (name, waveform) in enumerate(speech.waveforms.items()):
            folder = tmp_path / "audio" / f"s{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / f"u-{number // 2}.wav", waveform, RATE, subtype="FLOAT")
            codes[f"s{number % 2}_u-{number // 2}"] = speech.codes[name]
        dump = save_npy(tmp_path / "dump", codes)
        assert no_fault(audit(str(dump), audio=str(tmp_path / "audio"), codec="demo")).agreeing == 5

    def test_one_name_with_two_endings_is_two_items(self, speech: Corpus, tmp_path: Path) -> None:
        audio, codes = tmp_path / "audio", Codes()
        audio.mkdir()
        for place, name in enumerate(("c01.wav", "c01.flac", "c02.wav", "c02.flac")):
            soundfile.write(audio / name, speech.waveforms[speech.ids[place]], RATE, subtype="PCM_16")
            codes[name] = encode(soundfile.read(audio / name, dtype="float32")[0])
        table = pa.table({"id": list(codes), "codes": [array.tolist() for array in codes.values()]})
        pq.write_table(table, tmp_path / "d.parquet")
        assert no_fault(audit(str(tmp_path / "d.parquet"), audio=str(audio), codec="demo")).agreeing == 4

    def test_codes_of_an_item_without_audio_are_not_said_to_be_wrong(self, speech: Corpus, tmp_path: Path) -> None:
        result = audit_arrays(speech, tmp_path / "dump", {**speech.codes, "zz": speech.codes["c01"]})
        assert only_fault(result).kind is Kind.MISSING_AUDIO
        (note,) = [found for found in result.findings if not found.is_fault]
        assert (note.kind, note.count) == (Kind.EQUAL_CODES, 1)


class TestBeginnings:
    def test_trimmed_silence_is_one_finding(self, speech: Corpus, tmp_path: Path) -> None:
        trimmed = encoded(speech, lambda w: w[len(w) // 5 : -2345])
        found = only_fault(audit_arrays(speech, tmp_path / "dump", trimmed))
        assert (found.kind, found.count) == (Kind.TRIMMED, 5)
        starts = sorted(len(w) // 5 / RATE for w in speech.waveforms.values())
        assert f"{starts[0]:+.3f} s to {starts[-1]:+.3f} s" in found.text
        assert "of all 5 the lengths of 5 fit that" in found.text

    @pytest.mark.parametrize("num_samples", [-529, 1105])
    def test_a_decoder_that_begins_elsewhere_is_no_fault(
        self, num_samples: int, speech: Corpus, tmp_path: Path
    ) -> None:
        displaced = encoded(speech, lambda w: w[num_samples:] if num_samples > 0 else np.pad(w, (-num_samples, 300)))
        (note,) = no_fault(audit_arrays(speech, tmp_path / "dump", displaced)).findings
        assert (note.kind, note.count) == (Kind.DISPLACED, 5)
        assert f"({num_samples / RATE:+.3f} s to {num_samples / RATE:+.3f} s)" in note.text

    def test_mp3_by_another_decoder_and_resampler(self, speech: Corpus, tmp_path: Path) -> None:
        audio, codes = tmp_path / "audio", Codes()
        audio.mkdir()
        for name, waveform in speech.waveforms.items():
            soundfile.write(audio / f"{name}.mp3", soxr.resample(waveform, RATE, 44_100), 44_100, format="MP3")
            samples, _ = soundfile.read(audio / f"{name}.mp3", dtype="float32")
            codes[name] = encode(soxr.resample(samples, 44_100, RATE, quality="VHQ")[300:])
        dump = save_npy(tmp_path / "dump", codes)
        result = no_fault(audit(str(dump), audio=str(audio), codec="demo"))
        assert {found.kind for found in result.findings} == {Kind.DISPLACED}

    def test_a_resampler_that_keeps_half_a_filter_back_drops_no_frame(self) -> None:
        length = AudioLength(num_samples=44_100, sample_rate=44_100, channels=1, is_exact=True)
        assert length.least_and_most(24_000, lambda n: n) == (24_000 - 32, 24_000 + 32)
        own = AudioLength(num_samples=24_000, sample_rate=24_000, channels=1, is_exact=True)
        assert own.least_and_most(24_000, lambda n: n) == (24_000, 24_000)


class TestLoudness:
    @pytest.mark.parametrize("decibels", [-20, 3, 20])
    def test_a_gain_is_told_and_not_taken_for_other_weights(
        self, decibels: int, speech: Corpus, tmp_path: Path
    ) -> None:
        codes = encoded(speech, lambda w: w * np.float32(10 ** (decibels / 20)))
        found = only_fault(audit_arrays(speech, tmp_path / "dump", codes))
        assert (found.kind, found.count) == (Kind.LOUDNESS, 5)
        low, high = (float(word) for word in found.text.split("(")[1].split(" dB")[0].split(" to "))
        assert decibels - 1 <= low <= high <= decibels + 1

    def test_audio_that_was_filtered_is_not_taken_for_other_weights(self, speech: Corpus, tmp_path: Path) -> None:
        codes = encoded(speech, lambda w: soxr.resample(soxr.resample(w[::-1], RATE, 2_000), 2_000, RATE)[::-1])
        assert only_fault(audit_arrays(speech, tmp_path / "dump", codes)).kind is Kind.OTHER_AUDIO


class TestBounds:
    def test_a_bandwidth_that_is_not_offered_is_refused_before_all_is_read(
        self, speech: Corpus, tmp_path: Path
    ) -> None:
        said = list[str]()
        with pytest.raises(ConfigError, match="bandwidth_kbps = 7 is not offered by demo"):
            audit_arrays(speech, tmp_path / "dump", speech.codes, bandwidth_kbps=7.0, say=said.append)
        assert not [line for line in said if "sampled=" in line]

    def test_a_dump_of_one_item_s_codes_compares_a_bounded_number(
        self, speech: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tokenizer_jobs.auditing.counting.LOOKED_AT", 2)
        result = audit_arrays(speech, tmp_path / "dump", dict.fromkeys(speech.ids, speech.codes["c00"]), sample=1)
        found = fault_of(result, Kind.DOUBLED_CODES)
        assert found.count == 2
        assert "2 more have the codes of another, and their audio was not compared" in found.text
