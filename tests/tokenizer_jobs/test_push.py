"""Exports on a hub: the client's own requests to a server on this machine, and what is there afterwards.

The commands run in processes of their own, since the hub's address is read when its client is imported.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
from huggingface_hub import DatasetCard

from tests.tokenizer_jobs.conftest import REPOSITORY
from tests.tokenizer_jobs.exchange import codes_by_id, make_output
from tests.tokenizer_jobs.factories import FACTS, RECIPE
from tests.tokenizer_jobs.loopback_hub import TOKEN, LoopbackHub, serve_hub
from tokenizer_jobs.storage import Storage

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    with serve_hub(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_output(Storage.open(tmp_path_factory.mktemp("pushed") / "out"))


def push(hub: LoopbackHub, output: str, tmp_path: Path, *, repository: str = "me/codes", token: str = TOKEN) -> Done:
    """Export an output to `tmp_path / "export"` and push it."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": token,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",  # what stores large files for the real hub is a service of its own
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    words = ["export", output, "--to", "huggingface", str(tmp_path / "export"), "--push", repository]
    command = [sys.executable, "-m", "tokenizer_jobs", *words]
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("offline_datasets")
def test_what_is_pushed_loads_with_its_card(hub: LoopbackHub, output: str, tmp_path: Path) -> None:
    done = push(hub, output, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "me/codes" in done.stdout
    assert hub.commits == ["Export of codes", "Card of the export"]

    folder = hub.folder_of("me/codes")
    loaded = datasets.load_dataset(str(folder), split="train").with_format("numpy", dtype=np.uint16)
    assert loaded.features["codes"] == datasets.List(datasets.List(datasets.Value("uint16")))
    found = dict(zip(loaded["id"], loaded["codes"], strict=True))
    expected = codes_by_id(output)
    assert list(found) == list(expected)
    assert all(np.array_equal(found[row_id], codes) for row_id, codes in expected.items())

    card = DatasetCard.load(folder / "README.md")
    assert FACTS.weights_sha256 in card.text
    assert RECIPE.recipe_id in card.text
    assert (card.data.pretty_name, card.data.size_categories) == ("Audio codes", ["n<1K"])
    assert card.data.tags == ["audio", "audio-codes", "encodec"]
    assert card.data["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]


def test_a_second_push_replaces_the_rows_and_keeps_what_the_owner_wrote(
    hub: LoopbackHub, output: str, tmp_path: Path
) -> None:
    owned = hub.folder_of("me/codes")
    (owned / "data").mkdir(parents=True)
    (owned / "README.md").write_text(
        "---\nlicense: cc-by-4.0\npretty_name: Songs\nsize_categories:\n- 1K<n<10K\n---\nold"
    )
    stale = owned / "data" / "train-00000-of-00002.parquet"
    stale.write_bytes(b"of the export before")
    done = push(hub, output, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not stale.exists()
    card = DatasetCard.load(owned / "README.md")
    assert (card.data.license, card.data.pretty_name, card.data.size_categories) == ("cc-by-4.0", "Songs", ["n<1K"])
    assert RECIPE.recipe_id in card.text


def test_a_token_that_the_hub_does_not_know_is_refused_before_anything_is_written(
    hub: LoopbackHub, output: str, tmp_path: Path
) -> None:
    done = push(hub, output, tmp_path, token="hf_wrong")
    assert done.returncode == 1
    assert "--push was refused: Invalid user token. The token from HF_TOKEN" in done.stderr
    assert "pushed to" not in done.stdout
    assert (hub.datasets, hub.commits) == ([], [])
    assert not (tmp_path / "export").exists()


def test_a_name_that_the_token_may_not_write_leaves_a_complete_export(
    hub: LoopbackHub, output: str, tmp_path: Path
) -> None:
    done = push(hub, output, tmp_path, repository="others/codes")
    assert done.returncode == 1
    assert "--push 'others/codes' was refused" in done.stderr
    assert "don't have the rights" in done.stderr
    assert "pushed to" not in done.stdout
    assert (hub.datasets, hub.commits) == ([], [])
    assert len(datasets.load_from_disk(tmp_path / "export")) == len(codes_by_id(output))


def test_uploads_that_fail_are_told_apart_and_the_same_command_mends_them(
    hub: LoopbackHub, output: str, tmp_path: Path
) -> None:
    for word, status, says in (("/lfs/", 403, "was refused"), ("/commit/", 503, "or fails")):
        hub.failing = {word: status}
        done = push(hub, output, tmp_path)
        assert done.returncode == 1
        assert says in done.stderr
        assert f"{tmp_path / 'export'}' is complete" in done.stderr
        assert hub.commits == []
    hub.failing = {}
    again = push(hub, output, tmp_path)
    assert again.returncode == 0, again.stderr
    assert len(hub.commits) == 2
