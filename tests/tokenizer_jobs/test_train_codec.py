"""Training of a codec as the command runs it: what it leaves, and how it is interrupted and resumed."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encodec_core import BatchEncoder, EncodecConfig, EncodecModel
from tests.tokenizer_jobs.tiny_training import RATE, silent, stages, tiny_job, write_audio, write_job
from tokenizer_jobs.cli import main, training
from tokenizer_jobs.codec_training import TrainingJob, ranks, train_codec
from tokenizer_jobs.codec_training.config import TrainingRuntime
from tokenizer_jobs.errors import ConfigError, TransientError


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_audio(tmp_path_factory.mktemp("audio"))


def points(output: Path, file: str = "curves.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / file).read_text().splitlines()]


def weights(model: EncodecModel) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def differences(one: Path, two: Path) -> list[str]:
    """Names of tensors in which the codecs of two outputs differ in a bit."""
    ours, theirs = (EncodecModel.from_pretrained(output / "model").state_dict() for output in (one, two))
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


def interrupt_at(update: int, *, times: int = 1) -> Callable[[str], None]:
    """Something to say that sends SIGTERM to this process once an update is reported."""

    def say(line: str) -> None:
        if line.startswith(f"update {update} of"):
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGTERM)

    return say


@pytest.fixture(scope="module")
def straight(audio: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a training that nothing interrupted. It is shared: do not change it."""
    output = tmp_path_factory.mktemp("straight") / "out"
    train_codec(tiny_job(audio, output), say=silent)
    return output


@pytest.fixture
def trained(straight: Path, tmp_path: Path) -> Path:
    """A copy of its output."""
    return Path(shutil.copytree(straight, tmp_path / "out"))


class TestTraining:
    def test_it_leaves_a_codec_curves_and_evaluations(self, audio: Path, tmp_path: Path) -> None:
        output, lines = tmp_path / "out", list[str]()
        result = train_codec(tiny_job(audio, output), say=lines.append)
        assert (result.updates, result.is_done) == (4, True)
        model = EncodecModel.from_pretrained(output / "model")
        assert model.config.sampling_rate == RATE
        assert [point["update"] for point in points(output)] == [2, 4]
        assert all(point["mel"] > 0 for point in points(output))
        evaluations = points(output, "evaluations.jsonl")
        assert [evaluation["update"] for evaluation in evaluations] == [2, 4]
        assert set(evaluations[0]["si_snr_db"]) == {"2", "4"}
        assert any(line.startswith("held out, tones") for line in lines)
        assert any("1 item left out as copies; not decoded: not_audio 1" in line for line in lines)
        assert any(line.startswith("update 4 of 4: ") and line.endswith("updates/s, 0.0 s left") for line in lines)
        board = EventAccumulator(str(output / "tensorboard"))
        board.Reload()
        assert [event.value for event in board.Scalars("mel")] == pytest.approx([p["mel"] for p in points(output)])
        assert [event.value for event in board.Scalars("tones/si_snr_db/4_kbps")] == pytest.approx(
            [evaluation["si_snr_db"]["4"] for evaluation in evaluations]
        )
        decoded_clip = board.Audio("tones/decoded")[0]
        assert decoded_clip.sample_rate == RATE
        assert decoded_clip.length_frames == RATE // 2

    def test_a_codec_of_stereo_windows_is_trained(self, audio: Path, tmp_path: Path) -> None:
        layout = dict(tiny_job(audio, tmp_path).model) | {
            "audio_channels": 2,
            "normalize": True,
            "chunk_length_s": 0.1,
            "overlap": 0.01,
            "norm_type": "time_group_norm",
            "use_causal_conv": False,
        }
        train_codec(tiny_job(audio, tmp_path / "out", model=layout), say=silent)
        model = EncodecModel.from_pretrained(tmp_path / "out" / "model")
        (codes,) = BatchEncoder(model, 4, "cpu").encode([torch.rand(2, RATE // 2)])
        assert codes.window_frames is not None
        assert len(codes.window_frames) > 1
        (evaluation, _) = points(tmp_path / "out", "evaluations.jsonl")
        assert evaluation["num_recordings"] == 2

    def test_torchs_threads_are_as_before(self, audio: Path, tmp_path: Path) -> None:
        threads = torch.get_num_threads()
        runtime = {"device": "cpu", "threads": threads + 1}
        train_codec(tiny_job(audio, tmp_path / "out", runtime=runtime), say=silent, max_updates=1)
        assert torch.get_num_threads() == threads

    def test_what_is_held_out_and_silent_is_not_evaluated(self, audio: Path, tmp_path: Path) -> None:
        (tmp_path / "quiet").mkdir()
        for number in (1, 2):
            soundfile.write(tmp_path / "quiet" / f"{number}.wav", np.zeros(number * RATE), RATE)
        quiet = {"source": {"kind": "files", "paths": [str(tmp_path / "quiet")]}, "weight": 1e-9}
        content = tiny_job(audio, tmp_path / "out").model_dump()
        content["audio"]["sources"]["quiet"] = quiet | {"held_out_fraction": 0.5}
        lines: list[str] = []
        assert train_codec(TrainingJob.model_validate(content), say=lines.append).is_done
        assert "held out, quiet: all 1 recordings are silent, nothing to evaluate" in lines
        assert {point["source"] for point in points(tmp_path / "out", "evaluations.jsonl")} == {"tones"}


class TestStartFrom:
    def test_a_codec_is_gone_on_from(self, audio: Path, straight: Path, tmp_path: Path) -> None:
        """A step of almost nothing leaves its weights, and moving averages leave most of its entries."""
        one_step = stages({"num_updates": 1, "codebook_crops": 0, "learning_rate": 1e-9})
        start = EncodecModel.from_pretrained(straight / "model")
        train_codec(
            tiny_job(audio, tmp_path / "out", model={}, start_from=str(straight / "model"), training=one_step),
            say=silent,
        )
        end = EncodecModel.from_pretrained(tmp_path / "out" / "model")
        assert end.config == start.config
        assert torch.allclose(weights(end), weights(start), atol=1e-6)
        for ours, theirs in zip(end.quantizer.codebooks, start.quantizer.codebooks, strict=True):
            assert torch.allclose(ours.embed, theirs.embed, atol=0.1 * float(theirs.embed.norm()))

    def test_what_cannot_be_loaded_is_refused(self, audio: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="start_from = '/nowhere/codec' cannot be loaded"):
            train_codec(tiny_job(audio, tmp_path / "out", model={}, start_from="/nowhere/codec"), say=silent)

    def test_trained_weights_are_not_scaled(self, audio: Path, straight: Path, tmp_path: Path) -> None:
        scaled = stages({"codebook_crops": 0}) | {"unit_variance_crops": 4}
        origin = {"model": {}, "start_from": str(straight / "model")}
        with pytest.raises(ConfigError, match="unit_variance_crops = 4"):
            train_codec(tiny_job(audio, tmp_path / "out", training=scaled, **origin), say=silent)


class TestInterruption:
    def test_stopped_and_resumed_it_ends_in_the_same_weights(self, audio: Path, straight: Path, tmp_path: Path) -> None:
        stopped = train_codec(tiny_job(audio, tmp_path / "out"), say=silent, max_updates=3)
        assert (stopped.updates, stopped.is_done) == (3, False)
        train_codec(tiny_job(audio, tmp_path / "out"), say=silent)
        assert differences(tmp_path / "out", straight) == []

    def test_a_signal_ends_it_after_the_update_with_a_checkpoint(
        self, audio: Path, straight: Path, tmp_path: Path
    ) -> None:
        often = {"device": "cpu", "log_updates": 1}
        stopped = train_codec(tiny_job(audio, tmp_path / "out", runtime=often), say=interrupt_at(3))
        assert (stopped.updates, stopped.is_done) == (3, False)
        assert train_codec(tiny_job(audio, tmp_path / "out"), say=silent).is_done
        assert differences(tmp_path / "out", straight) == []

    def test_a_second_signal_ends_it_at_once(self, audio: Path, straight: Path, tmp_path: Path) -> None:
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            train_codec(tiny_job(audio, tmp_path / "out"), say=interrupt_at(2, times=2))
        assert not (tmp_path / "out" / "checkpoint.pt").exists()
        assert signal.getsignal(signal.SIGTERM) is before
        train_codec(tiny_job(audio, tmp_path / "out"), say=silent)
        assert differences(tmp_path / "out", straight) == []

    def test_a_codec_lost_while_it_was_published_is_written_again(
        self, audio: Path, straight: Path, trained: Path
    ) -> None:
        (trained / "model").rename(trained / "model.old")
        train_codec(tiny_job(audio, trained), say=silent)
        assert differences(trained, straight) == []

    def test_an_evaluation_that_was_cut_short_is_made_up_for(self, audio: Path, trained: Path) -> None:
        *before, last = points(trained, "evaluations.jsonl")
        (trained / "evaluations.jsonl").write_text("".join(json.dumps(point) + "\n" for point in before))
        train_codec(tiny_job(audio, trained), say=silent)
        assert points(trained, "evaluations.jsonl") == [*before, last]

    def test_sources_that_an_evaluation_did_not_come_to_are_made_up_for(self, audio: Path, tmp_path: Path) -> None:
        content = tiny_job(audio, tmp_path / "out").model_dump()
        content["audio"]["sources"]["again"] = content["audio"]["sources"]["tones"]
        job = TrainingJob.model_validate(content)
        train_codec(job, say=silent)
        whole = points(tmp_path / "out", "evaluations.jsonl")
        assert [(point["update"], point["source"]) for point in whole[2:]] == [(4, "tones"), (4, "again")]
        (tmp_path / "out" / "evaluations.jsonl").write_text("".join(json.dumps(point) + "\n" for point in whole[:3]))
        train_codec(job, say=silent)
        assert points(tmp_path / "out", "evaluations.jsonl") == whole

    def test_points_of_updates_that_are_done_again_are_dropped(
        self, audio: Path, straight: Path, tmp_path: Path
    ) -> None:
        train_codec(tiny_job(audio, tmp_path / "out"), say=silent, max_updates=2)
        early = shutil.copyfile(tmp_path / "out" / "checkpoint.pt", tmp_path / "early.pt")
        train_codec(tiny_job(audio, tmp_path / "out"), say=silent)
        Path(early).rename(tmp_path / "out" / "checkpoint.pt")
        with (tmp_path / "out" / "curves.jsonl").open("a") as lines:
            lines.write('{"update": 6, "mel"')  # as a process that was killed may leave it
        train_codec(tiny_job(audio, tmp_path / "out"), say=silent)
        for file in ("curves.jsonl", "evaluations.jsonl"):
            assert points(tmp_path / "out", file) == points(straight, file)
        board = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
        board.Reload()
        assert [event.step for event in board.Scalars("mel")] == [2, 4]

    def test_the_command_stops_resumable(
        self, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = write_job(tmp_path, tiny_job(audio, tmp_path / "out"))
        with monkeypatch.context() as patch:
            patch.setattr(training, "show", interrupt_at(2))
            assert main(["train-codec", str(file)]) == 75
        assert "stopped after update 2; the same command goes on from there" in capsys.readouterr().err
        assert main(["train-codec", str(file), "--max-updates", "3"]) == 75
        assert main(["train-codec", str(file)]) == 0
        assert "4 updates are done; the codec is" in capsys.readouterr().out


class TestRanks:
    def test_a_training_of_one_process_goes_on_in_two(self, audio: Path, tmp_path: Path) -> None:
        """They share the crops of an update that one process would see.

        Adam makes much of what rounding left of tiny gradients, so the way they went is compared, not every weight.
        """
        training = stages({"num_updates": 3, "codebook_crops": 0, "losses": {"relative_error": 1, "mel": 1}})
        training["quantizer"] = {"dead_code_share": 0}
        one, two = (tiny_job(audio, tmp_path / name, training=training) for name in ("one", "two"))
        train_codec(one, say=silent)
        train_codec(two, say=silent, max_updates=1)
        lines: list[str] = []
        train_codec(on_two_ranks(two), say=lines.append)
        assert "going on after 1 updates" in lines
        start = weights(starting_model(one))
        alone, shared = (
            weights(EncodecModel.from_pretrained(tmp_path / name / "model")) - start for name in ("one", "two")
        )
        assert float(torch.cosine_similarity(alone, shared, dim=0)) > 0.99

    def test_a_signal_ends_all_with_a_checkpoint(self, audio: Path, tmp_path: Path) -> None:
        endless = tiny_job(audio, tmp_path / "out", training=stages({"num_updates": 10**6}))
        stopped = train_codec(on_two_ranks(endless), say=interrupt_at(2))
        assert not stopped.is_done
        assert stopped.updates >= 2
        assert multiprocessing.active_children() == []
        assert (tmp_path / "out" / "model").exists()

    def test_ranks_that_do_not_stop_are_killed_and_it_counts_as_a_stop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ranks, "STOP_SECONDS", 1)
        stop, lines = threading.Event(), list[str]()

        def say(line: str) -> None:
            lines.append(line)
            stop.set()

        ranks.run_ranks(never_stopping, device="cpu", num_ranks=1, say=say, stop=stop)
        assert lines == ["at work", f"rank 0 did not stop within 1 s and was killed; {ranks.RESUMES}"]
        assert multiprocessing.active_children() == []

    def test_what_a_person_can_mend_comes_back_as_it_was_said(self) -> None:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        for error in (RuntimeError("a fault"), ConfigError("lower it")):
            with pytest.raises(SystemExit), ranks._reported(sender):
                raise error
        failures = [receiver.recv() for _ in range(2)]
        with pytest.raises(ConfigError, match="lower it"):
            ranks._raise_first(failures, [1, 1], stopped=False)
        with pytest.raises(RuntimeError, match="a fault"):
            ranks._raise_first(failures[:1], [1, 0], stopped=False)
        with pytest.raises(TransientError, match="rank 1 was killed by signal 9"):
            ranks._raise_first(failures[:1], [1, -9], stopped=False)

    def test_a_batch_that_cannot_be_shared_is_refused(self, audio: Path, tmp_path: Path) -> None:
        runtime = TrainingRuntime(device="cpu", num_processes=4)
        with pytest.raises(
            ConfigError, match=r"batch_size = 2 cannot be shared evenly by 4 processes; .* one of 1, 2,"
        ):
            train_codec(tiny_job(audio, tmp_path / "out").model_copy(update={"runtime": runtime}), say=silent)


def never_stopping(*, device: str, say: Callable[[str], None], stop: threading.Event) -> None:
    say("at work")
    time.sleep(600)


def starting_model(job: TrainingJob) -> EncodecModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.training.seed)
        return EncodecModel(EncodecConfig(**job.model))


def on_two_ranks(job: TrainingJob) -> TrainingJob:
    return job.model_copy(update={"runtime": TrainingRuntime(device="cpu", num_processes=2, log_updates=2)})
