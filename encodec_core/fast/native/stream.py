"""One of the codec's two networks over streams in lockstep, with the kernels: the face of `streaming.network`'s.

Letters in shapes: R streams, C channels, T time steps, N blocks of channels.
"""

import torch
from torch import Tensor

from encodec_core.fast.layers import FoldedDecoder, FoldedEncoder
from encodec_core.fast.native.blocked import block, unblock
from encodec_core.fast.native.chain import Chain, Workspace
from encodec_core.fast.native.lstm import MAX_LANES, BlockedLstm

__all__ = ["BlockedStream"]


class BlockedStream:
    """Convolutions, an LSTM and convolutions, with everything they remember.

    Args:
        network: as `can_run_blocked`, or `can_decode_blocked`, allows; without norms.
        num_streams: R.

    A stream has the bits of `BlockedDecoder`, or of `BlockedEncoder`, wherever it is cut and whatever streams are
    beside it. An exception is audio so short that torch would convolve the whole of it as a matrix product, which
    `BlockedEncoder` follows: a stream cannot know.
    """

    def __init__(self, network: FoldedEncoder | FoldedDecoder, *, num_streams: int) -> None:
        self._decodes = isinstance(network, FoldedDecoder)
        self._front = Chain(network.front, is_audio=not self._decodes)
        self._back = Chain(network.back, is_audio=False, ends_in_audio=self._decodes)
        self._lstm = BlockedLstm(network.lstm)
        self._num_streams = num_streams
        self._workspace = Workspace()
        self._start()

    def push(self, x: Tensor, *, is_last: bool) -> Tensor:
        """Take the next time steps `[R, C, T]`, T >= 0, and return what they complete, `[R, C', T']`.

        Args:
            x: the next samples, or latents.
            is_last: whether the streams end with them. The next ones then begin new streams.
        """
        features = torch.stack(
            [
                self._front.push(
                    block(stream) if self._decodes else stream[..., None], state, self._workspace, is_last=is_last
                )
                for stream, state in zip(x, self._front_states, strict=True)
            ]
        )
        self._remember(features, is_last=is_last)
        completed = [
            unblock(self._back.push(stream, state, self._workspace, is_last=is_last))
            for stream, state in zip(features, self._back_states, strict=True)
        ]
        if is_last:
            self._start()
        return torch.stack(completed)

    def _start(self) -> None:
        streams = range(self._num_streams)
        self._front_states = [self._front.start(None) for _ in streams]
        self._back_states = [self._back.start(None) for _ in streams]
        self._memories = [self._lstm.start(min(MAX_LANES, self._num_streams - first)) for first in streams[::MAX_LANES]]
        self._has_frames = False

    def _remember(self, features: Tensor, *, is_last: bool) -> None:
        num_frames = features.shape[2]
        if num_frames == 0:
            return
        of_one_frame = is_last and num_frames == 1 and not self._has_frames
        self._has_frames = True
        for lanes, memory in zip(torch.split(features, MAX_LANES), self._memories, strict=True):
            self._lstm.run(
                lanes,
                memory,
                num_frames=[num_frames] * len(lanes),
                of_one_frame=of_one_frame,
                between=torch.empty_like(lanes),
            )
