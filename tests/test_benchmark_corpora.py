"""The corpora of the job benchmark, from a folder of recordings made here."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.corpora import CORPORA, Corpus, build_corpus
from tests.fitted_models import synthetic_waveform
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.records import DecodedItem
from tokenizer_jobs.source_config import FilesSource
from tokenizer_jobs.sources import make_source

SCALE = 0.002
"""Of every corpus; files are 10 s clips, podcasts of 7 s, songs of 1 s."""
RECORDINGS = {
    "speech/a.wav": (16_000, 1, 1.5),
    "speech/b.flac": (24_000, 1, 2.25),
    "music/c.wav": (44_100, 2, 1.0),
    "music/d.wav": (48_000, 1, 0.75),
    "noise/e.wav": (8_000, 1, 0.1),
}
"""Rate, channels and seconds, by path."""


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    lines = ["path\tseconds"]
    for seed, (name, (rate, channels, seconds)) in enumerate(RECORDINGS.items()):
        (folder / name).parent.mkdir(exist_ok=True)
        waveform = synthetic_waveform(round(seconds * rate), num_channels=channels, sampling_rate=rate, seed=seed)
        soundfile.write(folder / name, 0.1 * waveform.T.numpy(), rate)
        lines.append(f"{name}\t{seconds}")
    (folder / "MANIFEST.tsv").write_text("\n".join(lines) + "\n")
    return folder


def _decoded(corpus: Corpus) -> dict[str, DecodedItem]:
    source = make_source(FilesSource(paths=(str(corpus.folder),)))
    items = source.list().items
    target = AudioTarget(sample_rate=24_000, channels=1)
    decoded = list(decode_items(list(enumerate(items)), source=source, target=target))
    assert all(isinstance(item, DecodedItem) for item in decoded)
    return {item.id: found for item, found in zip(items, decoded, strict=True) if isinstance(found, DecodedItem)}


@pytest.mark.parametrize("name", CORPORA)
def test_files_decode_to_the_stated_lengths(name: str, audio: Path, tmp_path: Path) -> None:
    corpus = build_corpus(name, audio=audio, cache=tmp_path, scale=SCALE)
    seconds = [item.facts.duration_seconds for item in _decoded(corpus).values()]
    assert len(seconds) == corpus.num_files
    assert sum(seconds) == pytest.approx(corpus.audio_seconds, abs=1e-4 * len(seconds))
    if name != "tiny":
        assert seconds == pytest.approx([corpus.audio_seconds / corpus.num_files] * len(seconds), abs=1e-4)


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_made_twice_has_the_same_samples(name: str, audio: Path, tmp_path: Path) -> None:
    first, second = (
        _decoded(build_corpus(name, audio=audio, cache=tmp_path / cache, scale=SCALE)) for cache in ("1", "2")
    )
    assert first.keys() == second.keys()
    for key, item in first.items():
        np.testing.assert_array_equal(item.waveform, second[key].waveform)


def test_recordings_are_brought_to_one_level(audio: Path, tmp_path: Path) -> None:
    for item in _decoded(build_corpus("podcasts", audio=audio, cache=tmp_path, scale=SCALE)).values():
        assert -26 < item.facts.rms_db < -19  # the recordings are at -42 dB


def test_a_corpus_that_was_not_finished_is_made_again(audio: Path, tmp_path: Path) -> None:
    corpus = build_corpus("songs", audio=audio, cache=tmp_path, scale=SCALE)
    (tmp_path / f"{corpus.folder.name}.json").unlink()
    victim = next(corpus.folder.iterdir())
    victim.write_bytes(b"half a file")
    build_corpus("songs", audio=audio, cache=tmp_path, scale=SCALE)
    assert len(_decoded(corpus)) == corpus.num_files


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"MANIFEST\.tsv does not exist; give --audio a folder"):
        build_corpus("clips", audio=tmp_path, cache=tmp_path / "cache", scale=1.0)
