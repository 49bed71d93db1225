"""The programs of a chain: each is written when a push comes for the second time.

Letters in shapes: N blocks of channels, T time steps, W channels of a block (16; 1 for audio).
"""

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor

from encodec_core.fast.native.blocked import BlockedConv
from encodec_core.fast.native.inlet import Inlet
from encodec_core.fast.native.program import Program, ProgramStage, write_program

__all__ = ["PIECE_STEPS", "Programs"]

PIECE_STEPS = 2400
"""Samples of a piece; of the first activations, of 32 channels, they are 300 KiB."""
MAX_EARLY_WEIGHTS = 2**17
"""Numbers of a convolution, whose weights, read again for every piece, leave half of an L2 cache to the piece."""
MAX_PROGRAMS = 256
"""Known at once; beyond that all are forgotten."""

_Key: TypeAlias = tuple[int | tuple[int, int, bool, bool], ...]


class Programs:
    """Programs by what a push does.

    Args:
        stages: of the chain; None: a stage of which there are no programs.
    """

    def __init__(self, stages: Sequence[ProgramStage | None]) -> None:
        self._stages = [stage for stage in stages if stage is not None]
        self._can_write = len(self._stages) == len(stages)
        self._convs = [conv for stage in self._stages for conv in stage.convs]
        self._known: dict[_Key, Program | None] = {}
        self._seen_once: set[_Key] = set()

    def __getstate__(self) -> dict[str, object]:
        # Programs hold addresses of weights: a copy writes its own.
        return {**vars(self), "_known": {}, "_seen_once": set()}

    def find(self, x: Tensor, inlets: Sequence[Inlet]) -> Program | None:
        """Return the program of a push that does not end the item.

        Args:
            x: `[N, T, W]`.
            inlets: of all convolutions, as they are before it.

        Returns:
            None: there is none, or not yet.
        """
        num_steps, width = x.shape[1:]
        if not self._can_write or num_steps == 0 or x.stride()[1:] != (width, 1):
            return None
        key: _Key = (num_steps, *(_counts(*pair) for pair in zip(inlets, self._convs, strict=True)))
        if key in self._seen_once and key not in self._known:
            self._known[key] = self._write(inlets, num_steps)
        elif len(self._seen_once) >= MAX_PROGRAMS and key not in self._seen_once:
            self._known, self._seen_once = {}, set()
        self._seen_once.add(key)
        return self._known.get(key)

    def _write(self, inlets: Sequence[Inlet], num_steps: int) -> Program | None:
        of_audio = self._convs[0].width == 1
        num_pieces, left_over = divmod(num_steps, PIECE_STEPS) if of_audio else (0, 0)
        return write_program(
            self._stages,
            inlets,
            num_steps=num_steps,
            num_pieces=num_pieces,
            num_early=self._num_early() if num_pieces and not left_over else 0,
        )

    def _num_early(self) -> int:
        """Return how many stages come before the first one of many weights; the last one is not among them."""
        sizes = [max(conv.conv.weight.numel() for conv in stage.convs) for stage in self._stages[:-1]]
        return next((place for place, size in enumerate(sizes) if size > MAX_EARLY_WEIGHTS), len(sizes))


def _counts(inlet: Inlet, conv: BlockedConv) -> tuple[int, int, bool, bool]:
    num_kept = 0 if inlet.kept is None else inlet.kept.shape[1]
    return num_kept, inlet.num_used, inlet.has_started, conv.takes_product(inlet.item_steps)
