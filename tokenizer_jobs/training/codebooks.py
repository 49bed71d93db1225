"""What an output says of its codes: how many codebooks, which bandwidths, how many frames a second."""

import math
from collections.abc import Mapping
from typing import Any

from tokenizer_jobs.errors import ConfigError

__all__ = ["choose_codebooks", "codebook_size", "frames_per_second", "num_stored"]

Recorded = Mapping[str, Any]
"""The JSON in the metadata of shards."""


def choose_codebooks(recorded: Recorded, *, num_codebooks: int | None, bandwidth_kbps: float | None) -> int:
    """How many codebooks to read: the first ones, which are the codes of a lower bandwidth.

    Args:
        recorded: Of the output.
        num_codebooks: That many.
        bandwidth_kbps: As many as a bandwidth pays for; None for both: all.

    Raises:
        ConfigError: both are given, or the output does not have them.
    """
    stored = num_stored(recorded)
    if num_codebooks is not None and bandwidth_kbps is not None:
        raise ConfigError(
            f"num_codebooks = {num_codebooks} and bandwidth_kbps = {bandwidth_kbps:g} are both given; give one"
        )
    if num_codebooks is not None:
        if not 1 <= num_codebooks <= stored:
            raise ConfigError(
                f"num_codebooks = {num_codebooks} is not in the output; choose 1 to {stored}, the first of those stored"
            )
        return num_codebooks
    if bandwidth_kbps is None:
        return stored
    offered = _bandwidths(recorded, stored=stored)
    if bandwidth_kbps not in offered:
        choice = ", ".join(f"{kbps:g}" for kbps in offered)
        raise ConfigError(f"bandwidth_kbps = {bandwidth_kbps:g} is not in the output; choose one of {choice}")
    return offered[bandwidth_kbps]


def num_stored(recorded: Recorded) -> int:
    """Codebooks of every row."""
    return int(_fact(recorded, "n_q"))


def codebook_size(recorded: Recorded) -> int:
    """Codes are below it."""
    return int(_fact(recorded, "codebook_size"))


def frames_per_second(recorded: Recorded) -> float:
    """Frames over time; for a codec whose windows overlap, in the mean: within a window a frame is up to 10 ms off."""
    rate = float(_fact(recorded, "frame_rate"))
    config = recorded.get("codec_config", {})
    if not recorded.get("windowed") or not config.get("chunk_length_s"):
        return rate
    window = int(config["chunk_length_s"] * recorded["sample_rate"])
    stride = max(1, int((1.0 - config.get("overlap", 0.0)) * window))
    return float(math.ceil(window / recorded["hop_length"]) * recorded["sample_rate"] / stride)


def _bandwidths(recorded: Recorded, *, stored: int) -> dict[float, int]:
    """The bandwidths in the output, in kbps, and the codebooks that each pays for."""
    kbps_each = math.log2(codebook_size(recorded)) * float(_fact(recorded, "frame_rate")) / 1000
    published = recorded.get("codec_config", {}).get("target_bandwidths")
    if not published:
        return {round(kbps_each * count, 6): count for count in range(1, stored + 1)}
    paid = {float(kbps): max(1, math.floor(kbps / kbps_each + 1e-9)) for kbps in published}
    return {kbps: count for kbps, count in paid.items() if count <= stored}


def _fact(recorded: Recorded, name: str) -> Any:
    if name not in recorded:
        raise ConfigError(
            f"the shards do not say their {name}: they are no shards of ours, or of a format that is not known here; "
            "`verify` says more"
        )
    return recorded[name]
