"""The neural network of EnCodec: padded convolutions, the residual LSTM, SEANet."""

from encodec_core.modules.conv import PaddedConv1d, TrimmedConvTranspose1d
from encodec_core.modules.lstm import ResidualLSTM
from encodec_core.modules.seanet import ResidualBlock, SEANetDecoder, SEANetEncoder

__all__ = [
    "PaddedConv1d",
    "ResidualBlock",
    "ResidualLSTM",
    "SEANetDecoder",
    "SEANetEncoder",
    "TrimmedConvTranspose1d",
]
