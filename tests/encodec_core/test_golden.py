"""What transformers' tests expect of the released checkpoints, for one recording of LibriSpeech.

The expectations and the recording lie beside the project; without them these tests skip. The checkpoints are named by
environment variables; without them the tests that need one skip and say how to run them.
"""

import json
import os
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from encodec_core import EncodecConfig, EncodecFeatureExtractor, EncodecModel
from tests.encodec_core.models import fitted_model, transformers_model
from tests.fitted_models import synthetic_waveform

SHARED = Path(__file__).parents[3] / "shared" / "golden_tokens" / "hf"
RECORDING = SHARED / "1272-128104-0000.wav"
with_recording = pytest.mark.skipif(not RECORDING.is_file(), reason=f"the recording is not there: {RECORDING}")

TOLERANCE = 1e-4
"""Of codec errors and samples: transformers' own, which prints them with four digits."""
SCALE_TOLERANCE = 1e-6
"""Relative. Expected scales have seven digits; found within 1.4e-7 of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A checkpoint that Meta published, and where to get it."""

    variable: str
    """Environment variable with the path of a local copy."""
    hub_id: str
    th_file: str
    th_sha256: str
    """Of the `.th` file, or the first digits of it: those in its name."""

    @property
    def how_to_run(self) -> str:
        return (
            f"{self.variable} is not set. Get https://dl.fbaipublicfiles.com/encodec/v0/{self.th_file} (sha256 "
            f"{self.th_sha256}), or the folder https://huggingface.co/{self.hub_id} with config.json and "
            f"model.safetensors, and run: {self.variable}=PATH python -m pytest tests/encodec_core/test_golden.py"
        )


RELEASES = {
    "encodec_24khz": Release(
        variable="ENCODEC_24KHZ",
        hub_id="facebook/encodec_24khz",
        th_file="encodec_24khz-d7cc33bc.th",
        th_sha256="d7cc33bcf1aad7f2dad9836f36431530744abeace3ca033005e3290ed4fa47bf",
    ),
    "encodec_48khz": Release(
        variable="ENCODEC_48KHZ",
        hub_id="facebook/encodec_48khz",
        th_file="encodec_48khz-7e698e3e.th",
        th_sha256="7e698e3e",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a codec makes of one recording. Letters: K codebooks of the highest bandwidth, T first frames."""

    codes: NDArray[np.int64]
    """`[K, T]`; a lower bandwidth gives the first rows."""
    codec_errors: dict[float, float]
    """By bandwidth in kbps, see `codec_error`."""
    samples: dict[float, list[float]] = field(default_factory=dict)
    """First decoded samples of the first channel, by bandwidth in kbps."""
    scales: list[float] | None = None
    """Of all windows; None for a codec without."""

    @classmethod
    def read(cls, path: Path, name: str) -> "Expected":
        section = json.loads(path.read_text(encoding="utf-8"))["test_integration"][name]
        (codes,) = (value for key, value in section.items() if key.startswith("codes_first"))
        scales = [value for key, value in section.items() if key.startswith("scales_")]
        samples = section.get("decoder_out_first10", {})
        return cls(
            codes=np.array(codes),
            codec_errors={float(bandwidth): error for bandwidth, error in section["codec_error"].items()},
            samples={float(bandwidth): values for bandwidth, values in samples.items()},
            scales=scales[0] if scales else None,
        )


def read_resampled(path: Path, *, sampling_rate: int) -> NDArray[np.float32]:
    """Read a mono 16-bit WAV file as `datasets` does: torchcodec resamples with FFmpeg's libswresample.

    The scales tell: with it they are the expected ones to 1.4e-7 (relative), with soxr to 7e-4 only.
    """
    av = pytest.importorskip("av", reason="PyAV is missing, which resamples as datasets does: pip install av")
    with wave.open(str(path)) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        frame = av.AudioFrame.from_ndarray(pcm[None].copy(), format="s16", layout="mono")
        frame.sample_rate = file.getframerate()
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=sampling_rate)
    pieces = [piece.to_ndarray()[0] for piece in (*resampler.resample(frame), *resampler.resample(None))]
    return np.concatenate(pieces)


def features_of(config: EncodecConfig, mono: NDArray[np.float32]) -> Any:
    extractor = EncodecFeatureExtractor(
        feature_size=config.audio_channels,
        sampling_rate=config.sampling_rate,
        chunk_length_s=config.chunk_length_s,
        overlap=config.overlap,
    )
    audio = mono if config.audio_channels == 1 else np.stack([mono] * config.audio_channels)
    return extractor(audio, sampling_rate=config.sampling_rate, return_tensors="pt")


def codec_error(decoded: Tensor, original: Tensor) -> float:
    """Return the root mean square difference of the two as unit vectors."""
    length = min(decoded.shape[-1], original.shape[-1])
    decoded, original = decoded[..., :length].double(), original[..., :length].double()
    return float((decoded / decoded.norm() - original / original.norm()).pow(2).mean().sqrt())


@torch.no_grad()
def disagreements(model: EncodecModel, mono: NDArray[np.float32], expected: Expected) -> Iterator[str]:
    """Yield what differs from `expected`, with the value found.

    Args:
        model: the codec.
        mono: `[n]` at its rate; given to every channel.
        expected: at any of its bandwidths.
    """
    features = features_of(model.config, mono)
    for bandwidth, error in expected.codec_errors.items():
        encoded = model.encode(**features, bandwidth=bandwidth)
        wanted = expected.codes[: model.config.n_q_for(bandwidth)]
        codes = encoded.audio_codes[0, 0, :, : wanted.shape[1]].numpy()
        if codes.shape != wanted.shape or (codes != wanted).any():
            yield f"codes at {bandwidth:g} kbps: {codes.tolist()}, expected {wanted.tolist()}"
        scales = [float(scale) for scale in encoded.audio_scales if scale is not None]
        if scales != pytest.approx(expected.scales or [], rel=SCALE_TOLERANCE, abs=0):
            yield f"scales at {bandwidth:g} kbps: {scales}, expected {expected.scales}"
        decoded = model.decode(**encoded, padding_mask=features.padding_mask).audio_values
        found = codec_error(decoded, features.input_values)
        if abs(found - error) > TOLERANCE:
            yield f"codec error at {bandwidth:g} kbps: {found:.6f}, expected {error:.6f}"
        first = expected.samples.get(bandwidth, [])
        samples = decoded[0, 0, : len(first)].tolist()
        if samples != pytest.approx(first, rel=0, abs=TOLERANCE):
            yield f"samples at {bandwidth:g} kbps: {samples}, expected {first}"


@with_recording
@pytest.mark.parametrize("name", RELEASES)
def test_the_released_checkpoint_gives_what_transformers_tests_expect(name: str) -> None:
    release = RELEASES[name]
    if release.variable not in os.environ:
        pytest.skip(release.how_to_run)
    model = EncodecModel.from_pretrained(os.environ[release.variable])
    assert model.provenance is not None
    for file, sha256 in model.provenance.files:
        assert not file.endswith(".th") or sha256.startswith(release.th_sha256), f"{file} is damaged, or another"
    mono = read_resampled(RECORDING, sampling_rate=model.config.sampling_rate)
    assert list(disagreements(model, mono, Expected.read(SHARED / "expected.json", name))) == []


@with_recording
def test_scales_are_those_of_the_released_48_khz_codec() -> None:
    """They come from audio and windows alone, so that any weights give them; the seventh window is all padding."""
    model = fitted_model("windows_stereo")
    features = features_of(model.config, read_resampled(RECORDING, sampling_rate=48_000))
    scales = torch.cat([scale for scale in model.encode(**features).audio_scales if scale is not None])
    expected = Expected.read(SHARED / "expected.json", "encodec_48khz").scales
    assert scales.flatten().tolist() == pytest.approx(expected, rel=SCALE_TOLERANCE, abs=0)


class TestComparison:
    """The comparison itself, on expectations that transformers makes of small codecs with random weights."""

    names = ("causal_mono", "windows_stereo")

    def audio(self, name: str) -> NDArray[np.float32]:
        rate = fitted_model(name).config.sampling_rate
        return synthetic_waveform(100_000, num_channels=1, sampling_rate=rate, seed=5)[0].numpy()

    def section(self, name: str) -> dict[str, Any]:
        """Make what expected.json holds for a codec."""
        model, features = transformers_model(name), features_of(fitted_model(name).config, self.audio(name))
        bandwidths = model.config.target_bandwidths
        outputs = {bandwidth: model(**features, bandwidth=bandwidth) for bandwidth in bandwidths}
        section: dict[str, Any] = {
            "codes_first10": outputs[bandwidths[-1]].audio_codes[0, 0, :, :10].tolist(),
            "codec_error": {
                str(bandwidth): codec_error(output.audio_values, features.input_values)
                for bandwidth, output in outputs.items()
            },
            "decoder_out_first10": {
                str(bandwidth): output.audio_values[0, 0, :10].tolist() for bandwidth, output in outputs.items()
            },
        }
        if model.config.normalize:
            scales = model.encode(**features).audio_scales
            section["scales_all"] = torch.cat(scales).flatten().tolist()
        return section

    def found(self, name: str, section: dict[str, Any], folder: Path, *, model: EncodecModel) -> list[str]:
        path = folder / "expected.json"
        path.write_text(json.dumps({"test_integration": {name: section}}), encoding="utf-8")
        return list(disagreements(model, self.audio(name), Expected.read(path, name)))

    @pytest.mark.parametrize("name", names)
    def test_the_same_weights_agree(self, name: str, tmp_path: Path) -> None:
        assert self.found(name, self.section(name), tmp_path, model=fitted_model(name)) == []

    @pytest.mark.parametrize("name", names)
    def test_other_weights_disagree_in_the_codes_of_every_bandwidth(self, name: str, tmp_path: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            other = EncodecModel(fitted_model(name).config).eval()
        found = self.found(name, self.section(name), tmp_path, model=other)
        for bandwidth in other.config.target_bandwidths:
            assert any(line.startswith(f"codes at {bandwidth:g} kbps") for line in found)

    def test_one_other_code_is_noticed_at_the_bandwidths_that_have_it(self, tmp_path: Path) -> None:
        section = self.section("causal_mono")
        section["codes_first10"][3][9] += 1
        found = self.found("causal_mono", section, tmp_path, model=fitted_model("causal_mono"))
        assert [line.split(":")[0] for line in found] == [f"codes at {kbps} kbps" for kbps in (3, 6, 12, 24)]

    @pytest.mark.parametrize(
        "change", [lambda scales: scales[:-1], lambda scales: [*scales[:-1], 1.00001 * scales[-1]]]
    )
    def test_another_scale_is_noticed(self, change: Any, tmp_path: Path) -> None:
        section = self.section("windows_stereo")
        section["scales_all"] = change(section["scales_all"])
        found = self.found("windows_stereo", section, tmp_path, model=fitted_model("windows_stereo"))
        assert [line.split(":")[0] for line in found] == [f"scales at {kbps} kbps" for kbps in (3, 6, 12, 24)]

    def test_another_codec_error_and_another_sample_are_noticed(self, tmp_path: Path) -> None:
        section = self.section("causal_mono")
        section["codec_error"]["1.5"] += 2 * TOLERANCE
        section["decoder_out_first10"]["6.0"][4] -= 2 * TOLERANCE
        found = self.found("causal_mono", section, tmp_path, model=fitted_model("causal_mono"))
        assert [line.split(":")[0] for line in found] == ["codec error at 1.5 kbps", "samples at 6 kbps"]
