"""The arithmetic of `BatchEncoder` and of streams: folded convolutions, ways to batch or to tile them, LSTM lanes."""
