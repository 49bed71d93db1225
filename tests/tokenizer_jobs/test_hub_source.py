"""Laws of Hugging Face datasets as sources: every layout gives the bytes, columns and ids that were put in."""

import json
import uuid
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow as pa
import pytest

from tests.tokenizer_jobs.clips import MONO, encode, speechlike
from tokenizer_jobs.decode import decode_items
from tokenizer_jobs.errors import ConfigError, ItemError, RejectReason
from tokenizer_jobs.records import DecodedItem, Item
from tokenizer_jobs.source_config import HubSource
from tokenizer_jobs.sources import Listing, Source, make_source

pytestmark = pytest.mark.usefixtures("offline_datasets")

CLIPS = tuple(encode(speechlike(400 + 40 * place), container="FLAC", coding="PCM_16") for place in range(11))
TEXTS = tuple(f"text {place}" for place in range(len(CLIPS)))


def dataset(tmp_path: Path, chosen: range = range(len(CLIPS))) -> datasets.Dataset:
    """Clips of a folder, as a dataset that names them."""
    folder = tmp_path / "clips"
    folder.mkdir(exist_ok=True)
    for place in chosen:
        (folder / f"{place}.flac").write_bytes(CLIPS[place])
    columns = {
        "audio": [str(folder / f"{place}.flac") for place in chosen],
        "text": [TEXTS[place] for place in chosen],
        "place": list(chosen),
        "kind": [place % 2 for place in chosen],
    }
    made = datasets.Dataset.from_dict(columns)
    made = made.cast_column("kind", datasets.ClassLabel(names=["even", "odd"]))
    return made.cast_column("audio", datasets.Audio(decode=False))


def embedded(tmp_path: Path, chosen: range = range(len(CLIPS))) -> datasets.Dataset:
    """The same with the bytes inside."""
    rows = [{"bytes": CLIPS[place], "path": f"{place}.flac"} for place in chosen]
    audio = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = dataset(tmp_path, chosen).data.table
    table = table.set_column(table.schema.get_field_index("audio"), "audio", audio)
    return datasets.Dataset(table.replace_schema_metadata(dataset(tmp_path, chosen).data.schema.metadata))


def source(folder: Path | str, **keys: Any) -> Source:
    return make_source(HubSource(dataset=str(folder), **keys))


def content(opened_by: Source, item: Item) -> bytes:
    with opened_by.open(item) as file:
        return file.read()


def check(opened: Source, expected: dict[str, list[int]]) -> Listing:
    """The items are the rows of the splits, and each opens as the clip that it was, in any order."""
    found = opened.list()
    items = {item.id: item for item in found.items}
    places = {f"{split}/{row}": place for split, rows in expected.items() for row, place in enumerate(rows)}
    assert items.keys() == places.keys()
    for order in (list(found.items), list(found.items)[::-1], list(found.items)[::4]):
        for item in order:
            assert content(opened, item) == CLIPS[places[item.id]]
    for name, item in items.items():
        assert item.user_columns["text"] == TEXTS[places[name]]
        assert item.user_columns["kind"] == places[name] % 2
        assert item.user_columns["split"] == name.partition("/")[0]
    return found


ALL = list(range(len(CLIPS)))


@pytest.mark.parametrize("make", [dataset, embedded], ids=["paths", "bytes"])
def test_saved_to_disk(tmp_path: Path, make: Any) -> None:
    make(tmp_path).save_to_disk(tmp_path / "saved", num_shards=3)
    found = check(source(tmp_path / "saved"), {"train": ALL})
    assert found.user_schema.field("place").type == pa.int64()
    assert {item.source_etag is not None and item.source_group == 0 for item in found.items} == {True}


def test_splits_saved_to_disk(tmp_path: Path) -> None:
    whole = embedded(tmp_path)
    splits = {"train": range(6), "test": range(6, 11), "odd ones": range(1, 11, 2)}
    saved = datasets.DatasetDict({name: whole.select(places) for name, places in splits.items()})
    saved.save_to_disk(tmp_path / "saved")
    check(source(tmp_path / "saved"), {name: list(places) for name, places in splits.items()})
    check(source(tmp_path / "saved", splits=["test"]), {"test": ALL[6:]})
    with pytest.raises(ConfigError, match="has no split dev; it has train, test, odd ones"):
        source(tmp_path / "saved", splits=["dev"]).list()
    with pytest.raises(ConfigError, match="config = 'en'"):
        source(tmp_path / "saved", config="en").list()
    (tmp_path / "saved/test/data-00000-of-00001.arrow").unlink()
    with pytest.raises(ConfigError, match=r"not whole: .*test/data-00000-of-00001.arrow"):
        source(tmp_path / "saved").list()


def test_several_record_batches_are_groups(tmp_path: Path) -> None:
    rows = embedded(tmp_path).data.table.combine_chunks()
    (tmp_path / "set").mkdir()
    for name, make in (("train", pa.ipc.new_stream), ("test", pa.ipc.new_file)):
        with make(str(tmp_path / f"set/{name}-00000-of-00001.arrow"), rows.schema) as writer:
            writer.write_table(rows, max_chunksize=4)
    opened = source(tmp_path / "set")
    found = check(opened, {"train": ALL, "test": ALL})
    assert {(item.source_row, item.source_group) for item in found.items} == {(row, row // 4) for row in ALL}


def test_a_folder_with_the_names_of_splits_grows(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    embedded(tmp_path, range(4)).to_parquet(folder / "train-00000-of-00002.parquet")
    embedded(tmp_path, range(8, 11)).to_parquet(folder / "test-00000-of-00001.parquet")
    before = check(source(tmp_path / "set"), {"train": ALL[:4], "test": ALL[8:]})
    embedded(tmp_path, range(4, 8)).to_parquet(folder / "train-00001-of-00002.parquet")
    after = check(source(tmp_path / "set"), {"train": ALL[:8], "test": ALL[8:]})
    assert {item.id: item for item in after.items}.items() >= {item.id: item for item in before.items}.items()


def test_a_card_says_which_files_are_what(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for name, places in {"en/one": range(3), "en/two": range(3, 6), "de/one": range(6, 11)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        embedded(tmp_path, places).to_parquet(folder / f"{name}.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  default: true\n  data_files: en/*.parquet\n- config_name: de\n"
        "  data_files:\n  - split: validation\n    path: de/*.parquet\n---\n"
    )
    check(source(folder), {"train": ALL[:6]})
    check(source(folder, config="de"), {"validation": ALL[6:]})
    with pytest.raises(ConfigError, match="'fr' not found"):
        source(folder, config="fr").list()
    with pytest.raises(ConfigError, match="revision = 'main'"):
        source(folder, revision="main").list()


def test_columns_and_ids_of_ones_own(tmp_path: Path) -> None:
    embedded(tmp_path).save_to_disk(tmp_path / "saved")
    found = source(tmp_path / "saved", id_column="text", columns=["place"]).list()
    assert found.user_schema.names == ["place"]
    assert {item.id: item.user_columns["place"] for item in found.items} == dict(zip(TEXTS, ALL, strict=True))
    named = source(tmp_path / "saved", columns=["place", "split"]).list()
    assert named.user_schema.names == ["place", "split"]
    assert {item.user_columns["split"] for item in named.items} == {"train"}


def test_a_dataset_saved_elsewhere(tmp_path: Path) -> None:
    embedded(tmp_path).save_to_disk(tmp_path / "saved", num_shards=2)
    folder = f"/{uuid.uuid4().hex}"
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "saved"), folder, recursive=True)
    check(source(f"memory://{folder}"), {"train": ALL})
    memory.rm(f"{folder}/state.json")
    with pytest.raises(ConfigError, match="kind: parquet"):
        source(f"memory://{folder}").list()
    memory.rm(folder, recursive=True)


def test_what_is_no_dataset_of_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'some/dataset'.*HF_ENDPOINT.*hf download some/dataset"):
        source("some/dataset").list()
    with pytest.raises(ConfigError, match="does not exist; expected a folder, or the id"):
        source(tmp_path / "none").list()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"holds csv files.*kind: manifest"):
        source(tmp_path / "notes").list()


def test_damaged_arrow_files_are_told(tmp_path: Path) -> None:
    embedded(tmp_path).save_to_disk(tmp_path / "saved")
    (path,) = (tmp_path / "saved").glob("*.arrow")
    whole = path.read_bytes()
    opened = source(tmp_path / "saved")
    items = opened.list().items
    for damaged in (whole[: len(whole) // 2], whole[:100], b"", b"\xff" * 200, b"<html>" * 50):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"1 of 1 tables cannot be read: .*\.arrow"):
            source(tmp_path / "saved").list()
        with pytest.raises(ItemError) as caught:
            opened.open(items[3])
        assert caught.value.reason is RejectReason.CHANGED


def test_rows_decode(tmp_path: Path) -> None:
    embedded(tmp_path).save_to_disk(tmp_path / "saved")
    opened = source(tmp_path / "saved")
    decoded = list(decode_items(list(enumerate(opened.list().items)), source=opened, target=MONO))
    assert [isinstance(item, DecodedItem) and item.facts.num_samples for item in decoded] == [
        400 + 40 * place for place in ALL
    ]
    assert json.loads((tmp_path / "saved/state.json").read_text())["_split"] is None
