"""x + LSTM(x) over lanes of blocked features, every lane with the bits that torch gives it alone.

Letters in shapes: L layers, R lanes, N blocks of channels, C channels, T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from encodec_core.fast.native.shared_object import floats, kernels, loaded_kernels, pointer
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
        self._packed = floats(lstm.num_layers, loaded_kernels().encodec_lstm_packed_size(self._channels))
        biases = []
        for layer, packed in enumerate(self._packed):
            weights = [getattr(lstm, f"weight_{part}_l{layer}").detach().contiguous() for part in ("ih", "hh")]
            loaded_kernels().encodec_lstm_pack(*map(pointer, weights), self._channels, pointer(packed))
            biases.append(getattr(lstm, f"bias_ih_l{layer}").detach() + getattr(lstm, f"bias_hh_l{layer}").detach())
        self._biases = torch.stack(biases)

    def start(self, num_lanes: int) -> LaneStates:
        """Return the states before the first frames."""
        hidden, cell = floats(2, self._num_layers, num_lanes, self._channels).zero_()
        return LaneStates(hidden, cell)

    def run(
        self, features: Tensor, states: LaneStates, *, num_frames: Sequence[int], of_one_frame: bool, between: Tensor
    ) -> None:
        """Replace features by their sum with what the LSTM makes of them.

        Args:
            features: contiguous `[R, N, T, 16]`, R at most `MAX_LANES`.
            states: of at least as many lanes.
            num_frames: of each lane, at most T.
            of_one_frame: whether the whole recordings have one frame each, which torch adds up in another order.
            between: of the shape of `features`; for what the first layers put out.
        """
        start = 0
        for end in sorted(set(num_frames) - {0}):
            for lanes in _runs([frames >= end for frames in num_frames]):
                self._run_lockstep(
                    features, between, states, frames=slice(start, end), lanes=lanes, of_one_frame=of_one_frame
                )
            start = end

    def _run_lockstep(
        self,
        features: Tensor,
        between: Tensor,
        states: LaneStates,
        *,
        frames: slice,
        lanes: slice,
        of_one_frame: bool,
    ) -> None:
        lane_stride, block_stride, step_stride, _ = features.stride()
        own, outputs = features[lanes, :, frames], between[lanes, :, frames]
        num_lanes, _, num_frames, _ = own.shape
        scratch = floats(loaded_kernels().encodec_lstm_scratch_size(num_lanes, self._channels))
        inputs = own
        for layer in range(self._num_layers):
            is_last = layer == self._num_layers - 1
            loaded_kernels().encodec_lstm_layer(
                pointer(inputs),
                pointer(own) if is_last else None,
                pointer(own if is_last else outputs),
                lane_stride,
                step_stride,
                block_stride,
                num_frames,
                num_lanes,
                self._channels,
                pointer(self._packed[layer]),
                pointer(self._biases[layer]),
                pointer(states.hidden[layer, lanes]),
                pointer(states.cell[layer, lanes]),
                pointer(scratch),
                int(of_one_frame),
            )
            inputs = outputs


def _runs(is_chosen: Sequence[bool]) -> list[slice]:
    """Return where the chosen ones are, neighbours together."""
    bounds = [place for place, pair in enumerate(pairwise((False, *is_chosen, False))) if pair[0] != pair[1]]
    return [slice(start, end) for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
