"""The codec that imported codes are said to be of: a model at hand, or four numbers."""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from tokenizer_jobs.config import AudioRecipe, CodecRecipe
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.recipe import IMPORTED, UNKNOWN_WEIGHTS, CodecFacts, ResolvedRecipe

__all__ = ["CodecClaim", "claimed_recipe"]

UNKNOWN = "unknown"
LONGEST_HOP = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecClaim:
    """What is said of the codec: `model`, or the numbers."""

    model: str | None = None
    """Hub id, local folder, `.th` file, or `demo`."""
    revision: str | None = None
    sample_rate: int | None = None
    """In Hz."""
    frame_rate: float | None = None
    """Frames per second."""
    codebook_size: int | None = None

    def __post_init__(self) -> None:
        numbers = (self.sample_rate, self.frame_rate, self.codebook_size)
        if self.model is not None and any(number is not None for number in numbers):
            raise ConfigError(
                f"--codec {self.model!r} says the sample rate, the frame rate and the codebook size already; leave "
                "--sample-rate, --frame-rate and --codebook-size out"
            )
        if self.model is None and any(number is None for number in numbers):
            raise ConfigError(
                "import-codes needs --codec MODEL, or of an unknown codec --sample-rate, --frame-rate and "
                "--codebook-size, all three"
            )
        if self.model is None:
            self._check_numbers()

    def _check_numbers(self) -> None:
        assert self.codebook_size is not None
        if not 2 <= self.codebook_size <= 65536:
            raise ConfigError(f"--codebook-size {self.codebook_size} is not within 2 to 65536")
        self.hop_length()

    def hop_length(self) -> int:
        """Samples per frame of the codec that the numbers tell of.

        Raises:
            ConfigError: it is no whole number.
        """
        assert self.sample_rate is not None
        assert self.frame_rate is not None
        if self.sample_rate <= 0 or not 0 < self.frame_rate <= self.sample_rate:
            raise ConfigError(f"--frame-rate {self.frame_rate:g} is not above 0 and within {self.sample_rate}")
        hop = round(self.sample_rate / self.frame_rate)
        if abs(self.sample_rate / hop - self.frame_rate) > 1e-4 * self.frame_rate or hop > LONGEST_HOP:
            raise ConfigError(
                f"--sample-rate {self.sample_rate} and --frame-rate {self.frame_rate:g} give "
                f"{self.sample_rate / self.frame_rate:g} samples a frame, expected a whole number, as 24000 and "
                f"75 do; did you mean --frame-rate {self.sample_rate / hop:.10g}?"
            )
        return hop

    def offered(self) -> dict[int, float]:
        """Bandwidths by number of codebooks; empty where the codec is unknown."""
        if self.model is None:
            return {}
        from tokenizer_jobs.encoding import offered_bandwidths  # imports torch

        return offered_bandwidths(self.model, revision=self.revision)

    def size(self, offered: Collection[int]) -> int:
        """Entries of a codebook."""
        if self.model is None:
            assert self.codebook_size is not None
            return self.codebook_size
        return self.facts(max(offered)).codebook_size

    def facts(self, num_codebooks: int) -> CodecFacts:
        """The codec with so many codebooks in use.

        Raises:
            ConfigError: it has no such bandwidth.
        """
        if self.model is None:
            return self._unknown(num_codebooks)
        offered = self.offered()
        if num_codebooks not in offered:
            choice = ", ".join(map(str, sorted(offered)))
            raise ConfigError(f"--codec {self.model!r} has no bandwidth of {num_codebooks} codebooks; it has {choice}")
        from tokenizer_jobs.encoding import describe_codec

        bandwidth = offered[num_codebooks]
        return describe_codec(CodecRecipe(model=self.model, revision=self.revision, bandwidth_kbps=bandwidth))

    def _unknown(self, num_codebooks: int) -> CodecFacts:
        assert self.sample_rate is not None
        assert self.codebook_size is not None
        hop_length = self.hop_length()
        frame_rate = self.sample_rate / hop_length
        config = {
            "sampling_rate": self.sample_rate,
            "hop_length": hop_length,
            "codebook_size": self.codebook_size,
            "num_codebooks": num_codebooks,
        }
        return CodecFacts(
            name=UNKNOWN,
            revision=None,
            weights_sha256=UNKNOWN_WEIGHTS,
            file_sha256={},
            config=config,
            sample_rate=self.sample_rate,
            channels=1,
            hop_length=hop_length,
            frame_rate=frame_rate,
            num_codebooks=num_codebooks,
            bandwidth_kbps=num_codebooks * math.log2(self.codebook_size) * frame_rate / 1000,
            codebook_size=self.codebook_size,
            precision="fp32",
            windowed=False,
            grain_samples=hop_length,
            streamed=False,
        )


def claimed_recipe(facts: CodecFacts) -> tuple[CodecFacts, ResolvedRecipe]:
    """The facts with the mark of imported codes, and the recipe of the output that they make."""
    marked = replace(facts, config={**facts.config, IMPORTED: True})
    codec = CodecRecipe(model=facts.name, revision=facts.revision, bandwidth_kbps=facts.bandwidth_kbps)
    from tokenizer_jobs.config import Recipe

    return marked, ResolvedRecipe.resolve(Recipe(codec=codec, audio=AudioRecipe()), marked)
