"""What encodec names of torchaudio.transforms."""

import torch


class Resample:
    """Returns what it is given where the rates are equal, as the real one; anything else it cannot do."""

    def __init__(self, orig_freq, new_freq):
        self.orig_freq = orig_freq
        self.new_freq = new_freq

    def __call__(self, waveform):
        if self.orig_freq != self.new_freq:
            raise NotImplementedError("this torchaudio is a stand-in for tests; it cannot resample")
        return waveform


class Spectrogram(torch.nn.Module):
    """The complex spectrogram that the discriminator takes, by torch.stft, as torchaudio's documentation defines it.

    `normalized=True` divides by the root of the window's energy, and `center=False` takes whole windows only.
    """

    def __init__(self, n_fft, win_length, hop_length, window_fn, power, normalized, center, pad_mode):
        super().__init__()
        if power is not None or normalized is not True or center or pad_mode is not None:
            raise NotImplementedError("this torchaudio is a stand-in for tests; it has complex spectrograms only")
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.register_buffer("window", window_fn(win_length))

    def forward(self, waveform):
        *shape, length = waveform.shape
        spectrum = torch.stft(
            waveform.reshape(-1, length),
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            win_length=len(self.window),
            window=self.window,
            center=False,
            normalized=False,
            onesided=True,
            return_complex=True,
        )
        spectrum = spectrum / self.window.pow(2.0).sum().sqrt()
        return spectrum.reshape(*shape, *spectrum.shape[-2:])
