"""The .ecdc format: Meta's bytes from the same weights, both ways, and names that keep other codecs apart."""

import copy
import importlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from encodec_core import EncodecModel
from encodec_core.checkpoint import Provenance
from encodec_core.entropy import (
    PUBLISHED_CODECS,
    EcdcError,
    FixedPointLanguageModel,
    LanguageModel,
    codec_name_of,
    compress,
    compress_to_file,
    decompress,
    decompress_from_file,
    read_header,
    recordings,
)
from encodec_core.weights import weights_sha256
from tests.encodec_core.language_models import in_meta, language_model_of, make_language_model
from tests.encodec_core.models import fitted_model, meta_model, meta_package, waveforms

NAMES = {"causal_mono": "encodec_24khz", "windows_stereo": "encodec_48khz"}
every_codec = pytest.mark.parametrize("codec", NAMES)

MONO_LENGTHS = (1, 319, 320, 321, 5000, 24_001)
STEREO_LENGTHS = (1, 319, 320, 321, 47_520, 47_521, 48_000, 95_140, 95_519, 95_520, 100_000)
"""47,521, 95,140 and 95,519 end in two part-filled windows."""
CASES = [("causal_mono", length) for length in MONO_LENGTHS] + [("windows_stereo", length) for length in STEREO_LENGTHS]
REFUSED_BY_META = {"causal_mono": 6720, "windows_stereo": 6720}
"""21 frames: Meta computes 6720 / 24000 * 75 in floating point, rounds up to 22 and misses a frame in its own file."""


@cache
def meta_twin(codec: str) -> Any:
    theirs = meta_model(codec)
    theirs.name = NAMES[codec]
    theirs.get_lm_model = lambda: in_meta(language_model_of(codec))
    return theirs


@contextmanager
def meta_compress() -> Iterator[Any]:
    """Meta's module, which finds the models of these tests under the published names."""
    with meta_package():
        module = importlib.import_module("encodec.compress")
        with patch.dict(module.MODELS, {name: lambda codec=codec: meta_twin(codec) for codec, name in NAMES.items()}):
            yield module


def compressed_by_meta(codec: str, waveform: Tensor, *, bandwidth: float, use_lm: bool = False) -> bytes:
    with meta_compress() as module:
        meta_twin(codec).set_target_bandwidth(bandwidth)
        compressed: bytes = module.compress(meta_twin(codec), waveform, use_lm=use_lm)
    return compressed


def assert_interchangeable(codec: str, waveform: Tensor, *, bandwidth: float, use_lm: bool = False) -> None:
    language_model = language_model_of(codec) if use_lm else None
    ours = compress(
        fitted_model(codec),
        waveform,
        bandwidth_kbps=bandwidth,
        language_model=language_model,
        codec_name=NAMES[codec],
        published_lm=use_lm,
    )
    theirs = compressed_by_meta(codec, waveform, bandwidth=bandwidth, use_lm=use_lm)
    assert ours == theirs
    decoded = decompress(
        theirs, fitted_model(codec), language_model=language_model, codec_name=NAMES[codec], published_lm=use_lm
    )
    assert decoded.shape == waveform.shape
    with meta_compress() as module:
        their_waveform, _ = module.decompress(ours)
    # Of the same order as in the parity of decoders.
    torch.testing.assert_close(decoded, their_waveform, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("codec", "num_samples"), CASES)
def test_every_length_is_interchangeable(codec: str, num_samples: int) -> None:
    assert_interchangeable(codec, waveforms(codec, num_samples)[0], bandwidth=6.0)


@every_codec
def test_every_bandwidth_is_interchangeable(codec: str) -> None:
    for bandwidth in fitted_model(codec).config.target_bandwidths:
        assert_interchangeable(codec, waveforms(codec, 50_000)[0], bandwidth=bandwidth)


@pytest.mark.parametrize(
    ("codec", "num_samples", "bandwidth"),
    [("causal_mono", 1, 24.0), ("causal_mono", 8321, 3.0), ("causal_mono", 500, 12.0), ("windows_stereo", 48_100, 3.0)],
)
def test_streams_of_the_language_model_are_interchangeable(codec: str, num_samples: int, bandwidth: float) -> None:
    assert_interchangeable(codec, waveforms(codec, num_samples)[0], bandwidth=bandwidth, use_lm=True)


@pytest.mark.parametrize("use_lm", [False, True])
@every_codec
def test_files_that_the_reference_miscounts_are_read(codec: str, use_lm: bool) -> None:
    waveform = waveforms(codec, REFUSED_BY_META[codec])[0]
    language_model = language_model_of(codec) if use_lm else None
    theirs = compressed_by_meta(codec, waveform, bandwidth=6.0, use_lm=use_lm)
    with meta_compress() as module, pytest.raises(EOFError):
        module.decompress(theirs)
    model = fitted_model(codec)
    known: dict[str, Any] = {
        "language_model": language_model,
        "codec_name": NAMES[codec],
        "published_lm": use_lm,
    }
    assert decompress(theirs, model, **known).shape == waveform.shape
    assert theirs == compress(model, waveform, **known)


@pytest.mark.parametrize("codec", ["causal_stereo", "windows_mono", "musicgen"])
@pytest.mark.parametrize("num_samples", [1, 321, 95_140])
def test_codecs_of_other_layouts_round_trip(codec: str, num_samples: int) -> None:
    model, waveform = fitted_model(codec), waveforms(codec, num_samples)[0]
    bandwidth = model.config.target_bandwidths[0]
    codes, scales, pad_length = model.encode(waveform[None, :, :90_000], bandwidth=bandwidth, return_dict=False)
    expected = model.decode(codes, scales, waveform[None, :, :90_000], last_frame_pad_length=pad_length)[0][0]
    decoded = decompress(compress(model, waveform[:, :90_000], bandwidth_kbps=bandwidth), model)
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-6)


def lm_and_bytes(codec: str, waveform: Tensor) -> tuple[FixedPointLanguageModel, bytes]:
    language_model = FixedPointLanguageModel(language_model_of(codec))
    return language_model, compress(fitted_model(codec), waveform, language_model=language_model)


@every_codec
def test_fixed_point_streams_hold_the_codes_that_packed_ones_hold(codec: str) -> None:
    model, waveform = fitted_model(codec), waveforms(codec, 48_100)[0]
    language_model, compressed = lm_and_bytes(codec, waveform)
    expected = decompress(compress(model, waveform), model)
    assert torch.equal(decompress(compressed, model, language_model=language_model), expected)
    # A float model will do as well: it is rounded again.
    assert torch.equal(decompress(compressed, model, language_model=language_model_of(codec)), expected)
    with meta_compress() as module, pytest.raises(ValueError, match="Version not supported"):
        module.decompress(compressed)


def test_codecs_of_ones_own_are_refused_by_others() -> None:
    model, waveform = fitted_model("causal_mono"), waveforms("causal_mono", 700)[0]
    compressed = compress(model, waveform)
    name = read_header(io.BytesIO(compressed)).codec_name
    assert name == f"encodec:{weights_sha256(model)[:16]}"
    with meta_compress() as module, pytest.raises(ValueError, match="unsupported model"):
        module.decompress(compressed)
    with pytest.raises(EcdcError, match=f"made by the codec '{name}'"):
        decompress(compressed, fitted_model("musicgen"))


def loaded_from(model: EncodecModel, **origin: Any) -> EncodecModel:
    """Return `model` as if it had been loaded from somewhere."""
    copied = EncodecModel(model.config)
    copied.load_state_dict(model.state_dict())
    facts = {"source": "", "revision": None, "files": (), "weights_sha256": weights_sha256(model)}
    copied.provenance = Provenance(**(facts | origin))
    return copied


CHECKPOINT = PUBLISHED_CODECS["encodec_24khz"].checkpoint_digits
HUB = {"source": "facebook/encodec_24khz", "revision": "ab" * 20}


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        (HUB, "encodec_24khz"),
        (HUB | {"revision": None}, "encodec_24khz:"),  # a local folder of that name
        ({"source": "x/any.th", "files": (("any.th", CHECKPOINT),)}, "encodec_24khz"),
        ({"source": "x/any.th", "files": (("any.th", "7e698e3e" + "0" * 56),)}, "encodec_48khz"),
        ({"source": "x/encodec_24khz-d7cc33bc.th", "files": (("x.th", "0" * 64),)}, "encodec_24khz-d7cc33bc.th:"),
        ({"source": "demo"}, "demo:"),
        ({"source": "/home/me/räüber codec/"}, "r-ber-codec:"),
    ],
)
def test_names_follow_from_where_weights_came_from(origin: dict[str, Any], name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        model = loaded_from(fitted_model("causal_mono"), **origin)
    digits = weights_sha256(model)[:16] if name.endswith(":") else ""
    assert codec_name_of(model) == name + digits


def test_weights_that_were_trained_on_have_a_name_of_their_own() -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = loaded_from(fitted_model("causal_mono"), **HUB)
        next(iter(model.parameters())).add_(1e-3)
    assert codec_name_of(model) == f"encodec:{weights_sha256(model)[:16]}"


def test_weights_are_known_wherever_they_lie(tmp_path: Path) -> None:
    model, waveform = fitted_model("causal_mono"), waveforms("causal_mono", 700)[0]
    model.save_pretrained(tmp_path / "one")
    there = EncodecModel.from_pretrained(tmp_path / "one").requires_grad_(False)
    compressed = {name: compress(codec, waveform) for name, codec in (("encodec", model), ("one", there))}
    (tmp_path / "one").rename(tmp_path / "two")
    moved = EncodecModel.from_pretrained(tmp_path / "two").requires_grad_(False)
    for label, stream in compressed.items():
        assert read_header(io.BytesIO(stream)).codec_name.startswith(f"{label}:")
        expected = decompress(stream, model)
        for codec in (there, moved):
            assert torch.equal(decompress(stream, codec), expected)


def test_a_published_name_is_for_codecs_of_its_layout() -> None:
    with pytest.raises(ValueError, match="codec_name = 'encodec_48khz' is not this codec's"):
        compress(fitted_model("causal_mono"), waveforms("causal_mono", 320)[0], codec_name="encodec_48khz")


def test_another_language_model_is_refused() -> None:
    model, waveform = fitted_model("causal_mono"), waveforms("causal_mono", 700)[0]
    other = make_language_model(language_model_of("causal_mono").config, seed=5)
    for make in (FixedPointLanguageModel, lambda language_model: language_model):
        chosen: LanguageModel | FixedPointLanguageModel = make(language_model_of("causal_mono"))
        compressed = compress(model, waveform, language_model=chosen)
        with pytest.raises(EcdcError, match="was made with the language model"):
            decompress(compressed, model, language_model=other)
        with pytest.raises(EcdcError, match="give the one that goes with the codec"):
            decompress(compressed, model)
        small = make_language_model(replace(other.config, n_q=7))
        with pytest.raises(ValueError, match="knows 7 codebooks of 1024 entries, the file needs 8"):
            compress(model, waveform, language_model=small)
    with pytest.raises(EcdcError, match="give it as a LanguageModel"):
        decompress(
            compress(model, waveform, language_model=other), model, language_model=FixedPointLanguageModel(other)
        )


@pytest.mark.parametrize("changes", [{"num_heads": 4}, {"past_context": 5}], ids=str)
@pytest.mark.parametrize("make", [FixedPointLanguageModel, lambda language_model: language_model])
def test_a_language_model_of_another_shape_is_refused_though_its_weights_are_the_same(
    make: Any, changes: dict[str, Any]
) -> None:
    model, waveform = fitted_model("causal_mono"), waveforms("causal_mono", 700)[0]
    known = language_model_of("causal_mono")
    other = make_language_model(replace(known.config, **changes))
    other.load_state_dict(known.state_dict())
    compressed = compress(model, waveform, bandwidth_kbps=1.5, language_model=make(known))
    with pytest.raises(EcdcError, match="was made with the language model"):
        decompress(compressed, model, language_model=make(other))


def test_a_language_model_that_is_not_metas_is_named_under_a_published_name_too() -> None:
    model, waveform = fitted_model("causal_mono"), waveforms("causal_mono", 700)[0]
    known = language_model_of("causal_mono")
    other = make_language_model(known.config, seed=5)
    named = {"codec_name": "encodec_24khz", "bandwidth_kbps": 1.5}
    compressed = compress(model, waveform, language_model=known, **named)  # type: ignore[arg-type]
    assert read_header(io.BytesIO(compressed)).lm_digits is not None
    with pytest.raises(EcdcError, match="was made with the language model"):
        decompress(compressed, model, language_model=other, codec_name="encodec_24khz")
    decompress(compressed, model, language_model=known, codec_name="encodec_24khz")
    unnamed = compress(model, waveform, language_model=known, published_lm=True, **named)  # type: ignore[arg-type]
    with pytest.raises(EcdcError, match=r"encodec_lm_24khz-1608e3c0\.th of encodec_24khz.*not from that file"):
        decompress(unnamed, model, language_model=known, codec_name="encodec_24khz")
    with pytest.raises(ValueError, match="published_lm = True cannot take effect"):
        compress(model, waveform, language_model=known, published_lm=True)


def test_a_language_model_read_from_metas_file_goes_without_saying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, waveform = fitted_model("causal_mono"), waveforms("causal_mono", 700)[0]
    torch.save(language_model_of("causal_mono").state_dict(), tmp_path / "any.th")
    monkeypatch.setattr("encodec_core.entropy.lm.file_sha256", lambda path: "1608e3c0" + 56 * "0")
    known = LanguageModel.from_pretrained(tmp_path / "any.th")
    compressed = compress(model, waveform, language_model=known, codec_name="encodec_24khz")
    assert read_header(io.BytesIO(compressed)).lm_digits is None
    decompress(compressed, model, language_model=known, codec_name="encodec_24khz")
    with torch.no_grad():
        next(iter(known.parameters())).add_(1e-3)
    with pytest.raises(EcdcError, match="not from that file"):
        decompress(compressed, model, language_model=known, codec_name="encodec_24khz")


def test_a_language_model_of_another_codec_is_refused() -> None:
    model, waveform = fitted_model("causal_mono"), waveforms("causal_mono", 700)[0]
    config = language_model_of("causal_mono").config
    of_this = make_language_model(replace(config, codec_weights_sha256=weights_sha256(model)))
    of_another = make_language_model(replace(config, codec_weights_sha256="ab" * 32))
    compressed = compress(model, waveform, bandwidth_kbps=1.5, language_model=FixedPointLanguageModel(of_this))
    for chosen in (of_another, FixedPointLanguageModel(of_another)):
        file = io.BytesIO()
        with pytest.raises(ValueError, match="trained on codes of the codec abababababababab"):
            compress_to_file(model, waveform, file, language_model=chosen)
        assert file.getvalue() == b""
        with pytest.raises(ValueError, match="trained on codes of the codec abababababababab"):
            decompress(compressed, model, language_model=chosen)
    assert decompress(compressed, model, language_model=of_this).shape == waveform.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_models_in_other_dtypes_are_refused_before_anything_is_written(dtype: torch.dtype) -> None:
    model, waveform = fitted_model("causal_mono"), waveforms("causal_mono", 700)[0]
    language_model = copy.deepcopy(language_model_of("causal_mono")).to(dtype)
    file = io.BytesIO()
    with pytest.raises(ValueError, match=rf"language model is {dtype}.*\.float\(\)"):
        compress_to_file(model, waveform, file, language_model=language_model)
    codec = copy.deepcopy(model).to(dtype)
    if dtype != torch.float64:
        with pytest.raises(ValueError, match=rf"the model is {dtype}; expected float32 or float64"):
            compress_to_file(codec, waveform.to(dtype), file)
        with pytest.raises(ValueError, match=rf"the model is {dtype}; expected float32 or float64"):
            decompress(compress(model, waveform), codec)
    else:
        decoded = decompress(compress(codec, waveform.double()), codec)
        assert (decoded.dtype, decoded.shape) == (torch.float64, waveform.shape)
    assert file.getvalue() == b""


class _Trickle(io.RawIOBase):
    """A file that returns at most three bytes at a time, as a slow socket does."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._file = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 3) if size >= 0 else 3)


@pytest.mark.parametrize("use_lm", [False, True])
@every_codec
def test_several_recordings_are_read_from_one_slow_stream(codec: str, use_lm: bool) -> None:
    model = fitted_model(codec)
    language_model = FixedPointLanguageModel(language_model_of(codec)) if use_lm else None
    pieces = [waveforms(codec, num_samples)[0] for num_samples in (700, 1, 48_100)]
    file = io.BytesIO()
    for piece in pieces:
        compress_to_file(model, piece, file, language_model=language_model)
    stream = _Trickle(file.getvalue())
    for piece in pieces:
        decoded = decompress_from_file(stream, model, language_model=language_model)  # type: ignore[arg-type]
        assert decoded.shape == piece.shape
    assert stream.read(1) == b""


def test_long_recordings_are_encoded_and_decoded_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    model, waveform = fitted_model("causal_mono"), waveforms("causal_mono", 50_000)[0]
    whole = compress(model, waveform)
    expected = decompress(whole, model)
    monkeypatch.setattr(recordings, "MAX_WHOLE_SECONDS", 1)
    monkeypatch.setattr(recordings, "DECODED_FRAMES", 40)
    tiled, streamed = compress(model, waveform), decompress(whole, model)
    assert len(tiled) == len(whole)
    bytes_per_frame = 10  # 8 codebooks of 10 bits
    num_frames = 157
    starts = range(len(whole) - bytes_per_frame * num_frames, len(whole), bytes_per_frame)
    changed = [at for at in starts if whole[at : at + bytes_per_frame] != tiled[at : at + bytes_per_frame]]
    # A near tie, where the two nearest entries are as far to a rounding: 5 codes in 100,000, here 1,256.
    assert len(changed) <= 1
    torch.testing.assert_close(streamed, expected, rtol=0, atol=1e-5)  # as decoders of the same codes elsewhere


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.zeros(2, 320), r"\[2, 320\]; expected \[1, samples"),
        (torch.zeros(1, 0), "samples > 0"),
        (torch.zeros(320), "samples > 0"),
        (torch.zeros(1, 320, dtype=torch.float64), "float64; expected torch.float32"),
        (torch.full((1, 320), torch.nan), "peak of nan"),
        (torch.full((1, 320), 1e20), "peak of 1e[+]20"),
    ],
)
def test_audio_that_is_none_is_refused(waveform: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compress(fitted_model("causal_mono"), waveform)


def test_a_bandwidth_that_is_not_offered_writes_nothing() -> None:
    file = io.BytesIO()
    with pytest.raises(ValueError, match="choose one of"):
        compress_to_file(fitted_model("causal_mono"), torch.zeros(1, 320), file, bandwidth_kbps=5.0)
    assert file.getvalue() == b""
