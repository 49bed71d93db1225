"""The usage example of transformers' EnCodec page, on local files."""

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from encodec_core import EncodecFeatureExtractor, EncodecModel
from tests.encodec_core.models import fitted_model, transformers_from_pretrained
from tests.fitted_models import synthetic_waveform

SPEECH = Path(__file__).parents[3] / "shared" / "audio" / "speech"


def read_recording(path: Path) -> tuple[NDArray[np.float32], int]:
    """Read a mono 16-bit WAV file; the rate is the file's."""
    with wave.open(str(path)) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").reshape(-1, file.getnchannels())
        return (pcm.mean(1) / 32_768).astype(np.float32), file.getframerate()


def run_example(folder: Path, audio_sample: NDArray[np.float32]) -> Any:
    processor = EncodecFeatureExtractor.from_pretrained(folder)
    inputs = processor(raw_audio=audio_sample, sampling_rate=processor.sampling_rate, return_tensors="pt")
    model = EncodecModel.from_pretrained(folder, dtype="auto")
    encoder_outputs = model.encode(inputs["input_values"], inputs["padding_mask"])
    audio_values = model.decode(**encoder_outputs, padding_mask=inputs["padding_mask"])[0]
    again = model(inputs["input_values"], inputs["padding_mask"]).audio_values
    assert torch.equal(audio_values, again)
    assert audio_values.shape == inputs["input_values"].shape
    return encoder_outputs.audio_codes, audio_values


def run_example_in_transformers(folder: Path, audio_sample: NDArray[np.float32]) -> Any:
    processor = transformers.AutoProcessor.from_pretrained(folder)
    inputs = processor(raw_audio=audio_sample, sampling_rate=processor.sampling_rate, return_tensors="pt")
    model = transformers_from_pretrained(folder, dtype="auto")
    outputs = model(inputs["input_values"], inputs["padding_mask"])
    return outputs.audio_codes, outputs.audio_values


@pytest.mark.parametrize("name", ["causal_mono", "windows_stereo", "musicgen"])
def test_the_example_gives_what_transformers_gives(name: str, tmp_path: Path) -> None:
    model = fitted_model(name)
    model.save_pretrained(tmp_path)
    config = model.config
    audio = synthetic_waveform(70_001, num_channels=config.audio_channels, sampling_rate=config.sampling_rate, seed=1)
    sample = audio.squeeze(0).numpy()
    codes, audio_values = run_example(tmp_path, sample)
    their_codes, their_values = run_example_in_transformers(tmp_path, sample)
    assert torch.equal(codes, their_codes)
    torch.testing.assert_close(audio_values, their_values, rtol=0, atol=1e-5)


@pytest.mark.skipif(not SPEECH.is_dir(), reason=f"real recordings are not there: {SPEECH}")
def test_the_example_on_a_real_recording(tmp_path: Path) -> None:
    recordings = {path: read_recording(path) for path in sorted(SPEECH.glob("*.wav"))}
    samples = [audio for audio, rate in recordings.values() if rate == 24_000]
    assert samples, "no recording has the codec's rate"
    fitted_model("causal_mono").save_pretrained(tmp_path)
    codes, _ = run_example(tmp_path, samples[0])
    their_codes, _ = run_example_in_transformers(tmp_path, samples[0])
    assert torch.equal(codes, their_codes)
    assert codes.shape[-1] == -(-len(samples[0]) // 320)
