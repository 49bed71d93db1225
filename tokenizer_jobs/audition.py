"""One row back to audio: find its codes, load the codec that made them, decode, write a WAV file block by block."""

import difflib
import itertools
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.catalog import Snapshot, newest_snapshot, read_snapshot
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.recipe import CodecFacts, ResolvedRecipe, read_recipe
from tokenizer_jobs.shards import StoredRow, find_row, read_batches
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.wording import rejects_command

__all__ = ["WrittenAudio", "any_row_id", "decode_to_wav"]

NUM_SUGGESTIONS = 3
SEARCHED_IDS = 200_000
"""Ids looked through for close matches: a message must not take minutes."""
LARGEST_WAV_BYTES = 2**32 - 4096
"""Of samples: the sizes inside a WAV file have 32 bits, and its header needs a little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenAudio:
    """A WAV file that was written."""

    path: Path
    num_samples: int
    """Per channel."""
    sample_rate: int
    """In Hz."""
    channels: int
    codec: str


def decode_to_wav(output: str, *, row_id: str, destination: str | Path, model: str | None = None) -> WrittenAudio:
    """Decode one row of the newest snapshot to a WAV file of 32-bit floats; above 4 GiB it is of the kind RF64.

    The row is decoded block by block where its codec can be streamed. One that cannot, such as MusicGen's of 32 kHz,
    decodes it whole, in memory that grows with the row.

    Args:
        output: Local path or fsspec URL.
        row_id: The row's `id`.
        destination: File to write; a file that is there is replaced.
        model: Where the codec is now; None takes it from where the recipe says.

    Raises:
        ConfigError: there is no such output or row, the codec cannot be loaded, or it has other weights.
        IntegrityError: the shard is damaged.
    """
    path = Path(destination)
    if not path.parent.is_dir():
        raise ConfigError(f"-o {str(path)!r}: there is no folder {str(path.parent)!r}; make it first")
    storage = Storage.at(output)
    recipe = read_recipe(storage)
    row = _find(storage, read_snapshot(storage), row_id=row_id)
    num_samples, sample_rate = int(row.columns["num_samples"]), int(row.columns["sample_rate"])
    facts, blocks = _decode(row, recipe=recipe, model=model, num_samples=num_samples)
    container = _container(num_samples=num_samples, channels=facts.channels)
    _write_wav(path, blocks, container=container, channels=facts.channels, sample_rate=sample_rate)
    return WrittenAudio(
        path=path,
        num_samples=num_samples,
        sample_rate=sample_rate,
        channels=facts.channels,
        codec=model or recipe.codec.model,
    )


def any_row_id(output: str) -> str | None:
    """The id of some row of the newest snapshot, for an example; None where there is none."""
    storage = Storage.at(output)
    return next(_ids(storage, newest_snapshot(storage)), None)


def _find(storage: Storage, snapshot: Snapshot, *, row_id: str) -> StoredRow:
    row = find_row(storage, (shard.path for shard in snapshot.shards), row_id=row_id)
    if row is not None:
        return row
    close = _close_ids(itertools.islice(_ids(storage, snapshot), SEARCHED_IDS), row_id)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "the column `id` of codes/ lists them."
    raise ConfigError(
        f"--id {row_id!r} is no row of snapshot {snapshot.number} of {storage.name!r} ({snapshot.facts.rows} rows); "
        f"{hint} A rejected item has no codes; {rejects_command(storage.name)} shows why"
    )


def _close_ids(ids: Iterator[str], row_id: str) -> Sequence[str]:
    name = row_id.rpartition("/")[2]
    known = list(ids)
    same_name = [known_id for known_id in known if name and name in known_id]
    close = difflib.get_close_matches(row_id, known[:10_000], n=NUM_SUGGESTIONS, cutoff=0.5)
    return list(dict.fromkeys([*same_name[:NUM_SUGGESTIONS], *close]))[:NUM_SUGGESTIONS]


def _ids(storage: Storage, snapshot: Snapshot | None) -> Iterator[str]:
    for shard in snapshot.shards if snapshot is not None else ():
        for batch in read_batches(storage, shard.path, columns=["id"]):
            yield from batch.column("id").to_pylist()


def _decode(
    row: StoredRow, *, recipe: ResolvedRecipe, model: str | None, num_samples: int
) -> tuple[CodecFacts, Iterator[npt.NDArray[np.float32]]]:
    """The codec, and waveforms [C, n] in [-1, 1] that follow one another."""
    if recipe.has_unknown_codec:
        raise ConfigError(
            "these codes were imported without a codec, so that nothing here can decode them; import them again with "
            "--codec MODEL, where MODEL made them"
        )
    # Imports torch: seconds that a wrong id need not cost.
    from tokenizer_jobs.encoding import decode_in_blocks, describe_codec

    # Decoding is fp32 on every device: a recipe's tf32 or bf16 is about encoding, and needs a GPU.
    named = recipe.codec.model_copy(update={"precision": "fp32"})
    if model is not None:
        named = named.model_copy(update={"model": model, "revision": None})
    facts = describe_codec(named)
    if facts.weights_sha256 != recipe.weights_sha256:
        raise ConfigError(
            f"the codec at {named.model!r} has weights {facts.weights_sha256}, the output was made with "
            f"{recipe.weights_sha256} ({recipe.codec.model}); give --model the codec that made it"
        )
    return facts, decode_in_blocks(named, row.encoded, num_samples=num_samples, device="auto")


def _container(*, num_samples: int, channels: int) -> Literal["WAV", "RF64"]:
    """RF64 (EBU Tech 3306) is WAV with sizes of 64 bits; players know WAV better."""
    return "WAV" if 4 * channels * num_samples <= LARGEST_WAV_BYTES else "RF64"


def _write_wav(
    path: Path,
    blocks: Iterator[npt.NDArray[np.float32]],
    *,
    container: Literal["WAV", "RF64"],
    channels: int,
    sample_rate: int,
) -> None:
    import soundfile

    # A crash before the last line leaves a file of another name; one that was there stays as it was until then. What
    # is no file, such as /dev/null, is written to as it is.
    is_replaced = not path.exists() or path.is_file()
    written = path.resolve()
    staged = written.with_name(f".{written.name}.{secrets.token_hex(4)}") if is_replaced else written
    try:
        with soundfile.SoundFile(staged, "w", sample_rate, channels, subtype="FLOAT", format=container) as wav:
            for block in blocks:
                wav.write(block.T)
        if is_replaced:
            staged.replace(written)
    except (OSError, soundfile.LibsndfileError) as error:
        raise ConfigError(f"-o {str(path)!r} cannot be written: {error}; choose another file") from error
    finally:
        if is_replaced:
            staged.unlink(missing_ok=True)
