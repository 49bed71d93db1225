"""Waveforms to codes and back: EnCodec behind the codec protocol. No other room knows which codec runs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from typing import Literal

import numpy as np
import torch

from encodec_core import (
    Agreement,
    BatchEncoder,
    Codes,
    EncodecModel,
    StreamingDecoder,
    compare_codes,
)
from encodec_core.streaming import StreamingLanes, why_not_streamed
from tokenizer_jobs.config import CodecRecipe, is_own_codec
from tokenizer_jobs.encoding.codec import Codec, EncodeStream, StreamingCodec, Waveform
from tokenizer_jobs.encoding.facts import check_bandwidth, codec_facts, not_loaded
from tokenizer_jobs.encoding.own import load_own_codec
from tokenizer_jobs.encoding.streams import CausalStream, WindowStream
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.recipe import CodecFacts
from tokenizer_jobs.records import EncodedItem

DeviceName = Literal["auto", "cpu", "cuda"]

__all__ = [
    "Codec",
    "EncodecCodec",
    "StreamingCodec",
    "Waveform",
    "choose_device",
    "decode_in_blocks",
    "describe_model",
    "limit_torch_threads",
    "load_codec",
    "make_codec",
    "offered_bandwidths",
]

_FRAMES_OF_A_START = 7
"""The encoder's last convolution reflects the start of a recording: shorter ones have other codes."""
MAX_LANES = {"cpu": 4, "cuda": 16}
"""Streams of a causal codec that are encoded together, by type of device: on a CPU the LSTM of four takes hardly longer
a stream than that of sixteen, and a turn of four takes as long as a batch; on a GPU sixteen take as long as one."""
BLOCK_FRAMES = 750
"""Frames decoded at once where a long item is decoded in blocks: ten seconds of the 24 kHz codec."""


def choose_device(device: DeviceName) -> Literal["cpu", "cuda"]:
    """Return the torch device that `runtime.device` means on this machine.

    Raises:
        ConfigError: `cuda` was asked for and torch sees no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "runtime.device = 'cuda', but torch sees no GPU here; use auto or cpu, or install a CUDA build: "
            "`tokenizer-jobs doctor` says which"
        )
    if device == "cpu":
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def limit_torch_threads(num_threads: int) -> int:
    """Set how many threads torch computes one operation with, and return how many it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    return before


def describe_model(recipe: CodecRecipe) -> CodecFacts:
    """Load the EnCodec that a recipe names and say what it is: `describe_codec` of files that say it to a model alone.

    Raises:
        ConfigError: the model cannot be found or read, or does not offer the bandwidth.
    """
    return _facts(_load_model(recipe), recipe)


def _facts(model: EncodecModel, recipe: CodecRecipe) -> CodecFacts:
    assert model.provenance is not None, "load_codec reads the weights from files"
    return codec_facts(model.config, model.provenance, recipe)


def offered_bandwidths(model: str, *, revision: str | None = None) -> dict[int, float]:
    """The bandwidths in kbit/s that a codec offers, by the number of codebooks that each uses.

    Raises:
        ConfigError: the model cannot be found or read.
    """
    config = _read_model(model, revision).config
    return {config.n_q_for(bandwidth): bandwidth for bandwidth in config.target_bandwidths}


def make_codec(recipe: CodecRecipe, *, device: DeviceName) -> Codec:
    """Load the codec that a recipe names: EnCodec, or one of one's own.

    Raises:
        ConfigError: it cannot be found or read, or does not offer the bandwidth or precision.
    """
    if is_own_codec(recipe.model):
        return load_own_codec(recipe, device=choose_device(device))
    return load_codec(recipe, device=device)


def load_codec(recipe: CodecRecipe, *, device: DeviceName) -> "EncodecCodec":
    """Load the EnCodec that a recipe names, for what no other codec offers: comparing codes with its plain model.

    Raises:
        ConfigError: the model cannot be found or read, does not offer the bandwidth or precision, or is no EnCodec.
    """
    torch_device = choose_device(device)
    if recipe.precision != "fp32" and torch_device == "cpu":
        raise ConfigError(f"recipe.codec.precision = {recipe.precision!r} needs a GPU; on CPU choose fp32")
    try:
        return EncodecCodec(_load_model(recipe), recipe=recipe, device=torch_device)
    except ValueError as error:
        raise ConfigError(f"recipe.codec cannot be had on {torch_device}: {error}") from error


def decode_in_blocks(
    recipe: CodecRecipe, encoded: EncodedItem, *, num_samples: int, device: DeviceName
) -> Iterator[Waveform]:
    """Decode one item of any length to waveforms [C, n] that follow one another, `num_samples` in all.

    In memory that does not grow with the item, where the codec can be streamed; else it comes in one block.

    Raises:
        ConfigError: the model cannot be found or read.
    """
    if is_own_codec(recipe.model) or why_not_streamed((model := _load_model(recipe)).config) is not None:
        yield from make_codec(recipe, device=device).decode([encoded], num_samples=[num_samples])
        return
    num_left = num_samples
    for block in _streamed(StreamingDecoder(model, device=choose_device(device)), _to_codes(encoded)):
        yield block[:, :num_left].numpy()
        num_left -= min(num_left, block.shape[-1])


def _streamed(decoder: StreamingDecoder, codes: Codes) -> Iterator[torch.Tensor]:
    if codes.scales is None or codes.window_frames is None:
        for block in torch.split(codes.codes, BLOCK_FRAMES, dim=-1):
            yield decoder.push(block)
    else:
        windows = torch.split(codes.codes, codes.window_frames.tolist(), dim=-1)
        for place, window in enumerate(windows):
            one = slice(place, place + 1)
            yield decoder.push_windows(
                [Codes(codes=window, scales=codes.scales[one], window_frames=codes.window_frames[one])]
            )
    yield decoder.flush()


@lru_cache(maxsize=1)
def _load_model(recipe: CodecRecipe) -> EncodecModel:
    model = _read_model(recipe.model, recipe.revision)
    check_bandwidth(model.config, recipe)
    return model


def _read_model(model: str, revision: str | None) -> EncodecModel:
    if is_own_codec(model):
        raise ConfigError(
            f"{model!r} is a codec of your own; each of `audit`, `import-codes` and `verify --reencode` works with "
            "EnCodec alone: name one by its hub id, folder or file, or go on without --reencode"
        )
    try:
        return EncodecModel.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as error:
        raise not_loaded(model, error) from error


class EncodecCodec:
    """EnCodec behind the codec protocol.

    Args:
        model: The model whose codes are wanted; its weights define the output.
        recipe: Bandwidth, precision, and the name under which the model is recorded.
        device: A torch device.
    """

    def __init__(self, model: EncodecModel, *, recipe: CodecRecipe, device: str) -> None:
        self.model = model
        self._recipe = recipe
        self._device = device
        self._encoder = BatchEncoder(
            model, bandwidth_kbps=recipe.bandwidth_kbps, device=device, precision=recipe.precision
        )
        self._lanes: StreamingLanes | None = None
        """Made with the first stream: it has weights of its own."""
        self._making_lanes = Lock()

    def encode(self, waveforms: Sequence[Waveform]) -> list[EncodedItem]:
        """Encode waveforms [C, n]; when a GPU runs out of memory the batch is split and goes on."""
        try:
            encoded = self._encoder.encode([torch.from_numpy(waveform) for waveform in waveforms])
        except torch.OutOfMemoryError:
            if len(waveforms) == 1:
                raise
            torch.cuda.empty_cache()
            half = len(waveforms) // 2
            return self.encode(waveforms[:half]) + self.encode(waveforms[half:])
        return [_to_encoded_item(codes) for codes in encoded]

    @property
    def num_padded_samples(self) -> int:
        """Samples, so far, that filled items up to the length of others in their batch."""
        return self._encoder.num_padded_samples

    def stream(self) -> EncodeStream:
        """Begin a recording of any length; `describe().streamed` says whether the codec can."""
        config = self.model.config
        assert self.describe().streamed, "recordings in stretches are for codecs that say they can be streamed"
        if config.chunk_length is not None:
            return WindowStream(
                self._encoder.encode, length=config.chunk_length, stride=config.chunk_stride or config.chunk_length
            )
        with self._making_lanes:
            if self._lanes is None:
                bandwidth_kbps = self._recipe.bandwidth_kbps
                self._lanes = StreamingLanes(self.model, bandwidth_kbps=bandwidth_kbps, device=self._device)
        return CausalStream(self._lanes)

    @property
    def max_lanes(self) -> int:
        """Streams that are worth encoding together; windows fill the lanes of a device by themselves."""
        return 1 if self.model.config.chunk_length is not None else MAX_LANES[torch.device(self._device).type]

    def push_together(self, pushes: Sequence[tuple[EncodeStream, Waveform]]) -> None:
        """Push samples [C, n] into streams of this codec, each there once; a causal codec's share the LSTM."""
        causal = [(stream, waveform) for stream, waveform in pushes if isinstance(stream, CausalStream)]
        if len(causal) == len(pushes) > 0:
            CausalStream.push_together(causal)
            return
        for stream, waveform in pushes:
            stream.push(waveform)

    def decode(self, encoded: Sequence[EncodedItem], *, num_samples: Sequence[int]) -> list[Waveform]:
        """Decode to waveforms [C, n], cut to `num_samples` each."""
        waveforms = self._encoder.decode([_to_codes(item) for item in encoded])
        return [waveform[:, :n].numpy() for waveform, n in zip(waveforms, num_samples, strict=True)]

    def compare(self, waveform: Waveform, stored: EncodedItem) -> Agreement:
        """Compare stored codes with those that the plain model gives a waveform [C, n]."""
        return compare_codes(
            self.model, torch.from_numpy(waveform), _to_codes(stored), bandwidth_kbps=self._recipe.bandwidth_kbps
        )

    def compare_beginning(self, waveform: Waveform, stored: EncodedItem) -> Agreement | None:
        """Compare stored codes with those that the plain model gives the beginning [C, n] of their recording.

        A causal codec's frames depend on nothing after them: whole hops have the frames of the whole recording. The
        windows of a codec with windows depend on nothing else, but the one that begins before the cut and ends after
        it: the codec's own stands in for it, and does not count.

        Args:
            waveform: Cut to whole hops, or windows, here; no longer than the recording.
            stored: Of the recording, from its beginning on.

        Returns:
            None where the beginning is too short: below a window, or the seven frames that a codec's start needs.
        """
        config = self.model.config
        length, stride = config.chunk_length, config.chunk_stride or config.chunk_length
        num_samples = waveform.shape[1]
        if length is None or stride is None:
            num_frames = min(num_samples // config.hop_length, stored.codes.shape[1])
            if num_frames < _FRAMES_OF_A_START:
                return None
            return self.compare(
                waveform[:, : num_frames * config.hop_length], EncodedItem(codes=stored.codes[:, :num_frames])
            )
        assert stored.window_frames is not None
        num_windows = min((num_samples - length) // stride + 1, stored.window_frames.size)
        if num_windows < 1:
            return None
        beginning = waveform[:, : (num_windows - 1) * stride + length]
        first = _first_windows(stored, num_windows)
        if length == stride:
            return self.compare(beginning, first)
        (own,) = self.encode([beginning[:, num_windows * stride :]])
        agreement = self.compare(beginning, _joined(first, own))
        return replace(
            agreement,
            num_codes=agreement.num_codes - own.codes.size,
            num_equal=max(0, agreement.num_equal - own.codes.size),
            num_frames=agreement.num_frames - own.codes.shape[1],
        )

    def describe(self) -> CodecFacts:
        """Return the facts that go into every file."""
        return _facts(self.model, self._recipe)


def _first_windows(item: EncodedItem, num_windows: int) -> EncodedItem:
    assert item.scales is not None
    assert item.window_frames is not None
    window_frames = item.window_frames[:num_windows]
    codes = item.codes[:, : int(window_frames.sum())]
    return EncodedItem(codes=codes, scales=item.scales[:num_windows], window_frames=window_frames)


def _joined(one: EncodedItem, other: EncodedItem) -> EncodedItem:
    assert one.scales is not None
    assert other.scales is not None
    assert one.window_frames is not None
    assert other.window_frames is not None
    return EncodedItem(
        codes=np.concatenate([one.codes, other.codes], axis=1),
        scales=np.concatenate([one.scales, other.scales]),
        window_frames=np.concatenate([one.window_frames, other.window_frames]),
    )


def _to_encoded_item(codes: Codes) -> EncodedItem:
    if codes.scales is None or codes.window_frames is None:
        return EncodedItem(codes=codes.codes.numpy())
    return EncodedItem(
        codes=codes.codes.numpy(), scales=codes.scales.numpy(), window_frames=codes.window_frames.numpy()
    )


def _to_codes(item: EncodedItem) -> Codes:
    return Codes(
        codes=torch.from_numpy(np.array(item.codes)),  # copied: rows of a shard are read-only views of it
        scales=None if item.scales is None else torch.from_numpy(np.array(item.scales)),
        window_frames=None if item.window_frames is None else torch.from_numpy(np.array(item.window_frames)),
    )
