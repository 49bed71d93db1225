"""What a codec is, from its files alone where they say all of it: plans and drivers need no torch to know it."""

from encodec_core.config import EncodecConfig, why_not_streamed
from encodec_core.hub import Location
from encodec_core.stored import Provenance, read_stored_codec
from tokenizer_jobs.config import CodecRecipe, is_own_codec
from tokenizer_jobs.encoding.own import load_own_codec
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.recipe import CodecFacts
from tokenizer_jobs.wording import did_you_mean

__all__ = ["check_bandwidth", "codec_facts", "describe_codec", "not_loaded"]

PUBLISHED = ("demo", "facebook/encodec_24khz", "facebook/encodec_48khz", "facebook/encodec_32khz")
"""Names that a misspelt one may stand for."""


def describe_codec(recipe: CodecRecipe) -> CodecFacts:
    """Say what the codec that a recipe names is, without getting it ready to encode.

    Raises:
        ConfigError: the model cannot be found or read, or does not offer the bandwidth.
    """
    if is_own_codec(recipe.model):
        return load_own_codec(recipe, device="cpu").describe()
    try:
        stored = read_stored_codec(Location.of(recipe.model, revision=recipe.revision))
    except (OSError, ValueError) as error:
        raise not_loaded(recipe.model, error) from error
    if stored is None:
        from tokenizer_jobs.encoding.encodec import describe_model  # imports torch: seconds

        return describe_model(recipe)
    check_bandwidth(stored.config, recipe)
    return codec_facts(stored.config, stored.provenance, recipe)


def check_bandwidth(config: EncodecConfig, recipe: CodecRecipe) -> None:
    """Check that a codec offers the bandwidth of a recipe.

    Raises:
        ConfigError: it does not.
    """
    offered = config.target_bandwidths
    if recipe.bandwidth_kbps not in offered:
        raise ConfigError(
            f"recipe.codec.bandwidth_kbps = {recipe.bandwidth_kbps:g} is not offered by {recipe.model}; "
            f"choose one of {', '.join(f'{bandwidth:g}' for bandwidth in offered)}"
        )


def not_loaded(model: str, error: Exception) -> ConfigError:
    """What to raise of a model that cannot be found or read."""
    meant = did_you_mean(model, PUBLISHED)
    return ConfigError(f"recipe.codec.model = {model!r} cannot be loaded: {error}{meant}")


def codec_facts(config: EncodecConfig, provenance: Provenance, recipe: CodecRecipe) -> CodecFacts:
    """The facts of an EnCodec that a recipe names."""
    return CodecFacts(
        name=recipe.model,
        revision=provenance.revision or recipe.revision,
        weights_sha256=provenance.weights_sha256,
        file_sha256=dict(provenance.files),
        config=config.to_dict(),
        sample_rate=config.sampling_rate,
        channels=config.audio_channels,
        hop_length=config.hop_length,
        frame_rate=config.frame_rate,
        num_codebooks=config.n_q_for(recipe.bandwidth_kbps),
        bandwidth_kbps=recipe.bandwidth_kbps,
        codebook_size=config.codebook_size,
        precision=recipe.precision,
        windowed=config.chunk_length is not None,
        grain_samples=config.chunk_stride or config.hop_length,
        # A stream of a causal codec computes in fp32 alone; windows go through the batch encoder, as it is asked to.
        streamed=why_not_streamed(config) is None and (config.chunk_length is not None or recipe.precision == "fp32"),
    )
