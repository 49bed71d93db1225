"""The language model in whole numbers: the same shares on every machine, for streams that travel.

Matrix products and sums are of integers whose results stay below 2**53, which float64 holds exactly: in whatever order
a machine adds, with however many threads, the result is the same. Between them stand only operations on single float64
numbers that IEEE 754 defines to the last bit (+ - × ÷ √ floor) and the tables of `tables`. Not one probability is
computed by a mathematical library.

    weights, activations    multiples of 2**-14, the former up to 64, the latter up to 128 (2**20, 2**21 as integers)
    their products          multiples of 2**-28; a sum of 4,095 of them stays below 2**53
    attention weights       multiples of 2**-20, at most 1 (2**20): the bound of sums holds for 4,095 keys too

A change of anything here makes another `FIXED_POINT_VERSION`, since it makes other streams.

Letters in shapes: T frames, H frames in the cache, K codebooks in use (n_q), E entries, D channels, N heads.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from encodec_core.entropy.arithmetic import MIN_RANGE, RANGE_BITS
from encodec_core.entropy.lm import LanguageModel, language_model_sha256
from encodec_core.entropy.tables import (
    COARSE_STEP_BITS,
    EXP_BITS,
    EXP_LIMIT,
    FINE_STEP_BITS,
    GELU_LIMIT,
    GELU_STEP_BITS,
    Integers,
    exp_tables,
    gelu_table,
    rotations,
)
from encodec_core.modules.transformer import MAX_PERIOD, TransformerLayer

__all__ = ["FIXED_POINT_VERSION", "FixedPointLanguageModel", "FixedPointPredictor"]

FIXED_POINT_VERSION = 1

VALUE_BITS = 14
PRODUCT_BITS = 2 * VALUE_BITS
MAX_WEIGHT = 64
MAX_VALUE = 128 << VALUE_BITS
ATTENTION_BITS = 20
SHARE_BITS = 30
"""Probabilities, relative to the highest, are multiples of 2**-30 before they become shares of 2**24."""
NORM_EPSILON = round(1e-5 * 2**PRODUCT_BITS)
"""torch's, in units of squares of activations."""
MAX_DIM = 512
"""The sum of the squares of so many deviations, each below 2**22, is below 2**53."""
MAX_TERMS = 4095
"""Of a sum of products: inputs of a layer, or keys that a frame sees, itself among them."""
MAX_PAST = MAX_TERMS - 1
ROTATION_BITS = 30
POSITION_BITS = 40
"""Frames in a stream stay below 2**40."""
POSITION_BLOCK_BITS = 8
MAX_BLOCK = 64
"""Frames that are predicted at once, where all are known."""

_matmul: Callable[[Integers, Integers], Integers] = np.matmul


class FixedPointLanguageModel:
    """A language model rounded to whole numbers; `predictor` runs it.

    Args:
        model: float weights. Another rounding of them (a file in float16) is another model.

    Raises:
        ValueError: the model is too wide, or a weight is too large, for exact arithmetic.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.config = config = model.config
        self.sha256 = language_model_sha256(model)
        if config.dim > MAX_DIM or config.feed_forward_dim > MAX_TERMS or config.past_context > MAX_PAST:
            raise ValueError(
                f"a language model with dim = {config.dim}, feed_forward_dim = {config.feed_forward_dim} and "
                f"past_context = {config.past_context} is too wide for fixed-point arithmetic; expected at most "
                f"{MAX_DIM}, {MAX_TERMS} and {MAX_PAST}"
            )
        self.embeddings = np.stack([_rounded(module.weight, bits=VALUE_BITS) for module in _linears(model.emb)])
        self.norm_in = _Norm(model.transformer.norm_in)
        self.layers = [_Layer(layer, num_heads=config.num_heads) for layer in _layers(model)]
        self.heads = _Linear(
            np.concatenate([_rounded(module.weight, bits=VALUE_BITS) for module in _linears(model.linears)]),
            np.concatenate([_rounded(module.bias, bits=PRODUCT_BITS) for module in _linears(model.linears)]),
        )
        self.positions = _Positions(config.dim // 2)

    def predictor(self) -> "FixedPointPredictor":
        """Begin a stream."""
        return FixedPointPredictor(self)


class FixedPointPredictor:
    """Shares of the codes of the next frames of one stream, see `coding.CodePredictor`."""

    max_frames = MAX_BLOCK

    def __init__(self, model: FixedPointLanguageModel) -> None:
        self._model = model
        config = model.config
        self._num_frames = 0
        self._caches = [
            _Cache(num_heads=config.num_heads, head_dim=config.dim // config.num_heads, past=config.past_context)
            for _ in model.layers
        ]
        for layer, cache in zip(model.layers, self._caches, strict=True):
            _, keys, values = layer.projected(np.zeros((1, config.dim)))
            cache.extend(keys, values)

    def ends(self, previous: NDArray[np.int64]) -> NDArray[np.int64]:
        """Predict the next T frames.

        Args:
            previous: int64 `[K, T]`: the codes of the frame before each, plus 1; 0 where there is none.

        Returns:
            int64 `[T, K, E]`: the end of each code's share of 2**24. How many frames are predicted at once does not
            change it.
        """
        num_codebooks, num_frames = previous.shape
        model = self._model
        x = model.embeddings[np.arange(num_codebooks)[:, None], previous].sum(0)
        x = model.norm_in(_clipped(x))
        x = _clipped(x + model.positions(self._num_frames, num_frames))
        self._num_frames += num_frames
        for layer, cache in zip(model.layers, self._caches, strict=True):
            x = layer(x, cache)
        num_logits = num_codebooks * model.config.codebook_size
        logits = model.heads(x, num_outputs=num_logits).reshape(num_frames, num_codebooks, -1)
        return _share_ends(logits)


def _share_ends(logits: Integers) -> NDArray[np.int64]:
    """Turn logits `[T, K, E]`, multiples of 2**-28, into ends of shares of 2**24."""
    likelihoods = _exp(logits.max(-1, keepdims=True) - logits, scale=1.0, bits=SHARE_BITS)
    left = 2**RANGE_BITS - MIN_RANGE * logits.shape[-1]
    shares = np.floor(likelihoods * (left / likelihoods.sum(-1, keepdims=True))) + MIN_RANGE
    return np.cumsum(shares, axis=-1).astype(np.int64)


class _Linear:
    """`[T, in]` activations -> `[T, out]` multiples of 2**-28."""

    def __init__(self, weight: Integers, bias: Integers) -> None:
        self._weight = np.ascontiguousarray(weight.T)
        self._bias = bias

    def __call__(self, x: Integers, *, num_outputs: int | None = None) -> Integers:
        products = _matmul(x, self._weight[:, :num_outputs])
        products += self._bias[:num_outputs]
        return products


class _Norm:
    """Layer normalisation of `[T, D]`."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self._weight = _rounded(norm.weight, bits=VALUE_BITS)
        self._bias = _rounded(norm.bias, bits=PRODUCT_BITS)

    def __call__(self, x: Integers) -> Integers:
        dim = x.shape[-1]
        centred = x - np.floor(x.sum(-1, keepdims=True) / dim + 0.5)
        variance = (centred * centred).sum(-1, keepdims=True) / dim + NORM_EPSILON
        unit = np.floor(centred * (2**VALUE_BITS / np.sqrt(variance)) + 0.5)
        return _as_values(unit * self._weight + self._bias)


class _Layer:
    """Attention and feed-forward network of one layer."""

    def __init__(self, layer: TransformerLayer, *, num_heads: int) -> None:
        attention = layer.self_attn
        self._num_heads = num_heads
        self._score_scale = 1 / math.sqrt(attention.head_dim)
        self._project = _Linear(
            _rounded(attention.in_proj_weight, bits=VALUE_BITS), _rounded(attention.in_proj_bias, bits=PRODUCT_BITS)
        )
        self._mix = _linear(attention.out_proj)
        self._widen = _linear(layer.linear1)
        self._narrow = _linear(layer.linear2)
        self._norm1 = _Norm(layer.norm1)
        self._norm2 = _Norm(layer.norm2)

    def __call__(self, x: Integers, cache: "_Cache") -> Integers:
        """`[T, D]` -> `[T, D]`; the frames are added to the cache."""
        x = self._norm1(_clipped(x + _as_values(self._mix(self._attend(x, cache)))))
        hidden = _gelu(_as_values(self._widen(x)))
        return self._norm2(_clipped(x + _as_values(self._narrow(hidden))))

    def projected(self, x: Integers) -> tuple[Integers, Integers, Integers]:
        """Return queries, keys and values `[N, T, D / N]`."""
        projected = _as_values(self._project(x)).reshape(len(x), 3, self._num_heads, -1)
        queries, keys, values = projected.transpose(1, 2, 0, 3)
        return queries, keys, values

    def _attend(self, x: Integers, cache: "_Cache") -> Integers:
        queries, new_keys, new_values = self.projected(x)
        keys, values = cache.extend(new_keys, new_values)
        scores = _matmul(queries, keys.transpose(0, 2, 1))
        hidden = cache.hidden(len(x))
        if hidden is not None:
            scores[:, hidden] = -np.inf
        weights = _exp(scores.max(-1, keepdims=True) - scores, scale=self._score_scale, bits=ATTENTION_BITS)
        if hidden is not None:
            weights[:, hidden] = 0
        mixed: Integers = np.floor(_matmul(weights, values) / weights.sum(-1, keepdims=True) + 0.5)
        return mixed.transpose(1, 0, 2).reshape(x.shape)


class _Cache:
    """Keys and values of the latest frames, and of the zeros before the first."""

    def __init__(self, *, num_heads: int, head_dim: int, past: int) -> None:
        self._past = past
        self._entries = np.empty((2, num_heads, 2 * past + MAX_BLOCK + 1, head_dim))
        self._end = 0

    def extend(self, keys: Integers, values: Integers) -> tuple[Integers, Integers]:
        """Add `[N, T, D / N]`, T ≤ MAX_BLOCK, and return all that these frames may see, `[N, H, D / N]`."""
        num_frames = keys.shape[1]
        if self._end + num_frames > self._entries.shape[2]:
            self._entries[:, :, : self._past] = self._entries[:, :, self._end - self._past : self._end].copy()
            self._end = self._past
        start, self._end = max(0, self._end - self._past), self._end + num_frames
        self._entries[0, :, self._end - num_frames : self._end] = keys
        self._entries[1, :, self._end - num_frames : self._end] = values
        self._num_visible = self._end - start
        visible = self._entries[:, :, start : self._end]
        return visible[0], visible[1]

    def hidden(self, num_frames: int) -> NDArray[np.bool_] | None:
        """Say which keys each of the latest frames may not see, `[T, H]`; None: it may see all."""
        if num_frames == 1:
            return None
        queries = np.arange(self._num_visible - num_frames, self._num_visible)[:, None]
        distance = queries - np.arange(self._num_visible)
        return (distance < 0) | (distance > self._past)


class _Positions:
    """Cosines and sines of positions: each is turned by the rotations that its binary digits name."""

    def __init__(self, num_channels: int) -> None:
        cosines, sines = rotations(
            num_channels, max_period=MAX_PERIOD, num_doublings=POSITION_BITS, value_bits=ROTATION_BITS
        )
        self._turns = cosines.astype(np.int64), sines.astype(np.int64)
        self._in_block = self._rotated(np.arange(1 << POSITION_BLOCK_BITS), first_bit=0)
        self._latest: tuple[int, Integers] | None = None

    def __call__(self, first: int, num_frames: int) -> Integers:
        """Return `[T, D]` for the positions from `first` on."""
        positions = range(first, first + num_frames)
        blocks = {position >> POSITION_BLOCK_BITS: None for position in positions}
        pieces = []
        for block in blocks:
            low, high = block << POSITION_BLOCK_BITS, (block + 1) << POSITION_BLOCK_BITS
            pieces.append(self._of_block(block)[max(first, low) - low : min(first + num_frames, high) - low])
        return np.concatenate(pieces)

    def _of_block(self, block: int) -> Integers:
        latest = self._latest
        if latest is not None and latest[0] == block:
            return latest[1]
        start = self._rotated(np.array([block << POSITION_BLOCK_BITS]), first_bit=POSITION_BLOCK_BITS)
        turned = np.concatenate(_turned(self._in_block, start), axis=-1)
        half = 1 << (ROTATION_BITS - VALUE_BITS - 1)
        embedded = ((turned + half) >> (ROTATION_BITS - VALUE_BITS)).astype(np.float64)
        # One assignment: predictors in several threads share this object.
        self._latest = block, embedded
        return embedded

    def _rotated(self, positions: NDArray[np.int64], *, first_bit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        cosines, sines = self._turns
        shape = (len(positions), cosines.shape[1])
        turned = np.full(shape, 1 << ROTATION_BITS, np.int64), np.zeros(shape, np.int64)
        for bit in range(first_bit, int(positions.max()).bit_length()):
            is_set = (positions >> bit & 1).astype(bool)[:, None]
            further = _turned(turned, (cosines[bit], sines[bit]))
            turned = np.where(is_set, further[0], turned[0]), np.where(is_set, further[1], turned[1])
        return turned


_Turn = tuple[NDArray[np.int64], NDArray[np.int64]]


def _turned(vectors: _Turn, turns: _Turn) -> _Turn:
    """Turn (cos, sin) pairs by others; int64, multiples of 2**-30."""
    half = 1 << (ROTATION_BITS - 1)
    cosines = vectors[0] * turns[0] - vectors[1] * turns[1] + half
    sines = vectors[0] * turns[1] + vectors[1] * turns[0] + half
    return cosines >> ROTATION_BITS, sines >> ROTATION_BITS


def _exp(drops: Integers, *, scale: float, bits: int) -> Integers:
    """Return 2**bits exp(-scale drops) for drops ≥ 0, multiples of 2**-28."""
    coarse, fine = exp_tables()
    steps = np.minimum(
        drops * (scale * math.ldexp(1.0, FINE_STEP_BITS - PRODUCT_BITS)), (EXP_LIMIT << FINE_STEP_BITS) - 1
    )
    steps = steps.astype(np.int64)
    fine_bits = FINE_STEP_BITS - COARSE_STEP_BITS
    products = coarse[steps >> fine_bits] * fine[steps & ((1 << fine_bits) - 1)]
    exponentials: Integers = np.floor(products * math.ldexp(1.0, bits - 2 * EXP_BITS))
    return exponentials


def _gelu(x: Integers) -> Integers:
    size = np.minimum(np.abs(x), GELU_LIMIT << VALUE_BITS)
    steps = np.floor(size * math.ldexp(1.0, GELU_STEP_BITS - VALUE_BITS) + 0.5).astype(np.int64)
    return np.maximum(x, 0) - gelu_table(VALUE_BITS)[steps]


def _as_values(products: Integers) -> Integers:
    """Round multiples of 2**-28 to multiples of 2**-14."""
    return _clipped(np.floor((products + (1 << (VALUE_BITS - 1))) * math.ldexp(1.0, -VALUE_BITS)))


def _clipped(values: Integers) -> Integers:
    return np.clip(values, -MAX_VALUE, MAX_VALUE)


def _rounded(weights: Tensor, *, bits: int) -> Integers:
    exact = weights.detach().cpu().double().numpy()
    if not np.all(np.abs(exact) <= MAX_WEIGHT):
        raise ValueError(
            f"a weight of the language model is not finite, or above {MAX_WEIGHT}; fixed-point arithmetic holds those "
            "up to it. Train it on, or use the float coder"
        )
    rounded: Integers = np.rint(exact * (1 << bits))
    return rounded


def _linear(module: nn.Linear) -> _Linear:
    return _Linear(_rounded(module.weight, bits=VALUE_BITS), _rounded(module.bias, bits=PRODUCT_BITS))


def _linears(modules: nn.ModuleList) -> list[nn.Linear]:
    return list(modules)  # type: ignore[arg-type]


def _layers(model: LanguageModel) -> list[TransformerLayer]:
    return list(model.transformer.layers)  # type: ignore[arg-type]
