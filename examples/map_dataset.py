"""Codes as columns of a Hugging Face dataset, and back to audio: `python examples/map_dataset.py`.

Runs offline: the clips are made here, the codec is the small one of the package. For real codes name
`facebook/encodec_24khz`; for several GPUs call map with `num_proc=<GPUs>, with_rank=True`.
"""

import io
import tempfile

import numpy as np
import soundfile
import torch
from datasets import Audio, Dataset

from encodec_core import BatchEncoder, Codes, EncodecModel
from tokenizer_jobs import TokenizeAudio

RATE = 16_000


def make_clip(pitch: float, seconds: float) -> dict[str, bytes | str]:
    """A tone with a vibrato, as a WAV file in memory."""
    time = np.arange(round(seconds * RATE)) / RATE
    file = io.BytesIO()
    soundfile.write(file, 0.4 * np.sin(2 * np.pi * pitch * time + np.sin(30 * time)), RATE, format="WAV")
    return {"bytes": file.getvalue(), "path": f"{pitch:g}.wav"}


def main() -> None:
    """Tokenize a small dataset twice, the second time from the cache, and decode one clip."""
    clips = {"audio": [make_clip(110.0 * step, 0.5 + 0.1 * step) for step in range(1, 9)], "step": list(range(1, 9))}
    with tempfile.TemporaryDirectory() as folder:
        # `datasets` caches what comes from files, so the dataset is stored first.
        Dataset.from_dict(clips).cast_column("audio", Audio()).save_to_disk(folder)
        dataset = Dataset.load_from_disk(folder)
        tokens = dataset.map(TokenizeAudio("demo", bandwidth_kbps=6.0), batched=True, batch_size=4)
        again = dataset.map(TokenizeAudio("demo", bandwidth_kbps=6.0), batched=True, batch_size=4)
        print("from the cache:", again.cache_files == tokens.cache_files)

        row = tokens.remove_columns("audio")[-1]
        codes = torch.tensor(row["codes"], dtype=torch.uint16)
        print(f"step {row['step']}: codes {list(codes.shape)}, {row['duration_seconds']:.2f} s")
        decoder = BatchEncoder(EncodecModel.from_pretrained("demo"), bandwidth_kbps=6.0, device="cpu")
        (waveform,) = decoder.decode([Codes(codes=codes)])
        print(f"decoded: {waveform.shape[-1] / row['sample_rate']:.2f} s at {row['sample_rate']} Hz")


if __name__ == "__main__":
    main()
