"""Verification: whether what is stored adds up, from the recipe down to the hash of every row's codes.

Every problem is one line that names the file and says what to do. A damaged file is reported once, and what would
follow from it is not.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa

from tokenizer_jobs.accounting import Totals, total
from tokenizer_jobs.catalog import (
    Snapshot,
    check_receipts,
    compared_sums,
    newest_snapshot,
    read_snapshot,
    snapshot_numbers,
    snapshot_path,
)
from tokenizer_jobs.commits import Commit, CommittedFile, commit_path, committed_unit_ids, read_commit
from tokenizer_jobs.errors import EXIT_DONE, EXIT_FAILED, ConfigError, IntegrityError, NewerFormatError
from tokenizer_jobs.planning import list_generations, read_plan_summary, read_units
from tokenizer_jobs.receipts import Receipts, read_receipts, receipt_path
from tokenizer_jobs.recipe import read_recipe
from tokenizer_jobs.records import RowPlace, WorkUnit
from tokenizer_jobs.reencoding import ReencodeResult, reencode_sample
from tokenizer_jobs.results import OutputSummary, summary_fields
from tokenizer_jobs.row_checks import file_facts
from tokenizer_jobs.row_places import PLACE_COLUMNS, PlacedRow, PlacedRows, has_row_per_channel, placed_rows
from tokenizer_jobs.shards import CODES_FOLDER, REJECTS_FOLDER, read_batches, read_schema
from tokenizer_jobs.steps import Steps, untold
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.verification.files import FileChecks
from tokenizer_jobs.verification.receipts import ReceiptChecks

__all__ = ["VerifyReport", "VerifyResult", "verify", "verify_output"]


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


def verify(output: str, *, reencode: float = 0.0, model: str | None = None, report: Steps = untold) -> VerifyResult:
    """Check everything that is stored in an output, and a sample of its codes against its audio; writes nothing.

    Args:
        output: Local path or fsspec URL.
        reencode: Share of the items to decode and encode again, in [0, 1]; 0: none.
        model: Where the codec is now; None: where the recipe says.
        report: Told how many `files` were checked, then how many `units` were looked at for items to encode again.

    Raises:
        ConfigError: this is no output, or the codec that made it cannot be loaded.
        NewerFormatError: a newer version of this package wrote it.
        TransientError: the storage failed; nothing is known of the rest.
    """
    if not 0 <= reencode <= 1:
        raise ConfigError(f"reencode = {reencode} is no share of the items; expected 0 to 1, such as 0.05")
    storage = Storage.at(output)
    found = verify_output(storage, report=report)
    # What is stored wrongly cannot be compared: its rows may not even be readable.
    wanted = reencode > 0 and not found.problems
    reencoded = reencode_sample(storage, fraction=reencode, model=model, report=report) if wanted else None
    return VerifyResult(
        **summary_fields(found.totals),
        output=storage.name,
        items=found.items_planned,
        units=found.units_planned,
        dropped=found.dropped,
        snapshot=found.snapshot,
        problems=[*found.problems, *(reencoded.problems if reencoded else ())],
        reencoded=reencoded,
    )


def verify_output(storage: Storage, *, report: Steps = untold) -> VerifyReport:
    """Check everything that is stored, reading every byte of it; writes nothing.

    Args:
        storage: The output.
        report: Told how many `files` were checked.

    Raises:
        ConfigError: this is no output.
        NewerFormatError: a newer version of this package wrote it.
        TransientError: the storage failed; nothing is known of the rest.
    """
    check = _Check(storage=storage, report=report)
    problems = tuple(check.problems())
    return VerifyReport(
        totals=total(check.commits.values()),
        units_planned=check.num_planned,
        items_planned=check.items_planned,
        dropped=check.receipts.num_dropped,
        snapshot=None if check.newest is None else check.newest.number,
        problems=problems,
    )


@dataclass(slots=True)
class _Check:
    """What has been seen of one output so far."""

    storage: Storage
    report: Steps
    recipe_id: str = ""
    receipts: Receipts = field(default_factory=Receipts)
    lists: ReceiptChecks = field(default_factory=lambda: ReceiptChecks(Receipts()))
    """What the receipts took out."""
    commits: dict[str, Commit] = field(default_factory=dict)
    """Those that count, as receipts have left them, by unit id."""
    pending: dict[str, Commit] = field(default_factory=dict)
    """Those that do not count yet, by unit id."""
    stored: dict[str, int] = field(default_factory=dict)
    """Size of every shard and rejects file, by path."""
    files: FileChecks | None = None
    """Of the files that are stored; None until they are listed."""
    seen_in: dict[str, str] = field(default_factory=dict)
    """The file that has an id, over all live files."""
    num_generations: int = 0
    """Planned, or with commits."""
    num_open: int = 0
    """Planned units without a commit."""
    num_checked: int = 0
    """Files."""
    blamed: set[str] = field(default_factory=set)
    """Ids of units whose commit is reported as damaged, missing or unplanned: their files are not reported again."""
    num_planned: int = 0
    num_items: int = 0
    newest: Snapshot | None = None

    def problems(self) -> list[str]:
        """Look from the recipe down to the rows, then at the lists of what there should be."""
        found, of_receipts = list(self._recipe()), list(self._receipts())
        if of_receipts or (found and self.receipts.all):  # what is left of the units cannot be known
            return found + of_receipts
        found += self._parts()
        found += self._snapshots()
        found += self._orphans()
        # What the commits add up to says nothing new about an output with a problem.
        return found or list(self._unfinished()) or list(self._newest())

    def _unfinished(self) -> Iterator[str]:
        if self.num_generations == 0:
            yield "nothing is planned yet, so that there is nothing to check; run the job (`plan` shows what it finds)"
        elif self.num_open:
            yield f"{self.num_open} of {self.num_planned} planned units have no commit; run the job again"
        elif self.pending:
            yield (
                f"{len(self.pending)} units of items that were tokenized again are not in the place of the old ones "
                "yet; run the job again"
            )

    def _parts(self) -> Iterator[str]:
        for folder in (CODES_FOLDER, REJECTS_FOLDER):
            self.stored |= {file.path: file.size_bytes for file in self.storage.list(folder)}
        generations = sorted({*list_generations(self.storage), *self._generations_of_files()})
        self.num_generations = len(generations)
        for generation in generations:
            yield from self._generation(generation)

    @property
    def items_planned(self) -> int:
        """Items that there should be, with rows or as rejects."""
        return max(0, self.num_items - self.receipts.num_dropped)  # a plan that cannot be read holds none

    def _receipts(self) -> Iterator[str]:
        """Read them; the newest snapshot says whether the last ones are gone."""
        newest = None
        with suppress(IntegrityError):  # which is reported with the snapshots
            newest = newest_snapshot(self.storage)
        try:
            self.receipts = read_receipts(self.storage)
            check_receipts(self.receipts, newest)
            self.lists = ReceiptChecks(self.receipts)
            yield from self.lists.problems(self.storage, recipe_id=self.recipe_id)
        except IntegrityError as error:
            yield str(error)

    def _generations_of_files(self) -> Iterator[int]:
        """Generations that have commits although their plan may be lost."""
        numbers = {int(found[1]) for found in map(re.compile(r"/part-(\d+)-").search, self.stored) if found}
        return (number for number in numbers if committed_unit_ids(self.storage, number))

    def _recipe(self) -> Iterator[str]:
        try:
            self.recipe_id = read_recipe(self.storage).recipe_id
        except NewerFormatError:  # by whose rules nothing here can be judged
            raise
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
        except NewerFormatError:
            raise
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
            commit = read_commit(self.storage, generation=unit.generation, unit_id=unit.unit_id)
            problem = None if commit is None else self.lists.broken_step(commit)
        except IntegrityError as error:
            self.blamed.add(unit.unit_id)
            yield str(error)
            return
        if commit is None:
            self.num_open += 1
            return
        if problem is not None:
            self.blamed.add(unit.unit_id)
            yield problem
            return
        commit = self.receipts.effective(commit)
        counts = self.receipts.is_live(commit)
        (self.commits if counts else self.pending)[unit.unit_id] = commit
        self.recipe_id = self.recipe_id or commit.recipe_id
        if commit.recipe_id != self.recipe_id:
            yield f"{path} has recipe id {commit.recipe_id}, recipe.json has {self.recipe_id}; restore recipe.json"
            return
        remedy = self._remedy(commit)
        damaged = [problem for file in commit.files for problem in self._file(commit, file, remedy=remedy)]
        yield from damaged or (self._accounting(unit, commit, path=path) if counts else ())

    def _accounting(self, unit: WorkUnit, commit: Commit, *, path: str) -> Iterator[str]:
        """Planned items = items of rows + rejects, each once, in this unit and over all live files; slices complete.

        Without those that receipts took out of the unit.
        """
        lost = self.receipts.rewrites_of(generation=unit.generation, unit_id=unit.unit_id)
        num_lost = sum(rewrite.items_removed for _, rewrite in lost)
        removed, remedy = self.lists.items_of(generation=unit.generation, unit_id=unit.unit_id), self._remedy(commit)
        counts = (
            len(unit.items) - num_lost,
            sum(file.rows for file in commit.shards),
            sum(file.rows for file in commit.rejects),
        )
        said = (commit.num_items, commit.num_rows, commit.num_rejects)
        if counts != said:
            yield f"{path} says items, rows and rejects {said}, plan and files hold {counts}; {remedy}"
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
                    yield f"{file.path} has {row.id!r}, {reason}; {remedy}"
                    return
                self.seen_in |= dict.fromkeys(names, file.path)
                left.discard(row.item_id)
                if row.item_id not in removed:  # else some of its slices may be gone on purpose
                    rows.add(row)
        yield from (f"{path}: {problem}; {remedy}" for problem in rows.problems())
        if left - removed:
            yield (
                f"unit {unit.unit_id} has neither rows nor rejects for {len(left - removed)} planned items, such as "
                f"{min(left - removed)!r}; {remedy}"
            )
        elif len(left) != num_lost:
            yield f"unit {unit.unit_id} lost {len(left)} items, its receipts say {num_lost}; restore them from a copy"

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
        shards = () if snapshot is None else snapshot.shards
        listed = {shard.path: (shard.sha256, shard.digest, shard.row_groups) for shard in shards}
        committed = {
            file.path: (file.sha256, commit.digest, file.row_groups) for commit in commits for file in commit.shards
        }
        wrong = sorted(path for path in committed if listed.get(path) != committed[path])
        if snapshot is None:
            yield f"no snapshot lists the {len(committed)} committed shards; run again to publish one"
        elif wrong:
            yield (
                f"{snapshot_path(snapshot.number)} does not list {len(wrong)} committed shards as they are, such as "
                f"{wrong[0]}; run again to publish a snapshot that does"
            )
        elif (num_items := total(commits).items) != self.items_planned:
            yield (
                f"{self.items_planned} items are planned, {num_items} have rows or are rejects: restore plans/, "
                "receipts/ and _commits/ from a copy"
            )
        elif compared_sums(snapshot.facts) != compared_sums(total(commits)):
            yield f"{snapshot_path(snapshot.number)} has other totals than the commits; delete it and run again"

    def _orphans(self) -> Iterator[str]:
        known = (*self.commits.values(), *self.pending.values())
        named = {file.path for commit in known for file in commit.files}
        for path in sorted(self.stored.keys() - named):
            if not any(unit_id in path for unit_id in self.blamed):
                yield f"{path} is named by no commit; run again to sweep it, or delete it"

    def _file(self, commit: Commit, file: CommittedFile, *, remedy: str) -> Iterator[str]:
        if self.files is None:
            self.files = FileChecks(storage=self.storage, stored=self.stored, recipe_id=self.recipe_id)
        yield from self.files.problems(commit, file, remedy=remedy)
        self.num_checked += 1
        self.report("files", self.num_checked, max(self.num_checked, len(self.stored)))

    def _remedy(self, commit: Commit) -> str:
        """What to do where a unit's files are not what they should be."""
        path = commit_path(commit.generation, commit.unit_id)
        lost = self.receipts.rewrites_of(generation=commit.generation, unit_id=commit.unit_id)
        if not lost:
            return f"restore it from a copy, or delete {path} and run again"
        return (
            f"restore it from a copy: {receipt_path(lost[-1][0])} rewrote the unit's files, so that deleting {path} "
            "and running again does not mend it; without a copy, write to a new output"
        )
