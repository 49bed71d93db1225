"""The LSTM over several items at once, in shapes under which an item's bits do not depend on the others.

Letters in shapes: L layers, C channels, T frames.

Measured with torch 2.13 on an AMD EPYC (Zen 4; 64 to 1,024 channels, blocks of 1 to 600 frames, one and two threads):
oneDNN's LSTM gives an item the same bits in every batch of 2 to 32 items, wherever it stands and wherever its blocks
are cut, but other bits alone. So no item goes alone: lanes are filled up with zeros to one of a few widths, and widths
that do not agree on this machine are not used.

oneDNN sorts the weights for its kernel at every call, which is most of the time of a call with few frames: 7 ms against
1.3 ms with weights sorted once, for one frame of the 24 kHz codec (512 channels, two layers, one core). The bits are
the same.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from encodec_core.modules.lstm import LstmState

__all__ = ["MAX_LANES", "LaneLstm", "can_sort_weights"]

MAX_LANES = 16
"""Items that go through the LSTM together. Its time per item no longer falls beyond 4 to 16 (measured, AMD EPYC)."""
ONEDNN_LSTM = 2
"""The number of an LSTM among the modes of torch's `mkldnn_rnn_layer`."""


class LaneLstm:
    """x + LSTM(x) for lanes of different lengths.

    Args:
        lstm: it is not changed.
        sorted_once: keep a second copy of the weights, sorted for oneDNN, for calls with few frames. Without effect
            where that does not give the same bits.
    """

    def __init__(self, lstm: nn.LSTM, *, sorted_once: bool = False) -> None:
        self._lstm = lstm
        self._widths = _agreeing_widths(lstm)
        self._run_steps: Callable[[Tensor, LstmState], tuple[Tensor, LstmState]] = lstm
        if sorted_once and can_sort_weights(lstm):
            sorted_lstm = _SortedLstm(lstm)
            if _agree(sorted_lstm, lstm, widths=self._widths):
                self._run_steps = sorted_lstm

    @property
    def has_sorted_weights(self) -> bool:
        """Whether it computes with weights that were sorted once."""
        return isinstance(self._run_steps, _SortedLstm)

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
        hidden, (h, c) = self._run_steps(steps, self._stack(states, width))
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


def can_sort_weights(lstm: nn.LSTM) -> bool:
    """Whether torch has oneDNN's LSTM here, and the operators for weights that are sorted once (since torch 2.1)."""
    weight = next(lstm.parameters())
    is_available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return (
        is_available
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and hasattr(torch.ops.mkldnn, "_reorder_mkldnn_rnn_layer_weight")
    )


class _SortedLstm:
    """The layers of an LSTM one by one, in the way of torch's compiler, which sorts the weights of frozen models."""

    def __init__(self, lstm: nn.LSTM) -> None:
        self._hidden_size = lstm.hidden_size
        self._layers = [_sorted_layer(lstm, layer) for layer in range(lstm.num_layers)]

    def __call__(self, steps: Tensor, state: LstmState) -> tuple[Tensor, LstmState]:
        hidden, cell = [], []
        for layer, (h, c) in enumerate(zip(*(torch.split(part, 1) for part in state), strict=True)):
            steps, new_h, new_c, _ = torch.ops.aten.mkldnn_rnn_layer(
                steps,
                *self._layers[layer],
                h,
                c,
                False,
                [],
                ONEDNN_LSTM,
                self._hidden_size,
                1,
                True,
                False,
                False,
                False,
            )
            hidden.append(new_h.view_as(h))
            cell.append(new_c.view_as(c))
        return steps, (torch.cat(hidden), torch.cat(cell))


def _sorted_layer(lstm: nn.LSTM, layer: int) -> tuple[Tensor, ...]:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weight_ih, weight_hh, *biases = (getattr(lstm, f"{name}_l{layer}") for name in names)
    weights = torch.ops.mkldnn._reorder_mkldnn_rnn_layer_weight(
        weight_ih, weight_hh, lstm.hidden_size, False, True, False, None
    )
    return (*weights, *biases)


def _agree(sorted_lstm: _SortedLstm, lstm: nn.LSTM, *, widths: Sequence[int]) -> bool:
    generator = torch.Generator().manual_seed(0)
    for width in widths:
        steps = torch.randn(3, width, lstm.input_size, generator=generator)
        state = tuple(torch.randn(2, lstm.num_layers, width, lstm.hidden_size, generator=generator).unbind())
        with torch.no_grad():
            (output, (h, c)), (own, (own_h, own_c)) = lstm(steps, state), sorted_lstm(steps, (state[0], state[1]))
        if not (torch.equal(output, own) and torch.equal(h, own_h) and torch.equal(c, own_c)):
            return False
    return True
