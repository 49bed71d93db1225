"""One of the codec's two networks over streams in lockstep.

Letters in shapes: N streams, C channels, T time steps.
"""

import torch
from torch import Tensor

from encodec_core.fast.layers import FoldedDecoder, FoldedEncoder
from encodec_core.fast.lstm import MAX_LANES, LaneLstm
from encodec_core.fast.tiles import StageState, initial_state, push
from encodec_core.modules.lstm import LstmState

__all__ = ["NetworkStream"]


class NetworkStream:
    """Convolutions, an LSTM and convolutions, with everything they remember.

    Args:
        network: it is not changed.
        num_streams: N.

    On a CPU a stream has the bits of `BatchEncoder`, wherever it is cut and whatever streams are beside it.
    """

    def __init__(self, network: FoldedEncoder | FoldedDecoder, *, num_streams: int) -> None:
        self._network = network
        self._lstm = LaneLstm(network.lstm, sorted_once=True)
        self._num_streams = num_streams
        self._start()

    def push(self, x: Tensor, *, is_last: bool) -> Tensor:
        """Take the next time steps `[N, C, T]`, T >= 0, and return what they complete, `[N, out_channels, T']`.

        Args:
            x: the next time steps.
            is_last: whether the streams end with them. The next ones then begin new streams.
        """
        x = push(x, self._network.front, self._front, is_last=is_last)
        x = push(self._remember(x), self._network.back, self._back, is_last=is_last)
        if is_last:
            self._start()
        return x

    def _start(self) -> None:
        self._front: list[StageState] = initial_state(self._network.front)
        self._back: list[StageState] = initial_state(self._network.back)
        self._lstm_states: list[LstmState | None] = [None] * self._num_streams

    def _remember(self, x: Tensor) -> Tensor:
        if x.shape[-1] == 0:
            return x
        outputs: list[Tensor] = []
        for start in range(0, self._num_streams, MAX_LANES):
            lanes = slice(start, start + MAX_LANES)
            found, self._lstm_states[lanes] = self._lstm.run(torch.split(x[lanes], 1), self._lstm_states[lanes])
            outputs += found
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]
