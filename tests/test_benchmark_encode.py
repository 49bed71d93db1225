"""The encode benchmark: what it encodes, how it compares codes, and which of a peer's ways counts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from benchmarks.encode_results import row
from benchmarks.encode_rows import Measurement, Setting, Task, in_batches, measure, num_differing, one_by_one
from benchmarks.recordings import load_recordings
from tests.encodec_core.models import fitted_model
from tests.fitted_models import synthetic_waveform

RATE = 8000


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _waveform(seconds: float, *, seed: int, num_channels: int = 1, rate: int = RATE) -> Tensor:
    return synthetic_waveform(round(seconds * rate), num_channels=num_channels, sampling_rate=rate, seed=seed)


def _downsample(batch: Tensor) -> list[Tensor]:
    """Stand for a codec of two windows a clip: every tenth sample of the first half of a batch, then of the second."""
    codes = (1000 * batch[..., ::10]).long()
    return list(torch.split(codes, codes.shape[-1] // 2, dim=-1))[:2]


def test_batches_give_each_clip_its_own_codes() -> None:
    clips = [_waveform(1.0, seed=seed) for seed in range(5)]
    assert num_differing(one_by_one(_downsample, clips), in_batches(_downsample, clips)) == 0


def test_clips_of_different_lengths_share_batches_with_their_neighbours_in_length() -> None:
    clips = [_waveform(seconds, seed=0) for seconds in (0.1, 0.8, 0.2, 0.4, 0.7)]
    shapes = []

    def encode(batch: Tensor) -> list[Tensor]:
        shapes.append(tuple(batch.shape))
        return [(1000 * batch[..., ::10]).long()]

    found = in_batches(encode, clips)

    assert shapes == [(4, 1, 6400), (1, 1, 800)]
    assert num_differing(one_by_one(encode, clips), found) == 0


def test_every_code_of_ours_that_is_another_is_counted() -> None:
    theirs = [[torch.arange(8).reshape(2, 4), torch.zeros(2, 3, dtype=torch.int64)]]
    ours = [[window.clone() for window in item] for item in theirs]
    ours[0][0][1, 2] += 1
    ours[0][1] = ours[0][1][:, :2] + 1
    assert num_differing(ours, theirs) == 1 + 4


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["causal_mono", "windows_stereo"])
def test_a_row_finds_the_codes_of_the_reference(name: str, tmp_path: Path) -> None:
    model = fitted_model(name)
    config = model.config
    model.save_pretrained(tmp_path / "model")
    waveform = _waveform(2.5, seed=3, num_channels=config.audio_channels, rate=config.sampling_rate)
    torch.save(waveform, tmp_path / "waveform.pt")
    setting = Setting(name="some", seconds=(1.5, 1.0), bandwidth_kbps=config.target_bandwidths[1], allocator="default")

    with torch.inference_mode():
        found = measure(
            Task(
                setting=setting,
                model=str(tmp_path / "model"),
                recordings=str(tmp_path / "waveform.pt"),
                repeats=2,
                limit_seconds=0,
            )
        )

    num_frames = sum(-(-round(seconds * config.sampling_rate) // config.hop_length) for seconds in setting.seconds)
    assert found.num_codes >= found.n_q * num_frames
    # A near tie may fall to the other side on another processor.
    assert found.num_differing["encodec, one by one"] <= found.num_codes // 1000
    assert len(found.milliseconds["ours"]) == 2


def test_a_peer_counts_with_its_better_way() -> None:
    setting = Setting(name="2 × 1 s", seconds=(1.0, 1.0), bandwidth_kbps=6.0, allocator="tuned")
    found = Measurement(
        n_q=8,
        milliseconds={
            "ours": [10.0, 20.0, 10.0],
            "encodec, one by one": [50.0, 80.0, 50.0],
            "encodec, batched": [29.0],
            "transformers, one by one": [60.0, 60.0, 60.0],
            "transformers, batched": [30.0, 50.0, 40.0],
        },
        num_codes=1200,
        num_differing={"encodec, one by one": 0, "encodec, batched": 7, "transformers, batched": 9},
        wait=1.5,
        neighbour_cores=0.25,
    )
    cells = [cell.strip() for cell in row(setting, found).split("|")[1:-1]]
    assert cells[5:9] == ["50.0", "~29.0", "60.0", "**40.0**"]
    assert cells[9:12] == ["**3.00** (2.50 to 4.00)", "0", "7, 9"]


def test_recordings_of_all_kinds_take_turns(tmp_path: Path) -> None:
    for kind, rate, num_channels in (("music", 16_000, 2), ("speech", RATE, 1)):
        for seed in range(3):
            path = tmp_path / kind / f"{seed}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, _waveform(1.0, seed=seed, num_channels=num_channels, rate=rate).T.numpy(), rate)

    found = load_recordings(tmp_path, seconds=4, sampling_rate=RATE, num_channels=2)

    assert found.waveform.shape == (2, 4 * RATE)
    assert found.about == "4 recordings one after the other (music 2 s, speech 2 s)"
    torch.testing.assert_close(found.waveform[0, RATE : 2 * RATE], _waveform(1.0, seed=0)[0], atol=1e-4, rtol=0)


def test_audio_made_by_code_says_so(tmp_path: Path) -> None:
    found = load_recordings(tmp_path / "nothing", seconds=12, sampling_rate=RATE, num_channels=1)
    assert found.waveform.shape == (1, 12 * RATE)
    assert "made by code" in found.about
