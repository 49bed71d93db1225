"""Patterns are those that are published: of MusicGen, Moshi and audiocraft."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tokenizer_jobs.test_patterns import CODEBOOKS, SIZE, random_codes
from tokenizer_jobs.training import (
    CoarseFirstPattern,
    DelayPattern,
    FlattenPattern,
    ParallelPattern,
    Pattern,
)

MakeMusicgen = Callable[[int, int], Any]


@pytest.fixture(scope="module")
def musicgen() -> MakeMusicgen:
    """MusicGen's decoder of transformers, of 2,048 ids and as small as it gets."""
    from transformers import MusicgenForCausalLM
    from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

    @cache
    def make(num_codebooks: int, audio_channels: int) -> Any:
        config = MusicgenDecoderConfig(
            num_codebooks=num_codebooks,
            audio_channels=audio_channels,
            hidden_size=8,
            ffn_dim=8,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
        with torch.random.fork_rng(devices=[]):
            return MusicgenForCausalLM(config).eval()

    return make


def musicgens(model: Any, codes: torch.Tensor, *, num_tokens: int, pad_id: int) -> torch.Tensor:
    """What transformers' generation would hold, had it predicted the codes: its mask, filled in by its own rule."""
    batch, num_codebooks, _ = codes.shape
    start = torch.full((batch * num_codebooks, 1), pad_id)
    flat = torch.cat([start, codes.reshape(batch * num_codebooks, -1)], dim=1)
    _, mask = model.build_delay_pattern_mask(flat, pad_token_id=pad_id, max_length=num_tokens)
    return model.apply_delay_pattern_mask(mask, mask).reshape(batch, num_codebooks, num_tokens)  # type: ignore[no-any-return]


@given(CODEBOOKS, st.booleans(), st.integers(1, 3), st.integers(0, 40), st.integers(0, 1000))
@example(8, False, 3, 505, 0)
@settings(max_examples=80, deadline=None)
def test_delay_is_that_of_musicgen_in_transformers(
    musicgen: MakeMusicgen, num_delays: int, is_stereo: bool, batch: int, more_frames: int, seed: int
) -> None:
    channels = 2 if is_stereo else 1  # a stereo model delays the codebooks of both channels alike, in pairs
    # With fewer frames than delays - 1 transformers gives up and shifts nothing.
    num_frames, num_codebooks = max(1, num_delays - 1) + more_frames, num_delays * channels
    codes = torch.from_numpy(np.random.default_rng(seed).integers(0, 2048, (batch, num_codebooks, num_frames)))
    delays = tuple(codebook // channels for codebook in range(num_codebooks))
    num_tokens = num_frames + num_delays
    expected = musicgens(musicgen(num_codebooks, channels), codes, num_tokens=num_tokens, pad_id=2048)
    tokens = DelayPattern(pad_id=2048, delays=delays).apply(codes)
    assert tokens.shape == (batch, num_codebooks, num_tokens)
    assert torch.equal(tokens, expected)
    assert torch.equal(DelayPattern(pad_id=2048).apply(codes), expected) is (channels == 1)


def test_musicgen_counts_the_loss_of_the_targets_that_weigh(musicgen: MakeMusicgen) -> None:
    model = musicgen(4, 1)
    pattern = DelayPattern(pad_id=2048)
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 2048, (2, 4, 9)))
    step = pattern.supervise(pattern.apply(codes, lengths=[9, 5]))
    with torch.no_grad():
        logits = model(input_ids=step.inputs.reshape(8, -1)).logits.reshape(2, 4, -1, 2048)
        # transformers makes the inputs of the labels itself: the start, and the labels but the last.
        theirs = model(labels=step.targets.transpose(1, 2)).loss
    losses = torch.nn.functional.cross_entropy(
        logits.permute(0, 3, 1, 2), step.targets.where(step.loss_weights > 0, 0), reduction="none"
    )
    ours = [(losses * step.loss_weights)[:, k].sum() / step.loss_weights[:, k].sum() for k in range(4)]
    # It means over codebooks, each the mean over its own codes; float32 sums in another order.
    torch.testing.assert_close(torch.stack(ours).mean(), theirs, rtol=1e-5, atol=0)


def test_delays_of_moshi_are_those_of_its_rule() -> None:
    codes = random_codes(8, 20, seed=3).astype(np.int64)
    tokens = DelayPattern(pad_id=SIZE, delays=(0, *[1] * 7)).apply(codes)
    # Moshi rolls each codebook by its delay, overwrites what came round with the start token, and puts a start before.
    rolled = np.stack([np.roll(row, 0 if k == 0 else 1) for k, row in enumerate(codes)])
    rolled[1:, 0] = SIZE
    assert np.array_equal(tokens[:, :21], np.concatenate([np.full((8, 1), SIZE), rolled], axis=1))
    assert np.array_equal(tokens[:, 21], [SIZE, *codes[1:, -1]])  # the frames that it cuts off


@pytest.mark.parametrize("num_frames", [1, 2, 13])
@pytest.mark.parametrize("name", ["parallel", "delay", "delays", "flatten", "coarse-first", "halves"])
def test_patterns_are_those_of_audiocrafts_providers(name: str, num_frames: int) -> None:
    theirs = pytest.importorskip(
        "audiocraft.modules.codebooks_patterns",
        reason="audiocraft is not installed, or lacks what it imports",
        exc_type=ImportError,
    )
    codes = torch.from_numpy(random_codes(1, 4, num_frames, seed=num_frames).astype(np.int64))
    ours: dict[str, tuple[Pattern, Any]] = {
        "parallel": (ParallelPattern(pad_id=SIZE), theirs.ParallelPatternProvider(4)),
        "delay": (DelayPattern(pad_id=SIZE), theirs.DelayedPatternProvider(4)),
        "delays": (
            DelayPattern(pad_id=SIZE, delays=(0, 0, 2, 3)),
            theirs.DelayedPatternProvider(4, delays=[0, 0, 2, 3]),
        ),
        "flatten": (FlattenPattern(num_codebooks=4, codebook_size=SIZE), theirs.UnrolledPatternProvider(4)),
        "coarse-first": (
            CoarseFirstPattern(num_codebooks=4, num_coarse=1, codebook_size=SIZE),
            theirs.CoarseFirstPattern(4),
        ),
        "halves": (
            CoarseFirstPattern(num_codebooks=4, num_coarse=2, codebook_size=SIZE),
            theirs.MusicLMPattern(4, group_by=2),
        ),
    }
    pattern, provider = ours[name]
    published, _, filled = provider.get_pattern(num_frames).build_pattern_sequence(codes, special_token=SIZE)
    tokens = pattern.apply(codes)
    if tokens.ndim == 3:
        assert torch.equal(tokens, published)
    else:
        # Its layout keeps a row for each codebook; read column by column, downwards, it is our stream. (Its
        # coarse-first predicts the fine codebooks of a frame at one step, in the same order.)
        codebooks = filled.T.nonzero()[:, 1]
        assert torch.equal(tokens[0], published[0].T[filled.T] + codebooks * SIZE)
