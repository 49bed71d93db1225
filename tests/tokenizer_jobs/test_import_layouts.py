"""Layouts and containers of other tools: found out where the dump tells, else asked for; no code is changed."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer_jobs.dumps import (
    CODES,
    DEMO,
    add_member,
    check_import,
    import_dump,
    laid_out,
    made_codes,
    npy_content,
    save_dump,
    save_npy,
)
from tests.tokenizer_jobs.exchange import codes_table, rows_by_id
from tokenizer_jobs.errors import ConfigError, ItemError
from tokenizer_jobs.importing import DumpSaid
from tokenizer_jobs.importing.guessing import Wanted, guess_layout
from tokenizer_jobs.importing.layouts import AXES, Axes, Layout


class TestLayouts:
    @pytest.mark.parametrize("offsets", [False, True])
    @pytest.mark.parametrize("axes", ["KT", "TK", "1KT", "1TK"])
    def test_of_two_axes_are_found_out(self, axes: str, offsets: bool, tmp_path: Path) -> None:
        dump = save_npy(tmp_path / "dump", {i: laid_out(c, axes, offsets=offsets) for i, c in CODES.items()})
        result = check_import(dump, CODES)
        assert result.format.axes == axes.removeprefix("1")
        assert result.format.has_offsets is offsets

    @pytest.mark.parametrize("axes", ["flat", "flat-by-codebook"])
    def test_flattened_ones_with_offsets_are_found_out(self, axes: str, tmp_path: Path) -> None:
        dump = save_npy(tmp_path / "dump", {i: laid_out(c, axes, offsets=True) for i, c in CODES.items()})
        assert check_import(dump, CODES).format.axes == axes

    @pytest.mark.parametrize("axes", ["flat", "flat-by-codebook"])
    def test_flattened_ones_without_offsets_must_be_said(self, axes: Axes, tmp_path: Path) -> None:
        dump = save_npy(tmp_path / "dump", {i: laid_out(c, axes) for i, c in CODES.items()})
        with pytest.raises(ConfigError, match="say --num-codebooks, and --layout"):
            import_dump(dump)
        with pytest.raises(ConfigError, match="say --layout flat"):
            import_dump(dump, said=DumpSaid(num_codebooks=8))
        assert not (tmp_path / "out").exists()
        check_import(dump, CODES, said=DumpSaid(num_codebooks=8, axes=axes))

    @given(
        axes=st.sampled_from(AXES),
        offsets=st.booleans(),
        num_codebooks=st.integers(1, 9),
        num_frames=st.integers(1, 40),
    )
    @settings(deadline=None)
    def test_every_layout_gives_the_codes_back(
        self, axes: Axes, offsets: bool, num_codebooks: int, num_frames: int
    ) -> None:
        codes = np.random.default_rng(num_frames).integers(0, 1024, (num_codebooks, num_frames), dtype=np.uint16)
        layout = Layout(axes=axes, num_codebooks=num_codebooks, codebook_size=1024, has_offsets=offsets)
        found = layout.codes_in(laid_out(codes, axes, offsets=offsets))
        assert found.dtype == np.uint16
        assert found.flags.c_contiguous
        assert np.array_equal(found, codes)

    @given(st.lists(st.integers(65, 400), min_size=1, max_size=8), st.integers(1, 32), st.sampled_from(["KT", "TK"]))
    @settings(deadline=None)
    def test_no_time_axis_is_taken_for_codebooks(self, lengths: list[int], num_codebooks: int, axes: Axes) -> None:
        arrays = [laid_out(np.zeros((num_codebooks, length), np.uint16), axes) for length in lengths]
        layout = guess_layout(arrays, Wanted(codebook_size=1024)).layout
        assert (layout.axes, layout.num_codebooks) == (axes, num_codebooks)

    def test_two_axes_that_may_both_be_codebooks_must_be_said(self, tmp_path: Path) -> None:
        square = {"a": np.zeros((8, 8), np.int64), "b": np.zeros((8, 8), np.int64)}
        dump = save_npy(tmp_path / "dump", square)
        with pytest.raises(ConfigError, match=r"shapes \[8, 8\].*--layout KT or --layout TK"):
            import_dump(dump)
        check_import(dump, {name: array.astype(np.uint16) for name, array in square.items()}, said=DumpSaid(axes="TK"))

    def test_a_codec_tells_how_many_codebooks_there_can_be(self, tmp_path: Path) -> None:
        short = made_codes("a", "b", num_codebooks=8)
        dump = save_npy(tmp_path / "dump", {name: codes[:, :20].T for name, codes in short.items()})
        with pytest.raises(ConfigError, match="--layout"):
            import_dump(dump)
        result = check_import(dump, {name: codes[:, :20] for name, codes in short.items()}, codec=DEMO)
        assert (result.format.axes, result.format.num_codebooks) == ("TK", 8)

    def test_a_few_damaged_files_do_not_mislead(self, tmp_path: Path) -> None:
        many = made_codes(*map(str, range(12)))
        dump = save_npy(tmp_path / "dump", many)
        np.save(dump / "x.npy", np.zeros((3, 50), np.int64))
        np.save(dump / "y.npy", np.full((8, 50), 5000))
        result = import_dump(dump)
        assert (result.rows, result.rejects) == (12, 2)


class TestContainers:
    def test_npz(self, tmp_path: Path) -> None:
        dump = save_dump(
            tmp_path / "dump", CODES, ".npz", lambda path, codes: np.savez(path, codes=codes, rate=[24_000])
        )
        assert check_import(dump, CODES, said=DumpSaid(num_codebooks=8)).format.key == "codes"

    def test_several_arrays_that_may_be_codes_must_be_said(self, tmp_path: Path) -> None:
        def save(path: Path, codes: npt.NDArray[np.uint16]) -> None:
            np.savez(path, fine=codes, coarse=codes[:2])

        dump = save_dump(tmp_path / "dump", CODES, ".npz", save)
        with pytest.raises(ConfigError, match=r"'coarse' \[2, 100 to 121\].*'fine' \[8, 100 to 121\].*--key"):
            import_dump(dump)
        check_import(dump, CODES, said=DumpSaid(key="fine"))

    @pytest.mark.parametrize(
        ("wrap", "key"),
        [
            (lambda codes: codes, ""),
            (lambda codes: {"codes": codes, "scale": torch.tensor(1.5)}, "codes"),
            (lambda codes: [(codes[None], None)], "0.0"),
            (lambda codes: {"codes": codes, "mean": torch.ones(3, requires_grad=True)}, "codes"),
            (lambda codes: {"codes": codes, "mask": torch.eye(3).to_sparse()}, "codes"),
        ],
        ids=["tensor", "dict", "frames of encodec", "beside a gradient", "beside what numpy has not"],
    )
    def test_pt(self, wrap: Callable[[torch.Tensor], Any], key: str, tmp_path: Path) -> None:
        def save(path: Path, codes: npt.NDArray[np.uint16]) -> None:
            torch.save(wrap(torch.from_numpy(codes.astype(np.int64))), path)

        result = check_import(save_dump(tmp_path / "dump", CODES, ".pt", save), CODES)
        assert (result.format.key or "") == key

    def test_tar(self, tmp_path: Path) -> None:
        (tmp_path / "dump").mkdir()
        with tarfile.open(tmp_path / "dump" / "0.tar", "w") as archive:
            for name, codes in CODES.items():
                add_member(archive, f"{name}.tokens.npy", npy_content(codes.T.astype(np.int16)))
                add_member(archive, f"{name}.json", json.dumps({"text": f"says {name}", "speaker": 7}).encode())
        result = check_import(tmp_path / "dump", {f"0.tar#{name}": codes for name, codes in CODES.items()})
        columns = {row_id: row for row_id, (_, row) in rows_by_id(result.output).items()}
        assert (columns["0.tar#a"]["text"], columns["0.tar#a"]["speaker"]) == ("says a", 7)
        assert columns["0.tar#b/c"]["source_member"] == "b/c.tokens.npy"

    def test_several_arrays_of_a_sample_must_be_said(self, tmp_path: Path) -> None:
        (tmp_path / "dump").mkdir()
        with tarfile.open(tmp_path / "dump" / "0.tar", "w") as archive:
            for name, codes in CODES.items():
                add_member(archive, f"{name}.codes.npy", npy_content(codes))
                add_member(archive, f"{name}.mel.npy", npy_content(np.ones((80, 9), np.float32)))
        with pytest.raises(ConfigError, match=r"codes\.npy, mel\.npy.*--key"):
            import_dump(tmp_path / "dump")
        named = {f"0.tar#{name}": codes for name, codes in CODES.items()}
        check_import(tmp_path / "dump", named, said=DumpSaid(key="codes.npy"))

    @pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
    def test_tables(self, kind: str, tmp_path: Path) -> None:
        table = codes_table(CODES, text=[f"says {name}" for name in CODES])
        (tmp_path / "dump").mkdir()
        if kind == "parquet":
            pq.write_table(table, tmp_path / "dump" / "0.parquet", row_group_size=3)
        else:
            make = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
            with make(tmp_path / "dump" / "0.arrow", table.schema) as writer:
                writer.write_table(table, max_chunksize=3)
        result = check_import(tmp_path / "dump", CODES, said=DumpSaid(ids="field:name"))
        assert result.format.key == "tokens"
        rows = rows_by_id(result.output)
        assert {name: columns["text"] for name, (_, columns) in rows.items()} == {n: f"says {n}" for n in CODES}

    def test_files_of_several_kinds_are_refused(self, tmp_path: Path) -> None:
        dump = save_npy(tmp_path / "dump", CODES)
        pq.write_table(codes_table(CODES), dump / "0.parquet")
        with pytest.raises(ConfigError, match="several kinds"):
            import_dump(dump)

    def test_a_folder_without_codes_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "dump").mkdir()
        (tmp_path / "dump" / "a.wav").write_bytes(b"RIFF")
        with pytest.raises(ConfigError, match=r"holds no dump of codes.*wav"):
            import_dump(tmp_path / "dump")


def test_layouts_refuse_what_is_no_code() -> None:
    layout = Layout(axes="KT", num_codebooks=2, codebook_size=1024)
    with pytest.raises(ItemError, match="beyond all codes"):
        layout.codes_in(np.full((2, 3), 2**63, np.uint64))
