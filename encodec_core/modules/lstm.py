"""The LSTM at the bottleneck of encoder and decoder, with its skip connection."""

from torch import Tensor, nn

__all__ = ["LstmState", "ResidualLSTM"]

LstmState = tuple[Tensor, Tensor]
"""Hidden and cell state, each `[num_layers, B, C]`."""


class ResidualLSTM(nn.Module):
    """x + LSTM(x) over time, in the layout of convolutions.

    Args:
        num_channels: C, of the input, the hidden state and the output.
        num_layers: stacked LSTM layers.

    EnCodec paper, section 3.1; the submodule is named as in both references.
    """

    def __init__(self, num_channels: int, *, num_layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(num_channels, num_channels, num_layers)

    def run(self, x: Tensor, state: LstmState | None = None) -> tuple[Tensor, LstmState]:
        """Go on from `state` (None: from zeros).

        Args:
            x: `[B, C, T]`, T > 0.

        Returns:
            The output `[B, C, T]` and the state after its last time step.
        """
        steps = x.permute(2, 0, 1)
        hidden, state = self.lstm(steps, state)
        return (hidden + steps).permute(1, 2, 0), state

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T]` -> `[B, C, T]`, from a state of zeros."""
        return self.run(x)[0]
