"""The codec of an audit: the one that is named, else the one at hand whose codes agree best with a few items."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizer_jobs.config import CodecRecipe
from tokenizer_jobs.encoding import EncodecCodec, load_codec, offered_bandwidths
from tokenizer_jobs.errors import ConfigError

__all__ = ["codecs_at_hand", "load_highest"]

PUBLISHED = ("facebook/encodec_24khz", "facebook/encodec_32khz", "facebook/encodec_48khz")


def load_highest(model: str, *, revision: str | None = None) -> tuple[EncodecCodec, dict[int, float]]:
    """A codec at its highest bandwidth, of which all others are prefixes; and its bandwidths by number of codebooks.

    Raises:
        ConfigError: it cannot be found or read.
    """
    offered = offered_bandwidths(model, revision=revision)
    recipe = CodecRecipe(model=model, revision=revision, bandwidth_kbps=offered[max(offered)])
    return load_codec(recipe, device="auto"), offered


def codecs_at_hand(named: Sequence[str]) -> Iterator[str]:
    """Codecs that can be loaded without a network: those that are named, else what is cached here, and the demo.

    Raises:
        ConfigError: none.
    """
    if named:
        yield from named
        return
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    for name in PUBLISHED:
        if (cache / f"models--{name.replace('/', '--')}").is_dir():
            yield name
    yield "demo"


def not_loadable(named: Sequence[str], errors: Sequence[ConfigError]) -> ConfigError:
    """Why no codec is there to audit with."""
    tried = "; ".join(map(str, errors))
    return ConfigError(f"no codec of {', '.join(named) or 'those at hand'} can be loaded: {tried}; name one by --codec")
