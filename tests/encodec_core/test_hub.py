"""Finding a codec: folders, hub ids from the cache, and clear errors where there is nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from encodec_core import EncodecConfig, EncodecFeatureExtractor, EncodecModel
from tests.encodec_core.models import fitted_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path) -> Path:
    """A cache as huggingface_hub fills it, with one codec in it."""
    repository = tmp_path / "hub" / "models--someone--codec"
    fitted_model("causal_mono").save_pretrained(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    return tmp_path / "hub"


def test_a_cached_hub_id_is_loaded_offline_with_its_commit(hub_cache: Path) -> None:
    model = EncodecModel.from_pretrained("someone/codec", cache_dir=hub_cache, local_files_only=True)
    assert model.provenance is not None
    assert (model.provenance.source, model.provenance.revision) == ("someone/codec", COMMIT)
    assert EncodecFeatureExtractor.from_pretrained("someone/codec", cache_dir=hub_cache, local_files_only=True)


def test_a_cached_codec_without_weights_is_refused(hub_cache: Path) -> None:
    (hub_cache / "models--someone--codec" / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"none of model\.safetensors"):
        EncodecModel.from_pretrained("someone/codec", cache_dir=hub_cache, local_files_only=True)


def test_nonsense_is_refused_with_the_remedy_when_offline(tmp_path: Path) -> None:
    names = ["facebook/no-such-codec", "no/such/folder", "~/nothing", "nonsense"]
    script = (
        "import sys\n"
        "from encodec_core import EncodecConfig, EncodecFeatureExtractor, EncodecModel\n"
        "for name in sys.argv[1:]:\n"
        "    for kind in (EncodecConfig, EncodecFeatureExtractor, EncodecModel):\n"
        "        try:\n"
        "            kind.from_pretrained(name)\n"
        "        except FileNotFoundError as error:\n"
        "            print(error)\n"
        "assert 'transformers' not in sys.modules and 'encodec' not in sys.modules\n"
    )
    # A process of its own: huggingface_hub reads the environment when it is imported.
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script, *names], env=os.environ | offline, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name, line in zip([name for name in names for _ in range(3)], done.stdout.splitlines(), strict=True):
        assert f"no codec at {name!r}" in line
        assert "there is no such folder" in line
        assert "Give a folder" in line


def test_a_missing_th_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.th"):
        EncodecModel.from_pretrained(tmp_path / "nothing.th")


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        EncodecModel.from_pretrained(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    EncodecConfig().save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none of model\.safetensors, pytorch_model\.bin"):
        EncodecModel.from_pretrained(tmp_path)


def test_an_index_that_names_a_missing_file_is_refused(tmp_path: Path) -> None:
    EncodecConfig().save_pretrained(tmp_path)
    index = {"weight_map": {"encoder.layers.0.conv.bias": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="model-00001"):
        EncodecModel.from_pretrained(tmp_path)


def test_demo_is_the_embedded_codec_and_a_folder_of_that_name_is_asked_for_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = EncodecConfig.from_pretrained("demo")
    monkeypatch.chdir(tmp_path)
    EncodecConfig(num_filters=17).save_pretrained("demo")
    assert EncodecConfig.from_pretrained("demo") == embedded
    for folder in ("./demo", Path("demo")):
        assert EncodecConfig.from_pretrained(folder).num_filters == 17


def test_subfolders_of_folders_and_repositories(tmp_path: Path, hub_cache: Path) -> None:
    snapshot = hub_cache / "models--someone--codec" / "snapshots" / COMMIT
    fitted_model("musicgen").save_pretrained(snapshot / "a" / "b")
    expected = EncodecConfig.from_pretrained(snapshot / "a" / "b")
    assert expected != EncodecConfig.from_pretrained(snapshot)
    model = EncodecModel.from_pretrained("someone/codec", cache_dir=hub_cache, local_files_only=True, subfolder="a/b")
    assert model.config == expected
    assert model.provenance is not None
    assert model.provenance.revision == COMMIT
    assert EncodecConfig.from_pretrained(snapshot, subfolder="a/b") == expected
    assert EncodecFeatureExtractor.from_pretrained(snapshot, subfolder="a/b").sampling_rate == 32_000
    with pytest.raises(FileNotFoundError, match=r"a/c/config\.json"):
        EncodecModel.from_pretrained(snapshot, subfolder="a/c")
    with pytest.raises(ValueError, match="subfolder = 'a' cannot take effect"):
        EncodecModel.from_pretrained("codec.th", subfolder="a")


def test_a_forced_download_asks_the_hub_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    EncodecConfig().save_pretrained(tmp_path)
    asked: list[dict[str, Any]] = []

    def download(repository: str, name: str, **options: Any) -> str:
        asked.append(options)
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    EncodecConfig.from_pretrained("someone/codec", force_download=True)
    assert [options["force_download"] for options in asked] == [True]


@pytest.mark.parametrize("kind", [EncodecConfig, EncodecFeatureExtractor, EncodecModel])
def test_unknown_keywords_are_named_with_those_that_are_taken(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"takes no device_map, variant; it takes .*revision.*subfolder"):
        kind.from_pretrained("demo", variant="fp16", device_map="auto")


def test_the_first_parameters_have_the_names_of_transformers(tmp_path: Path) -> None:
    for kind in (EncodecConfig, EncodecFeatureExtractor, EncodecModel):
        made: Any = kind.from_pretrained(pretrained_model_name_or_path="demo")
        made.save_pretrained(save_directory=tmp_path)
