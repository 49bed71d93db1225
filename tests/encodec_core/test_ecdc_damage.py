"""Files that are cut, changed or made up: a result or an error of ours, never another, a hang or a huge array."""

import io
import json
import pickle
import struct
import tracemalloc
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encodec_core.entropy import (
    EcdcError,
    EcdcTruncatedError,
    FixedPointLanguageModel,
    LanguageModel,
    compress,
    decompress,
    read_header,
)
from encodec_core.entropy.lm import language_model_sha256
from tests.encodec_core.language_models import language_model_of
from tests.encodec_core.models import fitted_model, waveforms

CODERS = ("packed", "float", "fixed")
every_coder = pytest.mark.parametrize("coder", CODERS)
every_codec = pytest.mark.parametrize("codec", ["causal_mono", "windows_stereo"])


@cache
def language_model(codec: str, coder: str) -> LanguageModel | FixedPointLanguageModel | None:
    if coder == "packed":
        return None
    return language_model_of(codec) if coder == "float" else FixedPointLanguageModel(language_model_of(codec))


@cache
def good_file(codec: str, coder: str, num_samples: int = 900) -> bytes:
    waveform = waveforms(codec, num_samples)[0]
    return compress(
        fitted_model(codec),
        waveform,
        bandwidth_kbps=3.0,
        language_model=language_model(codec, coder),
        codec_name="test",
    )


def read(compressed: bytes, codec: str, coder: str) -> torch.Tensor:
    return decompress(compressed, fitted_model(codec), language_model=language_model(codec, coder), codec_name="test")


@every_coder
@every_codec
def test_every_cut_is_noticed(codec: str, coder: str) -> None:
    whole = good_file(codec, coder)
    assert read(whole, codec, coder).shape[-1] == 900
    for length in range(len(whole)):
        with pytest.raises(EcdcTruncatedError, match="ended"):
            read(whole[:length], codec, coder)


@every_coder
@every_codec
def test_bytes_at_the_end_are_noticed(codec: str, coder: str) -> None:
    with pytest.raises(EcdcError, match="bytes follow the recording"):
        read(good_file(codec, coder) + b"\0", codec, coder)


@every_codec
def test_no_flipped_bit_of_a_fixed_point_file_changes_the_audio_unnoticed(codec: str) -> None:
    whole = good_file(codec, "fixed")
    expected, unnoticed = read(whole, codec, "fixed"), 0
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        try:
            waveform = read(bytes(damaged), codec, "fixed")
        except EcdcError:
            continue
        assert torch.equal(waveform, expected)
        unnoticed += 1
    # Any number in the last range means the same codes, and up to 7 zeros fill its byte.
    assert unnoticed < 25 + 7


def with_header(keys: Any, *, version: int = 0, magic: bytes = b"ECDC", rest: bytes = b"") -> bytes:
    encoded = keys if isinstance(keys, bytes) else json.dumps(keys).encode()
    return struct.pack("!4sBI", magic, version, len(encoded)) + encoded + rest


KEYS = {"m": "test", "al": 900, "nc": 4, "lm": False}


@pytest.mark.parametrize(
    ("compressed", "message"),
    [
        (with_header(KEYS, magic=b"RIFF"), "begins with b'RIFF'"),
        (with_header(KEYS, version=2), "version 2 .* is unknown"),
        (with_header(KEYS | {"lm": True}, version=1), "version None of the fixed-point"),
        (with_header(KEYS | {"lm": True, "fp": 2}, version=1), "version 2 of the fixed-point"),
        (with_header(KEYS | {"fp": 1}, version=1), "lm is False"),
        (with_header(KEYS | {"lm": True, "fp": 1}), "version 0 has fixed-point"),
        (struct.pack("!4sBI", b"ECDC", 0, 2**32 - 1), "header of 4294967295 bytes"),
        (with_header(b"[" * 4096), "no JSON"),
        (with_header(b'{"m": "\xff"}'), "no JSON"),
        (with_header(b'{"al": ' + b"9" * 4080), "no JSON"),
        (with_header([]), "expected the keys"),
        (with_header({"m": "test"}), "expected the keys"),
        (with_header(KEYS | {"m": 3}), "names are 3"),
        (with_header(KEYS | {"m": "encodec_24khz"}), "made by the codec 'encodec_24khz'"),
        (with_header(KEYS | {"lm": 1}), "lm is 1"),
        (with_header(KEYS | {"lm": "true"}), "lm is 'true'"),
        *[(with_header(KEYS | {"al": bad}), "al is") for bad in (0, -1, 1.0, True, None, 2**60, "900")],
        *[(with_header(KEYS | {"nc": bad}), "nc is") for bad in (0, -1, 4.0, True, 2**60)],
        (with_header(KEYS | {"nc": 33}), "33 codebooks, the codec 32"),
        (b"", "ended"),
    ],
)
def test_headers_that_make_no_sense_are_refused(compressed: bytes, message: str) -> None:
    with pytest.raises(EcdcError, match=message):
        read(compressed, "causal_mono", "packed")


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0, 3e38])
def test_scales_that_make_no_sense_are_refused(scale: float) -> None:
    rest = struct.pack("!f", scale) + bytes(1000)
    with pytest.raises(EcdcError, match="has the scale"):
        read(with_header(KEYS, rest=rest), "windows_stereo", "packed")


@every_coder
@every_codec
def test_a_claim_of_years_of_audio_ends_with_the_stream(codec: str, coder: str) -> None:
    keys: dict[str, Any] = KEYS | {"al": 2**48, "lm": coder != "packed"}
    if coder != "packed":
        keys["lw"] = language_model_sha256(language_model_of(codec))[:16]
    claim = with_header(keys | ({"fp": 1} if coder == "fixed" else {}), version=int(coder == "fixed"))
    body = good_file(codec, coder)
    body = body[body.index(b"}") + 1 :]
    fitted_model(codec), language_model(codec, coder)
    tracemalloc.start()
    try:
        with pytest.raises(EcdcError):
            read(claim + body, codec, coder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A good file with bytes replaced, removed or inserted."""
    content = bytearray(good_file(*draw(st.sampled_from(FUZZED))))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        end = min(len(content), place + draw(st.integers(0, 4)))
        content[place:end] = draw(st.binary(max_size=4))
    return bytes(content)


FUZZED = [(codec, coder) for codec in ("causal_mono", "windows_stereo") for coder in CODERS]


@settings(max_examples=150, deadline=None)
@given(mutations(), st.sampled_from(FUZZED))
def test_damaged_files_give_audio_or_an_error_of_ours(compressed: bytes, reader: tuple[str, str]) -> None:
    codec, coder = reader
    try:
        waveform = read(compressed, codec, coder)
    except EcdcError:
        return
    assert waveform.shape == (
        fitted_model(codec).config.audio_channels,
        read_header(io.BytesIO(compressed)).num_samples,
    )


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(EcdcError):
        read(noise, "causal_mono", "packed")
    with pytest.raises(EcdcError):
        read(b"ECDC\0" + noise, "causal_mono", "packed")


@pytest.mark.parametrize("kind", [EcdcError, EcdcTruncatedError])
def test_errors_survive_pickling(kind: type[EcdcError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what and why")))
    assert type(error) is kind
    assert str(error) == "what and why"
    assert isinstance(error, ValueError)
    assert isinstance(error, EOFError) == (kind is EcdcTruncatedError)
