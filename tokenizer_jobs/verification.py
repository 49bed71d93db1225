"""Verification: whether what is stored adds up, from the recipe down to the hash of every row's codes.

Every problem is one line that names the file and says what to do. A damaged file is reported once, and what would
follow from it is not.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from tokenizer_jobs.accounting import Totals, total
from tokenizer_jobs.catalog import Snapshot, compared_sums, read_snapshot, snapshot_numbers, snapshot_path
from tokenizer_jobs.commits import Commit, CommittedFile, commit_path, committed_unit_ids, read_commit
from tokenizer_jobs.digest import Digest
from tokenizer_jobs.errors import EXIT_DONE, EXIT_FAILED, ConfigError, IntegrityError, Stage
from tokenizer_jobs.planning import list_generations, read_plan_summary, read_units
from tokenizer_jobs.receipts import Receipts, RemovedItems, read_receipts
from tokenizer_jobs.recipe import read_recipe
from tokenizer_jobs.records import RowPlace, WorkUnit
from tokenizer_jobs.reencoding import ReencodeResult, reencode_sample
from tokenizer_jobs.results import OutputSummary, summary_fields
from tokenizer_jobs.row_checks import CheckedRow, file_facts
from tokenizer_jobs.row_places import PLACE_COLUMNS, PlacedRow, PlacedRows, has_row_per_channel, placed_rows
from tokenizer_jobs.schema import REJECT_COLUMNS, ROW_COLUMNS
from tokenizer_jobs.shards import CODES_FOLDER, REJECTS_FOLDER, codes_arrays, read_batches, read_schema
from tokenizer_jobs.storage import Storage

__all__ = ["VerifyReport", "VerifyResult", "verify", "verify_output"]

_REMEDY = "restore it from a copy, or delete the commit and run again"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What verification found."""

    totals: Totals
    """Over committed units."""
    units_planned: int
    items_planned: int
    dropped: int
    """Items that were taken out on purpose; not among the planned ones."""
    snapshot: int | None
    """Number of the newest snapshot; None before the first."""
    problems: tuple[str, ...]
    """One line each; none when all is well."""


class VerifyResult(OutputSummary):
    """What verification found, as `--json` prints it."""

    reencoded: ReencodeResult | None
    """How a sample compares with the reference model; None when none was asked for, or when there are problems."""

    @property
    def exit_code(self) -> int:
        """0 when nothing is wrong, else 1."""
        return EXIT_FAILED if self.problems else EXIT_DONE


def verify(output: str, *, reencode: float = 0.0, model: str | None = None) -> VerifyResult:
    """Check everything that is stored in an output, and a sample of its codes against its audio; writes nothing.

    Args:
        output: Local path or fsspec URL.
        reencode: Share of the items to decode and encode again, in [0, 1]; 0: none.
        model: Where the codec is now; None: where the recipe says.

    Raises:
        ConfigError: this is no output, or the codec that made it cannot be loaded.
        TransientError: the storage failed; nothing is known of the rest.
    """
    if not 0 <= reencode <= 1:
        raise ConfigError(f"reencode = {reencode} is no share of the items; expected 0 to 1, such as 0.05")
    storage = Storage.at(output)
    report = verify_output(storage)
    # What is stored wrongly cannot be compared: its rows may not even be readable.
    wanted = reencode > 0 and not report.problems
    reencoded = reencode_sample(storage, fraction=reencode, model=model) if wanted else None
    return VerifyResult(
        **summary_fields(report.totals),
        output=storage.name,
        items=report.items_planned,
        units=report.units_planned,
        dropped=report.dropped,
        snapshot=report.snapshot,
        problems=[*report.problems, *(reencoded.problems if reencoded else ())],
        reencoded=reencoded,
    )


def verify_output(storage: Storage) -> VerifyReport:
    """Check everything that is stored, reading every byte of it; writes nothing.

    Raises:
        ConfigError: this is no output.
        TransientError: the storage failed; nothing is known of the rest.
    """
    check = _Check(storage=storage)
    problems = tuple(check.problems())
    return VerifyReport(
        totals=total(check.commits.values()),
        units_planned=check.num_planned,
        items_planned=check.num_items - check.receipts.num_dropped,
        dropped=check.receipts.num_dropped,
        snapshot=None if check.newest is None else check.newest.number,
        problems=problems,
    )


@dataclass(slots=True)
class _Check:
    """What has been seen of one output so far."""

    storage: Storage
    recipe_id: str = ""
    receipts: Receipts = field(default_factory=Receipts)
    removed: RemovedItems | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    """Those that count, as receipts have left them, by unit id."""
    pending: dict[str, Commit] = field(default_factory=dict)
    """Those that do not count yet, by unit id."""
    stored: dict[str, int] = field(default_factory=dict)
    """Size of every shard and rejects file, by path."""
    schemas: dict[tuple[int, str], tuple[str, pa.Schema]] = field(default_factory=dict)
    """First file and its schema, by generation and folder."""
    seen_in: dict[str, str] = field(default_factory=dict)
    """The file that has an id, over all live files."""
    num_open: int = 0
    """Planned units without a commit."""
    blamed: set[str] = field(default_factory=set)
    """Ids of units whose commit is reported as damaged, missing or unplanned: their files are not reported again."""
    num_planned: int = 0
    num_items: int = 0
    newest: Snapshot | None = None

    def problems(self) -> list[str]:
        """Look from the recipe down to the rows, then at the lists of what there should be."""
        try:
            self.receipts = read_receipts(self.storage)
            self.removed = RemovedItems(self.storage, self.receipts)
        except IntegrityError as error:
            return [str(error)]
        found = list(self._parts())
        found += self._snapshots()
        found += self._orphans()
        # What the commits add up to says nothing new about an output with a problem.
        return found or list(self._unfinished()) or list(self._newest())

    def _unfinished(self) -> Iterator[str]:
        if self.num_open:
            yield f"{self.num_open} of {self.num_planned} planned units have no commit; run the job again"
        elif self.pending:
            yield (
                f"{len(self.pending)} units of items that were tokenized again are not in the place of the old ones "
                "yet; run the job again"
            )

    def _parts(self) -> Iterator[str]:
        yield from self._recipe()
        for folder in (CODES_FOLDER, REJECTS_FOLDER):
            self.stored |= {file.path: file.size_bytes for file in self.storage.list(folder)}
        for generation in sorted({*list_generations(self.storage), *self._generations_of_files()}):
            yield from self._generation(generation)

    def _generations_of_files(self) -> Iterator[int]:
        """Generations that have commits although their plan may be lost."""
        numbers = {int(found[1]) for found in map(re.compile(r"/part-(\d+)-").search, self.stored) if found}
        return (number for number in numbers if committed_unit_ids(self.storage, number))

    def _recipe(self) -> Iterator[str]:
        try:
            self.recipe_id = read_recipe(self.storage).recipe_id
        except IntegrityError as error:
            yield str(error)

    def _generation(self, generation: int) -> Iterator[str]:
        planned: set[str] = set()
        try:
            summary = read_plan_summary(self.storage, generation)
            self.num_planned += summary.num_units
            self.num_items += 0 if summary.takes_over else summary.num_items
            for unit in read_units(self.storage, generation):
                planned.add(unit.unit_id)
                yield from self._unit(unit)
        except (IntegrityError, FileNotFoundError, pa.ArrowException, OSError) as error:
            self.blamed |= committed_unit_ids(self.storage, generation)
            yield f"plans/{generation:06d} cannot be read ({error}); restore its .json and .parquet from a copy"
            return
        for unit_id in sorted(committed_unit_ids(self.storage, generation) - planned):
            self.blamed.add(unit_id)
            yield f"{commit_path(generation, unit_id)} is of no planned unit; remove it, or restore the plan"

    def _unit(self, unit: WorkUnit) -> Iterator[str]:
        path = commit_path(unit.generation, unit.unit_id)
        try:
            commit = read_commit(self.storage, generation=unit.generation, unit_id=unit.unit_id, receipts=self.receipts)
        except IntegrityError as error:
            self.blamed.add(unit.unit_id)
            yield str(error)
            return
        if commit is None:
            self.num_open += 1
            return
        counts = self.receipts.is_live(commit)
        (self.commits if counts else self.pending)[unit.unit_id] = commit
        self.recipe_id = self.recipe_id or commit.recipe_id
        if commit.recipe_id != self.recipe_id:
            yield f"{path} has recipe id {commit.recipe_id}, recipe.json has {self.recipe_id}; restore recipe.json"
            return
        damaged = [problem for file in commit.files for problem in self._file(commit, file)]
        yield from damaged or (self._accounting(unit, commit, path=path) if counts else ())

    def _file(self, commit: Commit, file: CommittedFile) -> Iterator[str]:
        if file.path not in self.stored:
            yield f"{file.path} is missing although a commit names it; {_REMEDY} {_commit_of(commit)}"
            return
        if self.stored[file.path] != file.size_bytes:
            yield (
                f"{file.path} has {self.stored[file.path]} bytes, its commit says {file.size_bytes}; "
                f"{_REMEDY} {_commit_of(commit)}"
            )
            return
        with self.storage.open_file(file.path) as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
        if sha256 != file.sha256:
            yield f"{file.path} has sha256 {sha256}, its commit says {file.sha256}; {_REMEDY} {_commit_of(commit)}"
            return
        try:
            yield from self._schema(commit, file)
            check = self._rows if file in commit.shards else self._reasons
            yield from check(commit, file)
        except IntegrityError as error:
            yield str(error)

    def _schema(self, commit: Commit, file: CommittedFile) -> Iterator[str]:
        schema = read_schema(self.storage, file.path)
        folder = file.path.partition("/")[0]
        ours = ROW_COLUMNS if folder == CODES_FOLDER else REJECT_COLUMNS
        if not pa.schema(list(schema)[: len(ours)]).equals(ours):
            yield f"{file.path} has other columns than the format version says; {_REMEDY} {_commit_of(commit)}"
            return
        facts = file_facts(schema)
        if facts.get("recipe_id") != self.recipe_id:
            yield (
                f"{file.path} was made with recipe id {facts.get('recipe_id')}, the output has {self.recipe_id}; "
                f"{_REMEDY} {_commit_of(commit)}"
            )
            return
        first, expected = self.schemas.setdefault((commit.generation, folder), (file.path, schema))
        if not schema.equals(expected) or schema.metadata != expected.metadata:
            yield (
                f"{file.path} has another schema or metadata than {first} of the same generation; "
                f"{_REMEDY} {_commit_of(commit)}"
            )

    def _rows(self, commit: Commit, file: CommittedFile) -> Iterator[str]:
        """Check every row of a shard against its own facts, the file's metadata and the commit."""
        facts = file_facts(read_schema(self.storage, file.path))
        digest, num_rows, num_frames = Digest(), 0, 0
        columns = ["id", "codes", "num_frames", "num_codebooks", "window_frames", "codes_sha256"]
        for batch in read_batches(self.storage, file.path, columns=columns):
            values = {name: batch.column(name).to_pylist() for name in columns if name != "codes"}
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
                    yield f"{file.path}: row {row.id!r} {problem}; {_REMEDY} {_commit_of(commit)}"
                    return
                digest.add_row(row.id, codes_sha256=row.codes_sha256, recipe_id=self.recipe_id)
                num_rows, num_frames = num_rows + 1, num_frames + codes.shape[1]
        stored, said = (num_rows, num_frames, digest.hex), (file.rows, commit.num_frames, commit.digest)
        if stored != said:
            yield (
                f"{file.path} has rows, frames and digest {stored}, its commit says {said}; "
                f"{_REMEDY} {_commit_of(commit)}"
            )

    def _reasons(self, commit: Commit, file: CommittedFile) -> Iterator[str]:
        """Count the rejects by reason and stage against the commit, which status and snapshots count from."""
        reasons: Counter[str] = Counter()
        num_filtered = 0
        for batch in read_batches(self.storage, file.path, columns=["reason", "stage"]):
            reasons.update(batch.column("reason").to_pylist())
            num_filtered += batch.column("stage").to_pylist().count(Stage.FILTER.value)
        if (dict(reasons), num_filtered) != (commit.rejects_by_reason, commit.num_filtered):
            yield (
                f"{file.path} has reasons {dict(reasons)}, {num_filtered} filtered; its commit says "
                f"{commit.rejects_by_reason}, {commit.num_filtered} filtered; {_REMEDY} {_commit_of(commit)}"
            )

    def _accounting(self, unit: WorkUnit, commit: Commit, *, path: str) -> Iterator[str]:
        """Planned items = items of rows + rejects, each once, in this unit and over all live files; slices complete.

        Without those that receipts took out of the unit.
        """
        lost = self.receipts.rewrites_of(generation=unit.generation, unit_id=unit.unit_id)
        num_items = len(unit.items) - sum(rewrite.items_removed for _, rewrite in lost)
        assert self.removed is not None
        removed = self.removed.of(generation=unit.generation, unit_id=unit.unit_id)
        counts = (num_items, sum(file.rows for file in commit.shards), sum(file.rows for file in commit.rejects))
        said = (commit.num_items, commit.num_rows, commit.num_rejects)
        if counts != said:
            yield f"{path} says items, rows and rejects {said}, plan and files hold {counts}; {_REMEDY} {path}"
            return
        planned = {item.id for item in unit.items}
        left, rows = set(planned), PlacedRows()
        for file in commit.files:
            for row in self._placed(file, commit):
                # An item has one row id or many, and its own id where it is a reject.
                names = {row.id, row.item_id} if row.item_id in left else {row.id}
                other = next((self.seen_in[name] for name in sorted(names) if name in self.seen_in), None)
                if other is not None or row.item_id not in planned:
                    reason = (
                        "an id that is not planned for its unit" if other is None else f"an id that {other} has too"
                    )
                    yield f"{file.path} has {row.id!r}, {reason}; {_REMEDY} {path}"
                    return
                self.seen_in |= dict.fromkeys(names, file.path)
                left.discard(row.item_id)
                if row.item_id not in removed:  # else some of its slices may be gone on purpose
                    rows.add(row)
        yield from (f"{path}: {problem}; {_REMEDY} {path}" for problem in rows.problems())
        left -= removed
        if left:
            yield (
                f"unit {unit.unit_id} has neither rows nor rejects for {len(left)} planned items, such as "
                f"{min(left)!r}; delete {path} and run again"
            )

    def _placed(self, file: CommittedFile, commit: Commit) -> Iterator[PlacedRow]:
        """The rows of a shard; of rejects, as if each were its item's only row."""
        if file not in commit.shards:
            for batch in read_batches(self.storage, file.path, columns=["id"]):
                for item_id in batch.column("id").to_pylist():
                    yield PlacedRow(id=item_id, item_id=item_id, place=RowPlace(), slice_count=1)
            return
        per_channel = has_row_per_channel(file_facts(read_schema(self.storage, file.path)))
        for batch in read_batches(self.storage, file.path, columns=PLACE_COLUMNS):
            yield from placed_rows(batch, per_channel=per_channel)

    def _snapshots(self) -> Iterator[str]:
        committed = {file.path for commit in self.commits.values() for file in commit.shards}
        committed |= self.receipts.removed_paths().keys()
        for number in snapshot_numbers(self.storage):
            try:
                self.newest = read_snapshot(self.storage, number)
            except ConfigError:  # retired by a receipt: nobody reads it any more
                continue
            except IntegrityError as error:
                yield str(error)
                continue
            for shard in self.newest.shards:
                if shard.path not in committed and shard.unit_id not in self.blamed:
                    self.blamed.add(shard.unit_id)
                    yield (
                        f"{snapshot_path(number)} lists {shard.path}, which no commit names; restore "
                        f"{commit_path(shard.generation, shard.unit_id)} from a copy, or run again"
                    )

    def _newest(self) -> Iterator[str]:
        """When every unit is committed, the newest snapshot lists exactly their shards."""
        if not self.commits or len(self.commits) < self.num_planned or self.pending:
            return
        snapshot = self.newest
        commits = self.commits.values()
        listed = {} if snapshot is None else {shard.path: (shard.sha256, shard.digest) for shard in snapshot.shards}
        committed = {file.path: (file.sha256, commit.digest) for commit in commits for file in commit.shards}
        wrong = sorted(path for path in committed if listed.get(path) != committed[path])
        if snapshot is None:
            yield f"no snapshot lists the {len(committed)} committed shards; run again to publish one"
        elif wrong:
            yield (
                f"{snapshot_path(snapshot.number)} does not list {len(wrong)} committed shards as they are, such as "
                f"{wrong[0]}; run again to publish a snapshot that does"
            )
        elif compared_sums(snapshot.facts) != compared_sums(total(commits)):
            yield f"{snapshot_path(snapshot.number)} has other totals than the commits; delete it and run again"

    def _orphans(self) -> Iterator[str]:
        known = (*self.commits.values(), *self.pending.values())
        named = {file.path for commit in known for file in commit.files}
        for path in sorted(self.stored.keys() - named):
            if not any(unit_id in path for unit_id in self.blamed):
                yield f"{path} is named by no commit; run again to sweep it, or delete it"


def _commit_of(commit: Commit) -> str:
    return commit_path(commit.generation, commit.unit_id)
