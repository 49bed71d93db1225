"""Same weights, same audio: the codes, latents, scales and audio of transformers' EncodecModel."""

from typing import Any

import pytest
import torch
from torch import Tensor

from encodec_core import EncodecConfig
from tests.encodec_core.models import (
    CONFIGS,
    LENGTHS,
    SMALL,
    fitted_model,
    in_transformers,
    transformers_model,
    waveforms,
)
from tests.fitted_models import make_fitted_model, synthetic_waveform

every_config = pytest.mark.parametrize("name", CONFIGS)


def assert_same_encoding(ours: Any, theirs: Any) -> None:
    assert torch.equal(ours.audio_codes, theirs.audio_codes)
    assert ours.last_frame_pad_length == theirs.last_frame_pad_length
    assert len(ours.audio_scales) == len(theirs.audio_scales)
    for mine, other in zip(ours.audio_scales, theirs.audio_scales, strict=True):
        assert (mine is None and other is None) or torch.equal(mine, other)


def stacks_in_transformers(config: EncodecConfig, num_samples: int) -> bool:
    """Tell whether at most the last of the windows is part-filled in frames; transformers cannot stack others."""
    if config.chunk_length is None or config.chunk_stride is None:
        return True
    windows = [min(config.chunk_length, num_samples - start) for start in range(0, num_samples, config.chunk_stride)]
    return len({-(-window // config.hop_length) for window in windows[:-1]}) <= 1


@every_config
@pytest.mark.parametrize("num_samples", LENGTHS)
def test_every_length_at_every_bandwidth(name: str, num_samples: int) -> None:
    ours, theirs = fitted_model(name), transformers_model(name)
    audio = waveforms(name, num_samples)
    assert stacks_in_transformers(ours.config, num_samples)
    # Length and bandwidth meet in the quantizer alone; for long audio the ends of the range are enough.
    bandwidths = ours.config.target_bandwidths
    for bandwidth in bandwidths if num_samples <= 24_001 else (bandwidths[0], bandwidths[-1]):
        mine, other = ours.encode(audio, bandwidth=bandwidth), theirs.encode(audio, bandwidth=bandwidth)
        assert_same_encoding(mine, other)
        decoded = ours.decode(**mine, padding_mask=audio)[0]
        torch.testing.assert_close(decoded, theirs.decode(**other, padding_mask=audio)[0], rtol=0, atol=1e-5)
        assert decoded.shape == audio.shape


@every_config
@pytest.mark.parametrize("num_samples", [1, 321, 700, 24001])
def test_latents(name: str, num_samples: int) -> None:
    audio = waveforms(name, num_samples, batch_size=2)
    latents = fitted_model(name).encoder(audio)
    torch.testing.assert_close(latents, transformers_model(name).encoder(audio), rtol=0, atol=1e-5)


@every_config
def test_the_codes_compared_use_their_codebooks(name: str) -> None:
    """Guards the other tests: codes of a codec that always chooses the same entries are equal whatever is wrong."""
    model = fitted_model(name)
    codes = model.encode(waveforms(name, 100_000), bandwidth=model.config.target_bandwidths[-1])[0]
    num_frames = codes.shape[0] * codes.shape[-1]
    for codebook in codes.unbind(2):
        assert codebook.unique().numel() > 0.2 * min(num_frames, model.config.codebook_size)


@every_config
@pytest.mark.parametrize("lengths", [(24000, 700, 1), (48000, 30000, 321), (2240, 2239, 2241)])
def test_batches_of_unequal_lengths_with_a_mask(name: str, lengths: tuple[int, ...]) -> None:
    ours, theirs = fitted_model(name), transformers_model(name)
    audio = waveforms(name, max(lengths), batch_size=len(lengths))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    for shaped in (mask, mask.int(), mask[:, None].expand_as(audio)):
        mine, other = ours.encode(audio, shaped), theirs.encode(audio, shaped)
        assert_same_encoding(mine, other)
        mine, other = ours(audio, shaped), theirs(audio, shaped)
        assert torch.equal(mine.audio_codes, other.audio_codes)
        torch.testing.assert_close(mine.audio_values, other.audio_values, rtol=0, atol=1e-5)


def test_config_without_published_values() -> None:
    """Odd strides, a stride of 1, several residual layers, half right trim, zero padding: no default is hard-wired."""
    config = EncodecConfig(
        **SMALL,
        upsampling_ratios=(5, 3, 1),
        num_residual_layers=3,
        dilation_growth_rate=3,
        residual_kernel_size=5,
        kernel_size=5,
        last_kernel_size=3,
        num_lstm_layers=1,
        trim_right_ratio=0.5,
        compress=4,
        pad_mode="constant",
        codebook_size=64,
        sampling_rate=3000,
        target_bandwidths=(1.2, 4.8),
    )
    ours = make_fitted_model(config, seed=1).requires_grad_(False)
    theirs = in_transformers(ours)
    for num_samples in (1, 14, 15, 16, 3001):
        audio = synthetic_waveform(num_samples, num_channels=1, sampling_rate=3000, seed=num_samples)[None]
        mine, other = ours.encode(audio, bandwidth=4.8), theirs.encode(audio, bandwidth=4.8)
        assert_same_encoding(mine, other)
        torch.testing.assert_close(ours.decode(**mine)[0], theirs.decode(**other)[0], rtol=0, atol=1e-5)


@every_config
def test_decoding_fewer_codebooks(name: str) -> None:
    ours, theirs = fitted_model(name), transformers_model(name)
    encoded = ours.encode(waveforms(name, 24000), bandwidth=ours.config.target_bandwidths[-1])
    codes = encoded.audio_codes[:, :, :1]
    mine = ours.decode(codes, encoded.audio_scales, last_frame_pad_length=encoded.last_frame_pad_length)[0]
    other = theirs.decode(codes, encoded.audio_scales, last_frame_pad_length=encoded.last_frame_pad_length)[0]
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)


@every_config
def test_decoding_codes_in_forward(name: str) -> None:
    ours, theirs = fitted_model(name), transformers_model(name)
    audio = waveforms(name, 30000)
    codes, scales, pad_length = ours.encode(audio, return_dict=False)
    arguments: dict[str, Any] = {"audio_codes": codes, "audio_scales": scales, "last_frame_pad_length": pad_length}
    mine, other = ours(audio, **arguments, return_dict=False), theirs(audio, **arguments, return_dict=False)
    assert isinstance(mine, tuple)
    assert torch.equal(mine[0], other[0])
    torch.testing.assert_close(mine[1], other[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "preset", [EncodecConfig.encodec_24khz, EncodecConfig.encodec_48khz, EncodecConfig.musicgen_32khz]
)
def test_full_width(preset: Any) -> None:
    """Published widths: kernels of another size may add up in another order, and the reference's order must be ours."""
    config = preset()
    clip = synthetic_waveform(
        config.sampling_rate, num_channels=config.audio_channels, sampling_rate=config.sampling_rate, seed=3
    )
    ours = make_fitted_model(config, seed=0, waveforms=[clip]).requires_grad_(False)
    theirs = in_transformers(ours)
    for num_samples in (321, 20_000):
        audio: Tensor = clip[None, :, -num_samples:]
        bandwidth = config.target_bandwidths[-1]
        mine, other = ours.encode(audio, bandwidth=bandwidth), theirs.encode(audio, bandwidth=bandwidth)
        assert_same_encoding(mine, other)
        torch.testing.assert_close(ours.decode(**mine)[0], theirs.decode(**other)[0], rtol=0, atol=1e-5)
