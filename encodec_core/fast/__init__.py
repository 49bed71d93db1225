"""The arithmetic of `BatchEncoder`: folded convolutions, two ways to run them over ragged batches, and the lanes of
the LSTM."""
