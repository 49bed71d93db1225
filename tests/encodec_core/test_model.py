"""Laws of the model that need no reference, and bad arguments."""

import copy
import pickle
from dataclasses import fields
from typing import Any

import pytest
import torch
import transformers

from encodec_core import EncodecConfig, EncodecModel, outputs
from tests.encodec_core.models import CONFIGS, SMALL, fitted_model, transformers_model, waveforms

every_config = pytest.mark.parametrize("name", CONFIGS)
AUDIO = torch.zeros(1, 1, 640)


@every_config
def test_codes_of_a_lower_bandwidth_are_a_prefix(name: str) -> None:
    model = fitted_model(name)
    audio = waveforms(name, 9_000)
    highest = model.encode(audio, bandwidth=model.config.target_bandwidths[-1])[0]
    for bandwidth in model.config.target_bandwidths:
        codes = model.encode(audio, bandwidth=bandwidth)[0]
        assert torch.equal(codes, highest[:, :, : model.config.n_q_for(bandwidth)])


@pytest.mark.parametrize("name", ["causal_mono", "causal_stereo"])
def test_no_frame_depends_on_later_audio(name: str) -> None:
    """7 frames and more: below that the last convolution reflects frames that are not past."""
    model = fitted_model(name)
    audio = waveforms(name, 320 * 20)
    changed = audio.clone()
    changed[..., 320 * 12 :] *= -0.5
    latents, other = model.encoder(audio), model.encoder(changed)
    assert torch.equal(latents[..., :12], other[..., :12])
    assert not torch.equal(latents[..., 12:], other[..., 12:])


def test_float64_models_compute_in_float64() -> None:
    with torch.random.fork_rng(devices=[]):
        model = EncodecModel(CONFIGS["windows_stereo"])
    model.load_state_dict(fitted_model("windows_stereo").state_dict())
    model.double().requires_grad_(False)
    audio = waveforms("windows_stereo", 5_000)
    encoded = model.encode(audio.double())
    scale = encoded.audio_scales[0]
    assert scale is not None
    assert scale.dtype == torch.float64
    assert model.decode(**encoded)[0].dtype == torch.float64
    torch.testing.assert_close(
        model.encoder(audio.double()).float(), fitted_model("windows_stereo").encoder(audio), rtol=0, atol=1e-4
    )


def test_half_precision_models_choose_the_entry_that_float32_distances_choose() -> None:
    quantizer = fitted_model("causal_mono").quantizer
    latents = fitted_model("causal_mono").encoder(waveforms("causal_mono", 24_000)).bfloat16()
    assert torch.equal(quantizer.quantize(latents, n_q=8), quantizer.quantize(latents.float(), n_q=8))


@every_config
def test_outputs_are_records_mappings_and_tuples(name: str) -> None:
    model, theirs = fitted_model(name), transformers_model(name)
    audio = waveforms(name, 3_000)
    encoded, expected = model.encode(audio), theirs.encode(audio)
    assert list(encoded) == list(expected) == list(encoded.keys())
    assert len(encoded.to_tuple()) == len(expected.to_tuple()) == len(encoded)
    assert encoded["audio_codes"] is encoded.audio_codes is encoded[0]
    assert len(encoded[:2]) == 2
    assert isinstance(model.encode(audio, return_dict=False), tuple)
    decoded = model.decode(**encoded, padding_mask=torch.ones(1, 3_000))
    assert list(decoded) == ["audio_values"]
    assert decoded[0].shape == audio.shape
    assert isinstance(model.decode(**encoded, return_dict=False), tuple)
    assert list(model(audio)) == list(theirs(audio)) == ["audio_codes", "audio_values"]


def test_outputs_are_dicts_that_keep_one_value_under_both_names() -> None:
    output = fitted_model("causal_mono").encode(AUDIO)
    assert isinstance(output, dict)
    assert isinstance(transformers_model("causal_mono").encode(AUDIO), dict)
    output.audio_codes = output.audio_codes + 1
    assert torch.equal(output["audio_codes"], output.audio_codes)
    output["last_frame_pad_length"] = 7
    assert output.last_frame_pad_length == output[2] == 7
    for again in (pickle.loads(pickle.dumps(output)), copy.deepcopy(output)):
        assert type(again) is type(output)
        assert torch.equal(again.audio_codes, output.audio_codes)
        assert again.to_tuple()[1:] == ([None], 7)
    with pytest.raises(AttributeError, match="audio_codes, audio_scales"):
        _ = output.audio_values


@pytest.mark.parametrize("kind", ["EncodecOutput", "EncodecEncoderOutput", "EncodecDecoderOutput"])
def test_fields_that_are_not_given_are_none_and_no_keys_as_in_transformers(kind: str) -> None:
    ours, theirs = getattr(outputs, kind), getattr(transformers.models.encodec.modeling_encodec, kind)
    names = [field.name for field in fields(ours)]
    assert names == [field.name for field in fields(theirs)]
    for given in ({}, {names[0]: AUDIO}, {names[-1]: AUDIO}, dict.fromkeys(names)):
        mine, other = ours(**given), theirs(**given)
        assert list(mine) == list(other)
        assert len(mine.to_tuple()) == len(other.to_tuple())
        assert [getattr(mine, name) is None for name in names] == [getattr(other, name) is None for name in names]


def test_fields_set_later_stand_in_their_order() -> None:
    output = outputs.EncodecOutput(audio_values=AUDIO)
    output.audio_codes = CODES
    assert list(output) == ["audio_codes", "audio_values"]
    assert output[0] is CODES
    output.audio_codes = None  # type: ignore[assignment]
    assert list(output) == ["audio_values"]
    assert output.audio_codes is None


def test_what_a_model_says_of_itself_is_what_transformers_says() -> None:
    ours, theirs = fitted_model("causal_mono"), transformers_model("causal_mono")
    assert ours.num_parameters() == theirs.num_parameters()
    assert ours.num_parameters(only_trainable=True) == 0
    assert ours.main_input_name == theirs.main_input_name
    assert ours.base_model_prefix == theirs.base_model_prefix
    assert ours.config_class is EncodecConfig


@every_config
def test_an_untrained_codec_decodes_as_one_whose_entries_are_zero_and_yet_its_codes_vary(name: str) -> None:
    """Zero is where transformers' codebooks start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EncodecModel(CONFIGS[name]).eval().requires_grad_(False)
    audio = waveforms(name, 24_000)
    codes, audible = model(audio, return_dict=False)
    assert len(codes.unique()) > 1
    for codebook in model.quantizer.codebooks:
        codebook.embed.zero_()
    torch.testing.assert_close(audible, model(audio).audio_values, rtol=0, atol=0.01)


def test_the_config_decides_where_return_dict_is_none() -> None:
    with torch.random.fork_rng(devices=[]):
        model = EncodecModel(EncodecConfig.encodec_24khz(**SMALL, return_dict=False))
    assert isinstance(model.encode(torch.zeros(1, 1, 10)), tuple)
    assert not isinstance(model.encode(torch.zeros(1, 1, 10), return_dict=True), tuple)


CODES = torch.zeros(1, 1, 2, 2, dtype=torch.int64)
BAD_CALLS: dict[str, Any] = {
    "bandwidth not offered": lambda model: model.encode(AUDIO, bandwidth=5.0),
    "no batch dimension": lambda model: model.encode(AUDIO[0]),
    "three channels": lambda model: model.encode(torch.zeros(1, 3, 640)),
    "stereo for mono": lambda model: model.encode(torch.zeros(1, 2, 640)),
    "no samples": lambda model: model.encode(AUDIO[..., :0]),
    "mask of another length": lambda model: model.encode(AUDIO, torch.ones(1, 100)),
    "two windows": lambda model: model.decode(CODES.expand(2, -1, -1, -1), [None, None]),
    "scales are None": lambda model: model.decode(CODES, None),
    "codes without scales": lambda model: model(AUDIO, audio_codes=CODES),
    "scales without codes": lambda model: model(AUDIO, audio_scales=[None]),
    "code above the codebook": lambda model: model.decode(CODES + 1024, [None]),
}


@pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_arguments_are_refused_as_by_transformers(call: Any) -> None:
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(transformers_model("causal_mono"))
    with pytest.raises(type(theirs.value)) as ours:
        call(fitted_model("causal_mono"))
    assert type(ours.value) is type(theirs.value)


def test_messages_name_the_value_and_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"bandwidth = 5\.0 .* choose one of 1\.5, 3, 6, 12, 24"):
        fitted_model("causal_mono").encode(AUDIO, bandwidth=5.0)
    with pytest.raises(RuntimeError, match="2 channels, the model 1"):
        fitted_model("causal_mono").encode(torch.zeros(1, 2, 640))


def test_two_part_filled_windows_of_different_lengths_are_refused() -> None:
    """95,041 samples end in windows of 149 frames and of 1 frame; transformers fails to stack them."""
    audio = torch.zeros(1, 2, 95_041)
    for model in (fitted_model("windows_stereo"), transformers_model("windows_stereo")):
        with pytest.raises(RuntimeError):
            model.encode(audio)


def test_a_window_without_a_scale_is_refused_not_dropped() -> None:
    codes = torch.zeros(2, 1, 2, 150, dtype=torch.int64)
    with pytest.raises(ValueError, match="2 windows and audio_scales 1"):
        fitted_model("windows_stereo").decode(codes, [torch.ones(1, 1)])


def test_windows_without_overlap_are_refused() -> None:
    with torch.random.fork_rng(devices=[]):
        model = EncodecModel(EncodecConfig.encodec_48khz(**SMALL, overlap=None))
    with pytest.raises(TypeError, match="overlap"):
        model.encode(torch.zeros(1, 2, 640))


@pytest.mark.parametrize(
    "keys",
    [{"codebook_size": 1000}, {"trim_right_ratio": 0.5, "use_causal_conv": False}, {"codebook_dim": 8}],
    ids=str,
)
def test_impossible_architectures_are_refused(keys: dict[str, Any]) -> None:
    with torch.random.fork_rng(devices=[]), pytest.raises(ValueError, match=next(iter(keys))):
        EncodecModel(EncodecConfig.encodec_24khz(**SMALL, **keys))


@every_config
def test_the_quantizer_alone_is_that_of_transformers(name: str) -> None:
    ours, theirs = fitted_model(name).quantizer, transformers_model(name).quantizer
    latents = torch.cat(
        [fitted_model(name).encoder(waveforms(name, 12_800 + 640 * start))[..., :20] for start in (0, 1, 2)]
    )
    for bandwidth in (None, 0.0, 0.1, *CONFIGS[name].target_bandwidths, 1000.0):
        codes = ours.encode(latents, bandwidth)
        assert codes.shape[1:] == (3, 20)
        assert torch.equal(codes, theirs.encode(latents, bandwidth))
        assert torch.equal(ours.decode(codes), theirs.decode(codes))
        assert torch.equal(ours.dequantize(codes.transpose(0, 1)), ours.decode(codes))
