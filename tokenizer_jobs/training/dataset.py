"""`TokenDataset`: the codes of a snapshot as samples for training, shuffled, dealt to ranks and workers, resumable.

Letters in shapes: K codebooks, T frames, S tokens of a sequence.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.training.codebooks import choose_codebooks, codebook_size, frames_per_second
from tokenizer_jobs.training.collation import Collation
from tokenizer_jobs.training.columns import SampleColumns
from tokenizer_jobs.training.dealing import DealtDataset, Sample
from tokenizer_jobs.training.epochs import PackedEpoch, RowsEpoch, SampleShape
from tokenizer_jobs.training.opening import choose_rows, open_snapshot
from tokenizer_jobs.training.order import EpochOrder
from tokenizer_jobs.training.patterns import Pattern
from tokenizer_jobs.training.positions import Remainder
from tokenizer_jobs.training.windows import Pieces, RowSource

__all__ = ["TokenDataset"]

NUM_STRANDS = 48
"""Divisible by 1, 2, 3, 4, 6, 8, 12, 16, 24 and 48 consumers. One consumer holds a row group of each: 8 MiB at most."""


class TokenDataset(DealtDataset):
    """The rows of one snapshot, one sample each, or packed into sequences of one length.

    A sample is a dict: `id`, `codes` (torch.uint16 [K, T]), `start_frame` of the crop, and the columns asked for; with
    a pattern `tokens` (int64, as the pattern lays them out) in the place of `codes`. A packed sample has `positions`
    (int64 [S], from 0 in each document), `document_ids` (int64 [S]), `cu_seqlens` (int32, bounds of the documents) and
    `documents`, a list of a dict for each with its `id`, `start_token` and columns.

    The sequence of an epoch is a function of the snapshot, the filters, `seed`, `shuffle`, `buffer_rows`, `num_strands`
    and the epoch alone: never of the machine, the ranks or the workers. Choose the epoch of each pass by `set_epoch`,
    as with torch's DistributedSampler. A snapshot that is published later changes nothing here.

    Args:
        output: Local path or URL of an output.
        snapshot: Its number; None: the newest.
        pattern: Lays codes out as tokens.
        crop_frames: Take so many frames of each row, from a place drawn for each row and epoch; None: whole rows.
        short: What becomes of rows shorter than `crop_frames`. `pad`: they are given as they are, and collation pads;
            `drop`: they are left out; `pack`: all pieces are packed into sequences as long as a crop's.
        pack_tokens: Lay the tokens (frames, without a pattern) of all pieces end to end and cut them into sequences of
            so many; the last of each strand is shorter. None: a sample is one piece.
        seed: Of order, crops, and what a pattern draws.
        shuffle: False: in the order of the plan.
        buffer_rows: Rows that are shuffled among themselves, beside the permutation of row groups.
        num_strands: Row groups that samples are taken from by turns; row groups are read once an epoch over all where
            it is a multiple of ranks × workers.
        num_codebooks: The first so many; None: all.
        bandwidth_kbps: As many as it pays for, instead of `num_codebooks`.
        where: Rows to choose: a condition on their columns in SQL, or a pyarrow expression.
        columns: Names of columns that samples have too. `words` (list of text, start_seconds, end_seconds) and `text`
            follow a crop.
        rank: As `DealtDataset`, like the three below.
        world_size: Ranks in all.
        epochs: Of one pass.
        remainder: Equal steps: `pad`, `drop`, or unequal ones: `keep`.

    Raises:
        ConfigError: an argument is not offered by this output, or contradicts another.
        IntegrityError: what is stored is damaged.
    """

    def __init__(
        self,
        output: str,
        *,
        snapshot: int | None = None,
        pattern: Pattern | None = None,
        crop_frames: int | None = None,
        short: Literal["pad", "drop", "pack"] = "pad",
        pack_tokens: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        buffer_rows: int = 8192,
        num_strands: int = NUM_STRANDS,
        num_codebooks: int | None = None,
        bandwidth_kbps: float | None = None,
        where: str | pc.Expression | None = None,
        columns: Sequence[str] = (),
        rank: int | None = None,
        world_size: int | None = None,
        epochs: int | None = 1,
        remainder: Remainder = "pad",
    ) -> None:
        super().__init__(seed=seed, rank=rank, world_size=world_size, epochs=epochs, remainder=remainder)
        _check_lengths(crop_frames=crop_frames, short=short, pack_tokens=pack_tokens)
        _check_positive(buffer_rows=buffer_rows, num_strands=num_strands)
        opened = open_snapshot(output, number=snapshot)
        count = choose_codebooks(opened.recorded, num_codebooks=num_codebooks, bandwidth_kbps=bandwidth_kbps)
        if short == "pack" and pack_tokens is None and crop_frames is not None:
            pack_tokens = crop_frames if pattern is None else pattern.num_tokens(crop_frames, num_codebooks=count)
        sample_columns = SampleColumns.of(
            opened.schema,
            columns,
            cuts=crop_frames is not None or pack_tokens is not None,
            frame_rate=frames_per_second(opened.recorded) if {"text", "words"}.intersection(columns) else 0.0,
        )
        self._shape = SampleShape(columns=sample_columns, pattern=pattern, pack_tokens=pack_tokens)
        chosen = choose_rows(
            opened,
            where=where,
            min_frames=(crop_frames or 1) if short == "drop" else 1,
            with_frames=pack_tokens is not None,
        )
        pieces = Pieces(num_codebooks=count, crop_frames=crop_frames, seed=seed)
        self._source = RowSource(opened=opened, chosen=chosen, columns=sample_columns.read, pieces=pieces)
        self._order = {"shuffle": shuffle, "num_strands": num_strands, "buffer_rows": buffer_rows}
        self._filters = {"where": None if where is None else str(where), "short": short}
        self._packed: tuple[int, PackedEpoch] | None = None

    @property
    def snapshot(self) -> int:
        """Number of the snapshot that is read."""
        return self._source.opened.facts.number

    @property
    def recorded(self) -> Mapping[str, Any]:
        """What the shards say of codec and recipe."""
        return self._source.opened.recorded

    @property
    def num_codebooks(self) -> int:
        """Codebooks of each sample."""
        return self._source.pieces.num_codebooks

    @property
    def layout(self) -> Mapping[str, Any]:
        """What samples are made of: the pattern, the length of packed sequences, and the columns; None where unused."""
        shape = self._shape
        return {"pattern": shape.pattern, "pack_tokens": shape.pack_tokens, "columns": shape.columns.asked}

    @property
    def pad_id(self) -> int:
        """What collation pads with: the pattern's, else the codebook size, which is no code."""
        pattern = self._shape.pattern
        return codebook_size(self.recorded) if pattern is None else pattern.pad_id

    @property
    def collate(self) -> Collation:
        """Joins samples to a batch: the `collate_fn` of a DataLoader."""
        return Collation(pad_id=self.pad_id)

    @property
    def num_strands(self) -> int:
        """Most strands that an epoch has."""
        return int(self._order["num_strands"])

    def num_samples(self, epoch: int) -> int:
        """See `DealtDataset.num_samples`; of packed sequences it differs a little from epoch to epoch."""
        if self._shape.pack_tokens is None:
            return int(self._source.chosen.group_starts[-1])
        return self._packed_epoch(epoch).num_samples

    def open_epoch(self, epoch: int) -> Callable[[int], Sample]:
        """See `DealtDataset.open_epoch`."""
        if self._shape.pack_tokens is not None:
            return self._packed_epoch(epoch).reader()
        return RowsEpoch(self._source, order=self._order_of(epoch), shape=self._shape, epoch=epoch)

    def identity(self) -> dict[str, Any]:
        """See `DealtDataset.identity`."""
        facts, shape = self._source.opened.facts, self._shape
        packing = None if shape.pack_tokens is None else [shape.pack_tokens, repr(shape.pattern), self.num_codebooks]
        return {
            "snapshot": facts.number,
            "digest": facts.digest,
            "seed": self.seed,
            "crop_frames": self._source.pieces.crop_frames,
            "packing": packing,
            **self._order,
            **self._filters,
        }

    def _order_of(self, epoch: int) -> EpochOrder:
        group_rows: npt.NDArray[np.int64] = np.diff(self._source.chosen.group_starts)
        return EpochOrder.of(
            group_rows,
            seed=self.seed,
            epoch=epoch,
            shuffle=bool(self._order["shuffle"]),
            num_strands=self.num_strands,
            buffer_rows=int(self._order["buffer_rows"]),
        )

    def _packed_epoch(self, epoch: int) -> PackedEpoch:
        if self._packed is None or self._packed[0] != epoch:
            order = self._order_of(epoch)
            self._packed = (epoch, PackedEpoch(self._source, order=order, shape=self._shape, epoch=epoch))
        return self._packed[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": None}

    def __repr__(self) -> str:
        rows = int(self._source.chosen.group_starts[-1])
        return f"TokenDataset(snapshot={self.snapshot}, rows={rows}, num_codebooks={self.num_codebooks})"


def _check_lengths(*, crop_frames: int | None, short: str, pack_tokens: int | None) -> None:
    if short not in ("pad", "drop", "pack"):
        raise ConfigError(f"short = {short!r} is not understood; choose one of pad, drop, pack")
    if short != "pad" and crop_frames is None:
        raise ConfigError(
            f"short = {short!r} says what becomes of rows shorter than crop_frames, which is not given; give it, or "
            "pack whole rows by pack_tokens=…"
        )
    if short == "pack" and pack_tokens is not None:
        raise ConfigError(
            f"short = 'pack' packs to crop_frames, and pack_tokens = {pack_tokens} is given too; give one"
        )
    _check_positive(crop_frames=crop_frames, pack_tokens=pack_tokens)


def _check_positive(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigError(f"{name} = {count} must be 1 or above")
