"""How good the codec inside the package is on the recordings that its training never saw, and pictures of it.

    python -m benchmarks.demo_codec out/demo_codec [--pictures encodec_core/demo]

The argument is the folder that `tokenizer-jobs train-codec` left. Prints the tables of the card; with `--pictures` also
draws spectrograms and the curves of training, which needs matplotlib.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encodec_core import BatchEncoder, EncodecModel
from encodec_core.training import Evaluation, evaluate
from tokenizer_jobs.codec_training.config import TrainingAudio
from tokenizer_jobs.codec_training.held_out import SplitAudio, held_out_clips, split
from tokenizer_jobs.codec_training.waveforms import open_waveforms

KINDS = {"music": ("music",), "speech": ("prompts", "speech", "letters", "digits")}
DRAWN = {"music": 2, "prompts": 1, "speech": 0}
"""Which held-out recording of each source is drawn."""


def held_out(output: Path) -> dict[str, SplitAudio]:
    """The audio of a training, split as it was."""
    sources = TrainingAudio.model_validate(_job(output)["audio"]).sources
    return split({name: (open_waveforms(output / "waveforms" / name), source) for name, source in sources.items()})


def check_model(model: EncodecModel, audio: Mapping[str, SplitAudio]) -> None:
    """End the program where a codec takes other audio than the one that was trained."""
    for split_audio in audio.values():
        _, channels = split_audio.waveforms.samples.shape
        found = (model.config.sampling_rate, model.config.audio_channels)
        if found != (split_audio.waveforms.sample_rate, channels):
            raise SystemExit(
                f"the codec takes {found[0]} Hz and {found[1]} channels, and the training's audio has "
                f"{split_audio.waveforms.sample_rate} Hz and {channels}; give a --model of that training"
            )


def tables(model: EncodecModel, clips: Mapping[str, Sequence[Tensor]]) -> str:
    """Markdown: SI-SNR and mel distance by kind and source, and the use of the codebooks."""
    groups = {f"**{kind}**": [clip for name in names for clip in clips[name]] for kind, names in KINDS.items()}
    groups |= {name: list(recordings) for name, recordings in clips.items()}
    results = {name: evaluate(model, recordings) for name, recordings in groups.items()}
    bandwidths = sorted(model.config.target_bandwidths)
    heads = "".join(f" {kbps:g} kbps: SI-SNR dB | mel |" for kbps in bandwidths)
    lines = [f"| held out | recordings | seconds |{heads}", "| --- | --- | --- |" + " --- | --- |" * len(bandwidths)]
    lines += [_line(name, result, bandwidths) for name, result in results.items()]
    everything = evaluate(model, [clip for recordings in clips.values() for clip in recordings])
    perplexities = everything.codebook_perplexity
    lines += ["", "| codebook |" + "".join(f" {number} |" for number in range(len(perplexities)))]
    lines += ["| --- |" + " --- |" * len(perplexities)]
    lines += ["| perplexity |" + "".join(f" {value:.0f} |" for value in perplexities)]
    num_entries = model.config.codebook_size
    lines += [f"| of {num_entries:,} |" + "".join(f" {100 * value / num_entries:.0f} % |" for value in perplexities)]
    return "\n".join(lines)


def _line(name: str, result: Evaluation, bandwidths: Sequence[float]) -> str:
    cells = "".join(f" {result.si_snr_db[kbps]:.2f} | {result.mel_distance[kbps]:.3f} |" for kbps in bandwidths)
    return f"| {name} | {result.num_recordings} | {result.seconds:.0f} |{cells}"


def draw_spectrograms(model: EncodecModel, clips: Mapping[str, Sequence[Tensor]], path: Path) -> None:
    """One row for each recording: original, and decoded at every bandwidth."""
    import matplotlib.pyplot as plt

    encoder = BatchEncoder(model, max(model.config.target_bandwidths), "cpu")
    bandwidths = sorted(model.config.target_bandwidths, reverse=True)
    figure, axes = plt.subplots(
        len(DRAWN), 1 + len(bandwidths), figsize=(13, 7), sharey=True, squeeze=False, layout="constrained"
    )
    for row, (name, index) in zip(axes, DRAWN.items(), strict=True):
        clip = clips[name][index][:, : 4 * model.config.sampling_rate]
        (codes,) = encoder.encode([clip])
        panels = {f"{name}: original": clip}
        for kbps in bandwidths:
            first = codes.codes[: model.config.n_q_for(kbps)].contiguous()
            panels[f"{kbps:g} kbps"] = encoder.decode([type(codes)(codes=first)])[0][:, : clip.shape[-1]]
        for axis, (title, waveform) in zip(row, panels.items(), strict=True):
            axis.specgram(waveform[0].numpy() + 1e-9, NFFT=512, Fs=model.config.sampling_rate, vmin=-120, vmax=-30)
            axis.set_title(title, fontsize=9)
    for row in axes:
        row[0].set_ylabel("Hz")
    for axis in axes[-1]:
        axis.set_xlabel("s")
    figure.savefig(path, dpi=70)


def draw_curves(output: Path, path: Path) -> None:
    """Losses over updates, and held-out SI-SNR once codebooks are in use: before, it says nothing."""
    import matplotlib.pyplot as plt

    points = _records(output / "curves.jsonl")
    figure, (losses, quality) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for name in ("relative_error", "mel"):
        known = [point for point in points if name in point]
        losses.plot([p["update"] for p in known], [p[name] for p in known], label=name, linewidth=1)
    losses.set(xlabel="update", yscale="log", title="losses on training crops")
    losses.legend()
    first_update = _first_quantized_update(output)
    evaluations = [r for r in _records(output / "evaluations.jsonl") if r["update"] > first_update]
    for source in dict.fromkeys(record["source"] for record in evaluations):
        known = [record for record in evaluations if record["source"] == source]
        best = [r["si_snr_db"][max(r["si_snr_db"], key=float)] for r in known]
        quality.plot([r["update"] for r in known], best, label=source)
    quality.set(xlabel="update", title="held out, highest bandwidth: SI-SNR in dB")
    quality.legend()
    figure.savefig(path, dpi=70)


def _first_quantized_update(output: Path) -> int:
    stages = takewhile(lambda stage: not stage["quantize"], _job(output)["training"]["stages"])
    return sum(stage["num_updates"] for stage in stages)


def _job(output: Path) -> dict[str, Any]:
    job: dict[str, Any] = json.loads((output / "job.json").read_text())
    return job


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_codec", description=__doc__)
    parser.add_argument("output", type=Path, help="folder of the training")
    parser.add_argument("--model", default="demo", help="codec to look at")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw spectrograms.png and curves.png there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = EncodecModel.from_pretrained(arguments.model)
    audio = held_out(arguments.output)
    check_model(model, audio)
    clips = {name: held_out_clips(split_audio) for name, split_audio in audio.items()}
    print(tables(model, clips))
    if arguments.pictures is not None:
        draw_spectrograms(model, clips, arguments.pictures / "spectrograms.png")
        draw_curves(arguments.output, arguments.pictures / "curves.png")


if __name__ == "__main__":
    main()
