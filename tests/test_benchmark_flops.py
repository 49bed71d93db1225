"""What the roofline benchmark counts."""

import pytest
import torch
from torch import nn

from benchmarks.flops import count_flops
from encodec_core import EncodecConfig, EncodecModel


def test_published_codecs_need_what_is_known_of_them() -> None:
    causal, windows = (
        count_flops(config, n_q=8) for config in (EncodecConfig.encodec_24khz(), EncodecConfig.encodec_48khz())
    )
    assert causal.encoder == pytest.approx(2.98e9, abs=0.005e9)
    assert causal.quantizer == pytest.approx(0.157e9, abs=0.001e9)
    assert windows.encoder == pytest.approx(5.98e9, abs=0.02e9)


@pytest.mark.parametrize(
    "config",
    [
        EncodecConfig.encodec_24khz(num_filters=4, hidden_size=16),
        EncodecConfig.encodec_24khz(num_filters=4, hidden_size=16, use_conv_shortcut=False, num_residual_layers=2),
        EncodecConfig.musicgen_32khz(num_filters=4, hidden_size=16, codebook_size=64),
        EncodecConfig.encodec_24khz(num_filters=4, hidden_size=16, audio_channels=2, num_lstm_layers=1, compress=4),
    ],
)
def test_counts_are_those_of_the_layers_that_run(config: EncodecConfig) -> None:
    num_macs = {"convolutions": 0, "lstm": 0}

    def count(module: nn.Module, _: object, output: object) -> None:
        if isinstance(module, nn.Conv1d):
            assert isinstance(output, torch.Tensor)
            num_macs["convolutions"] += output.shape[-1] * module.weight.numel()
        if isinstance(module, nn.LSTM):
            weights = [weight for name, weight in module.named_parameters() if name.startswith("weight_")]
            num_macs["lstm"] += config.frame_rate * sum(weight.numel() for weight in weights)

    model = EncodecModel(config)
    for module in model.encoder.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        model.encoder(torch.zeros(1, config.audio_channels, config.sampling_rate))

    flops = count_flops(config, n_q=1)

    # A second is whole frames; some convolutions put out a few steps more than a share of longer audio.
    assert flops.convolutions == pytest.approx(2 * num_macs["convolutions"], rel=1e-3)
    assert flops.lstm == pytest.approx(2 * num_macs["lstm"])
