"""The codec inside the package: small, whole, and worth hearing on recordings that its training never saw."""

from pathlib import Path

import pytest
import soundfile
import torch

import encodec_core
from encodec_core import BatchEncoder, Codes, EncodecModel
from encodec_core.demo.make import write_demo
from encodec_core.resample import convert_blocks
from encodec_core.training import si_snr

FOLDER = Path(encodec_core.__file__).parent / "demo"
SHARED = Path(__file__).parents[3] / "shared" / "audio" / "speech"
HELD_OUT = ("2412-153948-0000.flac", "LJ049-0124_24K.wav", "LJ002-0035.wav")
"""Of the recordings that the card calls `speech`, longer than 1.5 s."""


def quality_db(waveforms: list[torch.Tensor]) -> dict[int, float]:
    """Mean SI-SNR by the number of codebooks."""
    model = EncodecModel.from_pretrained("demo")
    encoder = BatchEncoder(model, 6.0, "cpu")
    encoded = encoder.encode(waveforms)
    quality = {}
    for n_q in (2, 4, 8):
        decoded = encoder.decode([Codes(codes=item.codes[:n_q].contiguous()) for item in encoded])
        pairs = zip(waveforms, decoded, strict=True)
        quality[n_q] = float(torch.stack([si_snr(w[None], d[None, :, : w.shape[-1]])[0] for w, d in pairs]).mean())
    return quality


def test_its_file_is_small() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 8_000_000


@pytest.mark.parametrize(("bandwidth", "n_q"), [(1.5, 2), (3.0, 4), (6.0, 8)])
def test_it_encodes_and_decodes_at_every_bandwidth(bandwidth: float, n_q: int) -> None:
    model = EncodecModel.from_pretrained("demo")
    encoder = BatchEncoder(model, bandwidth, "cpu")
    codes = encoder.encode([torch.zeros(1, 1000)])
    assert codes[0].codes.shape == (n_q, 4)
    assert encoder.decode(codes)[0].shape == (1, 1280)


def test_it_is_written_as_it_is_read(tmp_path: Path) -> None:
    model = EncodecModel.from_pretrained("demo")
    write_demo(model, tmp_path)
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_it_follows_a_gliding_voice_made_by_code() -> None:
    """Measured: 5.7, 9.0 and 12.0 dB at 1.5, 3 and 6 kbps."""
    seconds = torch.arange(48_000, dtype=torch.float64) / 24_000
    phase = 2 * torch.pi * (140 * seconds + 15 * torch.sin(4 * seconds))
    voice = torch.stack([torch.sin(k * phase) / k for k in range(1, 9)]).sum(0) * torch.sin(9 * seconds).clamp(min=0)
    quality = quality_db([(0.3 * voice).float()[None]])
    assert quality[2] < quality[4] < quality[8]
    assert quality[8] > 5


@pytest.mark.skipif(not SHARED.exists(), reason=f"needs the recordings of {SHARED}")
def test_it_follows_speech_that_its_training_never_saw() -> None:
    waveforms = []
    for name in HELD_OUT:
        samples, rate = soundfile.read(SHARED / name, dtype="float32", always_2d=True)
        converted = convert_blocks(
            [samples], source_rate=rate, target_rate=24_000, source_channels=samples.shape[1], num_channels=1
        )
        waveforms.append(torch.from_numpy(converted))
    quality = quality_db(waveforms)
    assert quality[2] < quality[4] < quality[8]
    assert quality[8] > 5
