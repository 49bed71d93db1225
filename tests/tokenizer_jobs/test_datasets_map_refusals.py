"""What `TokenizeAudio` refuses, and the words in which it does."""

from typing import Any

import numpy as np
import pytest
from datasets.fingerprint import Hasher

from tests.tokenizer_jobs.test_datasets_map import run_script
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.integrations.datasets_map import TokenizeAudio

ARRAY = {"array": [0.0] * 400, "sampling_rate": 24000}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"audio": ["a.wav"], "codes": [[1]]}, "columns codes of its own"),
        ({"audio": "a.wav"}, "batched=True"),
        ({"audio": ARRAY}, "batched=True"),
        ({"text": ["a"], "label": [1]}, "no column looks like audio; say audio_column = one of text, label"),
        ({"one": [ARRAY], "two": [ARRAY]}, "2 columns look like audio"),
        ({"audio": [7]}, "an audio cell of type int"),
        ({"audio": [{"samples": [0.0]}]}, "keys samples"),
        ({"audio": [{"array": [0.0]}]}, "no sampling_rate"),
        ({"audio": [{"array": np.zeros((400, 2), np.float32), "sampling_rate": 24000}]}, "transpose"),
        ({"audio": np.array([b"RIFF\0\0"])}, "zero bytes"),
        (3, "a batch of type int"),
    ],
)
def test_a_batch_that_cannot_be_understood_is_refused(batch: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TokenizeAudio("demo", on_error="null")(batch)


def test_what_cannot_be_kept_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="each row stays one row"):
        TokenizeAudio("demo", channels="each")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="on_error = 'skip'"):
        TokenizeAudio("demo", on_error="skip")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="precision"):
        TokenizeAudio("demo", precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="5 is not offered"):
        Hasher.hash(TokenizeAudio("demo", bandwidth_kbps=5.0))
    with pytest.raises(ConfigError, match="with_indices"):
        TokenizeAudio("demo")({"audio": [ARRAY]}, [0])  # type: ignore[arg-type]


def test_other_weights_in_a_worker_are_refused() -> None:
    tokenize = TokenizeAudio.__new__(TokenizeAudio)
    tokenize.__setstate__(TokenizeAudio("demo").__getstate__().replace('"weights_sha256": "', '"weights_sha256": "0'))
    with pytest.raises(ConfigError, match="give all processes the same model"):
        tokenize({"audio": [ARRAY]})


def test_the_example_runs() -> None:
    done = run_script("examples/map_dataset.py")
    assert done.returncode == 0, done.stderr
    assert "from the cache: True" in done.stdout
