"""The benchmark of GPUs where there is none: what fails or comes too late costs its row alone, and is told."""

import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_rows
from benchmarks.gpu_commands import output_of
from benchmarks.gpu_job import clone_songs
from encodec_core import EncodecConfig, EncodecModel
from tests.fitted_models import make_fitted_model

precisions = gpu._precisions


@cache
def small_model(preset: str) -> EncodecModel:
    config: EncodecConfig = getattr(EncodecConfig, preset)(num_filters=4, hidden_size=16)
    return make_fitted_model(config, seed=0).requires_grad_(False)


def run_of(folder: Path, *, seconds: float) -> gpu.Run:
    return gpu.Run(
        device="cpu",
        repeats=1,
        quick=True,
        audio=folder,
        num_songs=1,
        results=folder / "RESULTS.md",
        deadline=time.monotonic() + seconds,
        num_clips=1,
    )


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[Any, dict[str, Any]] = {
        gpu: {
            "_model": small_model,
            "_precisions": lambda run: ("fp32",),
            "KBPS_OF_N_Q": {"encodec_24khz": {2: 1.5}},
        },
        gpu_rows: {"NUM_SOURCES": 1, "SOURCE_SECONDS": 10},
    }
    for module, values in settings.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


def test_a_part_that_fails_takes_no_other_along(tmp_path: Path) -> None:
    run = run_of(tmp_path, seconds=600)
    assert not gpu.measure(["tests", "precision"], run, command="the command")
    text = run.results.read_text()
    assert "| tests | **FAILED**: AssertionError: there is nothing to check |" in text
    assert "| encodec_24khz | 2 | fp32 |" in text
    assert gpu.measure(["precision"], run, command="the command"), "and what is whole is said to be"


def test_an_old_gpu_is_measured_in_the_precision_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(run_of(tmp_path, seconds=600), device="cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    for capability, expected in (((7, 5), ("fp32",)), ((9, 0), ("fp32", "tf32", "bf16"))):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        assert precisions(run) == expected


def test_rows_for_which_there_is_no_time_are_named(tmp_path: Path) -> None:
    run = run_of(tmp_path, seconds=-1)
    assert not gpu.measure(["precision", "stages"], run, command="the command")
    assert run.results.read_text().count("not begun: the time was up") == 2


def test_a_contender_that_fails_leaves_the_others() -> None:
    def fail() -> None:
        raise RuntimeError("no | kernel\nfor this device")

    good = gpu_rows.Contender(name="good", audio_seconds=1.0, run=lambda: None)
    bad = gpu_rows.Contender(name="bad", audio_seconds=1.0, run=fail)
    assert gpu_rows.able([bad, good]) == ([good], {"bad": "RuntimeError: no / kernel for this device"})


def test_a_command_that_takes_too_long_is_ended_with_what_it_started() -> None:
    """Like Ray's workers, the child has a process group of its own."""
    script = (
        "import os, subprocess, time; "
        "child = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL, process_group=0); "
        "print(child.pid, flush=True); time.sleep(60)"
    )
    code, lines = output_of([sys.executable, "-c", script], seconds=2)
    assert code is None
    state = subprocess.run(["ps", "-o", "stat=", "-p", lines[0]], stdout=subprocess.PIPE, text=True).stdout
    assert state.strip()[:1] in ("", "Z"), "it is gone, or would be if somebody asked for its exit code"


def test_songs_are_linked_until_there_are_enough(tmp_path: Path) -> None:
    songs = tmp_path / "songs"
    songs.mkdir()
    for name in ("a.flac", "b.flac"):
        (songs / name).write_text(name)
    many = clone_songs(songs, tmp_path / "many", count=5)
    assert [path.read_text()[0] for path in sorted(many.iterdir())] == ["a", "b", "a", "b", "a"]
