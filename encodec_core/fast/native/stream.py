"""One of the codec's two networks over streams, with the kernels: the face of `streaming.network`'s.

Letters in shapes: R rows in lockstep, L layers, C channels, T time steps, N blocks of channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encodec_core.fast.layers import FoldedDecoder, FoldedEncoder
from encodec_core.fast.native.blocked import block, unblock
from encodec_core.fast.native.chain import Chain, ChainState, Workspace
from encodec_core.fast.native.lstm import MAX_LANES, BlockedLstm, LaneStates
from encodec_core.fast.native.shared_object import floats
from encodec_core.fast.streams import StreamPush

__all__ = ["BlockedNetwork", "BlockedState"]


@dataclass(slots=True, eq=False)
class BlockedState:
    """Everything that the network remembers of a stream, or of R in lockstep."""

    front: list[ChainState]
    """Of each row."""
    back: list[ChainState]
    memories: list[LaneStates]
    """Of each row, `[L, 1, C]`."""
    has_frames: bool = False
    """Whether the LSTM has seen one."""


@dataclass(slots=True, eq=False)
class _Lane:
    """A row of a push on its way through the LSTM."""

    features: Tensor
    """`[N, T, 16]`."""
    memory: LaneStates
    of_one_frame: bool
    """Whether this is all of its stream."""

    @property
    def num_frames(self) -> int:
        return self.features.shape[1]


class BlockedNetwork:
    """Convolutions, an LSTM and convolutions, for any number of streams; threads may push different ones at once.

    Args:
        network: as `can_run_blocked`, or `can_decode_blocked`, allows; without norms.

    A stream has the bits of `BlockedDecoder`, or of `BlockedEncoder`, wherever it is cut and whatever streams are
    beside it. An exception is audio so short that torch would convolve the whole of it as a matrix product, which
    `BlockedEncoder` follows: a stream cannot know.
    """

    def __init__(self, network: FoldedEncoder | FoldedDecoder) -> None:
        self._decodes = isinstance(network, FoldedDecoder)
        self._front = Chain(network.front, is_audio=not self._decodes)
        self._back = Chain(network.back, is_audio=False, ends_in_audio=self._decodes)
        self._lstm = BlockedLstm(network.lstm)
        self._free_workspaces: list[Workspace] = []

    def start(self, num_rows: int) -> BlockedState:
        """Return the state of R rows before their first time step."""
        rows = range(num_rows)
        return BlockedState(
            front=[self._front.start(None) for _ in rows],
            back=[self._back.start(None) for _ in rows],
            memories=[self._lstm.start(1) for _ in rows],
        )

    def push(self, pushes: Sequence[StreamPush[BlockedState]]) -> list[Tensor]:
        """Take the next samples, or latents, of some streams, and return what each completes, `[R, C', T']`."""
        workspace = self._take_workspace()
        lanes = [self._convolve(one, workspace) for one in pushes]
        for together in _groups([lane for rows in lanes for lane in rows]):
            self._remember(together)
        completed = [self._complete(one, rows, workspace) for one, rows in zip(pushes, lanes, strict=True)]
        self._free_workspaces.append(workspace)
        return completed

    def _convolve(self, one: StreamPush[BlockedState], workspace: Workspace) -> list[_Lane]:
        features = [
            self._front.push(block(row) if self._decodes else row[..., None], state, workspace, is_last=one.is_last)
            for row, state in zip(one.inputs, one.state.front, strict=True)
        ]
        num_frames = features[0].shape[1]
        of_one_frame = one.is_last and num_frames == 1 and not one.state.has_frames
        one.state.has_frames |= num_frames > 0
        return [_Lane(row, memory, of_one_frame) for row, memory in zip(features, one.state.memories, strict=True)]

    def _complete(self, one: StreamPush[BlockedState], rows: Sequence[_Lane], workspace: Workspace) -> Tensor:
        return torch.stack(
            [
                unblock(self._back.push(row.features, state, workspace, is_last=one.is_last))
                for row, state in zip(rows, one.state.back, strict=True)
            ]
        )

    def _remember(self, lanes: Sequence[_Lane]) -> None:
        """Run some lanes, the longest first, through the LSTM."""
        longest = lanes[0]
        num_blocks, num_frames, width = longest.features.shape
        features, between = floats(2, len(lanes), num_blocks, num_frames, width)
        for room, lane in zip(features, lanes, strict=True):
            room[:, : lane.num_frames] = lane.features
        states = LaneStates(
            torch.cat([lane.memory.hidden for lane in lanes], 1), torch.cat([lane.memory.cell for lane in lanes], 1)
        )
        self._lstm.run(
            features,
            states,
            num_frames=[lane.num_frames for lane in lanes],
            of_one_frame=longest.of_one_frame,
            between=between,
        )
        for place, lane in enumerate(lanes):
            lane.features = features[place, :, : lane.num_frames].contiguous()
            lane.memory.hidden.copy_(states.hidden[:, place : place + 1])
            lane.memory.cell.copy_(states.cell[:, place : place + 1])

    def _take_workspace(self) -> Workspace:
        try:
            return self._free_workspaces.pop()
        except IndexError:  # other threads have them all
            return Workspace()


def _groups(lanes: Sequence[_Lane]) -> Iterator[Sequence[_Lane]]:
    """Give the lanes that have frames in groups for the LSTM, the longest first: those that go on stand together."""
    for of_one_frame in (False, True):
        alike = [lane for lane in lanes if lane.num_frames and lane.of_one_frame == of_one_frame]
        alike.sort(key=lambda lane: -lane.num_frames)
        for start in range(0, len(alike), MAX_LANES):
            yield alike[start : start + MAX_LANES]
