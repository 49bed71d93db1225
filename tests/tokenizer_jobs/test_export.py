"""Exports: each format read back by another's reader, whole or not at all, and equal bytes from equal snapshots."""

import hashlib
import json
import os
import struct
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizer_jobs.exchange import codes_by_id, hashes_by_id, make_output, rows_by_id
from tests.tokenizer_jobs.factories import FACTS, RECIPE, make_row
from tokenizer_jobs.cli import main
from tokenizer_jobs.digest import Digest, codes_sha256
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.exporting import ExportFormat, destination, export, id_of, key_of, numpy_files, webdataset
from tokenizer_jobs.exporting.keys import MAX_NAME_BYTES, file_stem_of
from tokenizer_jobs.exporting.megatron import document_tokens, token_dtype
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.training.patterns import FlattenPattern

FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_output(Storage.open(tmp_path_factory.mktemp("exports") / "out"))


def _hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class TestKeys:
    @given(st.text(min_size=1))
    def test_every_id_comes_back_from_its_key(self, row_id: str) -> None:
        try:
            row_id.encode()
        except UnicodeEncodeError:
            return  # no column holds a lone surrogate
        key = key_of(row_id)
        assert id_of(key) == row_id
        assert not set(key) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_%")

    @given(st.lists(st.text("ab./~%é", min_size=1, max_size=400), unique=True))
    def test_names_of_files_are_short_and_differ(self, ids: list[str]) -> None:
        stems = [file_stem_of(row_id) for row_id in ids]
        assert len(set(stems)) == len(ids)
        assert all(len(stem) <= MAX_NAME_BYTES for stem in stems)


class TestFormats:
    def test_webdataset_holds_every_row_under_its_key(self, output: str, tmp_path: Path) -> None:
        export(output, str(tmp_path / "tars"), to="webdataset")
        assert _wds_samples(tmp_path / "tars") == _expected_samples(output)

    def test_webdataset_is_read_by_its_own_library(self, output: str, tmp_path: Path) -> None:
        wds = pytest.importorskip("webdataset", reason="webdataset is not installed; the test above reads the tars")
        export(output, str(tmp_path / "tars"), to="webdataset")
        tars = [str(path) for path in sorted((tmp_path / "tars").glob("*.tar"))]
        samples = {s["json"]["id"]: s["codes.npy"] for s in wds.WebDataset(tars, shardshuffle=False).decode()}
        assert _equal(samples, codes_by_id(output))

    def test_webdataset_begins_a_new_archive_where_one_is_full(
        self, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(webdataset, "ARCHIVE_BYTES", 2000)
        result = export(output, str(tmp_path / "tars"), to="webdataset")
        assert result.files == len(list((tmp_path / "tars").glob("shard-*.tar"))) > 1
        assert _wds_samples(tmp_path / "tars") == _expected_samples(output)

    def test_megatron_documents_are_the_flattened_rows(self, output: str, tmp_path: Path) -> None:
        export(output, str(tmp_path / "megatron"), to="megatron")
        documents = _read_megatron(tmp_path / "megatron" / "tokens")
        lines = (tmp_path / "megatron" / "documents.jsonl").read_bytes().splitlines()
        codes = codes_by_id(output)
        assert [json.loads(line)["id"] for line in lines] == list(codes)
        assert len(documents) == len(codes)
        for document, (_, row) in zip(documents, codes.items(), strict=True):
            assert document.dtype == np.uint16
            assert (document[0], document[-1]) == (8 * 1024, 8 * 1024 + 1)
            inside = document[1:-1].astype(np.int64).reshape(-1, 8)
            assert np.array_equal((inside - 1024 * np.arange(8)).T, row)

    def test_megatron_is_read_by_its_own_library(self, output: str, tmp_path: Path) -> None:
        module = "megatron.core.datasets.indexed_dataset"
        indexed = pytest.importorskip(module, reason="megatron-core is not installed; the test above reads the files")
        export(output, str(tmp_path / "megatron"), to="megatron")
        found = indexed.IndexedDataset(str(tmp_path / "megatron" / "tokens"))
        mine = _read_megatron(tmp_path / "megatron" / "tokens")
        assert all(np.array_equal(a, b) for a, b in zip(found, mine, strict=True))

    @pytest.mark.parametrize(("num_codebooks", "size", "dtype"), [(8, 1024, "<u2"), (32, 2048, "<i4")])
    def test_megatron_tokens_are_those_of_the_flatten_pattern(self, num_codebooks: int, size: int, dtype: str) -> None:
        codes = make_row("a", num_codebooks=num_codebooks, num_frames=7, codebook_size=size).encoded.codes
        end = num_codebooks * size
        assert token_dtype(end + 2) == np.dtype(dtype)
        pattern = FlattenPattern(
            num_codebooks=num_codebooks, codebook_size=size, pad_id=end + 2, bos_id=end, eos_id=end + 1
        )
        mine = document_tokens(codes, codebook_size=size, dtype=token_dtype(end + 2))
        assert np.array_equal(mine, np.asarray(pattern.apply(codes)))

    def test_numpy_files_are_named_by_the_index(self, output: str, tmp_path: Path) -> None:
        folder = tmp_path / "npy"
        export(output, str(folder), to="numpy")
        lines = [json.loads(line) for line in (folder / "index.jsonl").read_bytes().splitlines()]
        assert _equal({line["id"]: np.load(folder / line["file"]) for line in lines}, codes_by_id(output))
        assert {str(path.relative_to(folder)) for path in folder.rglob("*.npy")} == {line["file"] for line in lines}

    def test_numpy_folders_stay_small(self, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(numpy_files, "FOLDER_FILES", 4)
        export(output, str(tmp_path / "npy"), to="numpy")
        assert [len(list(f.iterdir())) for f in sorted((tmp_path / "npy" / "codes").iterdir())] == [4, 4, 1]

    def test_arrow_files_have_the_rows_of_the_shards(self, output: str, tmp_path: Path) -> None:
        export(output, str(tmp_path / "arrow"), to="arrow")
        tables = [
            pa.ipc.open_file(pa.memory_map(str(p))).read_all() for p in sorted((tmp_path / "arrow").glob("*.arrow"))
        ]
        table = pa.concat_tables(tables)
        found = {r["id"]: np.array(r["codes"], dtype=np.uint16) for r in table.select(["id", "codes"]).to_pylist()}
        assert _equal(found, codes_by_id(output))
        stored = [columns for _, columns in rows_by_id(output).values()]
        assert table.drop_columns(["codes"]).to_pylist() == stored

    def test_huggingface_folder_loads(self, output: str, tmp_path: Path) -> None:
        import datasets

        export(output, str(tmp_path / "hf"), to="huggingface")
        loaded = datasets.load_from_disk(tmp_path / "hf")
        assert loaded.features["codes"] == datasets.List(datasets.List(datasets.Value("uint16")))
        arrays = loaded.with_format("numpy", dtype=np.uint16).select_columns(["codes"])
        found = dict(zip(loaded["id"], (row["codes"] for row in arrays), strict=True))
        assert _equal(found, codes_by_id(output))
        card = (tmp_path / "hf" / "README.md").read_text()
        assert FACTS.weights_sha256 in card
        assert RECIPE.recipe_id in card

    @pytest.mark.parametrize("to", FORMATS)
    def test_equal_snapshots_give_equal_bytes(self, to: ExportFormat, output: str, tmp_path: Path) -> None:
        results = [export(output, str(tmp_path / name), to=to) for name in ("one", "two")]
        first, second = (_hashes(tmp_path / name) for name in ("one", "two"))
        assert first == second
        listed = {"export.json"} | {file["path"] for file in _manifest(tmp_path / "one")["files"]}
        unlisted = {name for name in first if name not in listed}
        assert unlisted == {name for name in first if to == "numpy" and name.endswith(".npy")}
        assert results[0].rows == len(codes_by_id(output))

    @pytest.mark.parametrize("to", FORMATS)
    def test_the_first_codebooks_alone(self, to: ExportFormat, output: str, tmp_path: Path) -> None:
        result = export(output, str(tmp_path / "first"), to=to, codebooks=2)
        whole = codes_by_id(output)
        digest = Digest()
        for row_id, codes in whole.items():
            digest.add_row(row_id, codes_sha256=codes_sha256(codes[:2]), recipe_id=RECIPE.recipe_id)
        assert result.codebooks == 2
        assert _manifest(tmp_path / "first")["rows_digest"] == digest.hex
        if to == "webdataset":
            assert _equal({i: c for i, (c, _) in _wds_samples(tmp_path / "first").items()}, whole, codebooks=2)
        if to == "megatron":
            assert max(map(max, _read_megatron(tmp_path / "first" / "tokens"))) == 2 * 1024 + 1


class TestWholeOrNotAtAll:
    def test_the_manifest_says_what_was_exported(self, output: str, tmp_path: Path) -> None:
        result = export(output, str(tmp_path / "e"), to="arrow")
        manifest = _manifest(tmp_path / "e")
        assert manifest["digest"] == manifest["rows_digest"] == result.digest
        assert manifest["recipe"] == json.loads(RECIPE.model_dump_json())
        assert (manifest["snapshot"], manifest["rows"]) == (1, result.rows)
        for file in manifest["files"]:
            assert hashlib.sha256((tmp_path / "e" / file["path"]).read_bytes()).hexdigest() == file["sha256"]

    def test_the_same_again_writes_nothing(self, output: str, tmp_path: Path) -> None:
        export(output, str(tmp_path / "e"), to="numpy")
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "e").rglob("*")}
        assert export(output, str(tmp_path / "e"), to="numpy").was_there
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "e").rglob("*")} == before

    def test_another_export_there_is_refused(self, output: str, tmp_path: Path) -> None:
        export(output, str(tmp_path / "e"), to="numpy")
        with pytest.raises(ConfigError, match=r"another export .*numpy"):
            export(output, str(tmp_path / "e"), to="numpy", codebooks=2)

    def test_a_place_with_other_files_is_refused_and_left(self, output: str, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("years of work")
        with pytest.raises(ConfigError, match="not an empty folder"):
            export(output, str(tmp_path / "mine"), to="numpy")
        assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]

    def test_an_empty_folder_is_taken(self, output: str, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert export(output, str(tmp_path / "empty"), to="numpy").rows

    def test_what_fails_leaves_no_trace(self, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "sync", full)
        with pytest.raises(ConfigError, match="free some space"):
            export(output, str(tmp_path / "e"), to="webdataset")
        assert list(tmp_path.iterdir()) == []

    def test_what_a_killed_export_left_is_removed_by_the_next(self, output: str, tmp_path: Path) -> None:
        code = (
            "import os\n"
            "from tokenizer_jobs.exporting import export\n"
            "os.sync = lambda: os._exit(9)\n"
            f"export({output!r}, {str(tmp_path / 'e')!r}, to='numpy')\n"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".e.exporting-")
        export(output, str(tmp_path / "e"), to="numpy")
        assert [path.name for path in tmp_path.iterdir()] == ["e"]

    @pytest.mark.parametrize("to", FORMATS)
    def test_a_remote_export_has_the_same_files(self, to: ExportFormat, output: str, tmp_path: Path) -> None:
        url = f"memory://exports/{tmp_path.name}"
        export(output, url, to=to)
        export(output, str(tmp_path / "local"), to=to)
        system = fsspec.filesystem("memory")
        root = f"/exports/{tmp_path.name}/"
        found = {p.removeprefix(root): hashlib.sha256(system.cat(p)).hexdigest() for p in system.find(root)}
        assert found == _hashes(tmp_path / "local")

    def test_an_unfinished_remote_export_is_gone_on_with(
        self, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = f"memory://unfinished/{tmp_path.name}"
        with monkeypatch.context() as patched:
            patched.setattr(destination._RemoteDestination, "finish", _fail)
            with pytest.raises(RuntimeError, match="the power is gone"):
                export(output, url, to="numpy")
        with pytest.raises(ConfigError, match="unfinished export of something else"):
            export(output, url, to="numpy", codebooks=1)
        assert not export(output, url, to="numpy").was_there
        assert not fsspec.filesystem("memory").exists(f"/unfinished/{tmp_path.name}/export.unfinished.json")
        assert export(output, url, to="numpy").was_there

    def test_a_remote_place_with_other_files_is_refused(self, output: str, tmp_path: Path) -> None:
        fsspec.filesystem("memory").pipe_file(f"/taken/{tmp_path.name}/a.txt", b"mine")
        with pytest.raises(ConfigError, match="it holds other files"):
            export(output, f"memory://taken/{tmp_path.name}", to="numpy")


class TestRefusals:
    def test_more_codebooks_than_there_are(self, output: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="choose 1 to 8"):
            export(output, str(tmp_path / "e"), to="numpy", codebooks=9)

    def test_a_push_without_a_token(self, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        with pytest.raises(ConfigError, match="HF_TOKEN"):
            export(output, str(tmp_path / "e"), to="huggingface", push_to="me/codes")
        assert not (tmp_path / "e").exists()

    def test_a_push_while_offline(self, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
            export(output, str(tmp_path / "e"), to="huggingface", push_to="me/codes")

    def test_a_push_of_another_format(self, output: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="--to huggingface"):
            export(output, str(tmp_path / "e"), to="numpy", push_to="me/codes")

    def test_the_command(self, output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["export", output, "--to", "arrow", str(tmp_path / "e")]
        assert main([*words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["rows"] == len(hashes_by_id(output))
        assert main(words) == 0
        assert capsys.readouterr().out.startswith("done: this export was there already\n")


def _fail(*_: object) -> None:
    raise RuntimeError("the power is gone")


def _manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "export.json").read_text())
    return content


def _equal(
    found: dict[str, npt.NDArray[Any]], expected: dict[str, npt.NDArray[np.uint16]], *, codebooks: int | None = None
) -> bool:
    assert list(found) == list(expected)
    return all(
        array.dtype == np.uint16 and np.array_equal(array, expected[row_id][:codebooks])
        for row_id, array in found.items()
    )


class _Codes(np.ndarray[Any, np.dtype[np.uint16]]):
    """Codes that compare whole."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, np.ndarray) and self.dtype == other.dtype and np.array_equal(self, other)


Samples = dict[str, tuple[Any, dict[str, Any]]]


def _expected_samples(output: str) -> Samples:
    return {row_id: (codes.view(_Codes), dict(columns)) for row_id, (codes, columns) in rows_by_id(output).items()}


def _wds_samples(folder: Path) -> Samples:
    """What WebDataset's rule makes of the archives: samples are neighbours of one name up to the first dot."""
    found: Samples = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            for first, second in zip(members[::2], members[1::2], strict=True):
                key, ending = first.name.split(".", 1)
                assert (ending, second.name) == ("codes.npy", f"{key}.json")
                arrays, texts = archive.extractfile(first), archive.extractfile(second)
                assert arrays is not None
                assert texts is not None
                found[id_of(key)] = (np.load(BytesIO(arrays.read())).view(_Codes), json.load(texts))
    return found


def _read_megatron(prefix: Path) -> list[npt.NDArray[Any]]:
    """A reader of the indexed data set, written from the description of its format alone."""
    index = prefix.with_suffix(".idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, num_sequences, num_bounds = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    dtype = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}[code]
    at = 9 + struct.calcsize("<QBQQ")
    lengths = np.frombuffer(index, np.int32, num_sequences, at)
    pointers = np.frombuffer(index, np.int64, num_sequences, at + lengths.nbytes)
    bounds = np.frombuffer(index, np.int64, num_bounds, at + lengths.nbytes + pointers.nbytes)
    assert at + lengths.nbytes + pointers.nbytes + bounds.nbytes == len(index)
    assert bounds.tolist() == list(range(num_sequences + 1))
    content = prefix.with_suffix(".bin").read_bytes()
    assert pointers[-1] + lengths[-1] * np.dtype(dtype).itemsize == len(content)
    return [np.frombuffer(content, dtype, n, start) for n, start in zip(lengths, pointers, strict=True)]
