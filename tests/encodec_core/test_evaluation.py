"""Evaluation: the figures are those of the codec itself, and training goes on as if it had not been."""

import copy

import pytest
import torch

from encodec_core import BatchEncoder, EncodecModel
from encodec_core.training import MultiScaleMelLoss, evaluate, si_snr
from encodec_core.training.evaluation import perplexity
from tests.encodec_core.models import fitted_model
from tests.fitted_models import synthetic_waveform


def clips(model: EncodecModel, *lengths: int) -> list[torch.Tensor]:
    config = model.config
    return [
        synthetic_waveform(n, num_channels=config.audio_channels, sampling_rate=config.sampling_rate, seed=seed)
        for seed, n in enumerate(lengths)
    ]


@pytest.mark.parametrize(
    ("name", "lengths"),
    [("causal_mono", (4800, 7000)), ("windows_stereo", (50_000,))],
    ids=["whole", "two windows"],
)
def test_each_bandwidth_is_that_of_the_codec(name: str, lengths: tuple[int, ...]) -> None:
    model = fitted_model(name)
    recordings = clips(model, *lengths)
    evaluation = evaluate(model, recordings)
    assert sorted(evaluation.si_snr_db) == sorted(evaluation.mel_distance) == sorted(model.config.target_bandwidths)
    assert evaluation.num_recordings == len(lengths)
    assert evaluation.seconds == pytest.approx(sum(lengths) / model.config.sampling_rate)
    assert len(evaluation.codebook_perplexity) == model.config.n_q_for(24.0)
    mel = MultiScaleMelLoss(model.config.sampling_rate)
    for bandwidth in model.config.target_bandwidths:
        encoder = BatchEncoder(model, bandwidth, "cpu")
        decoded = encoder.decode(encoder.encode(recordings))
        pairs = [
            (clip[None], estimate[None, :, : clip.shape[-1]])
            for clip, estimate in zip(recordings, decoded, strict=True)
        ]
        snr, distance = (sum(float(measure(*pair)) for pair in pairs) / len(pairs) for measure in (si_snr, mel))
        assert evaluation.si_snr_db[bandwidth] == pytest.approx(snr, abs=1e-4)
        assert evaluation.mel_distance[bandwidth] == pytest.approx(distance, rel=1e-5)


def test_it_leaves_the_codec_and_the_random_numbers_as_they_are() -> None:
    model = copy.deepcopy(fitted_model("causal_mono")).train().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    evaluate(model, clips(model, 4800))
    assert torch.equal(random, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_silence_is_left_out() -> None:
    model = fitted_model("causal_mono")
    (clip,) = clips(model, 4800)
    assert evaluate(model, [torch.zeros(1, 4800), clip]) == evaluate(model, [clip])
    with pytest.raises(ValueError, match="no recording to evaluate on"):
        evaluate(model, [torch.zeros(1, 4800)])


def test_perplexity_counts_entries_that_are_used_evenly() -> None:
    assert perplexity(torch.tensor([5, 0, 5, 5, 0, 5])) == pytest.approx(4)
    assert perplexity(torch.tensor([0, 7])) == pytest.approx(1)
