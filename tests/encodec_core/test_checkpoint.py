"""Loading and saving: every format gives the same model, with the same hash, or an error that names what is wrong."""

import copy
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from encodec_core import EncodecConfig, EncodecFeatureExtractor, EncodecModel
from encodec_core.checkpoint import infer_config
from encodec_core.naming import is_training_only, own_name
from encodec_core.stored import file_sha256
from encodec_core.weights import neutral_names, weights_sha256
from tests.encodec_core.models import (
    CONFIGS,
    fitted_model,
    in_meta,
    transformers_from_pretrained,
    transformers_model,
    waveforms,
)

PUBLISHED = ("causal_mono", "windows_stereo")


@pytest.fixture(params=PUBLISHED)
def model(request: pytest.FixtureRequest) -> EncodecModel:
    return fitted_model(request.param)


def old_style(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name weight norm as torch did before its parametrizations, and transformers' published files do."""
    names = {name: name.replace("parametrizations.weight.original0", "weight_g") for name in state}
    return {
        names[name].replace("parametrizations.weight.original1", "weight_v"): tensor for name, tensor in state.items()
    }


def write_safetensors(folder: Path, state: dict[str, Tensor]) -> None:
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def write_bin(folder: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, folder / "pytorch_model.bin")


def write_shards(folder: Path, state: dict[str, Tensor]) -> None:
    names = sorted(state)
    weight_map = {name: f"model-{index % 2 + 1:05d}-of-00002.safetensors" for index, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({name: state[name] for name in names if weight_map[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, dict[str, Tensor]], None]] = {
    "safetensors": write_safetensors,
    "bin": write_bin,
    "shards": write_shards,
}


def assert_same_model(ours: EncodecModel, other: EncodecModel) -> None:
    assert ours.state_dict().keys() == other.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert weights_sha256(ours) == weights_sha256(other)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("style", [dict, old_style], ids=["parametrizations", "weight_g"])
def test_every_format_and_style_of_weight_norm(model: EncodecModel, write: Any, style: Any, tmp_path: Path) -> None:
    model.config.save_pretrained(tmp_path)
    write(tmp_path, style(model.state_dict()))
    loaded = EncodecModel.from_pretrained(tmp_path)
    assert_same_model(model, loaded)
    assert loaded.config == model.config
    assert not loaded.training


@pytest.mark.parametrize("wrapper", [None, "best_state"])
def test_th_checkpoints_of_meta(model: EncodecModel, wrapper: str | None, tmp_path: Path) -> None:
    state = in_meta(model).state_dict()
    path = tmp_path / "encodec.th"
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, path)
    loaded = EncodecModel.from_pretrained(path)
    assert_same_model(model, loaded)
    assert loaded.config.to_dict() == model.config.to_dict()
    assert loaded.provenance is not None
    assert loaded.provenance.files == (("encodec.th", file_sha256(path)),)


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_loads_what_we_save_and_we_what_it_saves(name: str, tmp_path: Path) -> None:
    model = fitted_model(name)
    model.save_pretrained(tmp_path / "ours")
    theirs, problems = transformers_from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(problems.values())
    audio = waveforms(name, 700)
    assert torch.equal(theirs.encode(audio)[0], model.encode(audio)[0])
    theirs.save_pretrained(tmp_path / "theirs")
    assert_same_model(model, EncodecModel.from_pretrained(tmp_path / "theirs", dtype="auto"))


@pytest.mark.parametrize("name", CONFIGS)
def test_state_dicts_load_in_both_directions(name: str) -> None:
    theirs = transformers_model(name).state_dict()
    ours = fitted_model(name).state_dict()
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in ours.items()} == {
        key: (tensor.shape, tensor.dtype) for key, tensor in theirs.items()
    }
    with torch.random.fork_rng(devices=[]):
        fresh = EncodecModel(CONFIGS[name])
    fresh.load_state_dict(theirs)
    assert_same_model(fitted_model(name), fresh)


@pytest.mark.parametrize("name", CONFIGS)
def test_names_of_meta_translate_back(name: str) -> None:
    neutral = neutral_names(fitted_model(name))
    assert len(set(neutral.values())) == len(neutral)
    assert all(own_name(theirs) == ours for ours, theirs in neutral.items())


@pytest.mark.parametrize("name", [*PUBLISHED, "causal_stereo", "windows_mono"])
def test_the_config_is_inferred_from_tensors(name: str) -> None:
    assert infer_config(fitted_model(name).state_dict()) == CONFIGS[name]


@pytest.mark.parametrize(
    "preset", [EncodecConfig.encodec_24khz, EncodecConfig.encodec_48khz, EncodecConfig.musicgen_32khz]
)
def test_published_configs_are_inferred_from_tensors(preset: Any) -> None:
    with torch.device("meta"):
        model = EncodecModel(preset())
    assert infer_config(model.state_dict()) == preset()


def test_codebooks_that_no_published_bandwidth_asks_for_are_refused() -> None:
    state = {name: tensor for name, tensor in fitted_model("causal_mono").state_dict().items() if ".31." not in name}
    with pytest.raises(ValueError, match="31 codebooks"):
        infer_config(state)


def test_tensors_of_something_else_are_refused(tmp_path: Path) -> None:
    torch.save({"linear.weight": torch.zeros(2, 2)}, tmp_path / "other.th")
    with pytest.raises(ValueError, match="not an EnCodec's"):
        EncodecModel.from_pretrained(tmp_path / "other.th")


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"path": Path("x")}, tmp_path / "code.th")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        EncodecModel.from_pretrained(tmp_path / "code.th")


def test_training_only_buffers_may_be_missing(model: EncodecModel, tmp_path: Path) -> None:
    model.config.save_pretrained(tmp_path)
    state = {name: tensor for name, tensor in model.state_dict().items() if not is_training_only(name)}
    assert len(state) < len(model.state_dict())
    write_safetensors(tmp_path, state)
    loaded = EncodecModel.from_pretrained(tmp_path)
    assert weights_sha256(loaded) == weights_sha256(model)
    for codebook in loaded.quantizer.codebooks:
        torch.testing.assert_close(codebook.embed_avg / codebook.cluster_size[:, None], codebook.embed)
        assert codebook.inited.item() == 1


@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_are_named(damage: str, tmp_path: Path) -> None:
    model = fitted_model("causal_mono")
    model.config.save_pretrained(tmp_path)
    state = model.state_dict()
    name = "quantizer.layers.3.codebook.embed"
    if damage == "missing":
        del state[name]
    elif damage == "unexpected":
        name = "encoder.layers.99.bias"
        state[name] = torch.zeros(1)
    else:
        state[name] = state[name][:-1].clone()
    write_safetensors(tmp_path, state)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        EncodecModel.from_pretrained(tmp_path)


def test_the_hash_ignores_training_buffers_and_sees_everything_else() -> None:
    model = fitted_model("musicgen")
    with torch.random.fork_rng(devices=[]):
        twin = EncodecModel(model.config).requires_grad_(False)
    twin.load_state_dict(model.state_dict())
    before = weights_sha256(twin)
    for codebook in twin.quantizer.codebooks:
        codebook.cluster_size.add_(1)
        codebook.embed_avg.add_(1)
    assert weights_sha256(twin) == before == weights_sha256(model)
    for name, tensor in twin.state_dict().items():
        if is_training_only(name):
            continue
        first = tensor.flatten()[0].clone()
        tensor.view(-1)[0] += 1
        assert weights_sha256(twin) != before, name
        tensor.view(-1)[0] = first
    assert weights_sha256(twin) == before
    assert weights_sha256(twin.double()) != before


def test_provenance_names_files_and_hashes(tmp_path: Path) -> None:
    model = fitted_model("causal_mono")
    model.save_pretrained(tmp_path)
    provenance = EncodecModel.from_pretrained(tmp_path).provenance
    assert provenance is not None
    assert provenance.source == str(tmp_path)
    assert provenance.revision is None
    assert provenance.files == (("model.safetensors", file_sha256(tmp_path / "model.safetensors")),)
    assert provenance.weights_sha256 == weights_sha256(model)


def test_dtypes(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        half = EncodecModel(CONFIGS["causal_mono"])
    half.load_state_dict(fitted_model("causal_mono").state_dict())
    half.half().save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["encoder.layers.0.conv.bias"].dtype == torch.float16
    for dtype, expected in {
        None: torch.float32,
        "auto": torch.float16,
        "bfloat16": torch.bfloat16,
        torch.float64: torch.float64,
    }.items():
        loaded = EncodecModel.from_pretrained(tmp_path, dtype=dtype)
        assert {tensor.dtype for tensor in loaded.state_dict().values()} == {expected}
    with pytest.raises(ValueError, match="int8"):
        EncodecModel.from_pretrained(tmp_path, dtype="int8")


def test_loading_draws_no_random_numbers_and_shares_no_memory(tmp_path: Path) -> None:
    fitted_model("causal_mono").save_pretrained(tmp_path)
    before = torch.get_rng_state()
    first, second = EncodecModel.from_pretrained(tmp_path), EncodecModel.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        for tensor in first.state_dict().values():
            tensor.zero_()
    assert_same_model(second, fitted_model("causal_mono"))
    assert all(parameter.requires_grad for parameter in second.parameters())


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_weights_are_as_readable_as_the_umask_says(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        fitted_model("causal_mono").save_pretrained(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == mode
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]


def test_a_loaded_model_stays_itself_when_another_takes_its_place(tmp_path: Path) -> None:
    fitted_model("causal_mono").save_pretrained(tmp_path)
    loaded = EncodecModel.from_pretrained(tmp_path)
    copy.deepcopy(fitted_model("causal_mono")).half().save_pretrained(tmp_path)
    assert_same_model(loaded, fitted_model("causal_mono"))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(1000))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def overwritten(path: Path) -> None:
    path.write_bytes(b"\x80\x02}q\x00h\x05.")


@pytest.mark.parametrize("damage", [truncated, zeroed, emptied, overwritten])
@pytest.mark.parametrize("write", [write_safetensors, write_bin])
def test_damaged_weights_are_named(write: Any, damage: Any, tmp_path: Path) -> None:
    model = fitted_model("causal_mono")
    model.config.save_pretrained(tmp_path)
    write(tmp_path, model.state_dict())
    (weights,) = tmp_path.glob("*model.*")
    damage(weights)
    with pytest.raises(ValueError, match=rf"{weights.name} is damaged.*expected.*Copy the file again"):
        EncodecModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("damage", [truncated, zeroed, emptied, overwritten])
def test_damaged_th_files_are_named(damage: Any, tmp_path: Path) -> None:
    torch.save(in_meta(fitted_model("causal_mono")).state_dict(), tmp_path / "encodec.th")
    damage(tmp_path / "encodec.th")
    with pytest.raises(ValueError, match=r"encodec\.th is damaged.*expected.*Copy the file again"):
        EncodecModel.from_pretrained(tmp_path / "encodec.th")


def test_tensors_of_odd_shapes_are_no_encodec(tmp_path: Path) -> None:
    state = in_meta(fitted_model("causal_mono")).state_dict()
    torch.save(
        {name: tensor.flatten() if "conv" in name else tensor for name, tensor in state.items()}, tmp_path / "odd.th"
    )
    with pytest.raises(ValueError, match="not an EnCodec's"):
        EncodecModel.from_pretrained(tmp_path / "odd.th")


@pytest.mark.parametrize("text", ["[1]", "null", '{"sampling_rate": 240', "\x00"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "preprocessor_config.json"])
def test_damaged_json_is_named(name: str, text: str, tmp_path: Path) -> None:
    fitted_model("causal_mono").save_pretrained(tmp_path)
    if name == "model.safetensors.index.json":
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_text(text, encoding="utf-8")
    kind: Any = EncodecFeatureExtractor if name == "preprocessor_config.json" else EncodecModel
    with pytest.raises(ValueError, match=rf"{name} (is no JSON|holds a).*expected an object.*Copy the file again"):
        kind.from_pretrained(tmp_path)


@pytest.mark.parametrize("index", [{}, {"weight_map": ["model.safetensors"]}, {"weight_map": {"bias": 1}}], ids=str)
def test_an_index_without_a_map_is_named(index: Any, tmp_path: Path) -> None:
    EncodecConfig().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ValueError, match=r"index\.json has no weight_map"):
        EncodecModel.from_pretrained(tmp_path)


def test_a_file_without_weights_is_refused_whatever_the_dtype(tmp_path: Path) -> None:
    EncodecConfig().save_pretrained(tmp_path)
    write_bin(tmp_path, {})
    with pytest.raises(ValueError, match="missing keys"):
        EncodecModel.from_pretrained(tmp_path, dtype="auto")


def test_torch_dtype_is_dtype(tmp_path: Path) -> None:
    fitted_model("causal_mono").save_pretrained(tmp_path)
    assert EncodecModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="give dtype alone"):
        EncodecModel.from_pretrained(tmp_path, torch_dtype="float16", dtype="float32")
