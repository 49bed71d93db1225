"""The name of a codec in `.ecdc` files: Meta's for the two that Meta's package knows, one of their own for all others.

A codec of one's own is `<label>:<16 digits of the sha256 of its weights>`. Its files are refused by other weights,
which would decode them to noise, and by Meta's package. The label is for people: it says where the weights lay when the
file was made, and is not compared.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from encodec_core.checkpoint import Provenance
from encodec_core.config import EncodecConfig
from encodec_core.entropy.lm import LanguageModel
from encodec_core.model import EncodecModel
from encodec_core.weights import weights_sha256

__all__ = [
    "PUBLISHED_CODECS",
    "PublishedCodec",
    "check_published_layout",
    "codec_name_of",
    "is_published_lm",
    "is_same_codec",
    "short_sha256",
]

NUM_DIGITS = 16
_DIGITS = re.compile(rf":[0-9a-f]{{{NUM_DIGITS}}}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCodec:
    """A codec that Meta's package knows by name."""

    hub_id: str
    """Of transformers' copy."""
    checkpoint_digits: str
    """The sha256 of Meta's checkpoint, or as many first digits of it as its file name gives."""
    lm_file: str
    """File name of Meta's language model for it; it ends in the first digits of the file's sha256."""
    config: EncodecConfig

    @property
    def lm_digits(self) -> str:
        """First digits of the sha256 of the language model's file."""
        return self.lm_file.rpartition("-")[2].removesuffix(".th")


PUBLISHED_CODECS: Mapping[str, PublishedCodec] = MappingProxyType(
    {
        "encodec_24khz": PublishedCodec(
            hub_id="facebook/encodec_24khz",
            checkpoint_digits="d7cc33bcf1aad7f2dad9836f36431530744abeace3ca033005e3290ed4fa47bf",
            lm_file="encodec_lm_24khz-1608e3c0.th",
            config=EncodecConfig.encodec_24khz(),
        ),
        "encodec_48khz": PublishedCodec(
            hub_id="facebook/encodec_48khz",
            checkpoint_digits="7e698e3e",
            lm_file="encodec_lm_48khz-7add9fc3.th",
            config=EncodecConfig.encodec_48khz(),
        ),
    }
)
"""By the name in files."""


def codec_name_of(model: EncodecModel) -> str:
    """Return the name that `model` has in files.

    It is a published codec's where the weights came from its place on the hub or from Meta's checkpoint (by the file's
    sha256) and are still those; else it is made of the last part of where they came from, and of their sha256.
    """
    sha256 = weights_sha256(model)
    provenance = model.provenance
    if provenance is None or provenance.weights_sha256 != sha256:
        return f"encodec:{sha256[:NUM_DIGITS]}"
    for name, codec in PUBLISHED_CODECS.items():
        from_hub = provenance.revision is not None and provenance.source == codec.hub_id
        if from_hub or _has_file(provenance, codec.checkpoint_digits):
            return name
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(provenance.source).name)[:64]
    return f"{label or 'encodec'}:{sha256[:NUM_DIGITS]}"


def is_same_codec(name: str, other: str) -> bool:
    """Tell whether two names in files stand for one codec: by the digits where both have them, else by the whole."""
    digits, other_digits = _DIGITS.search(name), _DIGITS.search(other)
    return name == other if digits is None or other_digits is None else digits[0] == other_digits[0]


def is_published_lm(language_model: LanguageModel, codec_name: str) -> bool:
    """Tell whether a language model is Meta's for a published codec: from Meta's file (by its sha256), unchanged."""
    codec, provenance = PUBLISHED_CODECS.get(codec_name), language_model.provenance
    if codec is None or provenance is None or not _has_file(provenance, codec.lm_digits):
        return False
    return provenance.weights_sha256 == weights_sha256(language_model)


def short_sha256(sha256: str) -> str:
    """Return the digits of a sha256 that stand in files."""
    return sha256[:NUM_DIGITS]


def check_published_layout(name: str, config: EncodecConfig) -> None:
    """Check that a codec under a published name cuts audio and counts codes as the published one.

    Raises:
        ValueError: it does not.
    """
    codec = PUBLISHED_CODECS.get(name)
    if codec is not None and _layout(config) != _layout(codec.config):
        raise ValueError(
            f"codec_name = {name!r} is not this codec's, whose layout is {_layout(config)}; the published one has "
            f"{_layout(codec.config)}. Leave codec_name out"
        )


def _has_file(provenance: Provenance, digits: str) -> bool:
    return any(sha256.startswith(digits) for _, sha256 in provenance.files)


def _layout(config: EncodecConfig) -> dict[str, object]:
    return {
        "sampling_rate": config.sampling_rate,
        "audio_channels": config.audio_channels,
        "hop_length": config.hop_length,
        "chunk_length": config.chunk_length,
        "chunk_stride": config.chunk_stride,
        "normalize": config.normalize,
        "num_quantizers": config.num_quantizers,
        "codebook_size": config.codebook_size,
    }
