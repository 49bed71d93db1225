"""`train-lm`: the codes of an output, the crops that are trained on, and a run from its file to its end."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from encodec_core.entropy import LanguageModel
from encodec_core.training import NO_CODE
from tests.tokenizer_jobs.factories import FACTS, RECIPE, finish_unit, make_row, plan_output
from tokenizer_jobs.catalog import Snapshot, publish_snapshot
from tokenizer_jobs.cli import main
from tokenizer_jobs.codec_training.code_crops import CodeCrops
from tokenizer_jobs.codec_training.codes import StoredCodes, copy_codes
from tokenizer_jobs.digest import codes_sha256
from tokenizer_jobs.errors import ConfigError, IntegrityError
from tokenizer_jobs.storage import Storage

NUM_FRAMES = 12


def fill(output: Path, *units: Sequence[str], generation: int = 1) -> Snapshot:
    """Put items of 12 frames into an output, a shard for each unit, and publish them."""
    storage = Storage.open(output)
    for unit in plan_output(storage, units, generation=generation):
        finish_unit(storage, unit, num_frames=NUM_FRAMES)
    return publish_snapshot(storage, recipe_id=RECIPE.recipe_id)


def codes_of(name: str) -> np.ndarray[Any, Any]:
    return make_row(name, num_frames=NUM_FRAMES).encoded.codes


def copied(tmp_path: Path, *, max_hours: float = 1000) -> StoredCodes:
    return copy_codes(tmp_path / "copy", output=str(tmp_path / "out"), max_hours=max_hours)


def hashes(sequences: Sequence[np.ndarray[Any, Any]]) -> list[str]:
    return sorted(codes_sha256(codes) for codes in sequences)


def edit_shard(output: Path, edit: Callable[[pa.Table], pa.Table]) -> None:
    (path,) = (output / "codes").glob("*.parquet")
    pq.write_table(edit(pq.read_table(path)), path, write_page_checksum=True)


def with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


class TestCopiedCodes:
    def test_every_recording_is_there_once(self, tmp_path: Path) -> None:
        fill(tmp_path / "out", ["a", "b"], ["c"])
        codes = copied(tmp_path)
        assert hashes(codes.sequences(codes.recordings)) == hashes([codes_of(name) for name in "abc"])
        assert codes.origin.weights_sha256 == FACTS.weights_sha256
        assert codes.hours == pytest.approx(3 * NUM_FRAMES / 75 / 3600)

    def test_copies_of_a_recording_count_once(self, tmp_path: Path) -> None:
        storage = Storage.open(tmp_path / "out")
        for unit in plan_output(storage, [["a", "b"], ["c"]]):
            finish_unit(storage, unit, num_frames=NUM_FRAMES, seed=7)
        publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
        assert len(copied(tmp_path).recordings) == 1

    def test_slices_are_joined_in_order(self, tmp_path: Path) -> None:
        fill(tmp_path / "out", ["a", "b", "c"])
        edit_shard(
            tmp_path / "out",
            lambda table: with_column(with_column(table, "id", ["a", "a", "c"]), "slice_index", [0, 1, 0]),
        )
        codes = copied(tmp_path)
        joined = np.concatenate([codes_of("a"), codes_of("b")], axis=1)
        assert hashes(codes.sequences(codes.recordings)) == hashes([joined, codes_of("c")])

    @pytest.mark.parametrize(("ids", "slices"), [("aac", [0, 2, 0]), ("abc", [0, 1, 0]), ("abc", [1, 0, 0])])
    def test_a_missing_slice_is_noticed(self, tmp_path: Path, ids: str, slices: list[int]) -> None:
        fill(tmp_path / "out", ["a", "b", "c"])
        edit_shard(
            tmp_path / "out", lambda table: with_column(with_column(table, "id", list(ids)), "slice_index", slices)
        )
        with pytest.raises(IntegrityError, match="has slice"):
            copied(tmp_path)

    def test_windows_are_sequences_of_their_own(self, tmp_path: Path) -> None:
        fill(tmp_path / "out", ["a", "b"])
        edit_shard(tmp_path / "out", lambda table: with_column(table, "window_frames", [[5, 5, 2], [12]]))
        codes = copied(tmp_path)
        windows = np.split(codes_of("a"), [5, 10], axis=1)
        assert hashes(codes.sequences(codes.recordings)) == hashes([*windows, codes_of("b")])
        assert len(codes.recordings) == 2

    def test_windows_that_do_not_add_up_are_noticed(self, tmp_path: Path) -> None:
        fill(tmp_path / "out", ["a", "b"])
        edit_shard(tmp_path / "out", lambda table: with_column(table, "window_frames", [[5, 5], [12]]))
        with pytest.raises(IntegrityError, match="windows of 10 frames in all, and 12 frames"):
            copied(tmp_path)

    def test_a_row_of_another_bandwidth_is_noticed(self, tmp_path: Path) -> None:
        fill(tmp_path / "out", ["a"])
        codes = [[codes.tolist() for codes in codes_of("a")[:4]]]
        edit_shard(tmp_path / "out", lambda table: with_column(table, "codes", codes))
        with pytest.raises(IntegrityError, match="'a' has 4 codebooks, its output's bandwidth 8"):
            copied(tmp_path)

    def test_an_output_that_grows_changes_nothing_for_a_training_that_has_begun(self, tmp_path: Path) -> None:
        fill(tmp_path / "out", ["a", "b"])
        before = copied(tmp_path)
        fill(tmp_path / "out", ["c"], generation=2)
        after = copied(tmp_path)
        assert after.origin == before.origin
        assert np.array_equal(after.frames, before.frames)
        assert len(copy_codes(tmp_path / "other", output=str(tmp_path / "out"), max_hours=1).recordings) == 3

    def test_codes_of_another_codec_are_refused(self, tmp_path: Path) -> None:
        fill(tmp_path / "out", ["a"])
        copied(tmp_path)
        other = RECIPE.model_copy(update={"weights_sha256": "ef" * 32})
        (tmp_path / "out" / "recipe.json").write_bytes(other.to_json())
        with pytest.raises(ConfigError, match="belongs to one codec"):
            copied(tmp_path)

    def test_a_copy_that_was_cut_short_is_made_anew(self, tmp_path: Path) -> None:
        fill(tmp_path / "out", ["a", "b"])
        before = np.array(copied(tmp_path).frames)
        (tmp_path / "copy" / "index.json").unlink()
        (tmp_path / "copy" / "frames.u16").write_bytes(b"\0\0")
        assert np.array_equal(copied(tmp_path).frames, before)

    @pytest.mark.parametrize(("num_shards", "expected"), [(0.5, 1), (1.5, 2), (9, 3)])
    def test_of_large_outputs_whole_shards_are_taken(self, tmp_path: Path, num_shards: float, expected: int) -> None:
        snapshot = fill(tmp_path / "out", ["a"], ["b"], ["c"])
        codes = copied(tmp_path, max_hours=num_shards * snapshot.shards[0].hours)
        assert len(codes.recordings) == expected

    def test_an_output_without_codes_is_refused(self, tmp_path: Path) -> None:
        fill(tmp_path / "out")
        for _ in range(2):
            with pytest.raises(ConfigError, match="has no codes"):
                copied(tmp_path)
        fill(tmp_path / "out", ["a"], generation=2)
        assert len(copied(tmp_path).recordings) == 1

    def test_bandwidths_are_those_that_the_codes_hold(self, tmp_path: Path) -> None:
        fill(tmp_path / "out", ["a"])
        assert copied(tmp_path).origin.n_q_of_bandwidths == {1.5: 2, 3.0: 4, 6.0: 8}


class TestHeldOut:
    def test_the_lowest_hashes_are_held_out(self, tmp_path: Path) -> None:
        names = "abcdefg"
        fill(tmp_path / "out", list(names))
        codes = copied(tmp_path)
        training, held_out = codes.split(0.25)
        in_order = hashes([codes_of(name) for name in names])
        assert [recording.sha256 for recording in held_out] == in_order[:2]
        assert [recording.sha256 for recording in training] == in_order[2:]
        assert hashes(codes.sequences(held_out)) == in_order[:2]

    def test_nothing_left_to_train_on_is_refused(self, tmp_path: Path) -> None:
        fill(tmp_path / "out", ["a"])
        with pytest.raises(ConfigError, match="leaves none of 1 recordings"):
            copied(tmp_path).split(0.01)


class TestCrops:
    SEQUENCES = tuple(
        np.arange(length, dtype=np.uint16) + 100 * number + 1000 * np.arange(2, dtype=np.uint16)[:, None]
        for number, length in enumerate((30, 4, 60))
    )
    """Two codebooks; a code says which sequence and frame it is."""

    def crops(self, num_frames: int = 10, *, seed: int = 0) -> CodeCrops:
        return CodeCrops(self.SEQUENCES, num_frames=num_frames, seed=seed)

    def test_a_crop_is_a_stretch_of_one_sequence_and_the_frame_before(self) -> None:
        for number in range(200):
            crop = self.crops().crop(number)
            assert crop.shape == (2, 11)
            present = crop[:, (crop != NO_CODE).all(0)]
            sequence = self.SEQUENCES[int(present[0, 0]) // 100]
            start = int(present[0, 0]) % 100
            assert np.array_equal(present, sequence[:, start : start + present.shape[1]])
            begins, is_whole = crop[0, 0] == NO_CODE, present.shape[1] == sequence.shape[1]
            assert begins == (start == 0 and present.shape[1] != 11)
            assert present.shape[1] == 11 - begins or is_whole

    def test_frames_near_either_end_are_seen_often(self) -> None:
        seen = np.zeros(60)
        for number in range(2000):
            crop = self.crops().crop(number)
            codes = crop[0, 1:]
            in_long = codes[codes // 100 == 2] % 100
            seen[in_long] += 1
        # Drawn from within alone, the first frame would be seen a tenth as often as one in the middle.
        assert seen.min() > 0.4 * seen.mean()

    def test_the_same_number_is_the_same_crop(self) -> None:
        assert np.array_equal(self.crops().crop(5), self.crops().crop(5))
        assert any(not np.array_equal(self.crops().crop(n), self.crops(seed=1).crop(n)) for n in range(5))

    def test_updates_follow_each_other(self) -> None:
        both = torch.cat([self.crops().batch(update, size=3) for update in (2, 3)])
        numbered = [torch.from_numpy(self.crops().crop(number)) for number in range(6, 12)]
        assert torch.equal(both, torch.stack(numbered))

    def test_crops_are_no_longer_than_the_longest_sequence(self) -> None:
        assert self.crops(1000).batch(0, size=2).shape == (2, 2, 61)


JOB: dict[str, Any] = {
    "codes": {"held_out_fraction": 0.25, "crop_seconds": 0.1, "batch_size": 2},
    "model": {"dim": 8, "num_heads": 2, "num_layers": 1, "feed_forward_dim": 8, "saved_as": "float16"},
    "training": {"num_updates": 4, "warmup_updates": 2, "dropout": 0.1, "max_first_position": 50},
    "runtime": {"log_updates": 1, "evaluation_updates": 2, "device": "cpu"},
}


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    fill(tmp_path / "out", ["a", "b", "c"], ["d"])
    path = tmp_path / "train_lm.yaml"
    write_job(path, JOB)
    return path


def write_job(path: Path, job: dict[str, Any]) -> None:
    codes = job["codes"] | {"output": str(path.parent / "out")}
    path.write_text(yaml.safe_dump(job | {"output": str(path.parent / "lm"), "codes": codes}))


def weights_of(output: Path) -> dict[str, torch.Tensor]:
    state = torch.load(output / "checkpoint.pt", weights_only=True)
    return dict(state["model"])


class TestCommand:
    def test_it_trains_stops_and_goes_on_to_the_same_bits(
        self, job_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stopped, straight = job_file.parent / "stopped", job_file.parent / "straight"
        assert main(["train-lm", str(job_file), "--output", str(stopped), "--max-updates", "2"]) == 75
        assert main(["train-lm", str(job_file), "--output", str(stopped)]) == 0
        assert "going on after 2 updates" in capsys.readouterr().out
        assert main(["train-lm", str(job_file), "--output", str(straight)]) == 0
        ours, theirs = weights_of(stopped), weights_of(straight)
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
        for file in ("curves.jsonl", "evaluations.jsonl"):
            assert (stopped / file).read_text() == (straight / file).read_text()

    def test_what_it_leaves(self, job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        output = job_file.parent / "lm"
        assert main(["train-lm", str(job_file)]) == 0
        assert f"4 updates are done; the language model is {output / 'lm'}" in capsys.readouterr().out
        model = LanguageModel.from_pretrained(output / "lm")
        assert model.config.codec_weights_sha256 == FACTS.weights_sha256
        assert (model.config.n_q, model.config.codebook_size, model.config.past_context) == (8, 1024, 262)
        for name, tensor in weights_of(output).items():
            assert torch.equal(model.state_dict()[name], tensor.half().float())
        curves = [json.loads(line) for line in (output / "curves.jsonl").read_text().splitlines()]
        assert [point["update"] for point in curves] == [1, 2, 3, 4]
        evaluations = [json.loads(line) for line in (output / "evaluations.jsonl").read_text().splitlines()]
        assert [point["update"] for point in evaluations] == [2, 4]
        assert (evaluations[0]["num_sequences"], evaluations[0]["num_frames"]) == (1, NUM_FRAMES)
        kbps = evaluations[-1]["kbps"]
        assert list(kbps) == ["1.5", "3.0", "6.0"]
        # Ten bits a code, give or take the noise of an untrained model.
        assert kbps["6.0"] == pytest.approx(6.0, rel=0.1)

    def test_another_job_in_the_same_folder_is_refused(
        self, job_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["train-lm", str(job_file), "--max-updates", "1"]) == 75
        write_job(job_file, JOB | {"training": JOB["training"] | {"seed": 1}})
        assert main(["train-lm", str(job_file)]) == 1
        assert "holds a training whose training differed" in capsys.readouterr().err

    def test_a_model_lost_while_it_was_published_is_written_again(self, job_file: Path) -> None:
        assert main(["train-lm", str(job_file)]) == 0
        lm = job_file.parent / "lm" / "lm"
        expected = (lm / "model.safetensors").read_bytes()
        lm.rename(job_file.parent / "gone")
        assert main(["train-lm", str(job_file)]) == 0
        assert (lm / "model.safetensors").read_bytes() == expected

    def test_an_evaluation_that_was_cut_short_is_made_up_for(self, job_file: Path) -> None:
        assert main(["train-lm", str(job_file)]) == 0
        evaluations = job_file.parent / "lm" / "evaluations.jsonl"
        expected = evaluations.read_text()
        evaluations.write_text(expected.splitlines(keepends=True)[0])
        for _ in range(2):
            assert main(["train-lm", str(job_file)]) == 0
            assert evaluations.read_text() == expected

    def test_torchs_threads_are_as_before(self, job_file: Path) -> None:
        threads = torch.get_num_threads()
        write_job(job_file, JOB | {"runtime": JOB["runtime"] | {"threads": threads + 1}})
        assert main(["train-lm", str(job_file)]) == 0
        assert torch.get_num_threads() == threads

    def test_a_shape_that_makes_no_sense_is_refused(self, job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_job(job_file, JOB | {"model": JOB["model"] | {"dim": 9}})
        assert main(["train-lm", str(job_file)]) == 1
        assert "dim = 9 with num_heads = 2" in capsys.readouterr().err

    def test_what_is_no_output_is_refused(self, job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_job(job_file, JOB)
        (job_file.parent / "out").rename(job_file.parent / "moved")
        assert main(["train-lm", str(job_file)]) == 1
        assert "is no output" in capsys.readouterr().err
