"""Entropy coding of real EnCodec codes: a histogram, an order-1 model and the paper's language model on one split.

    python -m benchmarks.language_model FOLDER_OF_PROMPTS --resume FOLDER [--updates 4000] [--minutes 60]

FOLDER of codes: `.npz` files with `fine_prompt` [8, T], codes of the released 24 kHz model at 6 kbps. They are split as
`tokenizer_jobs.codec_training.count_models` says; all three models are fitted to the same files. Rates are those of an
ideal entropy coder, and of the real one with --coded.
The same command with the same --resume goes on where it was stopped.
"""

import argparse
import io
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from encodec_core import EncodecConfig
from encodec_core.entropy import LanguageModel, LanguageModelConfig
from encodec_core.entropy.coding import FloatPredictor, encode_window
from encodec_core.training import LanguageModelSettings, LanguageModelTrainer, code_rates
from tokenizer_jobs.codec_training.code_crops import CodeCrops
from tokenizer_jobs.codec_training.count_models import (
    CodesSplit,
    Histogram,
    OrderOne,
    best_histograms,
    best_order_ones,
    split_codes,
)

FRAME_RATE = 75
CODEBOOK_SIZE = 1024
KBPS = {2: 1.5, 4: 3.0, 8: 6.0}
"""By codebooks in use."""
N_Q_DRAWN = (8, 8, 4, 2)
BATCH_SIZE = 4
CROP_FRAMES = 5 * FRAME_RATE
EVALUATION_UPDATES = 200

Codes = npt.NDArray[np.uint16]


def read_codes(folder: Path) -> dict[str, Codes]:
    """By path."""
    codes = {str(path): np.load(path)["fine_prompt"].astype("<u2") for path in sorted(folder.rglob("*.npz"))}
    if not codes:
        raise SystemExit(f"{folder} holds no .npz file; give the folder of codes")
    return codes


def kbps_of_counts(models: Sequence[Histogram | OrderOne], sequences: Sequence[Codes]) -> dict[int, float]:
    """By codebooks in use."""
    bits = [sum(model.bits(codes[number]) for codes in sequences) for number, model in enumerate(models)]
    return {n_q: sum(bits[:n_q]) / _seconds(sequences) / 1000 for n_q in KBPS}


def kbps_of_model(model: LanguageModel, sequences: Sequence[Codes]) -> dict[int, float]:
    """By codebooks in use."""
    tensors = [torch.from_numpy(codes.astype(np.int64)) for codes in sequences]
    rates = code_rates(model, tensors, n_q_choices=tuple(KBPS))
    return {n_q: rates.kbps(n_q, frame_rate=FRAME_RATE) for n_q in KBPS}


def coded_kbps(model: LanguageModel, sequences: Sequence[Codes]) -> float:
    """What the arithmetic coder writes for all codebooks, to whole bytes."""
    file = io.BytesIO()
    for codes in sequences:
        encode_window(codes.astype(np.int64), predictor=FloatPredictor(model), file=file)
    return 8 * len(file.getvalue()) / _seconds(sequences) / 1000


def _seconds(sequences: Sequence[Codes]) -> float:
    num_frames = sum(len(codes.T) for codes in sequences)
    return num_frames / FRAME_RATE


def train(
    split: CodesSplit, folder: Path, *, settings: LanguageModelSettings, minutes: float, say: Callable[[str], None]
) -> LanguageModelTrainer:
    """Train for a while, and keep what is best on the files for choices in `folder`/lm."""
    torch.manual_seed(settings.seed)
    config = LanguageModelConfig.for_codec(EncodecConfig.encodec_24khz(), n_q=max(KBPS))
    trainer = LanguageModelTrainer(LanguageModel(config), settings, n_q_choices=N_Q_DRAWN)
    best, checkpoint = math.inf, folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        best = state.pop("best")
        trainer.load_state_dict(state)
    crops = CodeCrops(list(split.fitted.values()), num_frames=CROP_FRAMES, seed=settings.seed)
    sums: list[float] = []
    deadline, started = time.monotonic() + 60 * minutes, time.process_time()
    while not trainer.is_done and (sums or time.monotonic() < deadline):
        metrics = trainer.step(crops.batch(trainer.update, size=BATCH_SIZE))
        sums.append(metrics.get(f"bits_per_code_of_{max(KBPS)}", math.nan))
        if trainer.update % EVALUATION_UPDATES and not trainer.is_done and time.monotonic() < deadline:
            continue
        cpu_seconds = (time.process_time() - started) / len(sums)
        found = kbps_of_model(trainer.model, list(split.choosing.values()))
        point = {
            "update": trainer.update,
            "training_kbps": float(np.nanmean(sums)) * max(KBPS) * FRAME_RATE / 1000,
            "choosing_kbps": found,
            "cpu_seconds_per_update": cpu_seconds,
        }
        sums, started = [], time.process_time()
        with (folder / "curves.jsonl").open("a") as curves:
            curves.write(json.dumps(point) + "\n")
        say(json.dumps(point))
        if found[max(KBPS)] < best:
            best = found[max(KBPS)]
            trainer.model.save_pretrained(folder / "lm")
        torch.save(trainer.state_dict() | {"best": best}, folder / "checkpoint.pt.staged")
        (folder / "checkpoint.pt.staged").replace(checkpoint)
    return trainer


def section(split: CodesSplit, rows: dict[str, dict[int, float]], *, num_files: int, about: str, command: str) -> str:
    """The text for `RESULTS.md`."""
    parts = (
        f"{len(part)} {use} ({_seconds(list(part.values())):.0f} s)"
        for use, part in (("fitted", split.fitted), ("for choices", split.choosing), ("held out", split.held_out))
    )
    head = (
        f"\n## Entropy coding of Bark's prompts, {date.today()}\n\n`{command}`; torch {version('torch')}. "
        f"{num_files} files, those with codes of their own: {', '.join(parts)}. {split.repeated_share():.0%} of "
        "the held-out frames stand in a fitted file too with all their codes, most of them silence. "
        f"{about} kbps on the held-out files, and share saved. The paper's model, trained on far more, makes 0.9, 1.9 "
        "and 4.1 of 1.5, 3 and 6 kbps on its own data.\n\n"
        f"| Model | {' | '.join(f'of {KBPS[n_q]:g} kbps' for n_q in KBPS)} |\n| --- |{' --- |' * len(KBPS)}\n"
    )
    lines = [
        f"| {name} | " + " | ".join(f"{rate[n_q]:.3f} ({1 - rate[n_q] / KBPS[n_q]:.0%})" for n_q in KBPS) + " |"
        for name, rate in rows.items()
    ]
    return head + "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.language_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("codes", type=Path, help="folder of .npz files")
    parser.add_argument("--resume", type=Path, required=True, help="folder of the training, made or gone on in")
    parser.add_argument("--updates", type=int, default=4000, help="length of the training; part of its recipe")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop training after this time; resumable")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.15)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--coded", action="store_true", help="also run the arithmetic coder over the held-out files")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    codes = read_codes(arguments.codes)
    split = split_codes(codes)
    held_out = list(split.held_out.values())
    histograms = best_histograms(split, codebook_size=CODEBOOK_SIZE)
    rows = {
        "histogram of each codebook": kbps_of_counts(histograms, held_out),
        "order 1, interpolated": kbps_of_counts(best_order_ones(split, histograms=histograms), held_out),
    }
    for name, rate in rows.items():
        print(name, rate, flush=True)
    settings = LanguageModelSettings(
        num_updates=arguments.updates,
        learning_rate=arguments.learning_rate,
        final_learning_rate=arguments.learning_rate / 100,
        warmup_updates=min(200, arguments.updates // 10),
        weight_decay=arguments.weight_decay,
        dropout=arguments.dropout,
        max_first_position=1000,
        precision="bf16",
    )
    arguments.resume.mkdir(parents=True, exist_ok=True)
    trainer = train(split, arguments.resume, settings=settings, minutes=arguments.minutes, say=_say)
    model = LanguageModel.from_pretrained(arguments.resume / "lm")
    rows["language model, 5 layers of 200 channels"] = kbps_of_model(model, held_out)
    about = (
        f"{trainer.update} of {settings.num_updates} updates of {BATCH_SIZE} × {CROP_FRAMES} frames, learning rate "
        f"{settings.learning_rate:g}, dropout {settings.dropout:g}, weight decay {settings.weight_decay:g}, the best "
        "on the files for choices kept."
    )
    if arguments.coded:
        about += f" Written by the arithmetic coder at 6 kbps: {coded_kbps(model, held_out):.3f} kbps."
    command = f"python -m benchmarks.language_model {' '.join(sys.argv[1:])}"
    print(section(split, rows, num_files=len(codes), about=about, command=command))


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
