"""The arithmetic of `BatchEncoder`: folded convolutions, two ways to batch them, and the lanes of the LSTM."""
