"""`TokenizeBatches` for Ray Data's `map_batches`: the service's codes as columns of a Ray dataset.

ds.map_batches(
    TokenizeBatches,
    fn_constructor_kwargs={"model": "facebook/encodec_24khz", "bandwidth_kbps": 6.0},
    batch_format="pyarrow", batch_size=32, compute=ray.data.ActorPoolStrategy(size=4), num_gpus=1,
)

For many hours of audio run a job: Ray Data has no stable mapping from inputs to output files.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from tokenizer_jobs.integrations.datasets_map import TokenizeAudio

__all__ = ["TokenizeBatches"]


class TokenizeBatches:
    """Adds the codes of an audio column to a batch: an actor of Ray Data.

    It takes what `TokenizeAudio` takes. On a node with GPUs it uses the one that Ray gave it (`num_gpus`), and none
    where it gave none: the process would see all of them.

    Args:
        arguments: Of `TokenizeAudio`.

    Raises:
        ConfigError: a value is not offered.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        if ray.is_initialized() and not ray.get_gpu_ids() and named.get("device", "auto") == "auto":
            named["device"] = "cpu"
        self._tokenize = TokenizeAudio(*arguments, **named)

    def __call__(self, batch: pa.Table | Mapping[str, Any]) -> Any:
        """Tokenize a batch.

        Args:
            batch: An Arrow table (`batch_format="pyarrow"`), or columns of numpy (`"numpy"`).

        Returns:
            All columns: of a table a table, whose codes are list<list<uint16>>; else arrays, codes [K, T] as objects.

        Raises:
            ConfigError: as `TokenizeAudio`.
            ItemError: as `TokenizeAudio`.
        """
        added = self._tokenize(batch)
        if isinstance(added, pa.Table):
            return added
        return {**batch, **{name: _as_array(column) for name, column in added.items()}}


def _as_array(column: Any) -> Any:
    if isinstance(column, np.ndarray):
        return column
    array = np.empty(len(column), dtype=object)
    array[:] = column
    return array
