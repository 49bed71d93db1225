"""A codec of one's own: `recipe.codec.model` names its class as `package.module:Class`."""

import re
from typing import Literal

from tokenizer_jobs.config import CodecRecipe
from tokenizer_jobs.encoding.codec import Codec, StreamingCodec
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.own_classes import import_class
from tokenizer_jobs.recipe import UNKNOWN_WEIGHTS, CodecFacts

__all__ = ["load_own_codec"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


def load_own_codec(recipe: CodecRecipe, *, device: Literal["cpu", "cuda"]) -> Codec:
    """Build the codec of the class that a recipe names, by `Class(recipe, device=device)`, and check its facts.

    Raises:
        ConfigError: it cannot be imported or built, or says of itself what cannot be.
    """
    factory = import_class(recipe.model, key="recipe.codec.model")
    try:
        codec = factory(recipe, device=device)
    except TypeError as error:
        raise ConfigError(
            f"recipe.codec.model = {recipe.model!r} is built as Class(recipe, device='cpu' or 'cuda'): {error}"
        ) from error
    if not isinstance(codec, Codec):
        missing = [f"`{name}`" for name in ("encode", "decode", "describe") if not hasattr(codec, name)]
        raise ConfigError(
            f"recipe.codec.model = {recipe.model!r} has no {' and no '.join(missing)}; expected a class with the "
            "methods `encode`, `decode` and `describe`"
        )
    facts = codec.describe()
    if not isinstance(facts, CodecFacts):
        raise ConfigError(
            f"recipe.codec.model = {recipe.model!r}: describe() gave a {type(facts).__name__}, expected CodecFacts"
        )
    wrong = [f"{name} = {found!r}, expected {wanted}" for name, found, wanted in _contradictions(codec, facts, recipe)]
    if wrong:
        raise ConfigError(f"{recipe.model} describes itself wrongly: {'; '.join(wrong)}; mend its describe()")
    return codec


def _contradictions(codec: Codec, facts: CodecFacts, recipe: CodecRecipe) -> list[tuple[str, object, str]]:
    """Facts that cannot be: name, what was found, what was expected."""
    weights: object = facts.weights_sha256  # of any type: nobody has checked it
    knows_weights = isinstance(weights, str) and weights != UNKNOWN_WEIGHTS and _SHA256.fullmatch(weights) is not None
    checks = [
        ("name", facts.name, facts.name == recipe.model, f"the recipe's model, {recipe.model!r}"),
        (
            "bandwidth_kbps",
            facts.bandwidth_kbps,
            facts.bandwidth_kbps == recipe.bandwidth_kbps,
            f"the recipe's, {recipe.bandwidth_kbps:g}, or a ConfigError where it is not offered",
        ),
        (
            "precision",
            facts.precision,
            facts.precision == recipe.precision,
            f"the recipe's, {recipe.precision!r}, or a ConfigError where it is not offered",
        ),
        ("weights_sha256", facts.weights_sha256, knows_weights, "64 hex digits over what decides the codes"),
        (
            "codebook_size",
            facts.codebook_size,
            isinstance(facts.codebook_size, int) and 1 <= facts.codebook_size <= 1 << 16,
            "1 to 65536, since codes are uint16",
        ),
        (
            "streamed",
            facts.streamed,
            not facts.streamed or isinstance(codec, StreamingCodec),
            "False, or a method `stream`",
        ),
    ]
    return [(name, found, wanted) for name, found, is_right, wanted in checks if not is_right]
