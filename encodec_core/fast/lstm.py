"""The LSTM over several items at once, in shapes under which an item's bits do not depend on the others.

Letters in shapes: L layers, C channels, T frames.

Measured with torch 2.13 on an AMD EPYC (Zen 4; 64 to 1,024 channels, blocks of 1 to 600 frames, one and two threads):
oneDNN's LSTM gives an item the same bits in every batch of 2 to 32 items, wherever it stands and wherever its blocks
are cut, but other bits alone. So no item goes alone: lanes are filled up with zeros to one of a few widths, and widths
that do not agree on this machine are not used.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from encodec_core.modules.lstm import LstmState

__all__ = ["MAX_LANES", "LaneLstm"]

MAX_LANES = 16
"""Items that go through the LSTM together. Its time per item no longer falls beyond 4 to 16 (measured, AMD EPYC)."""


class LaneLstm:
    """x + LSTM(x) for lanes of different lengths.

    Args:
        lstm: it is not changed.
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        self._lstm = lstm
        self._widths = _agreeing_widths(lstm)

    def run(self, lanes: Sequence[Tensor], states: Sequence[LstmState | None]) -> tuple[list[Tensor], list[LstmState]]:
        """Go on with each lane from its state (None: from zeros).

        Args:
            lanes: 1 to `MAX_LANES` features `[1, C, T_i]`. A lane shorter than the longest must be at its end: the
                state after it is that of frames that are not there.

        Returns:
            Outputs `[1, C, T_i]`, contiguous, and states `[L, 1, C]`.
        """
        longest = max(lane.shape[-1] for lane in lanes)
        if longest == 0:
            return list(lanes), [self._zeros() if state is None else state for state in states]
        width = next(width for width in self._widths if width >= len(lanes))
        first = lanes[0]
        steps = first.new_zeros(longest, width, first.shape[1])
        for index, lane in enumerate(lanes):
            steps[: lane.shape[-1], index] = lane[0].t()
        hidden, (h, c) = self._lstm(steps, self._stack(states, width))
        hidden += steps
        outputs = [hidden[: lane.shape[-1], index].t().contiguous()[None] for index, lane in enumerate(lanes)]
        return outputs, [(h[:, index : index + 1], c[:, index : index + 1]) for index in range(len(lanes))]

    def _zeros(self) -> LstmState:
        weight = next(self._lstm.parameters())
        zeros = weight.new_zeros(self._lstm.num_layers, 1, self._lstm.hidden_size)
        return zeros, zeros

    def _stack(self, states: Sequence[LstmState | None], width: int) -> LstmState:
        zeros = self._zeros()
        known = [zeros if state is None else state for state in states] + [zeros] * (width - len(states))
        return torch.cat([h for h, _ in known], 1), torch.cat([c for _, c in known], 1)


def _agreeing_widths(lstm: nn.LSTM) -> tuple[int, ...]:
    """Return the widths that give an item the bits that `MAX_LANES` gives it, narrowest first."""
    weight = next(lstm.parameters())
    if weight.device.type != "cpu":
        return (MAX_LANES,)
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(5, MAX_LANES, lstm.input_size, generator=generator).to(weight.dtype)
    with torch.no_grad():
        expected = lstm(steps)[0]
        candidates = [width for width in (2, 4, 8) if torch.equal(lstm(steps[:, :width])[0], expected[:, :width])]
    return (*candidates, MAX_LANES)
