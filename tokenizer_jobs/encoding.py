"""Waveforms to codes and back: the codec protocol, and EnCodec behind it.

Another codec slots in by offering the three methods of `Codec`; no other room knows which one runs.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from encodec_core import Agreement, BatchEncoder, Codes, EncodecModel, StreamingDecoder, compare_codes
from encodec_core.streaming import why_not_streamed
from tokenizer_jobs.config import CodecRecipe
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.recipe import CodecFacts
from tokenizer_jobs.records import EncodedItem

DeviceName = Literal["auto", "cpu", "cuda"]

__all__ = [
    "Codec",
    "EncodeDesk",
    "EncodecCodec",
    "choose_device",
    "decode_in_blocks",
    "describe_codec",
    "limit_torch_threads",
    "load_codec",
]

BLOCK_FRAMES = 750
"""Frames decoded at once where a long item is decoded in blocks: ten seconds of the 24 kHz codec."""

FEW_ITEMS = 4
"""A call of fewer items waits for another unit's; 4 together take as long per item as 16, a lone one 15 % longer."""
PATIENCE = 0.004
"""Seconds it waits for each second of audio it holds: a tenth of what encoding takes on a core."""

Waveform = npt.NDArray[np.float32]
"""[C, n] in [-1, 1], at the codec's rate and channel count."""


class Codec(Protocol):
    """What the service asks of a codec."""

    def encode(self, waveforms: Sequence[Waveform]) -> list[EncodedItem]:
        """Encode each waveform [C, n] as if it were alone."""

    def decode(self, encoded: Sequence[EncodedItem], *, num_samples: Sequence[int]) -> list[Waveform]:
        """Decode each item to a waveform [C, n] of the given number of samples."""

    def describe(self) -> CodecFacts:
        """Say what the codec is, down to the sha256 of its weights."""


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


def describe_codec(recipe: CodecRecipe) -> CodecFacts:
    """Load the codec that a recipe names and say what it is, without getting it ready to encode.

    Raises:
        ConfigError: the model cannot be found or read, or does not offer the bandwidth.
    """
    return _facts(_load_model(recipe), recipe)


def load_codec(recipe: CodecRecipe, *, device: DeviceName) -> "EncodecCodec":
    """Load the codec that a recipe names.

    Raises:
        ConfigError: the model cannot be found or read, or does not offer the bandwidth or precision.
    """
    torch_device = choose_device(device)
    if recipe.precision != "fp32" and torch_device == "cpu":
        raise ConfigError(f"recipe.codec.precision = {recipe.precision!r} needs a GPU; on CPU choose fp32")
    return EncodecCodec(_load_model(recipe), recipe=recipe, device=torch_device)


def decode_in_blocks(
    recipe: CodecRecipe, encoded: EncodedItem, *, num_samples: int, device: DeviceName
) -> Iterator[Waveform]:
    """Decode one item of any length to waveforms [C, n] that follow one another, `num_samples` in all.

    In memory that does not grow with the item, where the codec can be streamed; else it comes in one block.

    Raises:
        ConfigError: the model cannot be found or read.
    """
    model = _load_model(recipe)
    if why_not_streamed(model.config) is not None:
        yield from load_codec(recipe, device=device).decode([encoded], num_samples=[num_samples])
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
    try:
        model = EncodecModel.from_pretrained(recipe.model, revision=recipe.revision)
    except (OSError, ValueError) as error:
        raise ConfigError(f"recipe.codec.model = {recipe.model!r} cannot be loaded: {error}") from error
    offered = model.config.target_bandwidths
    if recipe.bandwidth_kbps not in offered:
        raise ConfigError(
            f"recipe.codec.bandwidth_kbps = {recipe.bandwidth_kbps:g} is not offered by {recipe.model}; "
            f"choose one of {', '.join(f'{bandwidth:g}' for bandwidth in offered)}"
        )
    return model


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
        self._encoder = BatchEncoder(
            model, bandwidth_kbps=recipe.bandwidth_kbps, device=device, precision=recipe.precision
        )

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

    def decode(self, encoded: Sequence[EncodedItem], *, num_samples: Sequence[int]) -> list[Waveform]:
        """Decode to waveforms [C, n], cut to `num_samples` each."""
        waveforms = self._encoder.decode([_to_codes(item) for item in encoded])
        return [waveform[:, :n].numpy() for waveform, n in zip(waveforms, num_samples, strict=True)]

    def compare(self, waveform: Waveform, stored: EncodedItem) -> Agreement:
        """Compare stored codes with those that the plain model gives a waveform [C, n]."""
        return compare_codes(
            self.model, torch.from_numpy(waveform), _to_codes(stored), bandwidth_kbps=self._recipe.bandwidth_kbps
        )

    def describe(self) -> CodecFacts:
        """Return the facts that go into every file."""
        return _facts(self.model, self._recipe)


class EncodeDesk:
    """One codec that several units share: one call at a time, in which units that bring few items meet.

        unit A ── batch of 1 item ──┐
        unit B ── batch of 1 item ──┴──▶ one call of 2 items

    A lone item takes longer than two together (1 x 20 s against 2 x 10 s on one core: 45 against 41 ms per second of
    audio), so a call of few items waits a moment for another unit's.

    Args:
        codec: The codec.
        merges: Whether units may meet in a call: what becomes of an item must not depend on its company.
    """

    def __init__(self, codec: Codec, *, merges: bool) -> None:
        self._codec = codec
        self._merges = merges
        self._sample_rate = codec.describe().sample_rate
        self._turn = threading.Condition()
        self._num_units = 0
        self._waiting: list[_Call] = []
        self._is_encoding = False

    @contextmanager
    def unit(self) -> Iterator[None]:
        """Be at work on a unit, for which others may wait."""
        with self._turn:
            self._num_units += 1
        try:
            yield
        finally:
            with self._turn:
                self._num_units -= 1
                self._turn.notify_all()

    def encode(self, waveforms: Sequence[Waveform]) -> tuple[list[EncodedItem], float]:
        """Encode waveforms [C, n] when it is their turn.

        Returns:
            The items, and the seconds that they took of the codec's time: where units met, in proportion to samples.
        """
        call = _Call(waveforms)
        with self._turn:
            self._waiting.append(call)
            self._turn.notify_all()
            self._turn.wait_for(lambda: call.is_done or (not self._is_encoding and self._waiting[0] is call))
            if call.is_done:
                return call.outcome()
            self._is_encoding = True
            together = self._take_first()
        try:
            self._encode(together)
        except BaseException as error:
            for each in together:
                each.error = error
            raise
        finally:
            with self._turn:
                self._is_encoding = False
                for each in together:
                    each.is_done = True
                self._turn.notify_all()
        return call.outcome()

    def _take_first(self) -> "list[_Call]":
        if not self._merges or len(self._waiting[0].waveforms) >= FEW_ITEMS:
            return [self._waiting.pop(0)]
        patience = PATIENCE * self._waiting[0].num_samples / self._sample_rate
        self._turn.wait_for(lambda: len(self._waiting) > 1 or self._num_units < 2, timeout=patience)
        together: list[_Call] = []
        while self._waiting and sum(len(call.waveforms) for call in together) < FEW_ITEMS:
            together.append(self._waiting.pop(0))
        return together

    def _encode(self, together: "Sequence[_Call]") -> None:
        start = time.monotonic()
        items = iter(self._codec.encode([waveform for call in together for waveform in call.waveforms]))
        seconds = time.monotonic() - start
        num_samples = sum(call.num_samples for call in together)
        for call in together:
            call.encoded = [next(items) for _ in call.waveforms]
            call.seconds = seconds * call.num_samples / num_samples


@dataclass(slots=True, eq=False)
class _Call:
    """What one unit asks of the desk."""

    waveforms: Sequence[Waveform]
    encoded: list[EncodedItem] | None = None
    seconds: float = 0.0
    error: BaseException | None = None
    is_done: bool = False

    @property
    def num_samples(self) -> int:
        return sum(waveform.shape[1] for waveform in self.waveforms)

    def outcome(self) -> tuple[list[EncodedItem], float]:
        if self.encoded is None:
            assert self.error is not None
            raise self.error
        return self.encoded, self.seconds


def _facts(model: EncodecModel, recipe: CodecRecipe) -> CodecFacts:
    config, provenance = model.config, model.provenance
    assert provenance is not None, "load_codec reads the weights from files"
    return CodecFacts(
        name=recipe.model,
        revision=provenance.revision or recipe.revision,
        weights_sha256=provenance.weights_sha256,
        file_sha256=dict(provenance.files),
        config=config.to_dict(),
        sample_rate=config.sampling_rate,
        channels=config.audio_channels,
        hop_length=config.hop_length,
        frame_rate=config.frame_rate,
        num_codebooks=config.n_q_for(recipe.bandwidth_kbps),
        bandwidth_kbps=recipe.bandwidth_kbps,
        codebook_size=config.codebook_size,
        precision=recipe.precision,
        windowed=config.chunk_length is not None,
        grain_samples=config.chunk_stride or config.hop_length,
        streamed=why_not_streamed(config) is None,
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
