"""x + LSTM(x) over lanes of blocked features, every lane with the bits that torch gives it alone.

Letters in shapes: L layers, R lanes, N blocks of channels, C channels, T frames.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encodec_core.fast.native.library import kernels, pointer
from encodec_core.fast.native.terms import BLOCK

__all__ = ["MAX_LANES", "BlockedLstm", "LaneStates", "can_run_lstm"]

MAX_LANES = 16


def can_run_lstm(lstm: nn.LSTM) -> bool:
    """Whether the kernels are here and can run this LSTM."""
    weight = lstm.weight_ih_l0
    return (
        kernels() is not None
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and lstm.input_size == lstm.hidden_size
        and lstm.hidden_size % BLOCK == 0
    )


@dataclass(frozen=True, slots=True, eq=False)
class LaneStates:
    """What the LSTM remembers of some lanes, changed in place."""

    hidden: Tensor
    """`[L, R, C]`."""
    cell: Tensor
    """`[L, R, C]`."""


class BlockedLstm:
    """The residual LSTM of the codec, packed.

    Args:
        lstm: as `can_run_lstm` allows; copied.
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        self._num_layers, self._channels = lstm.num_layers, lstm.hidden_size
        self._packed = torch.empty(lstm.num_layers, _library().encodec_lstm_packed_size(self._channels))
        biases = []
        for layer, packed in enumerate(self._packed):
            weights = [getattr(lstm, f"weight_{part}_l{layer}").detach().contiguous() for part in ("ih", "hh")]
            _library().encodec_lstm_pack(*map(pointer, weights), self._channels, pointer(packed))
            biases.append(getattr(lstm, f"bias_ih_l{layer}").detach() + getattr(lstm, f"bias_hh_l{layer}").detach())
        self._biases = torch.stack(biases)

    def start(self, num_lanes: int) -> LaneStates:
        """Return the states before the first frames."""
        hidden, cell = torch.zeros(2, self._num_layers, num_lanes, self._channels)
        return LaneStates(hidden, cell)

    def run(
        self, features: Tensor, states: LaneStates, *, num_frames: Sequence[int], of_one_frame: bool, between: Tensor
    ) -> None:
        """Replace features by their sum with what the LSTM makes of them.

        Args:
            features: contiguous `[R, N, T, 16]`, R at most `MAX_LANES`.
            states: of at least as many lanes.
            num_frames: of each lane, the longest first; at most T.
            of_one_frame: whether the whole recordings have one frame each, which torch adds up in another order.
            between: of the shape of `features`; for what the first layers put out.
        """
        start = 0
        for end in sorted(set(num_frames) - {0}):
            num_lanes = sum(frames >= end for frames in num_frames)
            self._run_lockstep(
                features, between, states, frames=(start, end), num_lanes=num_lanes, of_one_frame=of_one_frame
            )
            start = end

    def _run_lockstep(
        self,
        features: Tensor,
        between: Tensor,
        states: LaneStates,
        *,
        frames: tuple[int, int],
        num_lanes: int,
        of_one_frame: bool,
    ) -> None:
        start, end = frames
        lane_stride, block_stride, step_stride, _ = features.stride()
        scratch = torch.empty(_library().encodec_lstm_scratch_size(num_lanes, self._channels))
        inputs, outputs = features[:, :, start:], between[:, :, start:]
        for layer in range(self._num_layers):
            is_last = layer == self._num_layers - 1
            _library().encodec_lstm_layer(
                pointer(inputs),
                pointer(features[:, :, start:]) if is_last else None,
                pointer(features[:, :, start:] if is_last else outputs),
                lane_stride,
                step_stride,
                block_stride,
                end - start,
                num_lanes,
                self._channels,
                pointer(self._packed[layer]),
                pointer(self._biases[layer]),
                pointer(states.hidden[layer]),
                pointer(states.cell[layer]),
                pointer(scratch),
                int(of_one_frame),
            )
            inputs = outputs


def _library() -> ctypes.CDLL:
    library = kernels()
    assert library is not None, "an LSTM is packed where there are kernels"
    return library
