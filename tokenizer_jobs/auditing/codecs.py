"""The codec of an audit: the one that is named, else the one at hand whose codes agree best with a few items."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
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
    offered = _offered(model, revision)
    recipe = CodecRecipe(model=model, revision=revision, bandwidth_kbps=offered[max(offered)])
    return load_codec(recipe, device="auto"), offered


@lru_cache(maxsize=1)
def _offered_by_demo() -> dict[int, float]:
    """Of the codec inside the package, which does not change: reading it costs as much as getting it ready."""
    return offered_bandwidths("demo")


def _offered(model: str, revision: str | None) -> dict[int, float]:
    return _offered_by_demo() if model == "demo" else offered_bandwidths(model, revision=revision)


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
