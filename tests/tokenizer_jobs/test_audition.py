"""Rows back to audio, block by block."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from encodec_core import EncodecModel
from tests.encodec_core.models import fitted_model, waveforms
from tests.tokenizer_jobs.factories import FACTS, RECIPE, finish_unit, make_row, plan_output
from tokenizer_jobs import audition, encoding
from tokenizer_jobs.audition import decode_to_wav
from tokenizer_jobs.catalog import publish_snapshot
from tokenizer_jobs.config import CodecRecipe
from tokenizer_jobs.encoding import EncodecCodec, decode_in_blocks, encodec
from tokenizer_jobs.encoding.encodec import BLOCK_FRAMES
from tokenizer_jobs.storage import Storage

NUM_FRAMES = 2 * BLOCK_FRAMES + 100


@pytest.fixture
def long_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """An output with one row "a" of several blocks, made by a reduced codec."""
    _load_instead(monkeypatch, fitted_model("causal_mono"))
    monkeypatch.setattr(encoding, "describe_codec", lambda recipe: FACTS)
    storage = Storage.open(tmp_path / "out")
    (unit,) = plan_output(storage, [["a"]])
    finish_unit(storage, unit, num_frames=NUM_FRAMES)
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    return storage


def _load_instead(monkeypatch: pytest.MonkeyPatch, model: EncodecModel) -> None:
    monkeypatch.setattr(encodec, "_load_model", lambda recipe: model)


def test_a_row_of_several_blocks_is_what_the_codec_decodes(long_row: Storage, tmp_path: Path) -> None:
    written = decode_to_wav(long_row.url, row_id="a", destination=tmp_path / "a.wav")
    found, rate = soundfile.read(tmp_path / "a.wav", dtype="float32", always_2d=True)
    codes = torch.from_numpy(make_row("a", num_frames=NUM_FRAMES).encoded.codes.astype(np.int64))
    expected = fitted_model("causal_mono").decode_window(codes[None], None)[0]
    assert (rate, written.num_samples, written.channels) == (24_000, len(found), 1)
    assert len(found) == NUM_FRAMES * 320 - 5
    np.testing.assert_allclose(found.T, expected[:, : len(found)], rtol=0, atol=1e-6)


def test_what_was_there_stays_until_all_is_written(
    long_row: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Iterator[np.ndarray]:
        yield np.zeros((1, 1000), np.float32)
        raise MemoryError

    folder = tmp_path / "wavs"
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"before")
    with monkeypatch.context() as patched:
        patched.setattr(encoding, "decode_in_blocks", broken)
        with pytest.raises(MemoryError):
            decode_to_wav(long_row.url, row_id="a", destination=folder / "a.wav")
    assert [path.name for path in folder.iterdir()] == ["a.wav"]
    assert (folder / "a.wav").read_bytes() == b"before"
    decode_to_wav(long_row.url, row_id="a", destination=folder / "a.wav")
    assert [path.name for path in folder.iterdir()] == ["a.wav"]
    assert soundfile.info(folder / "a.wav").frames == NUM_FRAMES * 320 - 5


@pytest.mark.parametrize(
    ("hours", "sample_rate", "channels", "expected"),
    [(12.4, 24_000, 1, "WAV"), (12.5, 24_000, 1, "RF64"), (3.1, 48_000, 2, "WAV"), (3.2, 48_000, 2, "RF64")],
)
def test_what_wav_cannot_hold_is_rf64(hours: float, sample_rate: int, channels: int, expected: str) -> None:
    assert audition._container(num_samples=round(hours * 3600 * sample_rate), channels=channels) == expected


def test_the_samples_of_either_kind_are_the_same(
    long_row: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_to_wav(long_row.url, row_id="a", destination=tmp_path / "wav.wav")
    monkeypatch.setattr(audition, "LARGEST_WAV_BYTES", 1000)
    decode_to_wav(long_row.url, row_id="a", destination=tmp_path / "rf64.wav")
    kinds = [soundfile.info(tmp_path / name).format for name in ("wav.wav", "rf64.wav")]
    assert kinds == ["WAV", "RF64"]
    wav, rf64 = (soundfile.read(tmp_path / name, dtype="float32")[0] for name in ("wav.wav", "rf64.wav"))
    np.testing.assert_array_equal(wav, rf64)


def test_a_link_is_followed(long_row: Storage, tmp_path: Path) -> None:
    (tmp_path / "link.wav").symlink_to(tmp_path / "target.wav")
    decode_to_wav(long_row.url, row_id="a", destination=tmp_path / "link.wav")
    assert (tmp_path / "link.wav").is_symlink()
    assert soundfile.info(tmp_path / "target.wav").frames == NUM_FRAMES * 320 - 5


def test_a_device_is_written_to_and_not_replaced(long_row: Storage, tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        device.write_bytes(b"")
    except OSError as error:
        pytest.skip(f"needs root, and a file system that allows device files: {error}")
    decode_to_wav(long_row.url, row_id="a", destination=device)
    assert device.is_char_device()


@pytest.mark.parametrize(
    ("name", "bandwidth_kbps", "num_samples", "block_samples"),
    [
        ("causal_mono", 6.0, 20 * 24_000 + 1, (BLOCK_FRAMES + 7) * 320),
        ("causal_mono", 6.0, 100, 320),
        ("windows_stereo", 6.0, 150_000, 48_000),
        ("windows_stereo", 6.0, 47_521, 48_000),
        ("musicgen", 1.6, 40_001, 40_001),
    ],
)
def test_blocks_are_what_the_codec_decodes(
    name: str, bandwidth_kbps: float, num_samples: int, block_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, recipe = fitted_model(name), CodecRecipe(model=name, bandwidth_kbps=bandwidth_kbps)
    _load_instead(monkeypatch, model)
    codec = EncodecCodec(model, recipe=recipe, device="cpu")
    (encoded,) = codec.encode([waveforms(name, num_samples)[0].numpy()])
    blocks = list(decode_in_blocks(recipe, encoded, num_samples=num_samples, device="cpu"))
    (expected,) = codec.decode([encoded], num_samples=[num_samples])
    assert max(block.shape[-1] for block in blocks) <= block_samples
    np.testing.assert_allclose(np.concatenate(blocks, -1), expected, rtol=0, atol=1e-6)
