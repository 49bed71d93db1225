"""What a new process does before its first unit: imports, the codec, a first batch. It is run to be timed.

python -m tokenizer_jobs.dry_run.warm_up DEVICE < codec-recipe.json
"""

import sys
import time

import numpy as np

from tokenizer_jobs import job  # noqa: F401  # the imports are what is timed
from tokenizer_jobs.config import CodecRecipe
from tokenizer_jobs.encoding import Codec, DeviceName, limit_torch_threads, make_codec

__all__ = ["trial_seconds"]

TRIAL_SECONDS, TRIAL_ITEMS = 2, 4


def trial_seconds(codec: Codec) -> float:
    """Encode a few seconds of noise twice, and return the seconds that a second of audio took the second time."""
    facts = codec.describe()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (facts.channels, TRIAL_SECONDS * facts.sample_rate))
    waveforms = [noise.astype(np.float32)] * TRIAL_ITEMS
    codec.encode(waveforms)
    start = time.perf_counter()
    codec.encode(waveforms)
    return (time.perf_counter() - start) / (TRIAL_SECONDS * TRIAL_ITEMS)


def _main(device: DeviceName, recipe: CodecRecipe) -> None:
    limit_torch_threads(1)
    codec = make_codec(recipe, device=device)
    facts = codec.describe()
    codec.encode([np.zeros((facts.channels, facts.sample_rate), np.float32)])


if __name__ == "__main__":
    _main("cuda" if sys.argv[1] == "cuda" else "cpu", CodecRecipe.model_validate_json(sys.stdin.read()))
