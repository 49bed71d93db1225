"""The doctor: what is broken is named with the command that mends it, and only what the default job needs is fatal."""

import json
import resource
import socket
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tokenizer_jobs import doctor
from tokenizer_jobs.cli import main
from tokenizer_jobs.doctor import Finding, formats, software, system
from tokenizer_jobs.doctor.clusters import check_ray
from tokenizer_jobs.doctor.codecs import check_model_cache
from tokenizer_jobs.doctor.formats import check_audio, check_formats
from tokenizer_jobs.doctor.software import check_kernels, check_torch, check_torchaudio
from tokenizer_jobs.doctor.system import check_clock, check_open_files, check_space


@pytest.fixture(autouse=True)
def _a_home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if "ray_cluster" in request.fixturenames:
        return  # whose token is in the environment
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


def _by_subject(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def _write_token(home: Path) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("secret")


class TestThisMachine:
    def test_the_default_job_can_run_here(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["doctor"]) == 0
        out = capsys.readouterr().out
        assert "the default job can run here" in out
        for subject in (
            "Python",
            "torch",
            "soundfile",
            "soxr",
            "PyAV",
            "CPU kernels",
            "ray",
            "demo codec",
            "disk",
            "model cache",
        ):
            assert f"\n{subject} " in f"\n{out}"

    def test_everything_that_is_missing_has_a_remedy(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["doctor", "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["problems"] == []
        assert [f["subject"] for f in content["findings"] if f["state"] == "missing" and f["remedy"] is None] == []


class TestMissing:
    def test_a_needed_module_is_fatal(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "soxr", None)
        assert main(["doctor"]) == 1
        out = capsys.readouterr().out
        assert "-> pip install soxr" in out
        assert "before this is mended: soxr" in out

    def test_an_extra_is_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "av", None)
        finding = _by_subject(list(check_audio()))["PyAV"]
        assert (finding.state, finding.remedy, finding.is_fatal) == ("note", "pip install av", False)

    @pytest.mark.parametrize(
        ("reason", "remedy"),
        [
            ("they were not built: install a C compiler", "install a C compiler"),
            ("this CPU has no AVX-512", None),
        ],
    )
    def test_kernels_are_not_either(self, monkeypatch: pytest.MonkeyPatch, reason: str, remedy: str | None) -> None:
        monkeypatch.setattr("encodec_core.fast.native.why_absent", lambda: reason)
        (finding,) = check_kernels()
        assert (finding.state, finding.remedy, finding.is_fatal) == ("note", remedy, False)
        assert reason.partition(":")[0] in finding.detail

    def test_a_torchaudio_of_another_torch_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        package = tmp_path / "torchaudio"
        package.mkdir()
        (package / "__init__.py").write_text("raise OSError('libtorchaudio.so: undefined symbol')")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
        (finding,) = check_torchaudio()
        assert "installed and broken (cannot be imported: OSError: libtorchaudio.so" in finding.detail
        assert (finding.remedy, finding.is_fatal) == ("pip uninstall -y torchaudio", False)


class TestGpu:
    @pytest.mark.skipif(
        torch.version.cuda is not None, reason="torch is a CUDA build, whose GPUs compute or say why not"
    )
    def test_one_that_is_seen_and_cannot_compute_is_fatal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        finding = _by_subject(list(check_torch()))["GPU 0"]
        assert finding.is_fatal
        assert "cannot compute: Torch not compiled with CUDA enabled" in finding.detail

    def test_a_cpu_build_beside_a_gpu_is_taken_out_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """To pip, 2.13.0+cpu is 2.13.0: without that it changes nothing."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.version, "cuda", None)
        monkeypatch.setattr(software, "_has_nvidia_device", lambda: True)
        finding = _by_subject(list(check_torch()))["GPU"]
        assert finding.remedy == "pip uninstall -y torch && pip install torch==2.13.0"


class TestRay:
    def test_a_cluster_that_is_gone_is_told_with_its_file(self, tmp_path: Path) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{unused.getsockname()[1]}"  # bound, not listening
            left_behind = tmp_path / "ray" / "ray_current_cluster"
            left_behind.parent.mkdir()
            left_behind.write_text(address)
            finding = _by_subject(list(check_ray()))["ray cluster"]
        assert finding.state == "missing"
        assert address in finding.detail
        assert finding.remedy is not None
        assert f"rm {left_behind}" in finding.remedy

    @pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://head:10001", "auto"])
    def test_an_address_that_every_job_would_be_refused_for_is_fatal(
        self, address: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_ADDRESS", address)
        finding = _by_subject(list(check_ray()))["RAY_ADDRESS"]
        assert (finding.state, finding.is_fatal) == ("missing", True)
        assert finding.remedy is not None
        assert "unset RAY_ADDRESS" in finding.remedy

    def test_what_listens_and_is_no_ray_is_no_cluster(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tokenizer_jobs.cluster.session.PROBE_SECONDS", 0.5)
        with socket.create_server(("127.0.0.1", 0)) as server:
            monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
            finding = _by_subject(list(check_ray()))["RAY_ADDRESS"]
        assert finding.state == "missing"
        assert "did not answer as a Ray cluster" in finding.detail

    def test_a_cluster_that_answers_is_fine(self, ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
        import ray  # takes a second, and one test needs it

        monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        assert _by_subject(list(check_ray()))["RAY_ADDRESS"].state == "ok"

    def test_a_token_that_clients_do_not_send_is_told(self, tmp_path: Path) -> None:
        _write_token(tmp_path)
        finding = _by_subject(list(check_ray()))["ray token"]
        assert finding.remedy is not None
        assert "export RAY_AUTH_MODE=token" in finding.remedy

    def test_token_mode_without_a_token_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        assert _by_subject(list(check_ray()))["ray token"].state == "missing"

    def test_token_mode_with_a_token_is_fine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _write_token(tmp_path)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        assert _by_subject(list(check_ray()))["ray token"].state == "ok"


class TestSpace:
    def test_little_disk_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(system, "LITTLE_DISK_BYTES", 1e18)
        finding = _by_subject(list(check_space()))["disk"]
        assert (finding.state, finding.is_fatal) == ("missing", False)


def test_without_the_hub_only_cached_models_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for name in ("encodec_24khz", "encodec_48khz"):
        (tmp_path / f"models--facebook--{name}" / "snapshots" / "1").mkdir(parents=True)
    (tmp_path / "models--facebook--encodec_24khz" / "snapshots" / "1" / "model.safetensors").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    whole, partial = check_model_cache()
    assert "facebook/encodec_24khz" in whole.detail
    assert "encodec_48khz" not in whole.detail
    assert whole.remedy is not None
    assert (partial.state, "encodec_48khz is there without weights" in partial.detail) == ("missing", True)


class TestFormats:
    def test_a_format_that_decodes_to_something_else_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(formats, "SOUNDFILE_FORMATS", {"WAV": ("WAV", "PCM_16"), "FLAC": ("FLAC", "PCM_16")})
        monkeypatch.setattr(formats, "FFMPEG_FORMATS", {})
        whole = formats._soundfile_clip(soundfile, "FLAC", "PCM_16")
        assert isinstance(whole, bytes)
        clips = {"WAV": formats._soundfile_clip(soundfile, "WAV", "PCM_16"), "FLAC": whole[: len(whole) // 2]}
        monkeypatch.setattr(formats, "_soundfile_clip", lambda _, container, __: clips[container])
        finding = _by_subject(list(check_formats()))["formats"]
        assert finding.state == "missing"
        assert "FLAC: is a reject, truncated" in finding.detail
        assert "(decoded: WAV)" in finding.detail

    def test_silence_is_no_tone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(formats, "_tone", lambda: np.zeros(formats.NUM_SAMPLES, np.float32))
        assert "gives a tone of 0.35 RMS back with" in _by_subject(list(check_formats()))["formats"].detail


def test_the_order_of_what_to_do_is_that_of_need(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [
        Finding(subject="a", state="note", detail="", remedy="better a"),
        Finding(subject="b", state="missing", detail="", remedy="mend b"),
        Finding(subject="c", state="missing", detail="", remedy="mend c", is_needed=True),
        Finding(subject="d", state="ok", detail=""),
    ]
    text = doctor.findings_text(findings)
    assert [line.split()[1] for line in text.splitlines() if " -> " in line] == ["c", "b", "a"]
    assert text.endswith("before this is mended: c")
    content = doctor.findings_json(findings)
    assert [entry["subject"] for entry in content["to_do"]] == ["c", "b", "a"]
    assert content["problems"] == ["c: "]


def test_a_clock_of_long_ago_and_few_files_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "OLDEST_DATE", datetime.now(UTC) + timedelta(days=1))
    (clock,) = check_clock()
    assert (clock.state, "in the past" in clock.detail) == ("missing", True)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    (files,) = check_open_files()
    assert (files.state, "want 4,096" in files.detail) == ("note", True)
