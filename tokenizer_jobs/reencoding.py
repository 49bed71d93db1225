"""Encoding a sample of an output's items again, with the plain reference model, and comparing the codes."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from tokenizer_jobs.commits import read_commit
from tokenizer_jobs.config import Selection
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.encoding import EncodecCodec, load_codec
from tokenizer_jobs.errors import ConfigError, RejectReason
from tokenizer_jobs.planning import list_generations, read_plan_summary, read_units
from tokenizer_jobs.recipe import ResolvedRecipe, read_recipe
from tokenizer_jobs.records import EncodedItem, Item, RejectedItem, WorkUnit
from tokenizer_jobs.shards import read_rows
from tokenizer_jobs.source_config import SourceConfig
from tokenizer_jobs.sources import make_source
from tokenizer_jobs.storage import Storage

__all__ = ["ReencodeResult", "reencode_sample"]

_GONE = frozenset({RejectReason.VANISHED, RejectReason.CHANGED})


class ReencodeResult(BaseModel):
    """How the codes of a sample of items compare with those that the reference model gives their audio now."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    items: int
    """Encoded again."""
    gone: int
    """In the sample, but the input has vanished or changed since, so nothing can be said."""
    codes: int
    """Compared."""
    equal: int
    near_tie_frames: int
    """Frames whose first differing codebook is a near tie of the reference itself."""
    wrong_frames: int
    """Frames that differ otherwise: faults."""
    problems: tuple[str, ...]
    """One line for each item with a fault."""


@dataclass(slots=True)
class _Sums:
    items: int = 0
    gone: int = 0
    codes: int = 0
    equal: int = 0
    near_tie_frames: int = 0
    wrong_frames: int = 0


def reencode_sample(storage: Storage, *, fraction: float, model: str | None = None) -> ReencodeResult:
    """Decode and encode a sample of committed items again and compare.

    The sample is a function of the ids, so that everybody checks the same items.

    Args:
        storage: The output.
        fraction: Share of the items, in (0, 1]; at least one item of every output is taken.
        model: Where the codec is now; None: where the recipe says.

    Raises:
        ConfigError: the codec cannot be loaded, or has other weights than the output's.
    """
    recipe = read_recipe(storage)
    codec = _load_same_codec(recipe, model=model)
    sums, problems = _Sums(), list[str]()
    for unit, target, source_config in _committed_units(storage, recipe, codec):
        source = make_source(source_config)
        for item, stored in _sampled_rows(storage, unit, fraction=fraction, at_least_one=sums.items == 0):
            (decoded,) = decode_items([(0, item)], source=source, target=target)
            if isinstance(decoded, RejectedItem):
                if decoded.reason in _GONE:
                    sums.gone += 1
                else:
                    problems.append(f"{item.id}: has a row, but now is a reject ({decoded.reason}: {decoded.message})")
                continue
            agreement = codec.compare(decoded.float_waveform(), stored)
            sums.items += 1
            sums.codes += agreement.num_codes
            sums.equal += agreement.num_equal
            sums.near_tie_frames += agreement.num_near_tie_frames
            sums.wrong_frames += agreement.num_wrong_frames
            if agreement.num_wrong_frames:
                problems.append(
                    f"{item.id}: {agreement.num_wrong_frames} of {stored.codes.shape[1]} frames are not what the codec "
                    "gives its audio; do not train on this output, and run it anew elsewhere"
                )
    if sums.items == 0 and sums.gone:
        problems.append(f"none of {sums.gone} sampled items could be encoded again: their inputs vanished or changed")
    return ReencodeResult(
        items=sums.items,
        gone=sums.gone,
        codes=sums.codes,
        equal=sums.equal,
        near_tie_frames=sums.near_tie_frames,
        wrong_frames=sums.wrong_frames,
        problems=tuple(problems),
    )


def _load_same_codec(recipe: ResolvedRecipe, *, model: str | None) -> EncodecCodec:
    codec_recipe = recipe.codec if model is None else recipe.codec.model_copy(update={"model": model, "revision": None})
    codec = load_codec(codec_recipe, device="auto")
    found = codec.describe().weights_sha256
    if found != recipe.weights_sha256:
        raise ConfigError(
            f"{codec_recipe.model!r} has weights {found[:16]}…, the output needs {recipe.weights_sha256[:16]}…; "
            "give the codec that made it"
        )
    return codec


def _committed_units(
    storage: Storage, recipe: ResolvedRecipe, codec: EncodecCodec
) -> Iterator[tuple[WorkUnit, AudioTarget, SourceConfig]]:
    facts = codec.describe()
    for generation in list_generations(storage):
        selection = Selection.model_validate(read_plan_summary(storage, generation).selection)
        target = AudioTarget.for_codec(facts, audio=recipe.audio, filters=selection.filters)
        for unit in read_units(storage, generation):
            yield unit, target, selection.source


def _sampled_rows(
    storage: Storage, unit: WorkUnit, *, fraction: float, at_least_one: bool
) -> Iterator[tuple[Item, EncodedItem]]:
    commit = read_commit(storage, generation=unit.generation, unit_id=unit.unit_id)
    if commit is None:
        return
    items = {item.id: item for item in unit.items}
    for shard in commit.shards:
        for row in read_rows(storage, shard.path):
            if at_least_one or _draw(row.id) < fraction:
                at_least_one = False
                yield items[row.id], row.encoded


def _draw(item_id: str) -> float:
    """A number in [0, 1) that the id alone decides."""
    return int.from_bytes(hashlib.sha256(item_id.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64
