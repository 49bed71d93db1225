"""The inputs of one convolution as they arrive, in the memory where it reads them.

Letters in shapes: N blocks of channels, T time steps, W channels of a block (16; 1 for audio).

Whoever computes the inputs writes them straight behind those that were kept, so that nothing is copied but the few that
the next outputs need again. Reflections happen at the item's own start and end only.

    | kept | new inputs         |            memory of one push
    |------0------|                          outputs that are ready
        |------1------|
                     | kept     |            for the next push
"""

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from encodec_core.fast.native.shared_object import floats
from encodec_core.modules.conv import conv_output_length, extra_padding

__all__ = ["Arena", "Inlet", "Intake", "Reach", "padding", "start_inlet"]


class Reach(Protocol):
    """Which inputs an output is made of."""

    @property
    def span(self) -> int:
        """Time steps under the kernel."""

    @property
    def stride(self) -> int:
        """Time steps from the inputs of one output to those of the next."""

    @property
    def left(self) -> int:
        """Time steps of padding before the first one."""

    @property
    def right(self) -> int:
        """Time steps of padding after the last one, not counting what fills its stride."""

    @property
    def pad_mode(self) -> str:
        """Return "reflect", or "constant" for zeros."""


class Arena:
    """Memory that is used again and again; tensors taken before a reset are void after it."""

    def __init__(self) -> None:
        self._memory = floats(0)
        self._num_taken = 0

    def reset(self, num_numbers: int) -> None:
        """Make room for so many numbers."""
        if num_numbers > self._memory.numel():
            self._memory = floats(num_numbers)
        self._num_taken = 0

    def take(self, *shape: int) -> Tensor:
        """Return a tensor of whatever numbers."""
        start = self._num_taken
        self._num_taken += math.prod(shape)
        return self._memory[start : self._num_taken].view(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What becomes of the next inputs of a convolution."""

    left: int
    """Time steps of padding that come before the item's first input, if that is among these."""
    num_kept: int
    num_new: int
    right: int
    """Time steps of padding that come after the item's last input, if that is among these."""
    is_started: bool
    """Whether the padding on the left is in place now."""
    num_ready: int
    """Outputs that can be computed."""

    @property
    def size(self) -> int:
        """Time steps in memory."""
        return self.left + self.num_kept + self.num_new + self.right


@dataclass(slots=True, kw_only=True)
class Inlet:
    """What one convolution knows of an item so far."""

    conv: Reach
    item_steps: int | None
    """Time steps of the whole item, padding included; None: not known yet, and many."""
    kept: Tensor | None = None
    """`[N, T, W]`: the latest inputs, with the padding on the left once it is in place."""
    num_used: int = 0
    """Time steps of `kept` before the first one under the kernel of the next output."""
    num_inputs: int = 0
    """Time steps received, without padding."""
    has_started: bool = False

    def intake(self, num_new: int, *, is_last: bool) -> Intake:
        """Say what the next inputs lead to; nothing is changed."""
        conv = self.conv
        num_kept = 0 if self.kept is None else self.kept.shape[1]
        # Held back until both ends can be reflected within what is there, whatever comes next.
        num_held_back = max(conv.left, conv.right + conv.stride) if conv.pad_mode == "reflect" else 0
        starts = not self.has_started and (
            is_last or num_kept + num_new > num_held_back or conv.span == conv.stride == 1
        )
        left = conv.left if starts else 0
        right = conv.right + extra_padding(self.num_inputs + num_new, stride=conv.stride) if is_last else 0
        is_started = starts or self.has_started
        reach = left + num_kept + num_new + right - self.num_used - conv.span
        num_ready = max(0, reach // conv.stride + 1) if is_started else 0
        return Intake(
            left=left, num_kept=num_kept, num_new=num_new, right=right, is_started=is_started, num_ready=num_ready
        )

    def place(self, intake: Intake, memory: Tensor) -> Tensor:
        """Put what was kept into `memory` `[N, intake.size, W]` and return the part for the new inputs."""
        first = intake.left + intake.num_kept
        if self.kept is not None:
            memory[:, intake.left : first] = self.kept
        return memory[:, first : first + intake.num_new]

    def ready(self, intake: Intake, memory: Tensor, *, is_last: bool) -> Tensor | None:
        """Pad, once the new inputs are there, and keep what later outputs need.

        Returns:
            `[N, T, W]`: what the ready outputs are computed from; None if none is.
        """
        conv = self.conv
        for step, source in padding(intake, reflect=conv.pad_mode == "reflect"):
            memory[:, step] = 0 if source is None else memory[:, source]
        start, next_start = self.num_used, self.num_used + intake.num_ready * conv.stride
        if not is_last:
            first_kept = self.first_kept(intake)
            self.kept = memory[:, first_kept:].clone() if first_kept < memory.shape[1] else None
            self.num_used = next_start - first_kept
        self.num_inputs += intake.num_new
        self.has_started = intake.is_started
        return memory[:, start : next_start - conv.stride + conv.span] if intake.num_ready else None

    def first_kept(self, intake: Intake) -> int:
        """Return from which time step in memory on later outputs need it, where the item goes on."""
        if not intake.is_started:
            return 0
        next_start = self.num_used + intake.num_ready * self.conv.stride
        # The reflection at the item's end reads up to right + stride time steps back.
        return max(0, min(next_start, intake.size - self.conv.right - self.conv.stride))


def start_inlet(conv: Reach, num_steps: int | None) -> tuple[Inlet, int | None]:
    """Return the state before an item of so many time steps (None: not known), and how many outputs it has."""
    if num_steps is None:
        return Inlet(conv=conv, item_steps=None), None
    item_steps = conv.left + num_steps + conv.right + extra_padding(num_steps, stride=conv.stride)
    return Inlet(conv=conv, item_steps=item_steps), conv_output_length(num_steps, stride=conv.stride)


def padding(intake: Intake, *, reflect: bool) -> list[tuple[int, int | None]]:
    """Return the time steps in memory that are padding, and of each which it repeats; None: it is zero.

    They are before the audio and after it; see `modules.conv.pad1d` for the rule of small inputs.
    """
    first, num_audio, num_right = intake.left, intake.num_kept + intake.num_new, intake.right
    last = max(num_audio, max(first, num_right) + 1) - 1
    before = [(step, first - step) for step in range(first)]
    after = [(first + step, last - abs(last - step)) for step in range(num_audio, num_audio + num_right)]
    return [(step, first + source if reflect and source < num_audio else None) for step, source in before + after]
