"""Imports: other tools' dumps become outputs that verify, layouts are found out or asked for, damage is rejected."""

import json
import pickle
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.tokenizer_jobs.dumps import (
    CODES,
    DEMO,
    UNKNOWN,
    check_import,
    import_dump,
    made_codes,
    npy_content,
    save_dump,
    save_npy,
)
from tests.tokenizer_jobs.exchange import codes_by_id, codes_table, hashes_by_id, make_output, rows_by_id
from tokenizer_jobs.audition import decode_to_wav
from tokenizer_jobs.cli import main
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.exporting import ExportFormat, export
from tokenizer_jobs.importing import CodecClaim, DumpSaid, ImportResult, driver, import_codes
from tokenizer_jobs.job import run
from tokenizer_jobs.planning import write_plan
from tokenizer_jobs.recipe import UNKNOWN_WEIGHTS, read_recipe
from tokenizer_jobs.removal.dropping import drop
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.verification import verify

BARK = Path(__file__).parents[3] / "shared" / "golden_tokens" / "bark"


class TestIds:
    def test_same_names_in_two_folders_are_two_items(self, tmp_path: Path) -> None:
        codes = made_codes("x/001", "y/001")
        check_import(save_npy(tmp_path / "dump", codes), codes)

    def test_names_alone_that_are_not_unique_are_refused(self, tmp_path: Path) -> None:
        dump = save_npy(tmp_path / "dump", made_codes("x/001", "y/001"))
        with pytest.raises(ConfigError, match="001"):
            import_dump(dump, said=DumpSaid(ids="name"))

    def test_a_field_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="has no 'utt'"):
            import_dump(save_npy(tmp_path / "dump", CODES), said=DumpSaid(ids="field:utt"))

    def test_a_glob_names_what_is_below_it(self, tmp_path: Path) -> None:
        save_npy(tmp_path / "dump", CODES)
        result = import_codes(str(tmp_path / "dump" / "b" / "*.npy"), str(tmp_path / "out"), codec=UNKNOWN)
        assert sorted(codes_by_id(result.output)) == ["c", "d"]


BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "wrong shape": (lambda p: np.save(p, np.zeros((4, 90), np.int64)), "corrupt", r"\[4, 90\], expected \[8, T\]"),
    "three axes": (lambda p: np.save(p, np.zeros((2, 8, 90), np.int64)), "corrupt", r"\[2, 8, 90\]"),
    "negative": (lambda p: np.save(p, np.full((8, 90), -1)), "corrupt", "-1 to -1, expected 0 to 1023"),
    "beyond": (lambda p: np.save(p, np.full((8, 90), 1024)), "corrupt", "1024 to 1024, expected 0 to 1023"),
    "nan": (lambda p: np.save(p, np.full((8, 90), np.nan)), "non_finite", "NaN"),
    "fractions": (lambda p: np.save(p, np.full((8, 90), 0.5)), "corrupt", "fractions"),
    "no frames": (lambda p: np.save(p, np.zeros((8, 0), np.int64)), "empty", "no frames"),
    "words": (lambda p: np.save(p, np.full((8, 90), "x")), "corrupt", "expected integers"),
    "no bytes": (lambda p: p.write_bytes(b""), "empty", "no bytes"),
    "noise": (lambda p: p.write_bytes(b"noise" * 99), "corrupt", "cannot be read as .npy"),
    "cut short": (lambda p: p.write_bytes(npy_content(CODES["a"])[:-40]), "corrupt", "cannot be read as .npy"),
}


class TestRejects:
    @pytest.mark.parametrize("name", BAD)
    def test_a_bad_file_is_a_reject_with_its_reason(self, name: str, tmp_path: Path) -> None:
        damage, reason, message = BAD[name]
        dump = save_npy(tmp_path / "dump", CODES)
        damage(dump / "bad.npy")
        result = import_dump(dump)
        assert (result.rows, result.rejects_by_reason) == (len(CODES), {reason: 1})
        assert verify(result.output).problems == []
        (reject,) = _rejects(result)
        assert reject["id"] == "bad"
        assert re.search(message, reject["message"])

    @pytest.mark.parametrize("suffix", [".npy", ".pt"])
    def test_a_pickle_is_never_run(self, suffix: str, tmp_path: Path) -> None:
        dump = save_dump(
            tmp_path / "dump",
            CODES,
            suffix,
            np.save if suffix == ".npy" else lambda path, codes: torch.save(torch.from_numpy(codes.astype(int)), path),
        )
        ran = tmp_path / "ran"
        if suffix == ".npy":
            np.save(dump / "bad.npy", np.array([_Trap(ran)], dtype=object), allow_pickle=True)
        else:
            (dump / "bad.pt").write_bytes(pickle.dumps(_Trap(ran)))
        assert import_dump(dump).rejects_by_reason == {"corrupt": 1}
        assert not ran.exists()

    def test_a_row_whose_hash_is_of_other_codes(self, tmp_path: Path) -> None:
        export(make_output(Storage.open(tmp_path / "first")), str(tmp_path / "dump"), to="numpy")
        line = json.loads((tmp_path / "dump" / "index.jsonl").read_bytes().splitlines()[0])
        codes = np.load(tmp_path / "dump" / line["file"])
        codes[0, 0] ^= 1
        np.save(tmp_path / "dump" / line["file"], codes)
        result = import_dump(tmp_path / "dump")
        assert [(r["id"], r["reason"]) for r in _rejects(result)] == [(line["id"], "corrupt")]

    def test_a_file_that_went_away_after_the_plan(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        dump = save_npy(tmp_path / "dump", CODES)
        monkeypatch.setattr(driver, "write_plan", _then(write_plan, lambda: (dump / "a.npy").unlink()))
        assert import_dump(dump).rejects_by_reason == {"vanished": 1}

    def test_nothing_but_rejects_is_a_problem(self, tmp_path: Path) -> None:
        dump = save_npy(tmp_path / "dump", {"a": np.full((8, 90), 4000), "b": np.full((8, 91), 4000)})
        result = import_dump(dump, said=DumpSaid(offsets="none"))
        shown = f"`tokenizer-jobs status {shlex.quote(result.output)} --rejects` shows them"
        assert result.problems == [f"every item was rejected (corrupt 2); {shown}"]


class TestOutput:
    def test_what_a_dump_does_not_say_is_null(self, tmp_path: Path) -> None:
        result = check_import(save_npy(tmp_path / "dump", CODES), CODES)
        codes, row = rows_by_id(result.output)["a"]
        assert (row["num_samples"], row["sample_rate"]) == (codes.shape[1] * 320, 24_000)
        assert row["duration_seconds"] == codes.shape[1] / 75
        unknown = ["source_sample_rate", "source_channels", "source_format", "channel", "rms_db", "peak", "truncated"]
        assert [row[name] for name in (*unknown, "clipped_fraction", "silent_fraction", "scales")] == [None] * 10

    def test_more_of_a_dump_is_a_next_snapshot(self, tmp_path: Path) -> None:
        dump = save_npy(tmp_path / "dump", made_codes("a", "b"))
        first = import_dump(dump)
        assert import_dump(dump).snapshot == 1
        more = made_codes("c", "d", "e")
        save_npy(dump, more)
        second = check_import(dump, made_codes("a", "b") | more)
        assert (first.snapshot, second.snapshot, second.new_rows, second.units) == (1, 2, 3, 2)

    def test_a_file_that_changed_is_reported_and_left(self, tmp_path: Path) -> None:
        dump = save_npy(tmp_path / "dump", CODES)
        import_dump(dump)
        np.save(dump / "a.npy", np.zeros((8, 17), np.uint16))
        assert check_import(dump, CODES).changed == 1

    def test_an_import_that_died_is_resumed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        names = [f"{number:02d}" for number in range(9)]
        codes = {
            name: np.tile(made_codes(name)[name], (1, 60)) for name in names
        }  # 80 s each: a unit of two minutes each
        dump = save_npy(tmp_path / "dump", codes)
        died = list[str]()

        def die(line: str) -> None:
            died.append(line)
            if len(died) == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            import_dump(dump, say=die)
        assert len(list((tmp_path / "out" / "_commits" / "000001").iterdir())) == 2
        resumed = check_import(dump, codes)
        whole = import_codes(str(dump), str(tmp_path / "whole"), codec=UNKNOWN)
        assert resumed.units > 2
        assert resumed.digest == whole.digest
        assert [s.name for s in sorted((tmp_path / "out" / "codes").iterdir())] == [
            s.name for s in sorted((tmp_path / "whole" / "codes").iterdir())
        ]

    def test_dropped_items_stay_out(self, tmp_path: Path) -> None:
        dump = save_npy(tmp_path / "dump", CODES)
        drop(import_dump(dump).output, ids=["a"])
        check_import(dump, {name: codes for name, codes in CODES.items() if name != "a"})

    def test_other_columns_need_another_output(self, tmp_path: Path) -> None:
        for number, extra in enumerate([{}, {"text": ["x", "y"]}]):
            folder = tmp_path / f"dump{number}"
            folder.mkdir()
            pq.write_table(codes_table(made_codes(f"a{number}", f"b{number}"), **extra), folder / "0.parquet")
        options: Any = {"codec": UNKNOWN, "said": DumpSaid(ids="field:name")}
        import_codes(str(tmp_path / "dump0"), str(tmp_path / "out"), **options)
        with pytest.raises(ConfigError, match="import to another output"):
            import_codes(str(tmp_path / "dump1"), str(tmp_path / "out"), **options)

    def test_a_dry_run_shows_its_evidence_and_writes_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        dump = save_npy(tmp_path / "dump", {name: codes.T for name, codes in CODES.items()})
        words = ["--sample-rate", "24000", "--frame-rate", "75", "--codebook-size", "1024", "--dry-run"]
        assert main(["import-codes", str(dump), str(tmp_path / "out"), *words]) == 0
        shown = capsys.readouterr().out
        assert "shapes [100 to 121, 8]: 8 codebooks on the second axis" in shown
        assert "ids are path" in shown
        assert not (tmp_path / "out").exists()


class TestCodecs:
    def test_imported_codes_decode_with_the_codec_named(self, tmp_path: Path) -> None:
        result = check_import(save_npy(tmp_path / "dump", CODES), CODES, codec=DEMO)
        decoded = decode_to_wav(result.output, row_id="a", destination=tmp_path / "a.wav")
        assert decoded.num_samples == CODES["a"].shape[1] * 320

    def test_codes_of_an_unknown_codec_cannot_be_decoded(self, tmp_path: Path) -> None:
        result = import_dump(save_npy(tmp_path / "dump", CODES))
        assert read_recipe(Storage.at(result.output)).weights_sha256 == UNKNOWN_WEIGHTS
        with pytest.raises(ConfigError, match="imported without a codec"):
            decode_to_wav(result.output, row_id="a", destination=tmp_path / "a.wav")

    @pytest.mark.parametrize("codec", [UNKNOWN, DEMO], ids=["unknown", "demo"])
    def test_imported_codes_are_not_encoded_again(self, codec: CodecClaim, tmp_path: Path) -> None:
        result = import_dump(save_npy(tmp_path / "dump", CODES), codec=codec)
        with pytest.raises(ConfigError, match="imported"):
            verify(result.output, reencode=1.0)

    def test_codes_made_here_are_never_mixed_with_imported_ones(self, tmp_path: Path) -> None:
        result = import_dump(save_npy(tmp_path / "dump", CODES), codec=DEMO)
        job = {
            "output": result.output,
            "recipe": {"codec": {"model": "demo", "bandwidth_kbps": 6.0}},
            "selection": {"source": {"kind": "demo"}},
            "runtime": {"executor": "inline"},
        }
        with pytest.raises(ConfigError, match=r"codec_config\.imported: true stored, nothing asked"):
            run(JobConfig.model_validate(job))

    @pytest.mark.parametrize(
        ("claim", "message"),
        [
            ({}, "needs --codec MODEL, or"),
            ({"sample_rate": 24_000, "frame_rate": 75.0}, "all three"),
            ({"model": "demo", "sample_rate": 24_000}, "leave"),
            ({"sample_rate": 24_000, "frame_rate": 77.7, "codebook_size": 1024}, "whole number"),
        ],
    )
    def test_a_claim_that_says_too_little_or_too_much(self, claim: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            CodecClaim(**claim)

    def test_codebooks_that_the_codec_does_not_have(self, tmp_path: Path) -> None:
        codes = made_codes("a", "b", num_codebooks=5)
        with pytest.raises(ConfigError, match=r"the codec has .* codebooks"):
            import_dump(save_npy(tmp_path / "dump", codes), codec=DEMO)


class TestRoundTrip:
    @pytest.mark.parametrize("to", [to for to in get_args(ExportFormat) if to != "megatron"])
    def test_an_export_imports_to_the_same_codes(self, to: str, tmp_path: Path) -> None:
        first = make_output(Storage.open(tmp_path / "first"))
        export(first, str(tmp_path / "dump"), to=cast(ExportFormat, to))
        result = import_dump(tmp_path / "dump")
        assert result.problems == []
        assert verify(result.output).problems == []
        assert hashes_by_id(result.output) == hashes_by_id(first)
        kept = ("num_samples", "duration_seconds", "source_sample_rate", "source_format", "rms_db", "peak", "truncated")
        before, after = rows_by_id(first), rows_by_id(result.output)
        for row_id, (_, columns) in before.items():
            assert {name: after[row_id][1][name] for name in kept} == {name: columns[name] for name in kept}

    def test_bark_prompts(self, tmp_path: Path) -> None:
        if not BARK.is_dir():
            pytest.skip(f"{BARK} is not there: Bark's prompts are no part of the project")
        said = DumpSaid(key="fine_prompt")
        result = import_codes(str(BARK), str(tmp_path / "out"), codec=UNKNOWN, said=said)
        assert (result.rows, result.rejects) == (271, 0)
        assert verify(result.output).problems == []
        found = codes_by_id(result.output)
        assert sum(codes.shape[1] for codes in found.values()) == 151_530
        for name in ("announcer", "de_speaker_0"):
            with np.load(BARK / f"{name}.npz") as arrays:
                assert np.array_equal(found[name], arrays["fine_prompt"])


class _Trap:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


def _rejects(result: ImportResult) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(Path(result.output) / "rejects").to_pylist()
    return rows


def _then(call: Callable[..., Any], after: Callable[[], object]) -> Callable[..., Any]:
    def both(*values: Any, **options: Any) -> Any:
        result = call(*values, **options)
        after()
        return result

    return both
