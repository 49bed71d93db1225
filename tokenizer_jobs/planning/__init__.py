"""Plans: items cut into work units, stored with what is needed to account for every one of them."""

from tokenizer_jobs.planning.comparison import Comparison, KnownItems, compare_with_known, duplicate_ids
from tokenizer_jobs.planning.open_units import OpenUnits
from tokenizer_jobs.planning.selecting import Selected, select_items, select_new
from tokenizer_jobs.planning.stored import (
    PlanFacts,
    PlanSummary,
    forgotten_plans,
    known_ids,
    known_items,
    list_generations,
    read_item_columns,
    read_item_ids,
    read_plan_summary,
    read_units,
    read_user_schema,
    write_plan,
)
from tokenizer_jobs.planning.units import plan_units, read_together

__all__ = [
    "Comparison",
    "KnownItems",
    "OpenUnits",
    "PlanFacts",
    "PlanSummary",
    "Selected",
    "compare_with_known",
    "duplicate_ids",
    "forgotten_plans",
    "known_ids",
    "known_items",
    "list_generations",
    "plan_units",
    "read_item_columns",
    "read_item_ids",
    "read_plan_summary",
    "read_together",
    "read_units",
    "read_user_schema",
    "select_items",
    "select_new",
    "write_plan",
]
