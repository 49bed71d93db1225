"""The doctor: what is broken is named with the command that mends it, and only what the default job needs is fatal."""

import socket
import sys
from pathlib import Path

import pytest

from tokenizer_jobs import doctor
from tokenizer_jobs.cli import main
from tokenizer_jobs.doctor import Finding


@pytest.fixture(autouse=True)
def _a_home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
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

    def test_everything_that_is_missing_has_a_remedy(self) -> None:
        assert [f.subject for f in doctor.examine() if f.state == "missing" and f.remedy is None] == []


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
        finding = _by_subject(list(doctor._check_audio()))["PyAV"]
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
        (finding,) = doctor._check_kernels()
        assert (finding.state, finding.remedy, finding.is_fatal) == ("note", remedy, False)
        assert reason.partition(":")[0] in finding.detail

    def test_a_torchaudio_of_another_torch_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        package = tmp_path / "torchaudio"
        package.mkdir()
        (package / "__init__.py").write_text("raise OSError('libtorchaudio.so: undefined symbol')")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
        (finding,) = doctor._check_torchaudio()
        assert "installed and broken (cannot be imported: OSError: libtorchaudio.so" in finding.detail
        assert (finding.remedy, finding.is_fatal) == ("pip uninstall -y torchaudio", False)


class TestRay:
    def test_a_cluster_that_is_gone_is_told_with_its_file(self, tmp_path: Path) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{unused.getsockname()[1]}"  # bound, not listening
            left_behind = tmp_path / "ray" / "ray_current_cluster"
            left_behind.parent.mkdir()
            left_behind.write_text(address)
            finding = _by_subject(list(doctor._check_ray()))["ray cluster"]
        assert finding.state == "missing"
        assert address in finding.detail
        assert finding.remedy is not None
        assert f"rm {left_behind}" in finding.remedy

    def test_a_cluster_that_answers_is_fine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
            assert _by_subject(list(doctor._check_ray()))["RAY_ADDRESS"].state == "ok"

    def test_a_token_that_clients_do_not_send_is_told(self, tmp_path: Path) -> None:
        _write_token(tmp_path)
        finding = _by_subject(list(doctor._check_ray()))["ray token"]
        assert finding.remedy is not None
        assert "export RAY_AUTH_MODE=token" in finding.remedy

    def test_token_mode_without_a_token_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        assert _by_subject(list(doctor._check_ray()))["ray token"].state == "missing"

    def test_token_mode_with_a_token_is_fine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _write_token(tmp_path)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        assert _by_subject(list(doctor._check_ray()))["ray token"].state == "ok"


class TestSpace:
    def test_little_disk_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "LITTLE_DISK_BYTES", 1e18)
        finding = _by_subject(list(doctor._check_space()))["disk"]
        assert (finding.state, finding.is_fatal) == ("missing", False)


def test_without_the_hub_only_cached_models_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    (tmp_path / "models--facebook--encodec_24khz").mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (finding,) = doctor._check_models()
    assert "facebook/encodec_24khz" in finding.detail
    assert finding.remedy is not None
