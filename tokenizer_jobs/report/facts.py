"""What an output says of its codes and of its past, told by its recipe, plans and catalog: no shard is read."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tokenizer_jobs.catalog import SnapshotFacts, read_snapshot, snapshot_numbers
from tokenizer_jobs.commit_records import StoredRecord
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.planning import PlanSummary, list_generations, read_plan_summary
from tokenizer_jobs.recipe import METADATA_KEY, ResolvedRecipe, read_recipe
from tokenizer_jobs.storage import Storage

__all__ = [
    "CodecShown",
    "GenerationShown",
    "Provenance",
    "SnapshotShown",
    "codec_shown",
    "read_plans",
    "read_provenance",
    "source_kind",
]

SHOWN_SNAPSHOTS = 20


class CodecShown(StoredRecord):
    """What the codes are; null where the output does not say."""

    model: str
    revision: str | None
    weights_sha256: str | None
    """None: imported codes of a codec that was not at hand."""
    sample_rate: int | None
    """In Hz."""
    channels: int | None
    frame_rate: float | None
    """Frames per second."""
    num_codebooks: int | None
    codebook_size: int | None
    bandwidth_kbps: float | None
    precision: str | None
    windowed: bool
    """Whether `scales` and `window_frames` are needed to decode."""
    imported: bool
    """Whether the codes were made elsewhere."""


class GenerationShown(StoredRecord):
    """One plan."""

    number: int
    cause: str
    items: int
    units: int
    created_at: datetime
    source: str
    """Kind of the source."""
    versions: dict[str, str]
    """Decoders and resamplers."""
    package_version: str | None


class SnapshotShown(StoredRecord):
    """One snapshot."""

    number: int
    created_at: datetime
    rows: int
    rejects: int
    hours: float
    digest: str


class Provenance(StoredRecord):
    """Where the codes come from."""

    recipe_id: str
    recipe: dict[str, Any]
    """`codec` and `audio` of the recipe."""
    generations: tuple[GenerationShown, ...]
    snapshots: tuple[SnapshotShown, ...]
    """The newest that can still be read, the oldest of them first."""
    older_snapshots: int
    """That are not among them: too many, or retired."""


def read_plans(storage: Storage) -> list[PlanSummary]:
    """All plans of an output, the oldest first."""
    return [read_plan_summary(storage, generation) for generation in list_generations(storage)]


def codec_shown(recipe: ResolvedRecipe, plans: Sequence[PlanSummary]) -> CodecShown:
    """What the codes are, by the recipe and by what every file of the newest plan says."""
    said = _said(plans[-1]) if plans else {}
    return CodecShown(
        model=recipe.codec.model,
        revision=recipe.codec.revision,
        weights_sha256=None if recipe.has_unknown_codec else recipe.weights_sha256,
        sample_rate=said.get("sample_rate"),
        channels=said.get("channels"),
        frame_rate=said.get("frame_rate"),
        num_codebooks=said.get("n_q"),
        codebook_size=said.get("codebook_size"),
        bandwidth_kbps=said.get("bandwidth_kbps"),
        precision=said.get("precision"),
        windowed=bool(said.get("windowed", False)),
        imported=recipe.is_imported,
    )


def source_kind(plan: PlanSummary) -> str:
    """Kind of the source of a plan."""
    source = plan.selection.get("source")
    return str(source.get("kind", "unknown")) if isinstance(source, dict) else "unknown"


def read_provenance(storage: Storage, plans: Sequence[PlanSummary]) -> Provenance:
    """Where the codes of an output come from."""
    recipe = read_recipe(storage)
    numbers = snapshot_numbers(storage)
    found = [facts for number in numbers[-SHOWN_SNAPSHOTS:] if (facts := _facts_of(storage, number)) is not None]
    stored = recipe.model_dump(mode="json")
    return Provenance(
        recipe_id=recipe.recipe_id,
        recipe={"codec": stored["codec"], "audio": stored["audio"]},
        generations=tuple(
            GenerationShown(
                number=plan.generation,
                cause=plan.cause,
                items=plan.num_items,
                units=plan.num_units,
                created_at=plan.created_at,
                source=source_kind(plan),
                versions=plan.decoder_versions,
                package_version=_said(plan).get("package_version"),
            )
            for plan in plans
        ),
        snapshots=tuple(
            SnapshotShown(
                number=facts.number,
                created_at=facts.created_at,
                rows=facts.rows,
                rejects=facts.rejects,
                hours=facts.hours,
                digest=facts.digest,
            )
            for facts in found
        ),
        older_snapshots=len(numbers) - len(found),
    )


def _facts_of(storage: Storage, number: int) -> SnapshotFacts | None:
    try:
        return read_snapshot(storage, number).facts
    except ConfigError:  # retired by a receipt, or removed a moment ago
        return None


def _said(plan: PlanSummary) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(plan.file_metadata.get(METADATA_KEY.decode(), "{}"))
    return said
