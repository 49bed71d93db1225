"""A push through a chain as a program: its kernel calls and copies, written down once and made without Python.

Letters in shapes: N blocks of channels, T time steps, W channels of a block (16; 1 for audio).

What a push does depends on how many time steps come and on how many wait at each convolution, and on no number. So a
program serves every item that comes by in the same state. It takes the first convolutions in pieces, whose numbers
stay in the L2 cache from one convolution to the next:

    convolutions 0, 1   piece 0           piece 1           piece 2
    convolution 2               piece 0           piece 1           piece 2
    convolution 3                                                       all, for its weights are large
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from encodec_core.fast.native.blocked import BlockedConv
from encodec_core.fast.native.inlet import Arena, Inlet, Intake, padding
from encodec_core.fast.native.shared_object import floats, loaded_kernels, pointer

__all__ = ["Program", "ProgramStage", "write_program"]

CONVOLVE, COPY, ELU, ZERO = range(4)
"""What a call does, as C counts them."""
CALL_FIELDS = 22
X, RESULT = 0, 1
"""Tensors that a program is given; then two for each inlet, what was kept before and after; then its own."""
EVEN, ODD, SCRATCH, WAITING, JOINT = range(5)
"""Tensors of its own: the inputs of every second stage, and of the others; what is inside a block; what is kept between
pieces; the inputs of the first stage that takes all pieces at once."""
LINE = 16
"""Floats of a line of the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramStage:
    """A convolution, or a residual block; without norms."""

    convs: tuple[BlockedConv, ...]
    is_block: bool
    elu_before: bool
    """Whether the inputs of the first convolution pass an ELU."""
    shortcut: BlockedConv | None
    """Of a block; None: its input as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where `[N, T, W]` is."""

    tensor: int
    offset: int
    """Floats from the start of the tensor."""
    block: int
    """Floats from one block to the next; -1: the tensor's own, known when the program runs."""
    width: int

    def at(self, step: int) -> "_Place":
        return replace(self, offset=self.offset + step * self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class _After:
    """What a push leaves at an inlet."""

    kept_shape: tuple[int, ...] | None
    num_used: int
    num_new: int
    """Inputs that came."""
    has_started: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Program:
    """What a push does."""

    calls: Tensor
    """int64 `[num_calls, CALL_FIELDS]`; it holds addresses of weights."""
    convs: tuple[BlockedConv | None, ...]
    """Of each call; None: it is no convolution."""
    sizes: tuple[int, ...]
    """Floats of each tensor of its own."""
    after: tuple[_After, ...]
    num_ready: int
    """Time steps that come out."""

    def run(self, x: Tensor, inlets: Sequence[Inlet], result: Tensor, memory: Arena) -> None:
        """Push.

        Args:
            x: `[N, T, W]`, its time steps one after the other in memory.
            inlets: in the state for which the program was written; changed.
            result: `[N', num_ready, 16]`, of which the same is true.
            memory: for the program's own tensors.
        """
        tensors = [pointer(x), x.stride(0), pointer(result), result.stride(0)]
        alive = []
        for inlet, after in zip(inlets, self.after, strict=True):
            before = inlet.kept
            if after.kept_shape is None:
                inlet.kept = None
            elif before is None or before.shape != after.kept_shape:
                inlet.kept = floats(*after.kept_shape)
            alive.append(before)
            tensors += [pointer(before), 0, pointer(inlet.kept), 0]
            inlet.num_used, inlet.has_started = after.num_used, after.has_started
            inlet.num_inputs += after.num_new
        memory.reset(sum(self.sizes) + LINE)
        start = pointer(memory.take(sum(self.sizes) + LINE)) or 0
        start += -start % (4 * LINE)
        for size in self.sizes:
            tensors += [start, 0]
            start += 4 * size
        self.make_calls(torch.tensor([number or 0 for number in tensors], device="cpu"))

    def make_calls(self, tensors: Tensor) -> None:
        """Make the calls on tensors int64 `[2 * num_tensors]`, addresses and floats from block to block."""
        if loaded_kernels().encodec_run(pointer(self.calls), len(self.calls), pointer(tensors)):
            raise MemoryError("no memory for the offsets of a convolution's terms")


def write_program(
    stages: Sequence[ProgramStage], inlets: Sequence[Inlet], *, num_steps: int, num_pieces: int, num_early: int
) -> Program | None:
    """Write down what a push does that does not end the item.

    None: in a residual block the shortcut would have to wait for the convolutions, for which programs have no place.

    Args:
        stages: of the chain.
        inlets: of all convolutions, in their state before; not changed.
        num_steps: T.
        num_pieces: in which the first stages take the push; it divides T.
        num_early: how many stages that are; fewer than all.
    """
    writer = _Writer(first_own=2 + 2 * len(inlets))
    numbered = iter(enumerate(inlets))
    staged = [_Staged(stage, [_flow(conv, *next(numbered)) for conv in stage.convs]) for stage in stages]
    early, late = staged[:num_early], staged[num_early:]
    num_ready = _num_ready(staged, num_steps)
    x = _Place(tensor=X, offset=0, block=-1, width=stages[0].convs[0].width)
    joint = writer.open(late[0], _num_ready(early, num_steps), JOINT)
    num_done = 0
    for piece in range(num_pieces if early else 0):
        piece_steps = num_steps // num_pieces
        num_new = _num_ready(early, piece_steps)
        opened = writer.open(early[0], piece_steps, EVEN)
        writer.fill_opened(early[0], opened, x.at(piece * piece_steps))
        writer.push(early, opened, joint.part(num_done, num_new), is_final=piece == num_pieces - 1)
        num_done += num_new
    if not early:
        writer.fill_opened(late[0], joint, x)
    result = _Place(tensor=RESULT, offset=0, block=-1, width=LINE)
    writer.push(late, joint, _Opened(num_new=num_ready, raw=result), is_final=True)
    if writer.has_waiting:
        return None
    return Program(
        calls=torch.tensor(writer.calls, dtype=torch.int64, device="cpu").view(-1, CALL_FIELDS),
        convs=tuple(writer.convs),
        sizes=tuple(writer.sizes),
        after=tuple(flow.after(inlets) for stage in staged for flow in stage.flows),
        num_ready=num_ready,
    )


@dataclass(slots=True)
class _Flow:
    """What a push makes of an inlet, of which the counts alone are known."""

    conv: BlockedConv
    number: int
    inlet: Inlet
    """Its `kept` has no numbers."""
    kept: _Place | None

    def after(self, inlets: Sequence[Inlet]) -> _After:
        kept = self.inlet.kept
        return _After(
            kept_shape=None if kept is None else tuple(kept.shape),
            num_used=self.inlet.num_used,
            num_new=self.inlet.num_inputs - inlets[self.number].num_inputs,
            has_started=self.inlet.has_started,
        )


def _flow(conv: BlockedConv, number: int, inlet: Inlet) -> _Flow:
    kept = inlet.kept
    if kept is None:
        return _Flow(conv, number, replace(inlet), None)
    place = _Place(tensor=2 + 2 * number, offset=0, block=kept.stride(0), width=conv.width)
    return _Flow(conv, number, replace(inlet, kept=kept.to("meta")), place)


@dataclass(frozen=True, slots=True)
class _Staged:
    stage: ProgramStage
    flows: list[_Flow]


def _num_ready(staged: Sequence[_Staged], num_new: int) -> int:
    for stage in staged:
        for flow in stage.flows:
            num_new = flow.inlet.intake(num_new, is_last=False).num_ready
    return num_new


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """Where the next inputs of a stage go."""

    num_new: int
    memory: _Place | None = None
    """Of what its first convolution reads."""
    raw: _Place | None = None
    activated: _Place | None = None

    def part(self, first: int, num_new: int) -> "_Opened":
        raw, activated = (None if place is None else place.at(first) for place in (self.raw, self.activated))
        return _Opened(num_new=num_new, raw=raw, activated=activated)


@dataclass(slots=True)
class _Writer:
    first_own: int
    calls: list[tuple[int, ...]] = field(default_factory=list)
    convs: list[BlockedConv | None] = field(default_factory=list)
    sizes: list[int] = field(default_factory=lambda: [0] * 5)
    """Of the program's own tensors, the most that were taken at once."""
    has_waiting: bool = False
    """Whether a block puts out fewer time steps than come in."""
    taken: list[int] = field(default_factory=lambda: [0] * 5)

    def take(self, tensor: int, num_blocks: int, num_steps: int, width: int) -> _Place:
        start, size = self.taken[tensor], num_blocks * num_steps * width
        self.taken[tensor] += -(-size // LINE) * LINE
        self.sizes[tensor] = max(self.sizes[tensor], self.taken[tensor])
        return _Place(tensor=self.first_own + tensor, offset=start, block=num_steps * width, width=width)

    def open(self, staged: _Staged, num_new: int, tensor: int) -> _Opened:
        """Make room for the next inputs of a stage, in a tensor that has no more use."""
        self.taken[tensor] = 0
        first = staged.flows[0]
        memory, new = self.receive(first, num_new, tensor)
        if not staged.stage.is_block:
            is_activated = staged.stage.elu_before
            return _Opened(
                num_new=num_new,
                memory=memory,
                raw=None if is_activated else new,
                activated=new if is_activated else None,
            )
        raw = self.take(tensor, first.conv.in_blocks, num_new, first.conv.width)
        return _Opened(num_new=num_new, memory=memory, raw=raw, activated=new)

    def receive(self, flow: _Flow, num_new: int, tensor: int) -> tuple[_Place, _Place]:
        """Make room for what a convolution reads, put there what was kept, and return it and the part for the rest."""
        intake = flow.inlet.intake(num_new, is_last=False)
        memory = self.take(tensor, flow.conv.in_blocks, intake.size, flow.conv.width)
        if flow.kept is not None:
            self.fill(flow, COPY, flow.kept, memory.at(intake.left), intake.num_kept)
        return memory, memory.at(intake.left + intake.num_kept)

    def fill_opened(self, staged: _Staged, opened: _Opened, x: _Place) -> None:
        """Put the inputs of a push in their places."""
        for does, place in ((COPY, opened.raw), (ELU, opened.activated)):
            if place is not None:
                self.fill(staged.flows[0], does, x, place, opened.num_new)

    def push(self, staged: Sequence[_Staged], opened: _Opened, target: _Opened, *, is_final: bool) -> None:
        """Send what was opened through some stages."""
        for index, stage in enumerate(staged):
            following = target
            if index + 1 < len(staged):
                num_new = _num_ready([stage], opened.num_new)
                following = self.open(staged[index + 1], num_new, ODD if index % 2 == 0 else EVEN)
            self.run(stage, opened, following, is_final=is_final)
            opened = following

    def run(self, staged: _Staged, opened: _Opened, following: _Opened, *, is_final: bool) -> None:
        """Compute what is ready, to where the following stage reads it."""
        self.taken[SCRATCH] = 0
        self.has_waiting |= staged.stage.is_block and _num_ready([staged], opened.num_new) < opened.num_new
        residual = opened.raw if staged.stage.is_block else None
        shortcut = staged.stage.shortcut
        if shortcut is not None and opened.raw is not None:
            residual = self.take(SCRATCH, shortcut.out_blocks, opened.num_new, LINE)
            self.convolve(shortcut, opened.raw, None, opened.num_new, _Opened(num_new=opened.num_new, raw=residual))
        for index, flow in enumerate(staged.flows):
            assert opened.memory is not None
            is_last = index == len(staged.flows) - 1
            between = following
            if not is_last:
                num_new = flow.inlet.intake(opened.num_new, is_last=False).num_ready
                memory, new = self.receive(staged.flows[index + 1], num_new, SCRATCH)
                between = _Opened(num_new=num_new, memory=memory, activated=new)
            self.run_ready(flow, opened, between, residual if is_last else None, is_final=is_final)
            opened = between

    def run_ready(
        self, flow: _Flow, opened: _Opened, between: _Opened, residual: _Place | None, *, is_final: bool
    ) -> None:
        """Pad, convolve what is ready, and keep what later outputs need."""
        memory, inlet = opened.memory, flow.inlet
        assert memory is not None
        intake = inlet.intake(opened.num_new, is_last=False)
        for step, source in padding(intake, reflect=inlet.conv.pad_mode == "reflect"):
            does, place = (ZERO, memory) if source is None else (COPY, memory.at(source))
            self.fill(flow, does, place, memory.at(step), 1)
        if intake.num_ready:
            self.convolve(flow.conv, memory.at(inlet.num_used), inlet.item_steps, intake.num_ready, between, residual)
        self.keep(flow, memory, intake, is_final=is_final)

    def keep(self, flow: _Flow, memory: _Place, intake: Intake, *, is_final: bool) -> None:
        inlet, conv = flow.inlet, flow.conv
        first_kept = inlet.first_kept(intake)
        num_kept = intake.size - first_kept
        inlet.num_used += intake.num_ready * inlet.conv.stride - first_kept
        inlet.num_inputs += intake.num_new
        inlet.has_started = intake.is_started
        inlet.kept = torch.empty(conv.in_blocks, num_kept, conv.width, device="meta") if num_kept else None
        if not num_kept:
            flow.kept = None
            return
        flow.kept = (
            _Place(tensor=3 + 2 * flow.number, offset=0, block=num_kept * conv.width, width=conv.width)
            if is_final
            else self.take(WAITING, conv.in_blocks, num_kept, conv.width)
        )
        self.fill(flow, COPY, memory.at(first_kept), flow.kept, num_kept)

    def convolve(
        self,
        conv: BlockedConv,
        x: _Place,
        item_steps: int | None,
        num_rows: int,
        to: _Opened,
        residual: _Place | None = None,
    ) -> None:
        packed = conv.packed(item_steps)
        terms = (packed.blocks, packed.places, packed.chain_ends)
        numbers = (packed.chain_ends.numel(), pointer(packed.weights), pointer(conv.bias))
        rows = (conv.conv.stride * conv.width, num_rows, conv.out_blocks)
        places = (residual, to.raw, to.activated)
        self.call(CONVOLVE, x, *map(pointer, terms), *numbers, *rows, places=places, conv=conv)

    def fill(self, flow: _Flow, does: int, source: _Place, to: _Place, num_steps: int) -> None:
        """Copy time steps, or their ELU, or make them zero."""
        rows = (0, num_steps * to.width, flow.conv.in_blocks)
        self.call(does, source, *[0] * 6, *rows, places=(None, to, None))

    def call(
        self,
        does: int,
        source: _Place,
        *numbers: int | None,
        places: Sequence[_Place | None],
        conv: BlockedConv | None = None,
    ) -> None:
        fields = [does, *_fields(source), *(number or 0 for number in numbers)]
        self.calls.append((*fields, *(number for place in places for number in _fields(place))))
        self.convs.append(conv)


def _fields(place: _Place | None) -> tuple[int, int, int]:
    """Return the fields of C's `encodec_place`."""
    return (-1, 0, 0) if place is None else (place.tensor, place.offset, place.block)
