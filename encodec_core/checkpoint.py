"""Reading and writing codecs on disk: folders as transformers writes them, and Meta's `.th` files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from encodec_core.audio import EncodecFeatureExtractor
from encodec_core.config import EncodecConfig
from encodec_core.hub import CONFIG_FILE, Location, read_json_object
from encodec_core.naming import is_training_only
from encodec_core.stored import WEIGHTS_FILE, Provenance, file_sha256
from encodec_core.weights import weights_sha256, with_own_names, write_weights

__all__ = ["Checkpoint", "Provenance", "infer_config", "load_checkpoint", "read_weights", "write_checkpoint"]

WEIGHT_FILES = (WEIGHTS_FILE, "pytorch_model.bin")
"""Names of weights in a folder, the preferred one first; each may be an index, NAME.index.json, of several files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A codec read from disk, before a model is made of it."""

    config: EncodecConfig
    state: dict[str, Tensor]
    """Tensors under our names, on the CPU."""
    source: str
    revision: str | None
    files: tuple[Path, ...]
    """Files of weights that were read."""

    def fill(self, model: nn.Module) -> None:
        """Put the weights into `model`, whose own may have no memory yet. Training-only buffers may be missing.

        Raises:
            ValueError: other keys are missing, there are keys that the model has not, or a shape differs.
        """
        expected = model.state_dict()
        state = _with_training_buffers(self.state, expected)
        missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
        if missing or unexpected:
            raise ValueError(
                f"the weights of {self.source} do not fit its config: missing keys {missing or 'none'}, "
                f"unexpected keys {unexpected or 'none'}. Is {CONFIG_FILE} another model's, or the file damaged?"
            )
        for name, tensor in state.items():
            if tensor.shape != expected[name].shape:
                raise ValueError(
                    f"{name} of {self.source} has the shape {tuple(tensor.shape)}; its config makes it "
                    f"{tuple(expected[name].shape)}. Is {CONFIG_FILE} another model's?"
                )
        model.load_state_dict(state, assign=True)

    def provenance(self, model: nn.Module) -> Provenance:
        """Describe `model`, filled from this checkpoint."""
        return Provenance(
            source=self.source,
            revision=self.revision,
            files=tuple((path.name, file_sha256(path)) for path in self.files),
            weights_sha256=weights_sha256(model),
        )


def load_checkpoint(location: Location, *, dtype: str | torch.dtype | None) -> Checkpoint:
    """Read a codec; see `EncodecModel.from_pretrained` for the arguments and errors."""
    if str(location.name_or_path).endswith(".th"):
        if location.subfolder:
            raise ValueError(
                f"subfolder = {location.subfolder!r} cannot take effect on the file {location.name_or_path}; leave it "
                "out, and give the file's whole path"
            )
        checkpoint = _read_th(Path(location.name_or_path).expanduser())
    else:
        checkpoint = _read_folder(location)
    target = _target_dtype(dtype, checkpoint)
    state = {
        name: tensor.to(target) if tensor.is_floating_point() else tensor for name, tensor in checkpoint.state.items()
    }
    return replace(checkpoint, state=state)


def write_checkpoint(model: nn.Module, config: EncodecConfig, folder: str | PathLike[str]) -> None:
    """Write `config.json`, `model.safetensors` and `preprocessor_config.json` into `folder`, made if missing."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    keys = config.to_dict() | {"architectures": ["EncodecModel"], "dtype": dtype}
    EncodecConfig.from_dict(keys).save_pretrained(folder)
    EncodecFeatureExtractor(
        feature_size=config.audio_channels,
        sampling_rate=config.sampling_rate,
        chunk_length_s=config.chunk_length_s,
        overlap=config.overlap,
    ).save_pretrained(folder)
    write_weights(state, Path(folder) / WEIGHT_FILES[0])


def infer_config(state: Mapping[str, Tensor]) -> EncodecConfig:
    """Infer the config of a checkpoint that has none, as Meta's `.th` files, from its tensors (under our names).

    Widths, kernels and depths are read from shapes. What leaves no trace in the tensors (rate, causality, windows,
    bandwidths) is that of the published model with this norm and shortcut: group norm is the 48 kHz model, weight norm
    the 24 kHz one, and weight norm without convolutions as shortcuts the 32 kHz one.

    Raises:
        ValueError: the tensors are not those of an EnCodec, or the published bandwidths ask for another number of
            codebooks.
    """
    try:
        config = _infer_config(state)
    except KeyError as error:
        raise ValueError(
            f"these tensors are not an EnCodec's: {error} is missing among {sorted(state)[:5]}..."
        ) from error
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"these tensors are not an EnCodec's: layers of {sorted(state)[:5]}... are missing or have other shapes "
            f"than its convolutions ({error}); give a whole checkpoint, or a folder with a {CONFIG_FILE}"
        ) from error
    num_codebooks = len([name for name in state if name.endswith(".codebook.embed")])
    if num_codebooks != config.num_quantizers:
        raise ValueError(
            f"the checkpoint has {num_codebooks} codebooks, the published {config.sampling_rate} Hz model "
            f"{config.num_quantizers}; load it from a folder with a config.json"
        )
    return config


def _infer_config(state: Mapping[str, Tensor]) -> EncodecConfig:
    entries, channels = state["quantizer.layers.0.codebook.embed"].shape
    weights = {name.rsplit(".conv.", 1)[0]: tensor for name, tensor in state.items() if _is_conv_weight(name)}
    encoder = [key for key in weights if key.startswith("encoder.layers.") and key.count(".") == 2]
    encoder.sort(key=lambda key: int(key.rsplit(".", 1)[1]))
    blocks = [key for key in weights if key.startswith("encoder.layers.") and key.endswith(".block.1")]
    first, *strided, last = (weights[key] for key in encoder)
    residual = weights["encoder.layers.1.block.1"]
    widths = {
        "audio_channels": first.shape[1],
        "num_filters": first.shape[0],
        "kernel_size": first.shape[2],
        "last_kernel_size": last.shape[2],
        "hidden_size": channels,
        "upsampling_ratios": tuple(weight.shape[2] // 2 for weight in reversed(strided)),
        "num_residual_layers": len(blocks) // len(strided),
        "residual_kernel_size": residual.shape[2],
        "compress": residual.shape[1] // residual.shape[0],
        "num_lstm_layers": len([name for name in state if name.startswith("encoder.") and ".lstm.weight_ih_l" in name]),
        "codebook_size": entries,
    }
    if any(name.startswith("encoder.layers.0.norm.") for name in state):
        return EncodecConfig.encodec_48khz(**widths)
    if any(".shortcut." in name for name in state):
        return EncodecConfig.encodec_24khz(**widths)
    return EncodecConfig.musicgen_32khz(**widths)


def _is_conv_weight(name: str) -> bool:
    return name.endswith((".conv.weight", ".conv.parametrizations.weight.original1"))


def _read_th(path: Path) -> Checkpoint:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path}; give the path of a .th file, or a folder with {CONFIG_FILE}"
        )
    state = with_own_names(_read_pickled(path))
    return Checkpoint(config=infer_config(state), state=state, source=str(path), revision=None, files=(path,))


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # Damaged pickles raise whatever their next byte asks for: KeyError, EOFError, ...
        raise ValueError(
            f"{path} is damaged, or holds more than tensors (torch.load with weights_only=True says: "
            f"{_first_line(error)}); expected names with tensors, as torch.save writes them. Copy the file again"
        ) from error
    return _unwrapped(content, path)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n", 1)[0]


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the state dict in what a training run saved: at the top, or under one of the usual keys."""
    for key in ("best_state", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}; expected names with tensors. Is it another program's file?"
        )
    return {name: tensor for name, tensor in content.items() if isinstance(name, str) and isinstance(tensor, Tensor)}


def _read_folder(location: Location) -> Checkpoint:
    config_path = location.file(CONFIG_FILE)
    config = EncodecConfig.from_dict(read_json_object(config_path))
    files = _weight_files(location)
    state: dict[str, Tensor] = {}
    for path in files:
        state |= with_own_names(read_weights(path))
    return Checkpoint(
        config=config,
        state=state,
        source=str(location.name_or_path),
        revision=location.commit_of(config_path),
        files=files,
    )


def _weight_files(location: Location) -> tuple[Path, ...]:
    for name in WEIGHT_FILES:
        path = location.find(name)
        if path is not None:
            return (path,)
        index = location.find(f"{name}.index.json")
        if index is not None:
            return tuple(location.file(shard) for shard in _shards(index))
    raise FileNotFoundError(
        f"{location.name_or_path} has none of {', '.join(WEIGHT_FILES)}; put the weights beside {CONFIG_FILE}"
    )


def _shards(index: Path) -> list[str]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise ValueError(
            f"{index} has no weight_map; expected an object of tensors' names with files. Copy the file again"
        )
    return sorted(set(weight_map.values()))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` file, or of one that torch.save wrote, under the file's own names.

    Raises:
        ValueError: the file is damaged, or holds more than tensors.
    """
    if path.suffix != ".safetensors":
        return _read_pickled(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged ({error}); expected tensors in the safetensors format. Copy the file again"
        ) from error


def _target_dtype(dtype: str | torch.dtype | None, checkpoint: Checkpoint) -> torch.dtype:
    if dtype is None:
        return torch.float32
    if isinstance(dtype, torch.dtype):
        return dtype
    stored = next((tensor.dtype for tensor in checkpoint.state.values() if tensor.is_floating_point()), torch.float32)
    keys = checkpoint.config.to_dict()
    named = (keys.get("dtype") or keys.get("torch_dtype") or stored) if dtype == "auto" else dtype
    found = named if isinstance(named, torch.dtype) else getattr(torch, str(named), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(
            f'dtype = {dtype!r} names no floating point type; choose "float32", "float16", "bfloat16" or "auto"'
        )
    return found


def _with_training_buffers(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the training-only buffers that a checkpoint left out, as if each entry had been chosen once."""
    whole = dict(state)
    for name in expected:
        layer, _, leaf = name.rpartition(".")
        entries = state.get(f"{layer}.embed")
        if name in state or not is_training_only(name) or entries is None:
            continue
        whole[name] = {
            "inited": entries.new_ones(1),
            "cluster_size": entries.new_ones(entries.shape[0]),
            "embed_avg": entries.clone(),
        }[leaf]
    return whole
