"""What files say of a codec without torch: as a model made of them says it, or nothing."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from encodec_core import EncodecConfig, EncodecModel
from encodec_core.hub import Location
from encodec_core.stored import StoredCodec, read_stored_codec, tensor_shapes
from tests.encodec_core.models import CONFIGS, SMALL, fitted_model, in_meta

UNPUBLISHED = {
    "deep": EncodecConfig.encodec_24khz(**SMALL, num_residual_layers=3, compress=3, kernel_size=5, num_lstm_layers=1),
    "plain": EncodecConfig.encodec_48khz(**SMALL, upsampling_ratios=(4, 2), use_conv_shortcut=False),
}


def read(folder: Path | str) -> StoredCodec | None:
    return read_stored_codec(Location.of(folder))


@pytest.mark.parametrize("config", [*CONFIGS.values(), *UNPUBLISHED.values()], ids=[*CONFIGS, *UNPUBLISHED])
def test_the_tensors_of_a_config_are_those_of_its_model(config: EncodecConfig) -> None:
    with torch.random.fork_rng(devices=[]):
        state = EncodecModel(config).state_dict()
    assert tensor_shapes(config) == {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize(("name", "dtype"), [*((name, torch.float32) for name in CONFIGS), ("musicgen", torch.float16)])
def test_a_codec_is_described_as_its_model_describes_itself(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    fitted_model(name).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    save_file({key: tensor.to(dtype) for key, tensor in load_file(weights).items()}, weights)
    model, stored = EncodecModel.from_pretrained(tmp_path), read(tmp_path)
    assert stored is not None
    assert (stored.config, stored.provenance) == (model.config, model.provenance)


def test_the_codec_inside_the_package_is_described_without_torch() -> None:
    provenance = EncodecModel.from_pretrained("demo").provenance
    assert provenance is not None
    code = (
        "import sys; from encodec_core.hub import Location; from encodec_core.stored import read_stored_codec\n"
        "print(read_stored_codec(Location.of('demo')).provenance.weights_sha256); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, provenance.weights_sha256, "")


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def without_a_tensor(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("encoder.layers.0.conv.bias")
    save_file(state, folder / "model.safetensors")


def with_another_tensor(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file(state | {"encoder.layers.0.conv.scale": torch.ones(1)}, folder / "model.safetensors")


def of_another_shape(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file(state | {"encoder.layers.0.conv.bias": torch.ones(5)}, folder / "model.safetensors")


def in_other_halves(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in state.items()}, folder / "model.safetensors")


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def of_a_config_without_a_model(folder: Path) -> None:
    config = EncodecConfig.from_pretrained(folder)
    EncodecConfig(**config.to_dict() | {"codebook_size": 1000}).save_pretrained(folder)


def of_a_config_that_counts_below_nothing(folder: Path) -> None:
    """As a model of it, which has no residual layers, names other layers."""
    config = EncodecConfig.from_pretrained(folder).to_dict() | {"num_residual_layers": -1}
    with torch.random.fork_rng(devices=[]):
        EncodecModel(EncodecConfig(**config)).save_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        cut,
        without_a_tensor,
        with_another_tensor,
        of_another_shape,
        in_other_halves,
        pickled,
        of_a_config_without_a_model,
        of_a_config_that_counts_below_nothing,
    ],
)
def test_what_only_a_model_can_judge_is_left_to_it(change: Callable[[Path], None], tmp_path: Path) -> None:
    fitted_model("causal_mono").save_pretrained(tmp_path)
    change(tmp_path)
    assert read(tmp_path) is None


def test_a_checkpoint_of_meta_is_left_to_a_model(tmp_path: Path) -> None:
    torch.save(in_meta(fitted_model("causal_mono")).state_dict(), tmp_path / "codec.th")
    assert read(tmp_path / "codec.th") is None


def test_a_folder_that_is_none_is_refused_as_ever(tmp_path: Path) -> None:
    fitted_model("causal_mono").save_pretrained(tmp_path / "codec")
    (tmp_path / "codec" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        read(tmp_path / "codec")
    shutil.rmtree(tmp_path / "codec")
    with pytest.raises(FileNotFoundError, match="no codec at"):
        read(tmp_path / "codec")
