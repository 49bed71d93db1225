"""Whether one committed file is what its commit says: there, with these bytes, this schema, these rows or rejects."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from tokenizer_jobs.commit_records import Commit, CommittedFile
from tokenizer_jobs.digest import Digest
from tokenizer_jobs.errors import IntegrityError, Stage
from tokenizer_jobs.format_version import check_format_version
from tokenizer_jobs.records import RowGroups
from tokenizer_jobs.row_checks import CheckedRow, file_facts
from tokenizer_jobs.schema import REJECT_COLUMNS, ROW_COLUMNS
from tokenizer_jobs.shards import CODES_FOLDER, codes_arrays, read_batches, read_schema
from tokenizer_jobs.storage import Storage

__all__ = ["FileChecks"]


@dataclass(slots=True, kw_only=True)
class FileChecks:
    """What has been seen of an output's files so far."""

    storage: Storage
    stored: Mapping[str, int]
    """Size of every shard and rejects file, by path."""
    recipe_id: str
    _schemas: dict[tuple[int, str], tuple[str, pa.Schema]] = field(default_factory=dict)
    """First file and its schema, by generation and folder."""

    def problems(self, commit: Commit, file: CommittedFile, *, remedy: str) -> Iterator[str]:
        """Say what is wrong with a file, if anything.

        Args:
            commit: As receipts have left it.
            file: That it names.
            remedy: What mends any of it.
        """
        what = self._wrong_bytes(file)
        if what is None:
            try:
                what = self._wrong_schema(commit, file) or (
                    self._wrong_rows(commit, file) if file in commit.shards else self._wrong_reasons(commit, file)
                )
            except IntegrityError as error:
                yield str(error)
        if what is not None:
            yield f"{file.path}{what}; {remedy}"

    def _wrong_bytes(self, file: CommittedFile) -> str | None:
        if file.path not in self.stored:
            return " is missing although a commit names it"
        if self.stored[file.path] != file.size_bytes:
            return f" has {self.stored[file.path]} bytes, its commit says {file.size_bytes}"
        with self.storage.open_file(file.path) as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
        return None if sha256 == file.sha256 else f" has sha256 {sha256}, its commit says {file.sha256}"

    def _wrong_schema(self, commit: Commit, file: CommittedFile) -> str | None:
        schema = read_schema(self.storage, file.path)
        facts = file_facts(schema)
        check_format_version(facts.get("format_version"), origin=file.path)
        folder = file.path.partition("/")[0]
        ours = ROW_COLUMNS if folder == CODES_FOLDER else REJECT_COLUMNS
        if not pa.schema(list(schema)[: len(ours)]).equals(ours):
            return " has other columns than the format version says"
        if facts.get("recipe_id") != self.recipe_id:
            return f" was made with recipe id {facts.get('recipe_id')}, the output has {self.recipe_id}"
        first, expected = self._schemas.setdefault((commit.generation, folder), (file.path, schema))
        if not schema.equals(expected) or schema.metadata != expected.metadata:
            return f" has another schema or metadata than {first} of the same generation"
        return None

    def _wrong_rows(self, commit: Commit, file: CommittedFile) -> str | None:
        """Check every row of a shard against its own facts, the file's metadata and the commit."""
        facts = file_facts(read_schema(self.storage, file.path))
        digest, num_rows, num_frames = Digest(), 0, 0
        group_rows, shortest_frames = list[int](), list[int]()
        columns = ["id", "codes", "num_frames", "num_codebooks", "window_frames", "codes_sha256"]
        for batch in read_batches(self.storage, file.path, columns=columns):
            values = {name: batch.column(name).to_pylist() for name in columns if name != "codes"}
            group_rows.append(batch.num_rows)
            shortest_frames.append(min(values["num_frames"]))
            for place, codes in enumerate(codes_arrays(batch.column("codes"))):
                row = CheckedRow(
                    id=values["id"][place],
                    codes=codes,
                    shape=(values["num_codebooks"][place], values["num_frames"][place]),
                    window_frames=values["window_frames"][place],
                    codes_sha256=values["codes_sha256"][place],
                )
                problem = row.problem(facts)
                if problem is not None:
                    return f": row {row.id!r} {problem}"
                digest.add_row(row.id, codes_sha256=row.codes_sha256, recipe_id=self.recipe_id)
                num_rows, num_frames = num_rows + 1, num_frames + codes.shape[1]
        stored, said = (num_rows, num_frames, digest.hex), (file.rows, commit.num_frames, commit.digest)
        if stored != said:
            return f" has rows, frames and digest {stored}, its commit says {said}"
        groups = RowGroups(rows=tuple(group_rows), shortest_frames=tuple(shortest_frames))
        if file.row_groups is not None and file.row_groups != groups:
            return f" has row groups {groups}, its commit says {file.row_groups}"
        return None

    def _wrong_reasons(self, commit: Commit, file: CommittedFile) -> str | None:
        """Count the rejects by reason and stage against the commit, which status and snapshots count from."""
        reasons: Counter[str] = Counter()
        num_filtered = 0
        for batch in read_batches(self.storage, file.path, columns=["reason", "stage"]):
            reasons.update(batch.column("reason").to_pylist())
            num_filtered += batch.column("stage").to_pylist().count(Stage.FILTER.value)
        if (dict(reasons), num_filtered) == (commit.rejects_by_reason, commit.num_filtered):
            return None
        return (
            f" has reasons {dict(reasons)}, {num_filtered} filtered; its commit says "
            f"{commit.rejects_by_reason}, {commit.num_filtered} filtered"
        )
