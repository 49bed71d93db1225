"""Which language model a file names, and whether one at hand is that one and fits the codec."""

import torch

from encodec_core.entropy.container import EcdcHeader
from encodec_core.entropy.errors import EcdcError
from encodec_core.entropy.fixed_point import FixedPointLanguageModel
from encodec_core.entropy.lm import LanguageModel, language_model_sha256
from encodec_core.entropy.naming import PUBLISHED_CODECS, is_published_lm, short_sha256
from encodec_core.model import EncodecModel
from encodec_core.weights import weights_sha256

__all__ = ["AnyLanguageModel", "check_language_model", "chosen_language_model", "digits_in_header"]

AnyLanguageModel = LanguageModel | FixedPointLanguageModel


def check_language_model(language_model: AnyLanguageModel | None, model: EncodecModel, *, num_codebooks: int) -> None:
    """Check that a language model can code `num_codebooks` codebooks of a codec.

    Raises:
        ValueError: it knows other codebooks, was trained for another codec, or is not in float32.
    """
    if language_model is None:
        return
    known, config = language_model.config, model.config
    if known.codebook_size != config.codebook_size or known.n_q < num_codebooks:
        raise ValueError(
            f"the language model knows {known.n_q} codebooks of {known.codebook_size} entries, the file "
            f"needs {num_codebooks} of {config.codebook_size}; give the one that was trained on its codes"
        )
    if isinstance(language_model, LanguageModel):
        others = {weights.dtype for weights in language_model.parameters()} - {torch.float32}
        if others:
            raise ValueError(f"the language model is {others.pop()}; expected torch.float32: call .float()")
    wanted = known.codec_weights_sha256
    if wanted is not None and wanted != (sha256 := weights_sha256(model)):
        raise ValueError(
            f"the language model was trained on codes of the codec {short_sha256(wanted)}, "
            f"this one is {short_sha256(sha256)}; give the one that was trained on its codes"
        )


def digits_in_header(language_model: AnyLanguageModel | None, codec_name: str, *, published_lm: bool) -> str | None:
    """Return what stands in a header for a language model; None: nothing does.

    Args:
        language_model: None: codes are packed.
        codec_name: the codec's in the header.
        published_lm: as of `compression.compress_to_file`.

    Raises:
        ValueError: `published_lm` cannot take effect.
    """
    if published_lm and (codec_name not in PUBLISHED_CODECS or not isinstance(language_model, LanguageModel)):
        raise ValueError(
            f"published_lm = True cannot take effect: it is for a LanguageModel of {' or '.join(PUBLISHED_CODECS)}, "
            f"this is {type(language_model).__name__} of {codec_name!r}. Leave it out"
        )
    # Meta's package knows no such key, and its language models go with the names of its codecs.
    if language_model is None or _is_implied(language_model, codec_name, published_lm=published_lm):
        return None
    return _digits_of(language_model)


def chosen_language_model(
    language_model: AnyLanguageModel | None,
    header: EcdcHeader,
    model: EncodecModel,
    *,
    published_lm: bool,
) -> AnyLanguageModel | None:
    """Return the language model to read a file with; None: it is read without.

    Args:
        language_model: what the user gave.
        header: of the file.
        model: the codec.
        published_lm: as of `compression.compress_to_file`.

    Raises:
        EcdcError: the file was made with another language model, or in the other arithmetic.
        ValueError: the language model does not fit the codec.
    """
    if not header.uses_lm:
        return None
    if language_model is None:
        raise EcdcError("the file was made with a language model; give the one that goes with the codec")
    check_language_model(language_model, model, num_codebooks=header.num_codebooks)
    if header.fixed_point and isinstance(language_model, LanguageModel):
        language_model = FixedPointLanguageModel(language_model)
    if not header.fixed_point and isinstance(language_model, FixedPointLanguageModel):
        raise EcdcError("the file was made with the language model in floating point; give it as a LanguageModel")
    if header.lm_digits is None:
        _check_implied(language_model, header, published_lm=published_lm)
    elif header.lm_digits != _digits_of(language_model):
        raise EcdcError(
            f"the file was made with the language model {header.lm_digits}, this one is {_digits_of(language_model)}; "
            "load the one that made it"
        )
    return language_model


def _check_implied(language_model: AnyLanguageModel, header: EcdcHeader, *, published_lm: bool) -> None:
    """Check a language model for a file that names none."""
    if _is_implied(language_model, header.codec_name, published_lm=published_lm):
        return
    published = PUBLISHED_CODECS.get(header.codec_name)
    if published is None:
        raise EcdcError("the file does not say with which language model it was made; copy it again")
    raise EcdcError(
        f"the file was made with the language model {published.lm_file} of {header.codec_name}, and this one is not "
        "from that file; load it from there, or say published_lm=True of a copy of it"
    )


def _is_implied(language_model: AnyLanguageModel, codec_name: str, *, published_lm: bool) -> bool:
    """Tell whether the codec's name in a file says that this is the language model, in floating point."""
    if not isinstance(language_model, LanguageModel) or codec_name not in PUBLISHED_CODECS:
        return False
    return published_lm or is_published_lm(language_model, codec_name)


def _digits_of(language_model: AnyLanguageModel) -> str:
    if isinstance(language_model, FixedPointLanguageModel):
        return short_sha256(language_model.sha256)
    return short_sha256(language_model_sha256(language_model))
