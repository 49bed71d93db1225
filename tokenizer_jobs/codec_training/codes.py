"""The codes of an output, copied once into one file that is memory-mapped, so that a training sees them unchanged.

CODES/
  frames.u16      frame after frame, [n, K], little-endian
  index.json      written last: where the codes came from, and where each recording lies

Letters in shapes: K codebooks, T frames.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from encodec_core import EncodecConfig
from tokenizer_jobs.catalog import Snapshot, SnapshotShard, read_snapshot
from tokenizer_jobs.digest import codes_sha256
from tokenizer_jobs.errors import ConfigError, IntegrityError
from tokenizer_jobs.recipe import ResolvedRecipe, read_recipe
from tokenizer_jobs.shards import codes_arrays, read_batches
from tokenizer_jobs.storage import Storage

__all__ = ["CodedRecording", "CodesOrigin", "StoredCodes", "copy_codes"]

Codes = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodesOrigin:
    """What made the codes."""

    output: str
    snapshot: int
    digest: str
    """Of the snapshot."""
    weights_sha256: str
    """Of the codec."""
    bandwidth_kbps: float
    codec_config: Mapping[str, Any]

    @property
    def codec(self) -> EncodecConfig:
        """The codec's layout."""
        return EncodecConfig(**self.codec_config)

    @property
    def n_q_of_bandwidths(self) -> dict[float, int]:
        """The bandwidths that the codes can be cut down to, in kbps, and the codebooks that each uses."""
        codec = self.codec
        return {kbps: codec.n_q_for(kbps) for kbps in codec.target_bandwidths if kbps <= self.bandwidth_kbps}


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedRecording:
    """One recording, its slices joined."""

    sha256: str
    """Of its codes; copies of a recording agree in it."""
    start: int
    """Its first frame in the file."""
    window_frames: tuple[int, ...]
    """Frames of each window; of the whole recording for a codec without windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCodes:
    """Copied codes."""

    origin: CodesOrigin
    frames: Codes
    """[n, K], memory-mapped."""
    recordings: tuple[CodedRecording, ...]
    """In the order of their hashes."""

    @property
    def num_codebooks(self) -> int:
        """K."""
        _, num_codebooks = self.frames.shape
        return int(num_codebooks)

    @property
    def hours(self) -> float:
        """Of audio that the codes stand for."""
        return len(self.frames) / self.origin.codec.frame_rate / 3600

    def split(self, held_out_fraction: float) -> tuple[Sequence[CodedRecording], Sequence[CodedRecording]]:
        """Part the recordings into those to train on, and the share with the lowest hashes, rounded up.

        Raises:
            ConfigError: nothing is left to train on.
        """
        num_held_out = math.ceil(held_out_fraction * len(self.recordings))
        if num_held_out == len(self.recordings):
            raise ConfigError(
                f"codes.held_out_fraction = {held_out_fraction} leaves none of {len(self.recordings)} recordings to "
                "train on; set it to 0 or tokenize more audio"
            )
        return self.recordings[num_held_out:], self.recordings[:num_held_out]

    def sequences(self, recordings: Sequence[CodedRecording]) -> list[Codes]:
        """What the entropy coder codes from a fresh start, [K, T] each: a recording, or one window of it."""
        return [codes for recording in recordings for codes in self._windows(recording)]

    def _windows(self, recording: CodedRecording) -> Iterator[Codes]:
        start = recording.start
        for num_frames in recording.window_frames:
            yield self.frames[start : start + num_frames].T
            start += num_frames


def copy_codes(folder: Path, *, output: str, max_hours: float) -> StoredCodes:
    """Copy the newest snapshot of an output into `folder`, or open what an earlier call left there.

    Copies of a recording are kept once.

    Raises:
        ConfigError: there is no such output, it has no codes, or they are no longer those of the same codec.
        IntegrityError: a shard is damaged, or lacks slices of a recording.
    """
    storage = Storage.at(output)
    recipe = read_recipe(storage)
    if recipe.has_unknown_codec:
        raise ConfigError(
            f"the codes of {output} were imported without a codec, and a language model belongs to one; import them "
            "again with --codec MODEL"
        )
    index = folder / "index.json"
    if not index.exists():
        _copy(folder, storage, recipe=recipe, output=output, max_hours=max_hours)
    content = json.loads(index.read_text())
    origin = CodesOrigin(**content["origin"])
    if origin.weights_sha256 != recipe.weights_sha256:
        raise ConfigError(
            f"{folder} holds codes of a codec with weights {origin.weights_sha256}, the codec of {output} has "
            f"{recipe.weights_sha256}; a language model belongs to one codec, so give the training another output"
        )
    recordings = [
        CodedRecording(**fields | {"window_frames": tuple(fields["window_frames"])}) for fields in content["recordings"]
    ]
    num_codebooks = origin.codec.n_q_for(origin.bandwidth_kbps)
    return StoredCodes(
        origin=origin,
        frames=np.memmap(folder / "frames.u16", dtype="<u2", mode="r").reshape(-1, num_codebooks),
        recordings=tuple(sorted(recordings, key=lambda recording: recording.sha256)),
    )


def _copy(folder: Path, storage: Storage, *, recipe: ResolvedRecipe, output: str, max_hours: float) -> None:
    snapshot = read_snapshot(storage)
    origin = CodesOrigin(
        output=output,
        snapshot=snapshot.number,
        digest=snapshot.facts.digest,
        weights_sha256=recipe.weights_sha256,
        bandwidth_kbps=recipe.codec.bandwidth_kbps,
        codec_config=recipe.codec_config,
    )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / "frames.u16").open("wb") as file:
        recordings = list(
            _append(
                file,
                _recordings(storage, _chosen(snapshot, max_hours=max_hours)),
                num_codebooks=origin.codec.n_q_for(origin.bandwidth_kbps),
            )
        )
    if not recordings:  # not kept, so that an output that has codes later is copied then
        raise ConfigError(f"snapshot {origin.snapshot} of {output} has no codes; tokenize audio into it first")
    content = {
        "origin": asdict(origin),
        "recordings": [asdict(recording) for recording in recordings],
    }
    staged = folder / "index.json.staged"
    staged.write_text(json.dumps(content))
    # A crash before this line leaves a folder without index, which the next call copies anew.
    staged.replace(folder / "index.json")


def _chosen(snapshot: Snapshot, *, max_hours: float) -> Iterator[SnapshotShard]:
    """Yield shards until they hold enough; neighbours in plan order are alike, the order of hashes mixes them."""
    hours = 0.0
    for shard in sorted(snapshot.shards, key=lambda shard: hashlib.sha256(shard.path.encode()).digest()):
        if hours < max_hours:
            yield shard
        hours += shard.hours


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    id: str
    codes: Codes
    window_frames: list[int] | None
    """None for a codec without windows."""
    slice_index: int


def _recordings(storage: Storage, shards: Iterator[SnapshotShard]) -> Iterator[list[_Row]]:
    """Yield the slices of each recording, in order. They stand together in one shard."""
    for shard in shards:
        slices: list[_Row] = []
        for row in _rows(storage, shard.path):
            if row.slice_index == 0 and slices:
                yield slices
                slices = []
            if row.slice_index != len(slices) or (slices and slices[0].id != row.id):
                raise IntegrityError(
                    f"{shard.path} has slice {row.slice_index} of {row.id!r} where slice {len(slices)} belongs; "
                    "`tokenizer-jobs verify` says what else is wrong"
                )
            slices.append(row)
        if slices:
            yield slices


def _rows(storage: Storage, path: str) -> Iterator[_Row]:
    for batch in read_batches(storage, path, columns=["id", "codes", "window_frames", "slice_index"]):
        columns = batch.drop_columns(["codes"]).to_pylist()
        for codes, row in zip(codes_arrays(batch.column("codes")), columns, strict=True):
            yield _Row(codes=codes, **row)


def _append(file: BinaryIO, recordings: Iterator[list[_Row]], *, num_codebooks: int) -> Iterator[CodedRecording]:
    start, seen = 0, set()
    for slices in recordings:
        codes = np.concatenate([row.codes for row in slices], axis=1)
        if len(codes) != num_codebooks:
            raise IntegrityError(
                f"{slices[0].id!r} has {len(codes)} codebooks, its output's bandwidth {num_codebooks}; "
                "`tokenizer-jobs verify` says what else is wrong"
            )
        sha256 = codes_sha256(codes)
        if sha256 in seen:
            continue
        seen.add(sha256)
        file.write(np.ascontiguousarray(codes.T, dtype="<u2").tobytes())
        yield CodedRecording(sha256=sha256, start=start, window_frames=_window_frames(slices))
        start += codes.shape[1]


def _window_frames(slices: Sequence[_Row]) -> tuple[int, ...]:
    """Lengths of what is coded from a fresh start; slices of a codec without windows continue each other."""
    num_frames = sum(row.codes.shape[1] for row in slices)
    lengths = [length for row in slices for length in row.window_frames or ()] or [num_frames]
    if sum(lengths) != num_frames:
        raise IntegrityError(
            f"{slices[0].id!r} has windows of {sum(lengths)} frames in all, and {num_frames} frames of codes; "
            "`tokenizer-jobs verify` says what else is wrong"
        )
    return tuple(lengths)
