"""What encodec names of torchaudio.transforms."""


class Resample:
    """Returns what it is given where the rates are equal, as the real one; anything else it cannot do."""

    def __init__(self, orig_freq, new_freq):
        self.orig_freq = orig_freq
        self.new_freq = new_freq

    def __call__(self, waveform):
        if self.orig_freq != self.new_freq:
            raise NotImplementedError("this torchaudio is a stand-in for tests; it cannot resample")
        return waveform


class Spectrogram:
    def __init__(self, *args, **kwargs):
        raise NotImplementedError("this torchaudio is a stand-in for tests; it has no spectrograms")
