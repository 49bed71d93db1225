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
    """Refuse to push before anything is written.

    Raises:
        ConfigError: this machine has no token for the hub, or is told to stay offline.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise ConfigError("--push needs the hub, and HF_HUB_OFFLINE is set: unset it, or export without --push")
    if get_token() is None:
        raise ConfigError(
            "--push needs a token for the hub, and this machine has none: run `hf auth login` or set HF_TOKEN to a "
            "token with write access, or export without --push"
        )


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
    from huggingface_hub import DatasetCard
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        with _quiet():
            datasets.load_from_disk(folder).push_to_hub(repository, commit_message="Export of codes")
        # `push_to_hub` has put the configuration of its files into the card: ours keeps it.
        ours = DatasetCard(card)
        ours.data = DatasetCard.load(repository).data
        ours.push_to_hub(repository, commit_message="Card of the export")
    except Exception as error:
        # The hub's client raises its transport's own errors, of which there is no list: what is no refusal is one.
        if isinstance(error, HFValidationError | LocalTokenNotFoundError | OfflineModeIsEnabled | HfHubHTTPError):
            raise ConfigError(
                f"--push {repository!r} was refused: {error}; expected OWNER/NAME of a data set that the token may "
                f"write. The export in {str(folder)!r} is complete"
            ) from error
        raise TransientError(
            f"--push {repository!r}: the hub cannot be reached ({error}); the export in {str(folder)!r} is complete, "
            "the same command pushes it again"
        ) from error


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
