"""The command line over a whole job: what each command says of it."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from encodec_core import EncodecModel
from encodec_core.training import si_snr
from tests.tokenizer_jobs.conftest import Quickstart
from tests.tokenizer_jobs.test_cli import JSON_FROZEN, refusal
from tokenizer_jobs.audition import any_row_id
from tokenizer_jobs.cli import main
from tokenizer_jobs.decode import AudioTarget, decode_item
from tokenizer_jobs.sources.demo import DemoClips


class TestWholeJob:
    def test_run_says_what_was_made_and_what_comes_next(self, quickstart: Quickstart) -> None:
        output, done = quickstart
        assert done.returncode == 0, done.stderr
        first, *facts = done.stdout.splitlines()
        assert first == "done"
        said = dict(line.split(maxsplit=1) for line in facts if line.startswith("  "))
        assert said["output"] == str(output)
        assert said["snapshot"] == "1"
        assert len(said["digest"]) == 64
        commands = [line for line in facts if line.startswith("  ") and "tokenizer-jobs " in line]
        assert [line.split()[1] for line in commands] == ["verify", "decode", "report"]

    def test_progress_goes_to_stderr_as_lines(self, quickstart: Quickstart) -> None:
        _, done = quickstart
        lines = [line for line in done.stderr.splitlines() if line.startswith("progress ")]
        assert lines
        assert "progress" not in done.stdout
        units = dict(pair.split("=") for pair in lines[-1].split()[1:])["units"].split("/")
        assert units[0] == units[1]

    def test_the_last_line_of_verify_is_the_digest_of_the_run(
        self, quickstart: Quickstart, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output, done = quickstart
        assert main(["verify", str(output)]) == 0
        digest = capsys.readouterr().out.splitlines()[-1]
        assert f"digest     {digest}" in done.stdout

    @pytest.mark.parametrize("command", ["plan", "status", "verify"])
    def test_json_is_one_object_and_agrees_with_the_others(
        self, command: str, quickstart: Quickstart, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output, _ = quickstart
        words = ["configs/quickstart.yaml", "--output", str(output)] if command == "plan" else [str(output)]
        assert main([command, *words, "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert set(JSON_FROZEN) <= set(content)
        assert content["items"] == content["rows"] + content["rejects"] > 0
        assert content["units"] == content["units_committed"]
        assert (content["snapshot"], content["problems"]) == (1, [])

    def test_a_damaged_shard_fails_verification_and_says_so(
        self, quickstart: Quickstart, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "out"
        shutil.copytree(quickstart[0], output)
        shard = next((output / "codes").iterdir())
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
        assert main(["verify", str(output), "--json"]) == 1
        captured = capsys.readouterr()
        assert shard.name in json.loads(captured.out)["problems"][0]
        assert shard.name in captured.err

    def test_decode_writes_the_planned_length_as_32_bit_floats(
        self, quickstart: Quickstart, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output, _ = quickstart
        shard = next((output / "codes").iterdir())
        row = pq.read_table(shard, columns=["id", "num_samples", "sample_rate"]).slice(3, 1).to_pylist()[0]
        wav = tmp_path / "out.wav"
        assert main(["decode", str(output), "--id", row["id"], "-o", str(wav)]) == 0
        info = soundfile.info(wav)
        assert (info.frames, info.samplerate) == (row["num_samples"], row["sample_rate"])
        assert (info.format, info.subtype) == ("WAV", "FLOAT")

    def test_what_decode_writes_sounds_like_the_clip(self, quickstart: Quickstart, tmp_path: Path) -> None:
        """Measured: 12 to 15 dB on chords, 18 to 20 dB on low tones; chirps and noise lose their phase."""
        source, wav = DemoClips(), tmp_path / "out.wav"
        clip = next(item for item in source.list().items if item.id == "chord-165-flac")
        target = AudioTarget(sample_rate=24_000, channels=1)
        original = decode_item(clip, position=0, source=source, target=target).float_waveform()
        assert main(["decode", str(quickstart[0]), "--id", clip.id, "-o", str(wav)]) == 0
        decoded, _ = soundfile.read(wav, dtype="float32")
        assert float(si_snr(torch.from_numpy(original)[None], torch.from_numpy(decoded)[None, None])) > 8

    def test_decode_refuses_a_codec_with_other_weights(
        self, quickstart: Quickstart, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output, _ = quickstart
        model = EncodecModel.from_pretrained("demo")
        with torch.no_grad():
            next(model.parameters()).add_(1.0)
        model.save_pretrained(tmp_path / "other")
        row_id = any_row_id(str(output)) or ""
        words = ("decode", str(output), "--id", row_id, "-o", str(tmp_path / "x.wav"))
        assert "has weights" in refusal(capsys, *words, "--model", str(tmp_path / "other"))
        assert not (tmp_path / "x.wav").exists()

    def test_a_second_run_has_nothing_to_do(self, quickstart: Quickstart, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", "configs/quickstart.yaml", "--output", str(quickstart[0])]) == 0
        assert capsys.readouterr().out.startswith("done: nothing was new\n")

    def test_another_recipe_is_refused(self, quickstart: Quickstart, capsys: pytest.CaptureFixture[str]) -> None:
        words = ("run", "configs/quickstart.yaml", "--output", str(quickstart[0]))
        assert main([*words, "--recipe.codec.bandwidth-kbps", "3"]) == 1
        error = capsys.readouterr().err
        assert "codec.bandwidth_kbps: 6.0 stored, 3.0 asked" in error
        assert "Traceback" not in error
