"""`datasets.map` over real recordings of several containers, rates and channels: the service's codes, and its cache."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import multiprocess
import pytest
import torch
from datasets import Audio, Dataset

from tests.tokenizer_jobs.test_datasets_map import codes_of_a_job, same
from tokenizer_jobs.integrations import loading
from tokenizer_jobs.integrations.datasets_map import TokenizeAudio

RECORDINGS = Path(__file__).parents[3] / "shared" / "audio"
NAMES = (
    "fsdd_8k/0_george_0.wav",  # 8 kHz
    "fsdd_8k/0_jackson_1.wav",
    "klettres_multi/cs__alpha__a-0.ogg",
    "klettres_multi/de__alpha__a.ogg",  # stereo, 44.1 kHz
    "klettres_multi/pt_BR__alpha__d.ogg",
    "speech/alsa_Front_Center.wav",  # 48 kHz
    "speech/common_voice_en_651325.mp3",
    "speech/jfk.flac",  # stereo of 24 bits
)
FILES = tuple(Path(name).name for name in NAMES)

pytestmark = [
    pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"the recordings in {RECORDINGS} are not there"),
    pytest.mark.usefixtures("offline_datasets"),
]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with the recordings inside, as `save_to_disk` leaves it."""
    folder = tmp_path_factory.mktemp("recordings")
    cells = [{"bytes": (RECORDINGS / name).read_bytes(), "path": name} for name in NAMES]
    made = Dataset.from_dict({"audio": cells, "name": list(FILES)}).cast_column("audio", Audio())
    made.save_to_disk(folder / "dataset")
    return folder / "dataset"


@pytest.fixture(scope="module", params=["demo", "windows_stereo"])
def model(request: pytest.FixtureRequest) -> str:
    """A mono codec, and one of two channels."""
    name: str = request.param
    return name if name == "demo" else str(request.getfixturevalue("codec_models") / name)


@pytest.fixture(scope="module")
def rows(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Rows of a job over the files, by name."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "audio").mkdir()
    for name in NAMES:
        shutil.copy(RECORDINGS / name, folder / "audio")
    return codes_of_a_job(folder / "audio", folder / "out", model)


def test_recordings_have_the_codes_of_a_job_and_come_from_the_cache(
    stored: Path, model: str, rows: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {row["source_channels"] for row in rows.values()} == {1, 2}
    first = Dataset.load_from_disk(stored).map(TokenizeAudio(model), batched=True, batch_size=3)
    found = list(first.remove_columns("audio"))
    same(found, rows, FILES)
    assert [row["source_format"] for row in found] == [rows[name]["source_format"] for name in FILES]
    assert len({row["source_format"] for row in found}) == 4

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the codec was asked again")

    monkeypatch.setattr(loading, "_loaded", refuse)
    second = Dataset.load_from_disk(stored).map(TokenizeAudio(model), batched=True, batch_size=3)
    assert second._fingerprint == first._fingerprint
    assert second.cache_files == first.cache_files
    assert second["codes"][:] == first["codes"][:]


def told(batch: Any, rank: int, *, tokenize: TokenizeAudio) -> dict[str, Any]:
    """Codes, and the process that they were made in."""
    columns: dict[str, Any] = tokenize(batch, rank)
    num_rows = len(columns["codes"])
    process = {"rank": rank, "num_threads": torch.get_num_threads(), "device": tokenize._device}
    return columns | {name: [value] * num_rows for name, value in process.items()}


@pytest.fixture
def spawned_workers() -> Iterator[None]:
    """The processes of `num_proc` begin anew instead of being forked."""
    multiprocess.set_start_method("spawn", force=True)
    yield
    multiprocess.set_start_method(None, force=True)


@pytest.mark.usefixtures("spawned_workers")
@pytest.mark.parametrize("model", ["demo"], indirect=True)
def test_two_spawned_processes_give_the_codes_of_a_job(stored: Path, rows: dict[str, Any]) -> None:
    options = {"batched": True, "batch_size": 2, "with_rank": True, "num_proc": 2}
    arguments = {"tokenize": TokenizeAudio("demo", device="cpu")}
    mapped = Dataset.load_from_disk(stored).map(told, fn_kwargs=arguments, **options)
    same(list(mapped.remove_columns("audio")), rows, FILES)
    assert set(mapped["rank"]) == {0, 1}
    assert set(mapped["num_threads"]) == {1}
    assert set(mapped["device"]) == {"cpu"}
    again = Dataset.load_from_disk(stored).map(told, fn_kwargs=arguments, **options)
    assert again.cache_files == mapped.cache_files
    assert len(again.cache_files) == 2
