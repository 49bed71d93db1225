"""A Hugging Face data set: the folder of `save_to_disk`, and the same on the hub, both written by `datasets` itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokenizer_jobs.errors import ConfigError, TransientError
from tokenizer_jobs.exporting.card import card_text
from tokenizer_jobs.exporting.destination import Destination
from tokenizer_jobs.exporting.rows import ExportedRows
from tokenizer_jobs.recipe import METADATA_KEY

__all__ = ["check_may_push", "push", "write_huggingface"]

CARD = "README.md"
_BUSY = (408, 425, 429)
"""Answers of a server that may do better later."""
SHARD_BYTES = 500 << 20
"""Of one file of `save_to_disk`, about: its own bound by default."""


def write_huggingface(rows: ExportedRows, destination: Destination) -> dict[str, Any]:
    """Write the folder that `datasets.load_from_disk` reads; returns what the manifest says besides.

    The rows go through a file on this machine, which `datasets` maps into memory and copies: no more than a batch is
    held.
    """
    with _mapped(rows, near=destination.folder) as (dataset, size_bytes):
        folder = destination.folder
        shards = max(1, min(-(-size_bytes // SHARD_BYTES), len(dataset)))
        with _quiet():
            dataset.save_to_disk(folder, num_shards=shards)
    for path in sorted(folder.iterdir()):
        destination.add(path.name)
    with destination.new_file(CARD) as staged:
        staged.write_text(card_text(rows))
    return {"layout": "save_to_disk"}


def check_may_push() -> None:
    """Refuse to push before anything is written: an export may take hours.

    Raises:
        ConfigError: this machine has no token that the hub knows, or is told to stay offline.
        TransientError: the hub cannot be reached.
    """
    from huggingface_hub import constants, get_token, whoami

    if constants.HF_HUB_OFFLINE:
        raise ConfigError("--push needs the hub, and HF_HUB_OFFLINE is set: unset it, or export without --push")
    if get_token() is None:
        raise ConfigError(
            "--push needs a token for the hub, and this machine has none: run `hf auth login` or set HF_TOKEN to a "
            "token with write access, or export without --push"
        )
    try:
        whoami()
    except Exception as error:
        raise _translated(error, what="--push", so_far="nothing was written") from error


def push(folder: Path, *, repository: str, card: str) -> None:
    """Upload an export in the layout of `save_to_disk` as a data set of the hub, with its card.

    Args:
        folder: That `write_huggingface` wrote.
        repository: `owner/name`; made if it is not there.
        card: Text of its README.md.

    Raises:
        ConfigError: the hub refuses the name or the token.
        TransientError: the hub cannot be reached.
    """
    import datasets
    from huggingface_hub import DatasetCard, DatasetCardData

    try:
        with _quiet():
            datasets.load_from_disk(folder).push_to_hub(repository, commit_message="Export of codes")
            # `push_to_hub` has put the configuration of its files into the card's data. What stands there stays, and
            # with it what an owner has added since; only the size follows the rows.
            ours, theirs = DatasetCard(card), DatasetCard.load(repository).data.to_dict()
            facts = ours.data.to_dict()
            ours.data = DatasetCardData(**{**facts, **theirs, "size_categories": facts["size_categories"]})
            ours.push_to_hub(repository, commit_message="Card of the export")
    except Exception as error:
        so_far = f"the export in {str(folder)!r} is complete, and the same command pushes it again"
        raise _translated(error, what=f"--push {repository!r}", so_far=so_far) from error


def _translated(error: Exception, *, what: str, so_far: str) -> ConfigError | TransientError:
    """An error of the hub's client as one of ours.

    Its transport raises errors of its own, of which there is no list: what is no refusal is a hub that is not reached.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__  # an upload in a thread is told by a RuntimeError, which hides the answer behind it
    found = error if cause is None else cause
    told = " ".join(str(found).split())
    if isinstance(found, HfHubHTTPError):
        status = found.response.status_code
        is_refused = 400 <= status < 500 and status not in _BUSY
    else:
        is_refused = isinstance(found, ValueError | LocalTokenNotFoundError | OfflineModeIsEnabled)
    if is_refused:
        return ConfigError(
            f"{what} was refused: {told}; expected OWNER/NAME of a data set that the token may write; {so_far}"
        )
    return TransientError(f"{what}: the hub cannot be reached, or fails ({told}); {so_far}")


@contextmanager
def _mapped(rows: ExportedRows, *, near: Path) -> Iterator[tuple[Any, int]]:
    """The rows as a `datasets.Dataset` that is mapped from a temporary file, and the size of that file."""
    import datasets
    from datasets.table import MemoryMappedTable

    # Beside the export, under its name: what a killed process leaves goes with the next export to the same place.
    path = near.with_name(f"{near.name}.rows")
    try:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, rows.schema) as writer:
            for batch in rows.batches():
                writer.write_batch(batch)
        info = datasets.DatasetInfo(
            features=datasets.Features.from_arrow_schema(rows.schema),
            description=rows.schema.metadata[METADATA_KEY].decode(),
        )
        # A fingerprint of our own: theirs is drawn from the file's time, and the bytes shall depend on the rows alone.
        yield (
            datasets.Dataset(MemoryMappedTable.from_file(str(path)), info=info, fingerprint=rows.digest.hex[:16]),
            path.stat().st_size,
        )
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of `datasets`."""
    import datasets

    were_on = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_on:
            datasets.enable_progress_bars()
