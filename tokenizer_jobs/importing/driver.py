"""`import-codes`: an output made of codes that others made, by the same plans, shards, commits and snapshots as a run.

lease ─▶ recipe ─▶ open generation? import it ─▶ list, plan what is new ─▶ import ─▶ snapshot ─▶ sweep
"""

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from tokenizer_jobs.accounting import total
from tokenizer_jobs.catalog import check_receipts, newest_snapshot, publish_snapshot
from tokenizer_jobs.commits import Attempt, publish_unit
from tokenizer_jobs.config import Selection, Shards
from tokenizer_jobs.errors import ConfigError, ItemError, OutputBusyError
from tokenizer_jobs.importing.candidates import DumpFiles, list_dump
from tokenizer_jobs.importing.codecs import CodecClaim, claimed_recipe
from tokenizer_jobs.importing.dump import DumpFormat, ListedDump
from tokenizer_jobs.importing.inspection import DumpSaid, Inspected, inspect_dump
from tokenizer_jobs.importing.reading import DumpReader, imported_row
from tokenizer_jobs.lease import Lease
from tokenizer_jobs.ledger import Ledger
from tokenizer_jobs.planning import (
    PlanFacts,
    PlanSummary,
    compare_with_known,
    known_items,
    list_generations,
    plan_units,
    read_plan_summary,
    read_units,
    read_user_schema,
    write_plan,
)
from tokenizer_jobs.receipts import dropped_items
from tokenizer_jobs.recipe import METADATA_KEY, CodecFacts, ResolvedRecipe, file_metadata, store_recipe
from tokenizer_jobs.records import RejectedItem, TokenizedItem, WorkUnit
from tokenizer_jobs.report import publish_card
from tokenizer_jobs.results import OutputSummary, summary_fields
from tokenizer_jobs.schema import reject_schema, row_schema
from tokenizer_jobs.shards import ShardWriter, write_rejects
from tokenizer_jobs.sources import is_stripped, public_source
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.sweeping import sweep_orphans
from tokenizer_jobs.wording import counts_text, rejects_command

__all__ = ["ImportResult", "import_codes"]

ROWS_AT_ONCE = 256

Say = Callable[[str], None]


class ImportResult(OutputSummary):
    """What an import made of a dump, as `--json` prints it."""

    evidence: tuple[str, ...]
    """What was guessed or said of the dump, a line each."""
    format: DumpFormat
    """As it was read."""
    recipe_id: str
    codec: str
    new_rows: int
    """Committed by this import."""
    changed: int
    """Items whose file changed under a known id, and were left as they are."""
    rejects_by_reason: dict[str, int]
    dry_run: bool = False


def import_codes(
    dump: str | Sequence[str],
    output: str,
    *,
    codec: CodecClaim,
    said: DumpSaid | None = None,
    dry_run: bool = False,
    say: Say | None = None,
) -> ImportResult:
    """Make an output of other tools' codes, or add to one what its dump has more of by now.

    The recipe of the output is marked as imported: nothing proves which codec made the codes. What a dump does not say
    of the audio is null in the rows; `num_samples` is then frames × hop.

    Args:
        dump: Folders, globs or files of `.npy`, `.npz`, `.pt`, `.tar`, `.parquet` or `.arrow`.
        output: Local path or fsspec URL.
        codec: Whose codes they are.
        said: What is known of the layout; None: nothing, it is guessed.
        dry_run: Whether to say only what was guessed; nothing is written.
        say: Called with a line after each unit; None: nobody listens.

    Raises:
        ConfigError: the dump is ambiguous or empty, or the output has another recipe.
        OutputBusyError: a live run holds the output.
        IntegrityError: what is stored contradicts itself.
    """
    paths = (dump,) if isinstance(dump, str) else tuple(dump)
    files = list_dump(paths)
    inspected = inspect_dump(files, paths=paths, codec=codec, said=said or DumpSaid())
    facts, recipe = claimed_recipe(codec.facts(inspected.format.num_codebooks))
    listed = ListedDump.of(files, inspected.format, user_schema=inspected.user_schema, frame_rate=facts.frame_rate)
    if dry_run:
        return _dry_result(output, inspected, recipe=recipe, num_items=len(listed.items))
    storage = Storage.open(output)
    with Lease(storage, uuid.uuid4().hex[:12]) as lease:
        store_recipe(storage, recipe)
        work = _Import(
            storage=storage,
            lease=lease,
            facts=facts,
            recipe=recipe,
            files=files,
            ledger=Ledger(storage),
            say=say or _ignore,
        )
        changed = work.bring_up_to_date(listed, inspected.format)
        return work.result(inspected, changed=changed)


def _ignore(_line: str) -> None:
    """Nobody listens."""


@dataclass(slots=True, kw_only=True)
class _Import:
    """One import under the output's lease."""

    storage: Storage
    lease: Lease
    facts: CodecFacts
    recipe: ResolvedRecipe
    files: DumpFiles
    ledger: Ledger
    say: Say
    new_rows: int = 0

    def bring_up_to_date(self, listed: ListedDump, form: DumpFormat) -> int:
        """Take the steps drawn at the top of this module; how many known items changed and were left."""
        check_receipts(self.ledger.receipts, newest_snapshot(self.storage))
        for generation in list_generations(self.storage):
            self._import(read_plan_summary(self.storage, generation))
        dropped = dropped_items(self.storage, self.ledger.receipts)
        known = known_items(self.storage)
        compared = compare_with_known(listed.items, known, dropped=sorted(dropped))
        if len(compared.new):
            self._check_columns(listed.user_schema)
            self._import(self._plan(compared.new, listed.user_schema, form, num_changed=len(compared.changed)))
        self._still_ours()
        generations = list_generations(self.storage)
        snapshot = publish_snapshot(
            self.storage,
            recipe_id=self.recipe.recipe_id,
            commits=self.ledger.commits(*generations),
            receipts=self.ledger.receipts,
        )
        publish_card(self.storage, snapshot)
        commits = self.ledger.commits(*generations, with_pending=True)
        sweep_orphans(self.storage, commits=commits, still_ours=self._still_ours)
        return len(compared.changed)

    def result(self, inspected: Inspected, *, changed: int) -> ImportResult:
        """What there is now."""
        generations = list_generations(self.storage)
        plans = [read_plan_summary(self.storage, generation) for generation in generations]
        totals, newest = total(self.ledger.commits(*generations)), newest_snapshot(self.storage)
        reasons = counts_text(totals.rejects_by_reason)
        every_one = f"every item was rejected ({reasons}); {rejects_command(self.storage.name)} shows them"
        return ImportResult(
            **summary_fields(totals),
            output=self.storage.name,
            items=sum(plan.num_items for plan in plans if not plan.takes_over) - self.ledger.receipts.num_dropped,
            units=sum(plan.num_units for plan in plans),
            dropped=self.ledger.receipts.num_dropped,
            snapshot=None if newest is None else newest.number,
            problems=[every_one] if totals.rows == 0 and totals.rejects > 0 else [],
            evidence=inspected.evidence,
            format=inspected.format,
            recipe_id=self.recipe.recipe_id,
            codec=self.recipe.codec.model,
            new_rows=self.new_rows,
            changed=changed,
            rejects_by_reason=dict(totals.rejects_by_reason),
        )

    def _still_ours(self) -> None:
        self.lease.look()
        if self.lease.lost is not None:
            raise OutputBusyError(f"this import lost the output {self.storage.name!r}: {self.lease.lost}")

    def _check_columns(self, user_schema: pa.Schema) -> None:
        generations = list_generations(self.storage)
        if generations and not (expected := read_user_schema(self.storage, generations[0])).equals(user_schema):
            raise ConfigError(
                f"the dump has the columns {_columns_text(user_schema)}, the output was begun with "
                f"{_columns_text(expected)}; import to another output"
            )

    def _plan(self, items: Any, user_schema: pa.Schema, form: DumpFormat, *, num_changed: int) -> PlanSummary:
        generation = max(list_generations(self.storage), default=0) + 1
        newest = newest_snapshot(self.storage)
        selection = Selection(source=form.to_source(), shards=Shards())
        units = plan_units(items, generation=generation, recipe_id=self.recipe.recipe_id, unit_minutes="auto")
        facts = PlanFacts(
            generation=generation,
            recipe_id=self.recipe.recipe_id,
            selection={**selection.model_dump(mode="json"), "source": public_source(selection.source)},
            is_source_stripped=is_stripped(selection.source),
            base_snapshot=None if newest is None else newest.number,
            skipped=dict(self.files.skipped),
            num_changed=num_changed,
            file_metadata=self._metadata(row_schema(user_schema)),
        )
        self._still_ours()
        return write_plan(self.storage, units, facts=facts, user_schema=user_schema)

    def _metadata(self, schema: pa.Schema) -> dict[str, str]:
        """The metadata of every file: what only a run could know of resampler, channels and decoder is null."""
        metadata = file_metadata(self.recipe, self.facts, {}, schema=schema)
        content: dict[str, Any] = json.loads(metadata[METADATA_KEY])
        unknown = ("long_audio", "resampler", "channel_policy", "on_truncated", "precision")
        content |= dict.fromkeys(unknown) | {"imported": True}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return {**{k.decode(): v.decode() for k, v in metadata.items()}, METADATA_KEY.decode(): text}

    def _import(self, plan: PlanSummary) -> None:
        """Import the open units of a generation, as its plan says."""
        done = {commit.unit_id for commit in self.ledger.commits(plan.generation, with_pending=True)}
        if len(done) >= plan.num_units:
            return
        form = DumpFormat.from_source(plan.read_selection().source)
        locations = {file.uri: file.location for file, _ in self.files.files}
        with DumpReader(kind=self.files.kind, locations=locations) as reader:
            for unit in read_units(self.storage, plan.generation):
                if unit.unit_id in done:
                    continue
                self._still_ours()
                self._import_unit(unit, plan=plan, form=form, reader=reader)
        self.ledger.settle(plan.generation)

    def _import_unit(self, unit: WorkUnit, *, plan: PlanSummary, form: DumpFormat, reader: DumpReader) -> None:
        started_at = datetime.now(UTC)
        metadata = {key.encode(): value.encode() for key, value in plan.file_metadata.items()}
        user_schema = read_user_schema(self.storage, plan.generation)
        rejected = list[RejectedItem]()
        with ShardWriter(
            self.storage, unit=unit, schema=row_schema(user_schema), metadata=metadata, shard_format="parquet"
        ) as writer:
            for rows in _batched(self._rows(unit, form=form, reader=reader, rejected=rejected)):
                writer.append(rows)
            shard = writer.close()
        rejects = write_rejects(
            self.storage,
            unit=unit,
            rejected=rejected,
            schema=reject_schema(user_schema),
            metadata=metadata,
            shard_format="parquet",
        )
        published = publish_unit(
            self.storage,
            unit=unit,
            recipe_id=self.recipe.recipe_id,
            shard=shard,
            rejects=rejects,
            attempt=Attempt(number=1, device="none", started_at=started_at, stage_seconds={}),
        )
        self.ledger.add(published.commit)
        self.new_rows += published.commit.num_rows
        self.say(
            f"progress units={unit.index + 1}/{plan.num_units} rows={self.new_rows} rejects={len(rejected)} of the unit"
        )

    def _rows(
        self, unit: WorkUnit, *, form: DumpFormat, reader: DumpReader, rejected: list[RejectedItem]
    ) -> Iterator[TokenizedItem]:
        for position, item in enumerate(unit.items):
            try:
                arrays, fields = reader.read(item, key=form.key)
                encoded, facts = imported_row(
                    arrays,
                    fields,
                    form=form,
                    sample_rate=self.facts.sample_rate,
                    hop_length=self.facts.hop_length,
                )
            except ItemError as error:
                rejected.append(
                    RejectedItem(position=position, stage=error.stage, reason=error.reason, message=error.message)
                )
                continue
            yield TokenizedItem(item=item, facts=facts, encoded=encoded)


def _batched(rows: Iterator[TokenizedItem]) -> Iterator[list[TokenizedItem]]:
    waiting = list[TokenizedItem]()
    for row in rows:
        waiting.append(row)
        if len(waiting) == ROWS_AT_ONCE:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _dry_result(output: str, inspected: Inspected, *, recipe: ResolvedRecipe, num_items: int) -> ImportResult:
    return ImportResult(
        **summary_fields(total([])),
        output=Storage.at(output).name,
        items=num_items,
        units=0,
        snapshot=None,
        evidence=inspected.evidence,
        format=inspected.format,
        recipe_id=recipe.recipe_id,
        codec=recipe.codec.model,
        new_rows=0,
        changed=0,
        rejects_by_reason={},
        dry_run=True,
    )


def _columns_text(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
