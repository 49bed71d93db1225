"""Train a small language model of audio on an output of codes, measure it, and let it continue a recording.

    python examples/train_audio_lm.py out/codes --work out/audio_lm
    torchrun --nproc-per-node 2 examples/train_audio_lm.py out/codes --work out/audio_lm    # the same on two GPUs
    python examples/train_audio_lm.py out/codes --work out/audio_lm --continue next.wav --codec facebook/encodec_24khz

A decoder-only transformer reads codes under the delay pattern. Recordings are split by the hash of their codes: one
part to fit, one to choose the checkpoint on, one held out and looked at in the end only. The same split fits what the
model has to beat: for each codebook the counts of neighbouring codes. The same command goes on where it was stopped,
on any number of ranks, with the same sequence of samples. `docs/training.md` has what it reached.

Letters in shapes: B batch, K codebooks, S steps (tokens of a codebook), T frames.
"""

import argparse
import gc
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import soundfile
import torch
import torch.distributed as dist
from audio_lm import PRESETS, AudioLM, Preset, continued  # the file beside this one
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from encodec_core import BatchEncoder, Codes, EncodecModel
from encodec_core.weights import weights_sha256
from tokenizer_jobs.codec_training.count_models import CodesSplit, best_histograms, best_order_ones, split_codes
from tokenizer_jobs.recipe import UNKNOWN_WEIGHTS
from tokenizer_jobs.training import DelayPattern, TokenDataset, TokenTable

Recording = npt.NDArray[np.uint16]
"""Codes, [K, T]."""


def read_split(output: str) -> CodesSplit:
    """The recordings of an output by their ids, slices joined, in three parts."""
    slices: dict[str, list[Recording]] = {}
    rows = TokenTable(output, columns=[])
    for row in (rows[index] for index in range(len(rows))):
        slices.setdefault(row["id"], []).append(row["codes"].numpy())
    return split_codes({name: np.concatenate(parts, axis=1) for name, parts in slices.items()})


def training_data(output: str, split: CodesSplit, *, preset: Preset, seed: int) -> TokenDataset:
    """Crops of the fitted recordings under the delay pattern, without end; of this rank, where there are several."""
    pattern = DelayPattern(pad_id=TokenTable(output).recorded["codebook_size"])
    chosen = pc.field("id").isin(list(split.fitted))
    return TokenDataset(
        output, pattern=pattern, crop_frames=preset.crop_frames, where=chosen, seed=seed, epochs=None, remainder="drop"
    )


def nats(model: nn.Module, tokens: Tensor, *, pattern: DelayPattern) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each codebook's codes in `tokens` [B, K, S], summed, and how many they are: [K] each."""
    step = pattern.supervise(tokens)
    scores = model(step.inputs).float()
    losses = functional.cross_entropy(scores.flatten(0, 2), step.targets.flatten(), reduction="none")
    return (losses.view_as(step.loss_weights) * step.loss_weights).sum((0, 2)), step.loss_weights.sum((0, 2))


@torch.inference_mode()
def bits_per_code(model: AudioLM, recordings: Mapping[str, Recording], *, pattern: DelayPattern) -> list[float]:
    """Cost of whole recordings, for each codebook: every code counts once."""
    model.eval()
    device = model.table.device
    costs = [
        torch.stack(nats(model, pattern.apply(torch.from_numpy(codes).to(device))[None], pattern=pattern)).double()
        for codes in recordings.values()
    ]
    total, count = torch.stack(costs).sum(0).cpu()
    return [float(bits) for bits in total / count / math.log(2)]


class Training:
    """A model, its optimiser and its place in the data, stored in a folder by the first rank.

    Args:
        model: On its device.
        dataset: Of this rank.
        preset: Of the schedule.
        folder: Where checkpoints are.
        world_size: Ranks.
        rank: Of this process.
    """

    def __init__(
        self, model: AudioLM, dataset: TokenDataset, *, preset: Preset, folder: Path, world_size: int, rank: int
    ) -> None:
        self.model, self.dataset, self.preset, self.folder = model, dataset, preset, folder
        self.world_size, self.rank = world_size, rank
        if preset.batch_size % world_size:
            raise SystemExit(
                f"{preset.batch_size} crops of an update cannot be dealt to {world_size} ranks; take fewer"
            )
        self.parallel: nn.Module = DistributedDataParallel(model) if world_size > 1 else model
        matrices = [p for p in model.parameters() if p.dim() > 1 and p is not model.frequencies]
        rest = [p for p in model.parameters() if p.dim() == 1 or p is model.frequencies]
        groups = [{"params": matrices, "weight_decay": preset.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95))
        self.batch_size = preset.batch_size // world_size
        self.update, self.seconds, self.best = 0, 0.0, math.inf

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one: every rank, and there may be more or fewer than there were."""
        path = self.folder / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, weights_only=True, map_location=self.model.table.device)
            if state["preset"] != asdict(self.preset):
                raise SystemExit(f"{self.folder} holds a training of other settings; give those, or another folder")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.dataset.load_state_dict(json.loads(state["dataset"]))
            self.update, self.seconds, self.best = state["update"], state["seconds"], state["best"]

    def store(self) -> None:
        """Write the checkpoint; a crash leaves the one before."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "dataset": json.dumps(self.dataset.state_dict()),
            "preset": asdict(self.preset),
            "update": self.update,
            "seconds": self.seconds,
            "best": self.best,
        }
        torch.save(state, self.folder / "checkpoint.pt.staged")
        (self.folder / "checkpoint.pt.staged").replace(self.folder / "checkpoint.pt")

    def batches(self) -> Iterator[Tensor]:
        """Tokens [B, K, S] from where the dataset is. With workers take torchdata's StatefulDataLoader."""
        loader = DataLoader(self.dataset, batch_size=self.batch_size, collate_fn=self.dataset.collate)
        for batch in loader:
            yield batch["tokens"].to(self.model.table.device)

    def step(self, tokens: Tensor, *, pattern: DelayPattern) -> float:
        """One update; returns bits per code of the batch."""
        warmup = min(200, self.preset.updates // 10)
        progress = max(0.0, (self.update - warmup) / max(1, self.preset.updates - warmup))
        rate = min(1.0, (self.update + 1) / max(1, warmup)) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.preset.learning_rate * rate
        torch.manual_seed(self.update * 1000 + self.rank)  # dropout is that of an update, interrupted or not
        self.parallel.train()
        with torch.autocast(tokens.device.type, torch.bfloat16):
            total, count = nats(self.parallel, tokens, pattern=pattern)
        num_codes = count.sum()
        if self.world_size > 1:
            dist.all_reduce(num_codes)  # and DDP takes the mean over ranks
        loss = total.sum() * self.world_size / num_codes
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.update += 1
        return float(loss.detach()) / math.log(2)

    def run(self, split: CodesSplit, *, pattern: DelayPattern, minutes: float) -> None:
        """Train to the end, or to the first look at the part for choices after so many minutes."""
        # On a CPU the time of the processor, so that what else runs there does not count.
        clock = time.monotonic if self.model.table.is_cuda else time.process_time
        bits, began, deadline = list[float](), clock(), time.monotonic() + 60 * minutes
        batches, is_late = self.batches(), torch.zeros((), device=self.model.table.device)
        while self.update < self.preset.updates and not is_late:
            bits.append(self.step(next(batches), pattern=pattern))
            if self.update % self.preset.evaluate_every and self.update < self.preset.updates:
                continue
            now = clock()
            self.seconds, began = self.seconds + now - began, now
            if self.rank == 0:
                self._look(split, training_bits=float(np.mean(bits)), pattern=pattern)
            bits = []
            is_late.fill_(time.monotonic() > deadline)
            if self.world_size > 1:
                dist.broadcast(is_late, src=0)  # one clock for all

    def _look(self, split: CodesSplit, *, training_bits: float, pattern: DelayPattern) -> None:
        """Keep the model if it is the best so far on the part for choices."""
        choosing = float(np.mean(bits_per_code(self.model, split.choosing, pattern=pattern)))
        if choosing < self.best:
            self.best = choosing
            torch.save(self.model.state_dict(), self.folder / "best.pt")
        point = {"update": self.update, "minutes": self.seconds / 60, "training": training_bits, "choosing": choosing}
        with (self.folder / "curve.jsonl").open("a") as curve:
            curve.write(json.dumps(point) + "\n")
        print(
            f"update {self.update}: {training_bits:.3f} bits a code in training, {choosing:.3f} on choices", flush=True
        )
        self.store()


def order_one_bits(split: CodesSplit, recordings: Mapping[str, Recording], *, codebook_size: int) -> list[float]:
    """What the model has to beat: bits per code of each codebook, of the model that knows the code before."""
    models = best_order_ones(split, histograms=best_histograms(split, codebook_size=codebook_size))
    num_frames = sum(codes.shape[1] for codes in recordings.values())
    return [
        sum(model.bits(codes[number]) for codes in recordings.values()) / num_frames
        for number, model in enumerate(models)
    ]


def write_audio(codes: Tensor, path: Path, *, codec: str, recorded: Mapping[str, Any]) -> None:
    """Decode codes [K, T] to a WAV file with the codec that made them."""
    model = EncodecModel.from_pretrained(codec)
    config = model.config
    kbps = {config.n_q_for(kbps): kbps for kbps in config.target_bandwidths}.get(len(codes))
    ours = (config.codebook_size, config.frame_rate, config.chunk_length)
    if kbps is None or ours != (recorded["codebook_size"], recorded["frame_rate"], None):
        raise SystemExit(
            f"--codec {codec} cannot decode {len(codes)} codebooks of {recorded['codebook_size']} entries at "
            f"{recorded['frame_rate']:g} frames a second without windows; give the codec that made them"
        )
    if recorded["weights_sha256"] == UNKNOWN_WEIGHTS:
        print(f"the output does not say which codec made its codes; {codec} is taken for it")
    elif recorded["weights_sha256"] != weights_sha256(model):
        raise SystemExit(f"--codec {codec} has other weights than {recorded['codec']}, which made the codes; give that")
    decoder = BatchEncoder(model, bandwidth_kbps=kbps, device="cpu")
    (waveform,) = decoder.decode([Codes(codes=codes.cpu().to(torch.uint16))])
    soundfile.write(path, waveform.T.numpy(), config.sampling_rate, subtype="FLOAT")


def plot(folder: Path, found: Mapping[str, Any], *, path: Path) -> None:
    """Draw the curve of training and what it has to beat."""
    from matplotlib.figure import Figure

    points = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    minutes = [point["minutes"] for point in points]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="minutes (of the processor, on a CPU)", ylabel="bits per code")
    axes.plot(minutes, [point["training"] for point in points], color="C0", alpha=0.5, label="training, with dropout")
    axes.plot(minutes, [point["choosing"] for point in points], color="C1", label="part for choices")
    axes.axhline(found["choosing_order_one"], color="C1", linestyle=":", label="order 1 there")
    axes.axhline(found["order_one"], color="black", linestyle=":", label="order 1, held out")
    axes.plot(minutes[-1], found["held_out"], "k*", markersize=11, label="the checkpoint chosen, held out")
    axes.legend(fontsize="small")
    figure.savefig(path)


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="an output of codes: a local path or a URL")
    parser.add_argument("--work", type=Path, required=True, help="folder of the training, made or gone on in")
    parser.add_argument("--preset", choices=PRESETS, default="small", help="tiny: seconds, to see it run")
    parser.add_argument(
        "--updates", type=int, help="length of the training; part of its recipe (default: the preset's)"
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many; the same command goes on")
    parser.add_argument("--threads", type=int, help="of torch, on a CPU (default: torch's choice)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, metavar="SVG", help="draw the curve; needs matplotlib")
    generation = parser.add_argument_group("continuing a held-out recording, by the checkpoint chosen")
    generation.add_argument("--continue", dest="audio", type=Path, metavar="WAV", help="write prompt and continuation")
    generation.add_argument("--codec", help="that decodes them: a hub id, a folder, or demo")
    generation.add_argument("--prompt-id", help="the recording (default: the first one held out)")
    generation.add_argument("--prompt-seconds", type=float, default=3.0)
    generation.add_argument("--seconds", type=float, default=3.0, help="of the continuation")
    generation.add_argument("--temperature", type=float, default=0.9)
    generation.add_argument("--top-k", type=int, default=250)
    arguments = parser.parse_args(argv)
    if arguments.audio is not None and arguments.codec is None:
        parser.error("--continue needs --codec: the codec that made the codes")
    return arguments


def main(argv: list[str] | None = None) -> None:
    """Train, measure, and continue a recording where that is asked for."""
    arguments = parsed(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    preset = PRESETS[arguments.preset]
    preset = replace(preset, updates=arguments.updates or preset.updates)
    device, rank, world_size = join_ranks()
    split = read_split(arguments.output)
    dataset = training_data(arguments.output, split, preset=preset, seed=arguments.seed)
    recorded, pattern = dataset.recorded, DelayPattern(pad_id=dataset.pad_id)
    torch.manual_seed(arguments.seed)
    model = AudioLM(
        preset, num_codebooks=dataset.num_codebooks, vocabulary_size=pattern.vocabulary_size, pad_id=pattern.pad_id
    ).to(device)
    histograms = best_histograms(split, codebook_size=recorded["codebook_size"])
    model.begin_at([histogram.shares for histogram in histograms])
    arguments.work.mkdir(parents=True, exist_ok=True)
    training = Training(model, dataset, preset=preset, folder=arguments.work, world_size=world_size, rank=rank)
    training.resume()
    if rank == 0:
        sizes = {name: len(getattr(split, name)) for name in ("fitted", "choosing", "held_out")}
        print(
            f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters; recordings: {sizes}",
            flush=True,
        )
    training.run(split, pattern=pattern, minutes=arguments.minutes)
    if rank == 0:
        model.load_state_dict(torch.load(arguments.work / "best.pt", weights_only=True, map_location=device))
        if training.update == preset.updates:
            report(model, split, pattern=pattern, recorded=recorded, arguments=arguments, preset=preset)
        if arguments.audio is not None:
            continue_recording(model, split, pattern=pattern, recorded=recorded, arguments=arguments)
    if world_size > 1:
        # First what holds the group: where that lived on while the interpreter ended, one run in forty of two ranks
        # aborted (gloo, 2 cores of an AMD EPYC, torch 2.13), and none of 23 since, which is no proof.
        del training
        gc.collect()
        dist.destroy_process_group()


def join_ranks() -> tuple[torch.device, int, int]:
    """Device, rank and number of ranks; under torchrun the ranks meet here."""
    has_gpu = torch.cuda.is_available()
    local_rank, world_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cuda", local_rank) if has_gpu else torch.device("cpu")
    if world_size == 1:
        return device, 0, 1
    if has_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if has_gpu else "gloo")
    return device, dist.get_rank(), world_size


def report(
    model: AudioLM,
    split: CodesSplit,
    *,
    pattern: DelayPattern,
    recorded: Mapping[str, Any],
    arguments: argparse.Namespace,
    preset: Preset,
) -> None:
    """Look at the held-out recordings, once; print, and write WORK/results.json."""
    order_one = order_one_bits(split, split.held_out, codebook_size=recorded["codebook_size"])
    held_out = bits_per_code(model, split.held_out, pattern=pattern)
    codes_per_second = recorded["frame_rate"] * len(held_out)
    found: dict[str, Any] = {
        "held_out": float(np.mean(held_out)),
        "order_one": float(np.mean(order_one)),
        "held_out_of_codebooks": held_out,
        "order_one_of_codebooks": order_one,
        "choosing_order_one": float(
            np.mean(order_one_bits(split, split.choosing, codebook_size=recorded["codebook_size"]))
        ),
        "repeated_share": split.repeated_share(),
        "preset": asdict(preset),
    }
    for name, bits in (("order 1, interpolated", order_one), ("this model", held_out)):
        kbps = float(np.mean(bits)) * codes_per_second / 1000
        print(f"{name}: {np.mean(bits):.3f} bits a code, {kbps:.3f} kbps;", " ".join(f"{b:.2f}" for b in bits))
    saved = 1 - found["held_out"] / found["order_one"]
    print(
        f"{abs(saved):.1%} {'fewer' if saved > 0 else 'more'} bits than order 1 on the held-out recordings, "
        f"{found['repeated_share']:.0%} of whose frames stand in fitted ones too"
    )
    (arguments.work / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    if arguments.plot is not None:
        plot(arguments.work, found, path=arguments.plot)


def continue_recording(
    model: AudioLM,
    split: CodesSplit,
    *,
    pattern: DelayPattern,
    recorded: Mapping[str, Any],
    arguments: argparse.Namespace,
) -> None:
    """Let the model continue the beginning of a held-out recording, and decode both."""
    name = arguments.prompt_id or next(iter(split.held_out))
    if name not in split.held_out:
        raise SystemExit(f"--prompt-id {name} is not held out; choose one of {', '.join(split.held_out)}")
    prompt = split.held_out[name][:, : round(arguments.prompt_seconds * recorded["frame_rate"])]
    codes = continued(
        model,
        prompt,
        pattern=pattern,
        num_frames=round(arguments.seconds * recorded["frame_rate"]),
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        seed=arguments.seed,
    )
    write_audio(codes, arguments.audio, codec=arguments.codec, recorded=recorded)
    print(f"{arguments.audio}: {prompt.shape[1]} frames of {name} and {codes.shape[1] - prompt.shape[1]} new ones")


if __name__ == "__main__":
    main()
