"""Chains of stages over blocked tensors: every stage writes where the next one reads.

Letters in shapes: N blocks of channels, T time steps, W channels of a block (16; 1 for audio).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

from encodec_core.fast.layers import DecoderStage, FoldedBlock, FoldedConv, FoldedUpsampling
from encodec_core.fast.native.audio import AudioConv
from encodec_core.fast.native.blocked import BlockedConv, BlockedNorm, activate
from encodec_core.fast.native.inlet import Arena, Inlet, Intake, start_inlet
from encodec_core.fast.native.program import ProgramStage
from encodec_core.fast.native.programs import Programs
from encodec_core.fast.native.shared_object import floats
from encodec_core.fast.native.terms import BLOCK
from encodec_core.fast.native.upsampling import BlockedUpsampling

__all__ = ["Chain", "ChainState", "Workspace", "can_be_blocked"]


def can_be_blocked(stages: Sequence[DecoderStage]) -> bool:
    """Whether a chain of these stages can be made."""
    return all(_can_stage_be_blocked(stage) for stage in stages)


def _can_stage_be_blocked(stage: DecoderStage) -> bool:
    if isinstance(stage, FoldedUpsampling):
        return _can_norm_be_blocked(stage.norm)
    convs = (stage,) if isinstance(stage, FoldedConv) else (*stage.convs, stage.shortcut)
    return all(
        conv is None or (conv.pad_mode in ("reflect", "constant") and _can_norm_be_blocked(conv.norm)) for conv in convs
    )


def _can_norm_be_blocked(norm: nn.GroupNorm | None) -> bool:
    return norm is None or (norm.num_groups == 1 and norm.num_channels % BLOCK == 0)


@dataclass(frozen=True, slots=True)
class Workspace:
    """Memory for one push at a time."""

    inputs: tuple[Arena, Arena] = field(default_factory=lambda: (Arena(), Arena()))
    """Of the stage that runs, and of the one that it writes to."""
    scratch: Arena = field(default_factory=Arena)
    """Of the convolutions inside a block."""
    norms: Arena = field(default_factory=Arena)
    programs: Arena = field(default_factory=Arena)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """Memory for the next inputs of a stage; the stage before fills `raw`, `activated`, or both."""

    num_new: int
    is_last: bool
    memory: Tensor
    """`[N, T, W]`: what the stage's first convolution reads, new inputs and others."""
    raw: Tensor | None = None
    """`[N, num_new, W]` for the inputs themselves."""
    activated: Tensor | None = None
    """`[N, num_new, W]` for their ELU."""


@dataclass(slots=True)
class _BlockState:
    inlets: list[Inlet]
    shortcut: Tensor | None = None
    """`[N, T, 16]`: results of the shortcut that wait for the convolutions, which look ahead unless they are causal."""


_StageState: TypeAlias = Inlet | _BlockState
ChainState: TypeAlias = list[_StageState]
"""What the stages of a chain know of an item so far."""


class Chain:
    """Stages, one after the other. Where they have norms, a push is a whole item.

    Args:
        stages: as `can_be_blocked` allows, float32, on the CPU.
        is_audio: whether the chain begins with audio `[channels, T, 1]`.
        ends_in_audio: whether it ends in such; the last stage is then a convolution, and its norm may be any.
    """

    def __init__(self, stages: Sequence[DecoderStage], *, is_audio: bool, ends_in_audio: bool = False) -> None:
        self._stages = [
            _stage(stage, is_audio=is_audio and place == 0, ends_in_audio=ends_in_audio and place == len(stages) - 1)
            for place, stage in enumerate(stages)
        ]
        self._programs = Programs([stage.of_program() for stage in self._stages])

    @property
    def out_blocks(self) -> int:
        """N of its result."""
        return self._stages[-1].out_blocks

    def start(self, num_steps: int | None) -> ChainState:
        """Return the state before an item of so many time steps; None: not known yet, and many."""
        states: ChainState = []
        for stage in self._stages:
            state, num_steps = stage.start(num_steps)
            states.append(state)
        return states

    def push(
        self, x: Tensor, states: ChainState, workspace: Workspace, *, is_last: bool, into: Tensor | None = None
    ) -> Tensor:
        """Send the next time steps of an item through the chain.

        Args:
            x: `[N, T, W]`, T >= 0.
            states: what `start` returned, changed in place.
            workspace: of this thread.
            is_last: whether the item ends with `x`.
            into: `[N', T' or more, W']` for the result; None: memory of its own.

        Returns:
            `[N', T', W']`: what could be computed now.
        """
        program = None if is_last or _has_waiting(states) else self._programs.find(x, _inlets(states))
        if program is not None:
            room = floats(self.out_blocks, program.num_ready, BLOCK) if into is None else into
            result = room[:, : program.num_ready]
            program.run(x, _inlets(states), result, workspace.programs)
            return result
        opened = self._stages[0].open(states[0], x.shape[1], workspace.inputs[0], is_last=is_last)
        _fill(opened, x)
        for place, stage in enumerate(self._stages):
            num_ready = stage.num_ready(states[place], opened.num_new, is_last=is_last)
            if place + 1 < len(self._stages):
                arena = workspace.inputs[(place + 1) % 2]
                following = self._stages[place + 1].open(states[place + 1], num_ready, arena, is_last=is_last)
            else:
                room = floats(stage.out_blocks, num_ready, stage.out_width) if into is None else into
                result = room[:, :num_ready]
                following = _Opened(num_new=num_ready, is_last=is_last, memory=result, raw=result)
            stage.run(states[place], opened, following, workspace)
            opened = following
        return result


def _has_waiting(states: ChainState) -> bool:
    return any(isinstance(state, _BlockState) and state.shortcut is not None for state in states)


def _inlets(states: ChainState) -> list[Inlet]:
    return [inlet for state in states for inlet in ((state,) if isinstance(state, Inlet) else state.inlets)]


class _NormedConv:
    """A convolution and the norm after it, if it has one."""

    out_width = BLOCK

    def __init__(self, conv: FoldedConv, *, is_audio: bool = False) -> None:
        self._conv = conv
        self.elu_before = conv.elu_before
        self._blocked = BlockedConv(conv, is_audio=is_audio)
        self._norm = None if conv.norm is None else BlockedNorm(conv.norm)
        self.in_blocks, self.out_blocks = self._blocked.in_blocks, self._blocked.out_blocks
        self.width = self._blocked.width

    @property
    def of_program(self) -> BlockedConv | None:
        """What a program needs to know; None: it has a norm, which no program has."""
        return self._blocked if self._norm is None else None

    def start(self, num_steps: int | None) -> tuple[Inlet, int | None]:
        """Return the state before an item of so many time steps (None: not known), and how many come out."""
        return start_inlet(self._conv, num_steps)

    def num_outputs(self, intake: Intake) -> int:
        """Return how many outputs the next inputs make ready."""
        return intake.num_ready

    def run_on(
        self,
        x: Tensor,
        item_steps: int | None,
        norms: Arena,
        *,
        raw: Tensor | None = None,
        activated: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> None:
        """Compute; see `BlockedConv.run`."""
        if self._norm is None:
            self._blocked.run(x, item_steps=item_steps, raw=raw, activated=activated, residual=residual)
            return
        num_rows = (x.shape[1] - self._conv.span) // self._conv.stride + 1
        norms.reset(2 * self.out_blocks * num_rows * BLOCK)
        convolved, scratch = (norms.take(self.out_blocks, num_rows, BLOCK) for _ in range(2))
        self._blocked.run(x, item_steps=item_steps, raw=convolved)
        self._norm.run(convolved, scratch=scratch, raw=raw, activated=activated, residual=residual)


_Conv: TypeAlias = _NormedConv | BlockedUpsampling | AudioConv


class _ConvStage:
    """A convolution whose inputs pass an ELU first, or do not."""

    def __init__(self, conv: _Conv) -> None:
        self._conv = conv
        self.out_blocks, self.out_width = conv.out_blocks, conv.out_width

    def of_program(self) -> ProgramStage | None:
        """Return what programs need to know; None: they cannot have this stage."""
        conv = self._conv.of_program if isinstance(self._conv, _NormedConv) else None
        if conv is None:
            return None
        return ProgramStage(convs=(conv,), is_block=False, elu_before=self._conv.elu_before, shortcut=None)

    def start(self, num_steps: int | None) -> tuple[_StageState, int | None]:
        """Return the state before an item of so many time steps (None: not known), and how many come out."""
        return self._conv.start(num_steps)

    def num_ready(self, state: _StageState, num_new: int, *, is_last: bool) -> int:
        """Return how many outputs the next inputs make ready."""
        assert isinstance(state, Inlet)
        return self._conv.num_outputs(state.intake(num_new, is_last=is_last))

    def open(self, state: _StageState, num_new: int, arena: Arena, *, is_last: bool) -> _Opened:
        """Make room for the next inputs."""
        assert isinstance(state, Inlet)
        intake = state.intake(num_new, is_last=is_last)
        shape = (self._conv.in_blocks, intake.size, self._conv.width)
        arena.reset(shape[0] * shape[1] * shape[2])
        memory = arena.take(*shape)
        new = state.place(intake, memory)
        if self._conv.elu_before:
            return _Opened(num_new=num_new, is_last=is_last, memory=memory, activated=new)
        return _Opened(num_new=num_new, is_last=is_last, memory=memory, raw=new)

    def run(self, state: _StageState, opened: _Opened, following: _Opened, workspace: Workspace) -> None:
        """Compute what is ready, to where the following stage reads it."""
        assert isinstance(state, Inlet)
        _run_ready(self._conv, opened, state, following, workspace.norms)


class _BlockStage:
    """A residual block."""

    out_width = BLOCK

    def __init__(self, block: FoldedBlock) -> None:
        self._convs = [_NormedConv(conv) for conv in block.convs]
        self._shortcut = None if block.shortcut is None else _NormedConv(block.shortcut)
        self._blocks = self._convs[0].in_blocks
        self.out_blocks = self._convs[-1].out_blocks

    def of_program(self) -> ProgramStage | None:
        """See `_ConvStage.of_program`."""
        convs = [conv.of_program for conv in (*self._convs, *([self._shortcut] if self._shortcut else []))]
        plain = tuple(conv for conv in convs if conv is not None)
        if len(plain) < len(convs):
            return None
        num_convs = len(self._convs)
        return ProgramStage(
            convs=plain[:num_convs],
            is_block=True,
            elu_before=True,
            shortcut=plain[num_convs] if self._shortcut else None,
        )

    def start(self, num_steps: int | None) -> tuple[_StageState, int | None]:
        """See `_ConvStage.start`."""
        inlets = []
        for conv in self._convs:
            inlet, num_steps = conv.start(num_steps)
            inlets.append(inlet)
        return _BlockState(inlets), num_steps

    def num_ready(self, state: _StageState, num_new: int, *, is_last: bool) -> int:
        """See `_ConvStage.num_ready`."""
        assert isinstance(state, _BlockState)
        for inlet in state.inlets:
            num_new = inlet.intake(num_new, is_last=is_last).num_ready
        return num_new

    def open(self, state: _StageState, num_new: int, arena: Arena, *, is_last: bool) -> _Opened:
        """See `_ConvStage.open`."""
        assert isinstance(state, _BlockState)
        intake = state.inlets[0].intake(num_new, is_last=is_last)
        arena.reset(self._blocks * (intake.size + num_new) * BLOCK)
        memory, raw = (arena.take(self._blocks, steps, BLOCK) for steps in (intake.size, num_new))
        activated = state.inlets[0].place(intake, memory)
        return _Opened(num_new=num_new, is_last=is_last, memory=memory, raw=raw, activated=activated)

    def run(self, state: _StageState, opened: _Opened, following: _Opened, workspace: Workspace) -> None:
        """See `_ConvStage.run`."""
        assert isinstance(state, _BlockState)
        sizes = self._memory_steps(state, opened)
        workspace.scratch.reset(sum(blocks * steps for blocks, steps in sizes) * BLOCK)
        shortcut, *memories = (workspace.scratch.take(blocks, steps, BLOCK) for blocks, steps in sizes)
        self._fill_shortcut(shortcut, state, opened, workspace.norms)
        for conv, inlet, next_inlet, memory in zip(self._convs, state.inlets, state.inlets[1:], memories, strict=False):
            intake = next_inlet.intake(
                inlet.intake(opened.num_new, is_last=opened.is_last).num_ready, is_last=opened.is_last
            )
            between = _Opened(
                num_new=intake.num_new,
                is_last=opened.is_last,
                memory=memory,
                activated=next_inlet.place(intake, memory),
            )
            _run_ready(conv, opened, inlet, between, workspace.norms)
            opened = between
        _run_ready(self._convs[-1], opened, state.inlets[-1], following, workspace.norms, residual=shortcut)
        num_ready = following.num_new
        state.shortcut = shortcut[:, num_ready:].clone() if shortcut.shape[1] > num_ready else None

    def _memory_steps(self, state: _BlockState, opened: _Opened) -> list[tuple[int, int]]:
        """Return blocks and time steps of the shortcut's results, and of what each convolution but the first reads."""
        num_waiting = 0 if state.shortcut is None else state.shortcut.shape[1]
        sizes = [(self._blocks, num_waiting + opened.num_new)]
        num_new = opened.num_new
        for conv, inlet, before in zip(self._convs[1:], state.inlets[1:], state.inlets, strict=False):
            num_new = before.intake(num_new, is_last=opened.is_last).num_ready
            sizes.append((conv.in_blocks, inlet.intake(num_new, is_last=opened.is_last).size))
        return sizes

    def _fill_shortcut(self, shortcut: Tensor, state: _BlockState, opened: _Opened, norms: Arena) -> None:
        num_waiting = shortcut.shape[1] - opened.num_new
        if state.shortcut is not None:
            shortcut[:, :num_waiting] = state.shortcut
        assert opened.raw is not None
        if self._shortcut is None:
            shortcut[:, num_waiting:] = opened.raw
        elif opened.num_new > 0:
            self._shortcut.run_on(opened.raw, None, norms, raw=shortcut[:, num_waiting:])


def _stage(stage: DecoderStage, *, is_audio: bool, ends_in_audio: bool) -> _ConvStage | _BlockStage:
    if isinstance(stage, FoldedBlock):
        return _BlockStage(stage)
    if isinstance(stage, FoldedUpsampling):
        return _ConvStage(BlockedUpsampling(stage))
    return _ConvStage(AudioConv(stage) if ends_in_audio else _NormedConv(stage, is_audio=is_audio))


def _run_ready(
    conv: _Conv, opened: _Opened, inlet: Inlet, outlet: _Opened, norms: Arena, *, residual: Tensor | None = None
) -> None:
    """Compute what is ready of an opened item."""
    intake = inlet.intake(opened.num_new, is_last=opened.is_last)
    ready = inlet.ready(intake, opened.memory, is_last=opened.is_last)
    if ready is not None:
        conv.run_on(ready, inlet.item_steps, norms, raw=outlet.raw, activated=outlet.activated, residual=residual)


def _fill(opened: _Opened, x: Tensor) -> None:
    if opened.raw is not None:
        opened.raw.copy_(x)
    if opened.activated is not None:
        activated = x.clone(memory_format=torch.contiguous_format)
        activate(activated)
        opened.activated.copy_(activated)
