"""What a run plans: the listing against what the output has already, and from it the next generations.

listing ─▶ columns as the output has them ─▶ new │ changed │ unchanged │ vanished ─▶ plans
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from tokenizer_jobs.catalog import newest_snapshot
from tokenizer_jobs.config import Selection
from tokenizer_jobs.decode import decoder_versions
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.item_columns import item_schema, user_schema_of
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.planning import (
    PlanFacts,
    PlanSummary,
    compare_with_known,
    known_ids,
    known_items,
    list_generations,
    plan_units,
    read_user_schema,
    select_new,
    write_plan,
)
from tokenizer_jobs.receipts import dropped_items, read_receipts
from tokenizer_jobs.recipe import CodecFacts, ResolvedRecipe, file_metadata
from tokenizer_jobs.schema import row_schema
from tokenizer_jobs.sources import Listing, is_stripped, list_names, make_source, public_source
from tokenizer_jobs.storage import Storage

__all__ = ["EXAMPLES", "Grown", "Planner", "Planning", "plan_growth"]

EXAMPLES = 5
"""Changed and vanished items that a result names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planning:
    """What every planner needs."""

    storage: Storage
    selection: Selection
    recipe: ResolvedRecipe
    facts: CodecFacts
    still_ours: Callable[[], object]
    """Raises when the output is another run's by now."""

    def write(
        self,
        items: ItemTable,
        *,
        after: int,
        cause: Literal["growth", "retry", "replace"] = "growth",
        skipped: Mapping[str, int] | None = None,
        **counts: int,
    ) -> PlanSummary:
        """Store the plan of the next generation.

        Args:
            items: What it holds.
            after: The newest generation that the items were compared with; 0: there was none. Were the plan to come
                after a later one, another run's items could be in it twice.
            cause: Why.
            skipped: What the source held that is no item.
            counts: Other numbers of `PlanFacts`.

        Raises:
            OutputBusyError: another run has planned meanwhile.
        """
        generation = after + 1
        newest = newest_snapshot(self.storage)
        user_schema = user_schema_of(items.schema)
        # A unit of the same items as an earlier one is another unit, and has another id.
        seed = self.recipe.recipe_id if cause == "growth" else f"{self.recipe.recipe_id}/{generation}"
        units = plan_units(
            items, generation=generation, recipe_id=seed, unit_minutes=self.selection.shards.unit_minutes
        )
        versions = decoder_versions()
        metadata = file_metadata(self.recipe, self.facts, versions, schema=row_schema(user_schema))
        facts = PlanFacts(
            generation=generation,
            recipe_id=self.recipe.recipe_id,
            cause=cause,
            selection=_public_selection(self.selection),
            is_source_stripped=is_stripped(self.selection.source),
            base_snapshot=None if newest is None else newest.number,
            skipped=dict(skipped or {}),
            decoder_versions=versions,
            file_metadata={key.decode(): value.decode() for key, value in metadata.items()},
            **counts,
        )
        self.still_ours()  # the listing may have taken hours
        return write_plan(self.storage, units, facts=facts, user_schema=user_schema)

    def fitted(self, listing: Listing) -> ItemTable:
        """A listing's items with the user columns of the output.

        Raises:
            ConfigError: it has columns that the output has not, or of a type that cannot be turned into the output's.
        """
        row_schema(listing.user_schema)  # a clash of names is refused before anything is planned
        listed = ItemTable.of(listing.items, user_schema=listing.user_schema)
        generations = list_generations(self.storage)
        expected = read_user_schema(self.storage, generations[0]) if generations else user_schema_of(listed.schema)
        return fit_user_columns(listed, expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """What was planned, and what was left alone."""

    plans: tuple[PlanSummary, ...] = ()
    changed: int = 0
    """Inputs that changed under a known id and were left as they are."""
    vanished: int = 0
    """Known inputs that the source holds no more."""
    changed_ids: tuple[str, ...] = ()
    """The first few."""
    vanished_ids: tuple[str, ...] = ()
    """The first few."""


Planner = Callable[[Planning], Grown]


def plan_growth(planning: Planning, *, replace: bool = False) -> Grown:
    """List the source and plan what is new; and what changed, where it is to be replaced.

    Dropped items are neither planned again, nor called changed or vanished: what was taken out on purpose stays out of
    this output. Write to a new output to have them again.

    Raises:
        ConfigError: ids are not unique, or the listing's columns are not those of the output.
    """
    storage, selection = planning.storage, planning.selection
    source = make_source(selection.source)
    listing, estimated = list_names(source)
    listed = planning.fitted(listing)
    generations = list_generations(storage)
    known = known_items(storage, generations)
    dropped = dropped_items(storage, read_receipts(storage))
    compared = compare_with_known(listed, known, dropped=sorted(dropped))
    selected = select_new(
        compared.new,
        selection=selection,
        num_known=len(known),
        storage=storage,
        generations=generations,
        open_item=source.open,
    )
    plans = list[PlanSummary]()
    num_left = 0 if replace else len(compared.changed)
    if selected.items:
        plans.append(
            planning.write(
                estimated(selected.items),
                after=max(generations, default=0),
                skipped={**listing.skipped, **selected.left_out},
                num_unchanged=len(compared.unchanged),
                num_changed=len(compared.changed),
                num_vanished=compared.num_vanished,
            )
        )
    if replace and compared.changed:
        after = plans[-1].generation if plans else max(generations, default=0)
        changed = estimated(compared.changed)
        plans.append(planning.write(changed, after=after, cause="replace", num_changed=len(changed)))
    return Grown(
        plans=tuple(plans),
        changed=num_left,
        vanished=compared.num_vanished,
        changed_ids=tuple(item.id for item in compared.changed[:EXAMPLES]) if num_left else (),
        vanished_ids=known_ids(storage, known, compared.is_vanished, at_most=EXAMPLES),
    )


def fit_user_columns(listed: ItemTable, expected: pa.Schema) -> ItemTable:
    """Give items the user columns of the output: missing ones are null, others are cast.

    Raises:
        ConfigError: a column is not among the output's, or does not fit its type.
    """
    found = user_schema_of(listed.schema)
    if found.equals(expected):
        return listed
    extra = [name for name in found.names if name not in expected.names]
    if extra:
        known = ", ".join(expected.names) or "none"
        raise ConfigError(
            f"the source has the columns {', '.join(extra)}, which the output was begun without (it has {known}); "
            "leave them out by selection.source.columns, or write to a new output"
        )
    schema = item_schema(expected)
    return ItemTable.sort((_fit(batch, found, schema) for batch in listed.batches()), schema=schema)


def _fit(batch: pa.RecordBatch, found: pa.Schema, schema: pa.Schema) -> pa.RecordBatch:
    name = schema.names[-1]
    plain = [field.name for field in schema if field.name != name]
    fields = list(schema.field(name).type)
    columns = dict(zip(found.names, batch.column(name).flatten(), strict=True)) if found.names else {}
    try:
        values = [
            columns[field.name].cast(field.type) if field.name in columns else pa.nulls(batch.num_rows, field.type)
            for field in fields
        ]
    except pa.ArrowException as error:
        wrong = ", ".join(f"{f.name} ({found.field(f.name).type}, not {f.type})" for f in fields if f.name in columns)
        raise ConfigError(
            f"columns of the source do not fit those that the output was begun with: {wrong}: {error}; mend the "
            "source, leave them out by selection.source.columns, or write to a new output"
        ) from error
    struct = pa.StructArray.from_arrays(values, fields=fields)
    return pa.RecordBatch.from_arrays([*(batch.column(field) for field in plain), struct], schema=schema)


def _public_selection(selection: Selection) -> dict[str, Any]:
    """The selection as the plan keeps it: without the query strings and passwords of URLs."""
    content = selection.model_dump(mode="json")
    return {**content, "source": public_source(selection.source)}
