"""One of the codec's two networks over streams that begin and end when they like.

Letters in shapes: N rows in lockstep, C channels, T time steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from encodec_core.fast.layers import FoldedDecoder, FoldedEncoder
from encodec_core.fast.lstm import MAX_LANES, LaneLstm
from encodec_core.fast.streams import StreamPush
from encodec_core.fast.tiles import StageState, initial_state, push
from encodec_core.modules.lstm import LstmState

__all__ = ["NetworkState", "StreamNetwork"]


@dataclass(slots=True, eq=False)
class NetworkState:
    """Everything that the network remembers of a stream, or of N in lockstep."""

    front: list[StageState]
    back: list[StageState]
    lstm: list[LstmState | None]
    """Of each row; None before its first frame."""


class StreamNetwork:
    """Convolutions, an LSTM and convolutions, for any number of streams.

    Args:
        network: it is not changed.

    On a CPU a stream has the bits of `BatchEncoder`, wherever it is cut and whatever streams are beside it. Elsewhere
    the shapes of every step follow from the stream's own pushes: rows meet in the LSTM, whose batch has always
    `MAX_LANES` rows there, only where they push as many frames.
    """

    def __init__(self, network: FoldedEncoder | FoldedDecoder) -> None:
        self._network = network
        self._lstm = LaneLstm(network.lstm, sorted_once=True)

    def start(self, num_rows: int) -> NetworkState:
        """Return the state of N rows before their first time step."""
        return NetworkState(initial_state(self._network.front), initial_state(self._network.back), [None] * num_rows)

    def push(self, pushes: Sequence[StreamPush[NetworkState]]) -> list[Tensor]:
        """Take the next time steps of some streams, and return what each completes, `[N, out_channels, T']`."""
        features = [push(one.inputs, self._network.front, one.state.front, is_last=one.is_last) for one in pushes]
        remembered = self._remember(features, [one.state for one in pushes])
        return [
            push(x, self._network.back, one.state.back, is_last=one.is_last)
            for x, one in zip(remembered, pushes, strict=True)
        ]

    def _remember(self, features: Sequence[Tensor], states: Sequence[NetworkState]) -> list[Tensor]:
        outputs: dict[int, list[Tensor]] = {
            index: [x] if x.shape[-1] == 0 else [x[:0]] * x.shape[0] for index, x in enumerate(features)
        }
        for lanes in _lanes(features):
            found, after = self._lstm.run(
                [features[index][row : row + 1] for index, row in lanes],
                [states[index].lstm[row] for index, row in lanes],
            )
            for (index, row), output, state in zip(lanes, found, after, strict=True):
                outputs[index][row], states[index].lstm[row] = output, state
        return [torch.cat(rows) if len(rows) > 1 else rows[0] for rows in outputs.values()]


def _lanes(features: Sequence[Tensor]) -> Iterator[list[tuple[int, int]]]:
    """Give the rows that go through the LSTM at once, with as many frames: which features, and which row of them."""

    def num_frames(place: tuple[int, int]) -> int:
        return features[place[0]].shape[-1]

    rows = [(index, row) for index, x in enumerate(features) if x.shape[-1] for row in range(x.shape[0])]
    for _, alike in groupby(sorted(rows, key=num_frames), key=num_frames):
        some = list(alike)
        for start in range(0, len(some), MAX_LANES):
            yield some[start : start + MAX_LANES]
