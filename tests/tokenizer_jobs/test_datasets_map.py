"""`TokenizeAudio` inside `datasets.map`: the service's codes, whatever shape the audio column has."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import multiprocess
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from datasets import Audio, Dataset, Features, List, Value
from datasets.fingerprint import Hasher

from tests.tokenizer_jobs.clips import encode, speechlike
from tests.tokenizer_jobs.conftest import PYTHON_PATH, REPOSITORY
from tokenizer_jobs import JobConfig, run
from tokenizer_jobs.decode import rows
from tokenizer_jobs.errors import ConfigError, ItemError
from tokenizer_jobs.integrations import loading
from tokenizer_jobs.integrations.datasets_map import TokenizeAudio

FILES = {
    "a.wav": encode(speechlike(4800), container="WAV", coding="PCM_16"),
    "b.flac": encode(speechlike(44982, channels=2, rate=44100), container="FLAC", coding="PCM_24", rate=44100),
    "c.ogg": encode(speechlike(8000, channels=2), container="OGG", coding="VORBIS"),
    "d.wav": encode(speechlike(96, rate=24000), container="WAV", coding="FLOAT", rate=24000),
}
NAMES = tuple(FILES)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def codes_of_a_job(folder: Path, output: Path, model: str, **audio: Any) -> dict[str, dict[str, Any]]:
    """Rows of the service by the file's name."""
    config = {
        "output": str(output),
        "recipe": {"codec": {"model": model}, "audio": audio},
        "selection": {"source": {"kind": "files", "paths": [str(folder)]}},
        "runtime": {"executor": "inline", "device": "cpu", "encoders": 1},
    }
    run(JobConfig.model_validate(config))
    stored = [row for path in sorted((output / "codes").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {Path(row["source_uri"]).name: row for row in stored}


@pytest.fixture(scope="module")
def mono_rows(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return codes_of_a_job(folder, tmp_path_factory.mktemp("mono") / "out", "demo")


@pytest.fixture(scope="module")
def stereo_rows(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, codec_models: Path
) -> dict[str, dict[str, Any]]:
    return codes_of_a_job(folder, tmp_path_factory.mktemp("stereo") / "out", str(codec_models / "windows_stereo"))


def samples(name: str) -> tuple[npt.NDArray[np.float32], int]:
    """Samples [C, n] of a file, [n] of a mono one, and its rate."""
    waveform, rate = soundfile.read(io.BytesIO(FILES[name]), dtype="float32")
    return waveform.T, rate


def arrays() -> list[dict[str, Any]]:
    return [{"array": samples(name)[0], "sampling_rate": samples(name)[1]} for name in NAMES]


@dataclass
class DecodedSamples:
    """The face of torchcodec's `AudioSamples`."""

    data: Any
    sample_rate: int


class StandInDecoder:
    """The face of torchcodec's `AudioDecoder`, which is not installed, and of the mean that `datasets` gives of it."""

    def __init__(self, name: str, *, mixes: bool = False) -> None:
        self._name = name
        self._mixes = mixes
        self.metadata = SimpleNamespace(num_channels=np.atleast_2d(samples(name)[0]).shape[0])

    def get_all_samples(self) -> DecodedSamples:
        waveform, rate = samples(self._name)
        channels = np.atleast_2d(waveform)
        channels = channels.mean(axis=0, keepdims=True) if self._mixes else channels.copy()
        return DecodedSamples(data=torch.from_numpy(channels), sample_rate=rate)

    def __getitem__(self, key: str) -> Any:
        raise AssertionError(f"decoder[{key!r}] is the mean over the channels")


def same(found: Any, expected: dict[str, dict[str, Any]], names: tuple[str, ...] = NAMES) -> None:
    """All columns that both have are equal, but what a container is called."""
    assert len(found) == len(names)
    for row, name in zip(found, names, strict=True):
        ours = {key: value for key, value in row.items() if key in expected[name] and key != "source_format"}
        assert {"codes", "codes_sha256", "num_samples", "rms_db", "silent_fraction", "source_channels"} <= set(ours)
        assert ours == {key: expected[name][key] for key in ours}


def stored_columns(folder: Path) -> dict[str, Dataset]:
    paths = [str(folder / name) for name in NAMES]
    structs = [{"bytes": FILES[name], "path": name} for name in NAMES]
    return {
        "paths": Dataset.from_dict({"audio": paths}),
        "bytes": Dataset.from_dict({"audio": list(FILES.values())}),
        "structs": Dataset.from_dict({"clip": structs, "text": list(NAMES)}),
        "undecoded": Dataset.from_dict({"audio": paths}).cast_column("audio", Audio(decode=False)),
        # Reading a row of this one needs torchcodec; nothing here does.
        "to be decoded": Dataset.from_dict({"audio": structs}).cast_column("audio", Audio()),
    }


@pytest.mark.parametrize("kind", ["paths", "bytes", "structs", "undecoded", "to be decoded"])
def test_stored_audio_has_the_codes_of_a_job(kind: str, folder: Path, mono_rows: dict[str, Any]) -> None:
    dataset = stored_columns(folder)[kind]
    mapped = dataset.map(TokenizeAudio("demo"), batched=True, batch_size=3)
    assert set(dataset.column_names) <= set(mapped.column_names)
    found = list(mapped.remove_columns(dataset.column_names))
    same(found, mono_rows)
    assert [row["source_format"] for row in found] == [mono_rows[name]["source_format"] for name in NAMES]


def test_arrays_have_the_codes_of_their_files(mono_rows: dict[str, Any]) -> None:
    tokenize = TokenizeAudio("demo", audio_column="sound")
    same(as_rows(tokenize({"sound": arrays()})), mono_rows)
    (mono,) = as_rows(tokenize({"sound": [{"array": samples("a.wav")[0].tolist(), "sampling_rate": 16000}]}))
    same([mono], mono_rows, ("a.wav",))


def test_numbers_of_a_dataset_keep_their_type(mono_rows: dict[str, Any]) -> None:
    pcm16, _ = soundfile.read(io.BytesIO(FILES["a.wav"]), dtype="int16")
    features = Features({"audio": {"array": List(Value("int16")), "sampling_rate": Value("int32")}})
    dataset = Dataset.from_dict({"audio": [{"array": pcm16, "sampling_rate": 16000}]}, features=features)
    same(list(dataset.map(TokenizeAudio("demo"), batched=True)), mono_rows, ("a.wav",))
    with pytest.raises(ConfigError, match="full scale"):
        TokenizeAudio("demo")({"audio": [{"array": pcm16.tolist(), "sampling_rate": 16000}]})
    pcm32, _ = soundfile.read(io.BytesIO(FILES["a.wav"]), dtype="int32")
    same(as_rows(TokenizeAudio("demo")({"audio": [{"array": pcm32, "sampling_rate": 16000}]})), mono_rows, ("a.wav",))


def as_rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows as Arrow stores them, of what the function returns."""
    return list(Dataset.from_dict(columns))


def test_stereo_is_kept_in_every_shape(
    folder: Path, stereo_rows: dict[str, Any], codec_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize = TokenizeAudio(str(codec_models / "windows_stereo"))
    assert stereo_rows["b.flac"]["source_channels"] == 2
    for columns in (
        tokenize({"audio": arrays()}),
        tokenize({"audio": [StandInDecoder(name) for name in NAMES]}),
        tokenize({"audio": [str(folder / name) for name in NAMES]}),
    ):
        same(as_rows(columns), stereo_rows)
    nested = List(List(Value("float32")))
    features = Features({"audio": {"array": nested, "sampling_rate": Value("int32")}})
    cells = [{"array": np.atleast_2d(cell["array"]), "sampling_rate": cell["sampling_rate"]} for cell in arrays()]
    mapped = Dataset.from_dict({"audio": cells}, features=features).map(tokenize, batched=True, batch_size=2)
    same(list(mapped), stereo_rows)
    assert {"scales", "window_frames"} <= set(mapped.column_names)
    assert tokenize.features.items() <= mapped.features.items()
    mixed = TokenizeAudio(str(codec_models / "windows_stereo"), channels="mono")
    assert as_rows(mixed({"audio": arrays()}))[1]["codes"] != stereo_rows["b.flac"]["codes"]


def test_a_decoder_that_mixed_stereo_is_refused(codec_models: Path, mono_rows: dict[str, Any]) -> None:
    decoder = StandInDecoder("b.flac", mixes=True)
    with pytest.raises(ConfigError, match="1 channels of a recording that has 2"):
        TokenizeAudio(str(codec_models / "windows_stereo"))({"audio": [decoder]})
    (row,) = as_rows(TokenizeAudio("demo")({"audio": [decoder]}))
    assert row["codes"] == mono_rows["b.flac"]["codes"]


def test_long_audio_comes_in_stretches_with_the_same_codes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenize = TokenizeAudio("demo")
    cells = [arrays()[1], str(folder / "b.flac"), arrays()[0]]
    whole = tokenize({"audio": cells})
    monkeypatch.setattr(rows, "LONG_WAVEFORM_BYTES", 4 * 5000)
    assert as_rows(tokenize({"audio": cells})) == as_rows(whole)


def test_a_batch_may_be_empty() -> None:
    added = TokenizeAudio("demo", on_error="null")({"audio": []})
    assert {len(column) for column in added.values()} == {0}


def test_streaming_gives_the_codes_of_a_job(folder: Path, mono_rows: dict[str, Any]) -> None:
    dataset = stored_columns(folder)["undecoded"]
    tokenize = TokenizeAudio("demo")
    features = Features({**dataset.features, **tokenize.features})
    stream = dataset.to_iterable_dataset().map(tokenize, batched=True, batch_size=3, features=features)
    examples = list(stream)
    assert examples[0]["codes"].dtype == np.uint16
    same(list(Dataset.from_list(examples)), mono_rows)
    assert stream.features == features
    tables = dataset.to_iterable_dataset().with_format("arrow").map(tokenize, batched=True, batch_size=3)
    same([row for table in tables for row in table.to_pylist()], mono_rows)


def test_the_audio_column_alone_is_a_batch(folder: Path, mono_rows: dict[str, Any]) -> None:
    dataset = Dataset.from_dict({"file": [str(folder / name) for name in NAMES]})
    same(list(dataset.map(TokenizeAudio("demo"), batched=True, input_columns="file")), mono_rows)


def test_types_are_those_declared_without_saying_so(folder: Path) -> None:
    tokenize = TokenizeAudio("demo", on_error="null")
    mapped = stored_columns(folder)["paths"].map(tokenize, batched=True)
    declared = tokenize.features
    assert declared["codes"] == List(List(Value("uint16")))
    assert {name: mapped.features[name] for name in declared} == declared
    table = tokenize(pa.table({"audio": [str(folder / "a.wav")]}))
    assert table.schema.field("codes").type == pa.list_(pa.list_(pa.uint16()))


def test_a_second_map_comes_from_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored_columns(folder)["undecoded"].save_to_disk(tmp_path / "dataset")
    first = Dataset.load_from_disk(tmp_path / "dataset").map(TokenizeAudio("demo"), batched=True, batch_size=2)
    assert first.cache_files

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the codec was asked again")

    monkeypatch.setattr(loading, "_loaded", refuse)
    again = Dataset.load_from_disk(tmp_path / "dataset")
    second = again.map(TokenizeAudio("demo", device="cpu"), batched=True, batch_size=2)
    assert second.cache_files == first.cache_files
    assert second["codes"][:] == first["codes"][:]
    with pytest.raises(AssertionError, match="asked again"):
        again.map(TokenizeAudio("demo", bandwidth_kbps=3.0), batched=True, batch_size=2)


def test_the_hash_is_that_of_what_decides_the_codes(folder: Path) -> None:
    tokenize = TokenizeAudio("demo")
    fresh = Hasher.hash(tokenize)
    tokenize({"audio": [str(folder / "a.wav")]})
    assert fresh == Hasher.hash(tokenize) == Hasher.hash(TokenizeAudio("demo", device="cpu"))
    others = [
        TokenizeAudio("demo", bandwidth_kbps=3.0),
        TokenizeAudio("demo", precision="bf16"),
        TokenizeAudio("demo", resampler="reference"),
        TokenizeAudio("demo", channels="first"),
        TokenizeAudio("demo", on_error="null"),
        TokenizeAudio("demo", audio_column="audio"),
    ]
    assert len({fresh, *map(Hasher.hash, others)}) == 1 + len(others)


SCRIPT = """
import sys
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from tokenizer_jobs.integrations.datasets_map import TokenizeAudio

def with_threads(batch, rank):
    columns = tokenize(batch, rank)
    num_rows = len(columns["codes"])
    return columns | {"num_threads": [torch.get_num_threads()] * num_rows, "rank": [rank] * num_rows}

if __name__ == "__main__":
    torch.set_num_threads(2)
    tokenize = TokenizeAudio("demo", device="cpu")
    dataset = Dataset.from_dict({"audio": sys.argv[1:]})
    alone = dataset.map(tokenize, batched=True)
    both = dataset.map(with_threads, batched=True, with_rank=True, num_proc=2, batch_size=2)
    assert alone["codes"][:] == both["codes"][:], "codes depend on the number of processes"
    assert set(both["num_threads"]) == {1}, both["num_threads"]
    assert set(both["rank"]) == {0, 1}, both["rank"]
    print(Hasher.hash(tokenize), *alone["codes_sha256"])
"""


def run_script(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": PYTHON_PATH}
    return subprocess.run(
        [sys.executable, *words],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_two_forked_processes_give_the_codes_of_a_job(folder: Path, tmp_path: Path, mono_rows: dict[str, Any]) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = run_script(script, *(folder / name for name in NAMES))
    assert done.returncode == 0, done.stderr
    fingerprint, *hashes = done.stdout.split()
    assert fingerprint == Hasher.hash(TokenizeAudio("demo"))
    assert hashes == [mono_rows[name]["codes_sha256"] for name in NAMES]


def where(tokenize: TokenizeAudio, path: str) -> tuple[str, list[str]]:
    return tokenize._device, tokenize({"audio": [path]}, 3)["codes_sha256"]


def test_a_spawned_process_has_the_same_codec_and_device(folder: Path, mono_rows: dict[str, Any]) -> None:
    with multiprocess.get_context("spawn").Pool(1) as pool:
        found = pool.apply(where, (TokenizeAudio("demo", device="cpu"), str(folder / "a.wav")))
    assert found == ("cpu", [mono_rows["a.wav"]["codes_sha256"]])


def test_ranks_take_turns_at_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    taken = [loading.device_of_rank(rank, device="auto") for rank in range(5)]
    assert [getattr(device, "idx", None) for device in taken] == [0, 1, 2, 0, 1]
    assert not hasattr(loading.device_of_rank(None, device="auto"), "idx")
    assert not hasattr(loading.device_of_rank(1, device="cpu"), "idx")


def test_a_rank_beyond_the_gpus_begins_again_with_the_first(gpu: Any, folder: Path) -> None:
    tokenize = TokenizeAudio("demo", device="cuda")
    batch = {"audio": [str(folder / name) for name in NAMES]}
    with multiprocess.get_context("spawn").Pool(1) as pool:
        elsewhere = pool.apply(tokenize, (batch, gpu.index + 7))
    here = tokenize(batch)
    assert elsewhere["codes_sha256"] == here["codes_sha256"]


def test_a_broken_row_is_named_or_kept_without_codes(folder: Path, tmp_path: Path, mono_rows: dict[str, Any]) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(FILES["a.wav"][:-1000])
    loud = {"array": [0.0, 9.0], "sampling_rate": 24000}
    with pytest.raises(ItemError, match=r"row 1 of a batch of 2, .*broken\.wav, is truncated.*on_error='null'"):
        TokenizeAudio("demo")({"audio": [str(folder / "a.wav"), str(broken)]})
    with pytest.raises(ItemError, match="row 0 of a batch of 1 is absurd_peak"):
        TokenizeAudio("demo")({"audio": [loud]})
    keep = TokenizeAudio("demo", on_error="null")
    same([as_rows(keep({"audio": [loud, {"bytes": FILES["a.wav"], "path": None}]}))[1]], mono_rows, ("a.wav",))

    paths = [str(broken), str(folder / "a.wav"), None, str(tmp_path / "gone.wav")]
    dataset = Dataset.from_dict({"audio": paths, "text": list("wxyz")})
    features = Features({**dataset.features, **keep.features})
    # A batch size of 1 begins with a batch without any codes.
    for mapped in (dataset.map(keep, batched=True, batch_size=1, features=features), dataset.map(keep, batched=True)):
        assert mapped.features == features
        assert mapped["reject_reason"][:] == ["truncated", "", "empty", "vanished"]
        assert mapped["text"][:] == list("wxyz")
        assert [codes is None for codes in mapped["codes"]] == [True, False, True, True]
        assert mapped["num_frames"][:] == [None, mono_rows["a.wav"]["num_frames"], None, None]
        same([mapped[1]], mono_rows, ("a.wav",))
