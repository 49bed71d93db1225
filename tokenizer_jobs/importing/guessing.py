"""Guessing the layout of a dump from a sample of it: pure functions, with their evidence in words.

What is said is taken; what is left open is guessed where the sample leaves one answer, else it is refused with the
flags that would tell. A few damaged files among many change nothing.

Legend of shapes: K codebooks, T frames.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.errors import ConfigError, ItemError
from tokenizer_jobs.importing.layouts import AXES, Axes, Layout, integers, without_batch_axes

__all__ = ["Guess", "Offsets", "Wanted", "guess_key", "guess_layout"]

Offsets = Literal["none", "codebook"]
Arrays = Mapping[str, npt.NDArray[Any]]

MOST_CODEBOOKS = 64
"""No known codec has more; an axis that is longer is time."""
MAJORITY = 0.75
"""Share of the sample that must agree: the rest may be damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is known before looking; None: to be guessed."""

    codebook_size: int
    axes: Axes | None = None
    num_codebooks: int | None = None
    offsets: Offsets | None = None
    key: str | None = None
    offered: Collection[int] = ()
    """Numbers of codebooks that the codec can have; empty: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """A layout, and why."""

    layout: Layout
    evidence: tuple[str, ...]


def guess_key(samples: Sequence[Arrays], wanted: Wanted) -> tuple[str | None, tuple[str, ...]]:
    """Which of a file's arrays has the codes; None: files have one array each.

    Raises:
        ConfigError: several could.
    """
    names = Counter(name for sample in samples for name in sample)
    if wanted.key is not None:
        if wanted.key not in names:
            raise ConfigError(f"--key {wanted.key!r} names no array of the dump; it has {_listed(names)}")
        return wanted.key, (f"codes are {wanted.key!r}, as said",)
    if len(names) <= 1:
        name = next(iter(names), "")
        return (name or None), ((f"codes are {name!r}, the only array",) if name else ())
    fitting = [name for name in names if _may_be_codes(samples, name, wanted)]
    if len(fitting) == 1:
        return fitting[0], (f"codes are {fitting[0]!r}, the only array that can be codes among {_listed(names)}",)
    described = "; ".join(f"{name!r} {_described(samples, name)}" for name in sorted(names))
    raise ConfigError(f"the dump has several arrays that may be the codes: {described}; say which by --key NAME")


def guess_layout(arrays: Sequence[npt.NDArray[Any]], wanted: Wanted) -> Guess:
    """The layout of arrays that hold codes.

    Raises:
        ConfigError: there is more than one answer, or none.
    """
    found = [without_batch_axes(array) for array in arrays if array.size]
    ndim = _most_common([array.ndim for array in found])
    found = [array for array in found if array.ndim == ndim]
    if ndim not in (1, 2):
        raise ConfigError(
            f"arrays of the dump have {ndim} axes, such as {[list(a.shape) for a in found[:3]]}; expected [K, T], "
            "[T, K], either with a batch axis of 1, or flattened"
        )
    values = list(_integer_arrays(found))
    if not values:
        raise ConfigError("no sampled array of the dump holds whole numbers, so these are no codes; --key names others")
    return _of_two_axes(values, wanted) if ndim == 2 else _of_one_axis(values, wanted)


def _of_two_axes(values: Sequence[npt.NDArray[np.int64]], wanted: Wanted) -> Guess:
    shapes = _shapes(values)
    fitting = [axes for axes in (("KT", "TK") if wanted.axes is None else (wanted.axes,)) if axes in ("KT", "TK")]
    if not fitting:
        raise ConfigError(f"--layout {wanted.axes} is of one axis, and arrays of the dump are of two: {shapes}")
    counts = {"KT": _mode(value.shape[0] for value in values), "TK": _mode(value.shape[1] for value in values)}
    candidates = {axes: counts[axes] for axes in fitting if _may_be_count(counts[axes], wanted)}
    why = _why_alone(next(iter(candidates)), counts, wanted) if len(candidates) == 1 else ""
    if len(candidates) > 1 and counts["KT"][0] != counts["TK"][0]:
        varying = {a: c for a, c in candidates.items() if counts["TK" if a == "KT" else "KT"][1] < MAJORITY}
        candidates, why = (varying or candidates), "the axis that is the same in all of them"
    if len(candidates) > 1:
        by_offsets = {a: c for a, c in candidates.items() if _share_with_offsets(values, a, c[0], wanted) >= MAJORITY}
        candidates, why = (by_offsets or candidates), "its codes have an offset for each codebook"
    if len(candidates) != 1:
        raise ConfigError(
            f"arrays of the dump have shapes {shapes}, and which axis is codebooks "
            + ("cannot be told" if candidates else f"fits neither: {_expected_counts(wanted)}")
            + "; say --layout KT or --layout TK, and --num-codebooks"
        )
    ((axes, (num_codebooks, _)),) = candidates.items()
    if wanted.axes is not None:
        why = "as said"
    evidence = f"shapes {shapes}: {num_codebooks} codebooks on the {'first' if axes == 'KT' else 'second'} axis, {why}"
    return _with_offsets(values, axes, num_codebooks, wanted, evidence)


def _why_alone(axes: Axes, counts: Mapping[str, tuple[int, float]], wanted: Wanted) -> str:
    if wanted.num_codebooks is not None:
        return "as said"
    other, share = counts["TK" if axes == "KT" else "KT"]
    if share < MAJORITY:
        return "the axis that is the same in all of them"
    return f"since it cannot be {other}: {_expected_counts(wanted)}"


def _of_one_axis(values: Sequence[npt.NDArray[np.int64]], wanted: Wanted) -> Guess:
    shapes = _shapes(values)
    options: list[Axes] = ["flat", "flat-by-codebook"] if wanted.axes is None else [wanted.axes]
    if wanted.axes in ("KT", "TK"):
        raise ConfigError(f"--layout {wanted.axes} is of two axes, and arrays of the dump are of one: {shapes}")
    num_codebooks = wanted.num_codebooks
    highest = int(_mode_of_max(values) // wanted.codebook_size) + 1
    if num_codebooks is None:
        if highest == 1:
            raise ConfigError(
                f"arrays of the dump have one axis {shapes} and no offsets, so that the number of codebooks cannot be "
                "told; say --num-codebooks, and --layout flat or flat-by-codebook"
            )
        num_codebooks = highest
    if num_codebooks == 1:
        return _with_offsets(values, "flat", 1, wanted, f"one axis {shapes}: a single codebook")
    shares = {axes: _share_with_offsets(values, axes, num_codebooks, wanted) for axes in options}
    fitting = [axes for axes, share in shares.items() if share >= MAJORITY]
    if wanted.axes is not None:
        fitting = [wanted.axes]
    if len(fitting) != 1:
        raise ConfigError(
            f"arrays of the dump have one axis {shapes}, {num_codebooks} codebooks, and no offsets that tell their "
            "order; say --layout flat (by frame) or --layout flat-by-codebook"
        )
    why = "as said" if wanted.axes is not None else "as the offsets of their codes tell"
    evidence = f"one axis {shapes}: {num_codebooks} codebooks, {fitting[0]}, {why}"
    return _with_offsets(values, fitting[0], num_codebooks, wanted, evidence)


def _with_offsets(
    values: Sequence[npt.NDArray[np.int64]], axes: Axes, num_codebooks: int, wanted: Wanted, evidence: str
) -> Guess:
    if num_codebooks == 0 or (wanted.offered and num_codebooks not in wanted.offered):
        raise ConfigError(f"{evidence}; but {_expected_counts(wanted)}")
    low, high = min(int(v.min()) for v in values), max(int(v.max()) for v in values)
    size = wanted.codebook_size
    plain = sum(int(v.min()) >= 0 and int(v.max()) < size for v in values) / len(values)
    with_offsets = _share_with_offsets(values, axes, num_codebooks, wanted)
    if wanted.offsets is not None:
        has_offsets, why = wanted.offsets == "codebook", "as said"
    elif num_codebooks > 1 and with_offsets > plain:
        has_offsets, why = True, f"in {with_offsets:.0%} of the sample codebook k has the ids from k x {size} on"
    elif plain >= 0.5:
        has_offsets, why = False, f"{plain:.0%} of the sample are within 0 to {size - 1}"
    else:
        raise ConfigError(
            f"codes of the dump are {low} to {high}, which is neither 0 to {size - 1} nor that with an offset of "
            f"{size} for each of {num_codebooks} codebooks; say --codebook-size, or --offsets"
        )
    layout = Layout(axes=axes, num_codebooks=num_codebooks, codebook_size=size, has_offsets=has_offsets)
    offsets = "offsets taken off" if has_offsets else "no offsets"
    return Guess(layout=layout, evidence=(evidence, f"values {low} to {high}: {offsets}, {why}"))


def _share_with_offsets(
    values: Sequence[npt.NDArray[np.int64]], axes: str, num_codebooks: int, wanted: Wanted
) -> float:
    """Share of the arrays in which all codebooks above the first are within their own ids."""
    if num_codebooks < 2 or axes not in AXES:
        return 0.0
    layout = Layout(axes=axes, num_codebooks=num_codebooks, codebook_size=wanted.codebook_size, has_offsets=True)
    return sum(_fits(layout, value) for value in values) / len(values)


def _fits(layout: Layout, value: npt.NDArray[np.int64]) -> bool:
    try:
        layout.codes_in(value)
    except ItemError:
        return False
    return True


def _integer_arrays(arrays: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.int64]]:
    found = []
    for array in arrays:
        try:
            found.append(integers(array))
        except ItemError:
            continue  # a damaged file is a reject later; here it only says nothing
    return found


def _may_be_count(count: tuple[int, float], wanted: Wanted) -> bool:
    number, share = count
    if wanted.num_codebooks is not None:
        return number == wanted.num_codebooks
    return share >= MAJORITY and 1 <= number <= MOST_CODEBOOKS and (not wanted.offered or number in wanted.offered)


def _may_be_codes(samples: Sequence[Arrays], name: str, wanted: Wanted) -> bool:
    arrays = [sample[name] for sample in samples if name in sample]
    try:
        guess_layout(arrays, wanted)
    except ConfigError:
        return False
    return True


def _expected_counts(wanted: Wanted) -> str:
    if wanted.num_codebooks is not None:
        return f"expected {wanted.num_codebooks} codebooks"
    if wanted.offered:
        return f"the codec has {', '.join(map(str, sorted(wanted.offered)))} codebooks"
    return f"expected 1 to {MOST_CODEBOOKS} codebooks"


def _described(samples: Sequence[Arrays], name: str) -> str:
    arrays = [sample[name] for sample in samples if name in sample and sample[name].size]
    if not arrays or arrays[0].dtype.kind not in "iuf":
        return f"({arrays[0].dtype if arrays else 'empty'})"
    return f"{_shapes(arrays)} {min(a.min() for a in arrays)} to {max(a.max() for a in arrays)}"


def _shapes(arrays: Sequence[npt.NDArray[Any]]) -> str:
    """Shapes of a sample, such as `[8, 225 to 1046]`; the most common number of axes."""
    ndim = _most_common([array.ndim for array in arrays])
    axes = zip(*(array.shape for array in arrays if array.ndim == ndim), strict=True)
    return "[" + ", ".join(str(min(a)) if min(a) == max(a) else f"{min(a)} to {max(a)}" for a in map(list, axes)) + "]"


def _mode(numbers: Any) -> tuple[int, float]:
    counted = Counter(numbers)
    number, count = counted.most_common(1)[0]
    return number, count / counted.total()


def _mode_of_max(values: Sequence[npt.NDArray[np.int64]]) -> int:
    """The largest value, a quarter of the sample left out at the top: it may be damaged."""
    return sorted(int(value.max()) for value in values)[int(MAJORITY * (len(values) - 1))]


def _most_common(numbers: Sequence[int]) -> int:
    return Counter(numbers).most_common(1)[0][0] if numbers else 0


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"
