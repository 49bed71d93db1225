"""Training of the language model: it learns, resumes in the same bits, and its rates are what the coder writes."""

import copy
import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from encodec_core.entropy import LanguageModel, LanguageModelConfig, previous_codes
from encodec_core.entropy.coding import FloatPredictor, encode_window
from encodec_core.training import NO_CODE, LanguageModelSettings, LanguageModelTrainer, code_rates
from encodec_core.training.code_rate import BLOCK_FRAMES
from tests.encodec_core.language_models import SMALL, in_meta, make_language_model, random_codes, small_language_model

TINY = LanguageModelConfig(
    n_q=3, codebook_size=8, past_context=6, dim=16, num_heads=4, num_layers=2, feed_forward_dim=32
)
NOISE = 0.2
"""Chance of a code of `counting_codes` that nothing foretells."""


def trainer(*, n_q_choices: tuple[int, ...] = (1, 3), **changes: Any) -> LanguageModelTrainer:
    recipe = {"num_updates": 200, "learning_rate": 3e-3} | changes
    return LanguageModelTrainer(make_language_model(TINY), LanguageModelSettings(**recipe), n_q_choices=n_q_choices)


def counting_codes(seed: int, *, num_frames: int = 40) -> Tensor:
    """`[K, T]` codes that go up by 1, 2 and 3 a frame, and now and then jump anywhere."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(TINY.codebook_size, (TINY.n_q, num_frames), generator=generator)
    jumps = torch.rand(TINY.n_q, num_frames, generator=generator) < NOISE
    for frame in range(1, num_frames):
        next_codes = (codes[:, frame - 1] + torch.arange(1, TINY.n_q + 1)) % TINY.codebook_size
        codes[:, frame] = torch.where(jumps[:, frame], codes[:, frame], next_codes)
    return codes


def crops(update: int, *, size: int = 8) -> Tensor:
    """Crops `[B, K, T + 1]` of an update; every other one begins its sequence."""
    batch = torch.stack([counting_codes(1000 * update + number, num_frames=21) for number in range(size)])
    batch[::2, :, 0] = NO_CODE
    return batch


def train(subject: LanguageModelTrainer, *, until: int) -> list[dict[str, float]]:
    return [subject.step(crops(subject.update)) for _ in range(until - subject.update)]


def first_loss(batch: Tensor, **changes: Any) -> float:
    """The loss of the first update, in bits per code of three codebooks."""
    return trainer(n_q_choices=(3,), **changes).step(batch)["bits_per_code_of_3"]


class TestLearning:
    def test_rates_on_codes_never_seen_come_near_their_entropy(self) -> None:
        subject = trainer(learning_rate=1e-2, final_learning_rate=1e-3, num_updates=150, max_first_position=20)
        train(subject, until=150)
        held_out = [counting_codes(seed) for seed in range(-20, 0)]
        rates = code_rates(subject.model, held_out, n_q_choices=(1, 3))
        # A code goes on with chance 1 - NOISE, or is any of 8 with NOISE / 8 each.
        goes_on, other = 1 - NOISE * 7 / 8, NOISE / 8
        entropy = -goes_on * math.log2(goes_on) - 7 * other * math.log2(other)
        for bits in (*rates.bits_per_code[1], *rates.bits_per_code[3]):
            # 3 bits is what is paid without having learned. 20 × 40 codes have 0.07 bits of sampling error.
            assert entropy - 0.2 < bits < (entropy + 3) / 2

    def test_every_parameter_takes_part(self) -> None:
        subject = trainer(n_q_choices=(3,))
        before = copy.deepcopy(subject.model.state_dict())
        train(subject, until=3)
        after = subject.model.state_dict()
        assert [name for name in before if torch.equal(before[name], after[name])] == []

    def test_codebooks_that_are_not_in_use_stay_as_they_are(self) -> None:
        subject = trainer(n_q_choices=(2,), weight_decay=0.0)
        before = copy.deepcopy(subject.model.state_dict())
        train(subject, until=3)
        after = subject.model.state_dict()
        unchanged = {name for name in before if torch.equal(before[name], after[name])}
        assert unchanged == {name for name in before if name.startswith(("emb.2.", "linears.2."))}

    def test_numbers_of_codebooks_are_drawn(self) -> None:
        metrics = train(trainer(n_q_choices=(1, 2, 2)), until=60)
        assert 8 < sum("bits_per_code_of_1" in step for step in metrics) < 32
        assert all(("bits_per_code_of_1" in step) != ("bits_per_code_of_2" in step) for step in metrics)

    def test_weights_decay_and_vectors_do_not(self) -> None:
        plain, decayed = (trainer(n_q_choices=(3,), weight_decay=weight_decay) for weight_decay in (0.0, 10.0))
        before = copy.deepcopy(plain.model.state_dict())
        train(plain, until=1)
        train(decayed, until=1)
        for name, tensor in plain.model.state_dict().items():
            shrinkage = 10 * 3e-3 if tensor.dim() > 1 else 0.0  # decay times the learning rate
            torch.testing.assert_close(decayed.model.state_dict()[name], tensor - shrinkage * before[name])


class TestLoss:
    def test_it_is_the_cross_entropy_of_a_sequence_from_its_start(self) -> None:
        codes = counting_codes(3)[None]
        logits, _ = make_language_model(TINY)(previous_codes(codes))
        expected = float(functional.cross_entropy(logits, codes)) / math.log(2)
        begun = torch.cat([torch.full((1, TINY.n_q, 1), NO_CODE), codes], dim=-1)
        assert first_loss(begun) == pytest.approx(expected, rel=1e-5)

    def test_it_is_the_cross_entropy_of_a_crop_whose_frame_before_is_known(self) -> None:
        codes = counting_codes(3)[None]
        logits, _ = make_language_model(TINY)(codes[..., 9:-1] + 1)
        expected = float(functional.cross_entropy(logits, codes[..., 10:])) / math.log(2)
        assert first_loss(codes[..., 9:]) == pytest.approx(expected, rel=1e-5)

    def test_frames_that_do_not_exist_do_not_count(self) -> None:
        long, short = crops(0, size=2), crops(1, size=2)[..., :9]
        filled = functional.pad(short, (0, long.shape[-1] - short.shape[-1]), value=NO_CODE)
        together = first_loss(torch.cat([long, filled]))
        expected = (first_loss(long) * 20 + first_loss(short) * 8) / 28
        assert together == pytest.approx(expected, rel=1e-5)

    def test_positions_are_drawn_up_to_the_highest(self) -> None:
        at_start = first_loss(crops(0))
        further_in = {first_loss(crops(0), max_first_position=50, seed=seed) for seed in range(4)}
        assert len(further_in) == 4
        assert at_start not in further_in

    def test_half_precision_is_near(self) -> None:
        # bf16 keeps 8 bits; a sum of such errors over a few layers stays within 1 % here.
        assert first_loss(crops(0), precision="bf16") == pytest.approx(first_loss(crops(0)), rel=1e-2)

    def test_dropout_is_in_updates_alone(self) -> None:
        subject = trainer(dropout=0.3)
        assert subject.step(crops(0)) != trainer().step(crops(0))
        rates = [code_rates(subject.model, [counting_codes(5)], n_q_choices=(3,)) for _ in range(2)]
        assert rates[0] == rates[1]
        subject.model.train()
        logits = [subject.model(previous_codes(counting_codes(5)[None]))[0] for _ in range(2)]
        assert torch.equal(*logits)


class TestResume:
    def test_interrupted_training_ends_in_the_same_bits(self) -> None:
        recipe: dict[str, Any] = {
            "dropout": 0.2,
            "max_first_position": 30,
            "final_learning_rate": 1e-4,
            "weight_decay": 0.1,
        }
        straight = trainer(**recipe)
        train(straight, until=7)
        first = trainer(**recipe)
        train(first, until=4)
        state = copy.deepcopy(first.state_dict())
        resumed = trainer(**recipe, seed=5)
        resumed.load_state_dict(state)
        with torch.random.fork_rng(devices=[]):
            torch.rand(3)  # what the process drew meanwhile does not matter
            train(resumed, until=7)
        for name, tensor in straight.model.state_dict().items():
            assert torch.equal(tensor, resumed.model.state_dict()[name]), name

    def test_updates_leave_the_global_generator_alone(self) -> None:
        before = torch.get_rng_state()
        train(trainer(dropout=0.2), until=2)
        assert torch.equal(before, torch.get_rng_state())

    def test_a_checkpoint_is_loaded_without_running_code(self, tmp_path: object) -> None:
        subject = trainer()
        train(subject, until=2)
        torch.save(subject.state_dict(), f"{tmp_path}/checkpoint.pt")
        resumed = trainer(seed=1)
        resumed.load_state_dict(torch.load(f"{tmp_path}/checkpoint.pt", weights_only=True))
        assert train(subject, until=4) == train(resumed, until=4)


class TestRates:
    @pytest.mark.parametrize("num_frames", [1, SMALL.past_context, SMALL.past_context + 1, 30])
    def test_they_are_the_references_step_by_step(self, num_frames: int) -> None:
        codes = random_codes(4, num_frames, entries=SMALL.codebook_size)
        rates = code_rates(small_language_model(), [codes[0]], n_q_choices=(1, 4))
        theirs = in_meta(small_language_model())
        for n_q in (1, 4):
            state, offset, bits = None, 0, torch.zeros(n_q, dtype=torch.float64)
            for frame in range(num_frames):
                previous = previous_codes(codes[:, :n_q])[..., frame : frame + 1]
                probabilities, state, offset = theirs(previous, state, offset)
                chosen = probabilities.gather(1, codes[:, None, :n_q, frame : frame + 1])
                bits -= chosen.double().log2().flatten()
            expected = (bits / num_frames).tolist()
            assert rates.bits_per_code[n_q] == pytest.approx(expected, rel=1e-5)

    def test_blocks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        codes = [random_codes(4, 30, entries=SMALL.codebook_size)[0]]
        whole = code_rates(small_language_model(), codes, n_q_choices=(4,))
        monkeypatch.setattr("encodec_core.training.code_rate.BLOCK_FRAMES", 7)
        assert BLOCK_FRAMES > 30
        in_blocks = code_rates(small_language_model(), codes, n_q_choices=(4,))
        assert in_blocks.bits_per_code[4] == pytest.approx(whole.bits_per_code[4], rel=1e-6)

    def test_they_are_averages_over_all_frames(self) -> None:
        sequences = [random_codes(4, length, entries=SMALL.codebook_size)[0] for length in (3, 20)]
        apart = [code_rates(small_language_model(), [codes], n_q_choices=(2,)) for codes in sequences]
        together = code_rates(small_language_model(), sequences, n_q_choices=(2,))
        expected = [(3 * a + 20 * b) / 23 for a, b in zip(*(rates.bits_per_code[2] for rates in apart), strict=True)]
        assert together.bits_per_code[2] == pytest.approx(expected)
        assert (together.num_sequences, together.num_frames) == (2, 23)
        assert together.kbps(2, frame_rate=75) == pytest.approx(sum(expected) * 75 / 1000)

    def test_they_are_what_the_coder_writes(self) -> None:
        codes = random_codes(4, 200, entries=SMALL.codebook_size)[0]
        model = make_language_model(SMALL, sharpness=3.0)
        file = io.BytesIO()
        encode_window(codes.numpy(), predictor=FloatPredictor(model), file=file)
        bits = 200 * sum(code_rates(model, [codes], n_q_choices=(4,)).bits_per_code[4])
        # Shares are rounded to 1e-6 and have a floor, and the stream ends on a byte after at most 30 bits of range.
        assert bits * 0.999 < 8 * len(file.getvalue()) < bits * 1.001 + 40


class TestRefusals:
    def test_training_ends(self) -> None:
        subject = trainer(num_updates=1)
        train(subject, until=1)
        assert subject.is_done
        with pytest.raises(ValueError, match="update 1 is beyond the recipe's 1"):
            subject.step(crops(1))

    @pytest.mark.parametrize("choices", [(), (0,), (1, 4)])
    def test_codebooks_that_the_model_does_not_know(self, choices: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="expected some of 1 to 3"):
            trainer(n_q_choices=choices)

    def test_a_loss_that_is_not_finite_changes_nothing(self) -> None:
        subject = trainer(n_q_choices=(3,))
        with torch.no_grad():
            next(subject.model.emb.parameters())[0, 0] = math.nan
        before = copy.deepcopy(subject.model.state_dict())
        with pytest.raises(ValueError, match="loss of update 0 is nan"):
            subject.step(crops(0))
        assert subject.update == 0
        for name, tensor in subject.model.state_dict().items():
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)

    def test_no_sequence_to_evaluate_on(self) -> None:
        with pytest.raises(ValueError, match="no sequence"):
            code_rates(small_language_model(), [], n_q_choices=(1,))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"num_updates": 0},
            {"learning_rate": 0.0},
            {"weight_decay": -1.0},
            {"dropout": 1.0},
            {"max_gradient_norm": 0.0},
            {"max_first_position": -1},
            {"precision": "fp16"},
        ],
    )
    def test_settings_out_of_range(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} = "):
            replace(LanguageModelSettings(num_updates=1), **wrong)


def test_the_language_model_of_the_papers_size_takes_an_update() -> None:
    """One 24 kHz codec's worth of codebooks, so that no size is fixed anywhere."""
    config = LanguageModelConfig(n_q=32, codebook_size=1024, past_context=262)
    with torch.random.fork_rng(devices=[]):
        subject = LanguageModelTrainer(LanguageModel(config), LanguageModelSettings(num_updates=1), n_q_choices=(32,))
    metrics = subject.step(torch.zeros(1, 32, 3, dtype=torch.int64))
    assert 9 < metrics["bits_per_code_of_32"] < 12
