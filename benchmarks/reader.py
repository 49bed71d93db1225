"""Reader throughput: `TokenDataset` against what else streams and shuffles, on the same codes, by turns.

    python -m benchmarks.reader [--clips 4000] [--seconds 15] [--turns 5]

Each turn is an epoch of every reader in one process: a crop of 512 frames of 8 codebooks out of every row, opened
before the clock starts. WebDataset and litdata take part where they are installed (`pip install webdataset litdata`).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import add_section, describe_machine
from tests.tokenizer_jobs.token_outputs import write_output
from tokenizer_jobs.training.dataset import TokenDataset

CROP_FRAMES = 512
NUM_CODEBOOKS = 8
BUFFER_ROWS = 8192
ROWS_A_SHARD = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=15.0, help="mean length of a clip")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="add a section to RESULTS.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        output = make_output(Path(folder) / "out", clips=arguments.clips, mean_seconds=arguments.seconds)
        readers = {
            "TokenDataset": _ours(output),
            "datasets, numpy": _datasets(output, "numpy"),
            "datasets, torch": _datasets(output, "torch"),
        } | _others(output, Path(folder))
        rates = measure(readers, turns=arguments.turns)
    section = describe(rates, arguments)
    print(section)
    if arguments.record:
        add_section("\n" + section)


def make_output(folder: Path, *, clips: int, mean_seconds: float) -> Path:
    """An output of clips between a half and one and a half of the mean, none shorter than a crop."""
    generator = np.random.default_rng(0)
    frames = generator.uniform(0.5, 1.5, clips) * mean_seconds * 75
    lengths = np.maximum(CROP_FRAMES, frames).astype(int).tolist()
    write_output(folder, [lengths[start : start + ROWS_A_SHARD] for start in range(0, clips, ROWS_A_SHARD)])
    return folder


def measure(readers: dict[str, Callable[[], Iterator[Any]]], *, turns: int) -> dict[str, list[float]]:
    """Codes a second of CPU time, of each reader in each turn: a whole epoch, the filling of buffers included."""
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(turns):
        for name, make in readers.items():
            own = make()
            start = time.process_time()
            shapes = [tuple(sample.shape) for sample in own]
            elapsed = time.process_time() - start
            assert set(shapes) == {(NUM_CODEBOOKS, CROP_FRAMES)}, set(shapes)
            rates[name].append(len(shapes) * NUM_CODEBOOKS * CROP_FRAMES / elapsed)
    return rates


def describe(rates: dict[str, list[float]], arguments: argparse.Namespace) -> str:
    """The section of RESULTS.md."""
    packages = ["torch", "numpy", "pyarrow", "datasets", *(name for name in ("webdataset", "litdata") if name in rates)]
    lines = [
        f"## Reader, {time.strftime('%Y-%m-%d')}",
        "",
        f"`python -m benchmarks.reader --clips {arguments.clips} --seconds {arguments.seconds:g} --turns "
        f"{arguments.turns}`; {describe_machine(packages=packages)}. Crops of "
        f"{CROP_FRAMES} frames × {NUM_CODEBOOKS} codebooks, shuffled within {BUFFER_ROWS} rows (litdata: within its "
        "chunks), CPU time; medians over the turns, ratios within a turn.",
        "",
        "| Reader | Million codes/s | TokenDataset is faster by |",
        "| --- | --- | --- |",
    ]
    for name, own in rates.items():
        ratios = [ours / other for ours, other in zip(rates["TokenDataset"], own, strict=True)]
        lines.append(
            f"| {name} | {statistics.median(own) / 1e6:.1f} | **{statistics.median(ratios):.1f}** "
            f"({min(ratios):.1f} to {max(ratios):.1f}) |"
        )
    return "\n".join([*lines, ""])


def _ours(output: Path) -> Callable[[], Iterator[Any]]:
    def read() -> Iterator[Any]:
        dataset = TokenDataset(str(output), crop_frames=CROP_FRAMES, buffer_rows=BUFFER_ROWS)
        return (sample["codes"] for sample in dataset)

    return read


def _datasets(output: Path, form: str) -> Callable[[], Iterator[Any]]:
    """What a user writes today: streaming, a shuffle buffer, arrays of a kind, and a crop."""
    from datasets import load_dataset

    def read() -> Iterator[Any]:
        files = str(output / "codes" / "*.parquet")
        rows = load_dataset("parquet", data_files=files, streaming=True, split="train")
        rows = rows.select_columns(["id", "codes"]).shuffle(seed=0, buffer_size=BUFFER_ROWS).with_format(form)
        return _crops(row["codes"] for row in rows)

    return read


def _crops(rows: Iterator[Any]) -> Iterator[Any]:
    generator = np.random.default_rng(0)
    for codes in rows:
        start = int(generator.integers(0, codes.shape[1] - CROP_FRAMES + 1))
        crop = codes[:, start : start + CROP_FRAMES]
        yield crop.clone() if isinstance(crop, torch.Tensor) else torch.from_numpy(crop.copy())


def _webdataset(output: Path, folder: Path) -> Callable[[], Iterator[Any]]:
    webdataset: Any = import_module("webdataset")
    with webdataset.ShardWriter(str(folder / "%06d.tar"), maxcount=ROWS_A_SHARD, verbose=0) as writer:
        for sample in TokenDataset(str(output), shuffle=False):
            writer.write({"__key__": sample["id"], "codes.npy": sample["codes"].numpy()})

    def read() -> Iterator[Any]:
        paths = [str(path) for path in sorted(folder.glob("*.tar"))]
        rows = webdataset.WebDataset(paths, shardshuffle=len(paths), seed=0).shuffle(BUFFER_ROWS).decode()
        return _crops(row["codes.npy"] for row in rows)

    return read


def _litdata(output: Path, folder: Path) -> Callable[[], Iterator[Any]]:
    litdata: Any = import_module("litdata")
    cache = import_module("litdata.streaming.cache").Cache(str(folder), chunk_bytes="64MB")
    for number, sample in enumerate(TokenDataset(str(output), shuffle=False)):
        cache[number] = {"id": sample["id"], "codes": sample["codes"].numpy()}
    cache.done()
    cache.merge(1)

    def read() -> Iterator[Any]:
        return _crops(row["codes"] for row in litdata.StreamingDataset(str(folder), shuffle=True, seed=0))

    return read


def _others(output: Path, folder: Path) -> dict[str, Callable[[], Iterator[Any]]]:
    """The readers of formats that the output is written to here, as far as they are installed."""
    readers = {}
    for name, make in (("webdataset", _webdataset), ("litdata", _litdata)):
        (folder / name).mkdir()
        try:
            readers[name] = make(output, folder / name)
        except ImportError:
            print(f"{name} is not installed and does not take part")
    return readers


if __name__ == "__main__":
    main()
