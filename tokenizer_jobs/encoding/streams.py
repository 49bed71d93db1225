"""EnCodec over recordings too long to be held: frame by frame where it is causal, else some windows at a time.

Legend of shapes: C channels, n samples, K codebooks in use, T frames.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from encodec_core import Codes
from encodec_core.streaming import StreamingLanes
from tokenizer_jobs.encoding.codec import Waveform
from tokenizer_jobs.records import EncodedItem

__all__ = ["CausalStream", "WindowStream"]

WINDOWS_AT_ONCE = 32
"""As many as fill the lanes of a CPU twice: 2.7 s of one core for the 48 kHz codec, 12 MB of stereo."""


class CausalStream:
    """One recording as a lane of `StreamingLanes`, which carries its state from push to push.

    Args:
        lanes: Of the codec.
    """

    def __init__(self, lanes: StreamingLanes) -> None:
        self._lanes = lanes
        self._lane = lanes.start()
        self._codes: list[torch.Tensor] = []

    def push(self, waveform: Waveform) -> None:
        """Take the next samples [C, n], n >= 0."""
        self._codes += self._lanes.push([(self._lane, torch.from_numpy(waveform))])

    @staticmethod
    def push_together(pushes: "Sequence[tuple[CausalStream, Waveform]]") -> None:
        """Do as `push` for some streams of the same lanes, each there once."""
        lanes = pushes[0][0]._lanes
        codes = lanes.push([(stream._lane, torch.from_numpy(waveform)) for stream, waveform in pushes])
        for (stream, _), own in zip(pushes, codes, strict=True):
            stream._codes.append(own)

    def finish(self) -> EncodedItem:
        """End the recording and return its codes."""
        self._codes += self._lanes.flush([self._lane])
        return EncodedItem(codes=np.concatenate([codes.numpy() for codes in self._codes], axis=1))


class WindowStream:
    """One recording window by window: windows do not depend on one another, so that blocks of them are the whole.

        pushed    |-- 48000 --|                                    |
                           |-- 48000 --|                           |
                                    ...      |-- 48000 --|         |
        encoded   '---------- block of windows ----------'
        kept                                        '-- overlap ---'   begins where the next window does

    Args:
        encode: `BatchEncoder.encode`.
        length: Samples of a window.
        stride: Samples from the start of a window to the start of the next.
        windows_at_once: Windows that are waited for before they are encoded together.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[torch.Tensor]], list[Codes]],
        *,
        length: int,
        stride: int,
        windows_at_once: int = WINDOWS_AT_ONCE,
    ) -> None:
        self._encode = encode
        self._stride = stride
        self._block_windows = windows_at_once
        self._block_samples = (windows_at_once - 1) * stride + length
        self._kept: torch.Tensor | None = None
        self._done: list[EncodedItem] = []

    def push(self, waveform: Waveform) -> None:
        """Take the next samples [C, n], n >= 0."""
        pushed = torch.from_numpy(waveform)
        samples = pushed if self._kept is None else torch.cat([self._kept, pushed], dim=1)
        while samples.shape[1] >= self._block_samples:
            # A whole recording of this length would end in one more window, a part-filled one: that is not its turn.
            self._append(samples[:, : self._block_samples], num_windows=self._block_windows)
            samples = samples[:, self._block_windows * self._stride :]
        self._kept = samples.clone()

    def finish(self) -> EncodedItem:
        """End the recording and return its codes, scales and the frames of its windows."""
        if self._kept is not None and self._kept.shape[1]:
            self._append(self._kept, num_windows=None)
        return EncodedItem(
            codes=np.concatenate([block.codes for block in self._done], axis=1),
            scales=np.concatenate([block.scales for block in self._done if block.scales is not None]),
            window_frames=np.concatenate(
                [block.window_frames for block in self._done if block.window_frames is not None]
            ),
        )

    def _append(self, samples: torch.Tensor, *, num_windows: int | None) -> None:
        """Encode samples and keep the first `num_windows` windows; None: all."""
        (encoded,) = self._encode([samples])
        assert encoded.scales is not None
        assert encoded.window_frames is not None
        window_frames = encoded.window_frames.numpy()[:num_windows]
        codes = encoded.codes.numpy()[:, : int(window_frames.sum())]
        self._done.append(
            EncodedItem(codes=codes, scales=encoded.scales.numpy()[:num_windows], window_frames=window_frames)
        )
