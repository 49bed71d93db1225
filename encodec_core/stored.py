"""What a codec's files say of it, read without torch, which takes seconds to import; a model need not be made of them.

Only files that are as this package and transformers write them are read here: one `model.safetensors` with every tensor
that the config asks for. All else is for `EncodecModel.from_pretrained`, which reads more, and says what is wrong.

    config.json ──▶ names and shapes of all tensors ──▶ the file has just these? ──▶ their hash
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from encodec_core.config import EncodecConfig
from encodec_core.hub import CONFIG_FILE, Location, read_json_object
from encodec_core.naming import TRAINING_ONLY_BUFFERS, is_training_only, neutral_name, own_name

__all__ = ["WEIGHTS_FILE", "Provenance", "StoredCodec", "file_sha256", "read_stored_codec", "tensor_shapes"]

WEIGHTS_FILE = "model.safetensors"

_FLOATS = ("F16", "F32")
"""Types of elements that are loaded as float32, and that numpy knows."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a model's weights came from."""

    source: str
    """What was asked for: a folder, a file, a hub id, or "demo"."""
    revision: str | None
    """Commit on the hub; None for local files."""
    files: tuple[tuple[str, str], ...]
    """Name and sha256 of every file of weights that was read."""
    weights_sha256: str
    """See `encodec_core.weights.weights_sha256`: equal for all formats of one model. Of the weights as loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCodec:
    """A codec as its files describe it."""

    config: EncodecConfig
    provenance: Provenance
    """Equal to that of the model that `EncodecModel.from_pretrained` makes of the files."""


def read_stored_codec(location: Location) -> StoredCodec | None:
    """Describe the codec at a place; None where only `EncodecModel.from_pretrained` can, or can say what is wrong.

    Raises:
        FileNotFoundError: there is no such folder, repository or cached copy.
        ValueError: the config is none.
    """
    if str(location.name_or_path).endswith(".th"):
        return None
    config_path = location.file(CONFIG_FILE)
    config = EncodecConfig.from_dict(read_json_object(config_path))
    path = location.find(WEIGHTS_FILE)
    if path is None or not _is_usual(config):
        return None
    try:
        weights_sha256 = _weights_sha256(path, config)
    except SafetensorError:
        return None
    if weights_sha256 is None:
        return None
    provenance = Provenance(
        source=str(location.name_or_path),
        revision=location.commit_of(config_path),
        files=((path.name, file_sha256(path)),),
        weights_sha256=weights_sha256,
    )
    return StoredCodec(config=config, provenance=provenance)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weights_sha256(path: Path, config: EncodecConfig) -> str | None:
    """The hash of `encodec_core.weights.weights_sha256`; None where the file's tensors are not those of the config."""
    shapes = tensor_shapes(config)
    needed = {name for name in shapes if not is_training_only(name)}
    with safe_open(path, framework="np") as file:
        stored = {own_name(name): name for name in file.keys()}  # noqa: SIM118  # it is no mapping
        if len(stored) != len(file.keys()) or not needed <= stored.keys() <= shapes.keys():
            return None
        if any(_shape(file, stored[name]) != shapes[name] for name in stored):
            return None
        if any(file.get_slice(name).get_dtype() not in _FLOATS for name in stored.values()):
            return None
        transposed = _transposed_convolutions(config)
        digest = hashlib.sha256()
        for neutral, name in sorted((neutral_name(name, transposed), name) for name in needed):
            size = "x".join(map(str, shapes[name]))
            digest.update(f"{neutral} float32 {size}\n".encode())
            digest.update(file.get_tensor(stored[name]).astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def _shape(file: Any, name: str) -> Shape:
    return tuple(file.get_slice(name).get_shape())


def _is_usual(config: EncodecConfig) -> bool:
    """Whether a model can be made of a config: where it cannot, making one says why."""
    numbers = (
        config.audio_channels,
        config.hidden_size,
        config.num_filters,
        config.kernel_size,
        config.last_kernel_size,
        config.residual_kernel_size,
        config.dilation_growth_rate,
        config.compress,
        config.num_lstm_layers,
        config.codebook_size,
        config.sampling_rate,
        *config.upsampling_ratios,
    )
    return (
        all(isinstance(number, int) and number > 0 for number in numbers)
        and isinstance(config.num_residual_layers, int)
        and config.num_residual_layers >= 0
        and config.num_filters >= config.compress
        and config.codebook_size & (config.codebook_size - 1) == 0
        and config.codebook_dim == config.hidden_size
        and (config.use_causal_conv or config.trim_right_ratio == 1.0)
    )


def tensor_shapes(config: EncodecConfig) -> dict[str, Shape]:
    """Name and shape of every tensor in the state dict of an `EncodecModel`."""
    shapes = dict(_seanet(config))
    entries, channels = config.codebook_size, config.hidden_size
    for number in range(config.num_quantizers):
        codebook = {"embed": (entries, channels)} | dict(
            zip(TRAINING_ONLY_BUFFERS, [(1,), (entries,), (entries, channels)], strict=True)
        )
        shapes |= {f"quantizer.layers.{number}.codebook.{name}": shape for name, shape in codebook.items()}
    return shapes


def _seanet(config: EncodecConfig) -> Iterator[tuple[str, Shape]]:
    """Tensors of encoder and decoder, in the order of their layers."""
    width, layer = config.num_filters, 0
    yield from _conv(config, "encoder.layers.0", config.audio_channels, width, config.kernel_size)
    for ratio in reversed(config.upsampling_ratios):
        for _ in range(config.num_residual_layers):
            layer += 1
            yield from _residual_block(config, f"encoder.layers.{layer}", width)
        layer += 2  # ELU before the convolution
        yield from _conv(config, f"encoder.layers.{layer}", width, 2 * width, 2 * ratio)
        width *= 2
    yield from _lstm(config, f"encoder.layers.{layer + 1}", width)
    yield from _conv(config, f"encoder.layers.{layer + 3}", width, config.hidden_size, config.last_kernel_size)
    yield from _conv(config, "decoder.layers.0", config.hidden_size, width, config.kernel_size)
    yield from _lstm(config, "decoder.layers.1", width)
    layer = 1
    for ratio in config.upsampling_ratios:
        layer += 2
        yield from _conv(config, f"decoder.layers.{layer}", width, width // 2, 2 * ratio, transposed=True)
        width //= 2
        for _ in range(config.num_residual_layers):
            layer += 1
            yield from _residual_block(config, f"decoder.layers.{layer}", width)
    last = f"decoder.layers.{layer + 2}"
    yield from _conv(config, last, config.num_filters, config.audio_channels, config.last_kernel_size)


def _transposed_convolutions(config: EncodecConfig) -> set[str]:
    """Names of the decoder's upsampling layers."""
    step = 2 + config.num_residual_layers
    return {f"decoder.layers.{3 + step * number}" for number in range(len(config.upsampling_ratios))}


def _conv(
    config: EncodecConfig, name: str, before: int, after: int, kernel_size: int, *, transposed: bool = False
) -> Iterator[tuple[str, Shape]]:
    weight = (before, after, kernel_size) if transposed else (after, before, kernel_size)
    if config.norm_type == "weight_norm":
        yield f"{name}.conv.parametrizations.weight.original0", (weight[0], 1, 1)
        yield f"{name}.conv.parametrizations.weight.original1", weight
    else:
        yield f"{name}.conv.weight", weight
        yield f"{name}.norm.weight", (after,)
        yield f"{name}.norm.bias", (after,)
    yield f"{name}.conv.bias", (after,)


def _residual_block(config: EncodecConfig, name: str, width: int) -> Iterator[tuple[str, Shape]]:
    narrow = width // config.compress
    yield from _conv(config, f"{name}.block.1", width, narrow, config.residual_kernel_size)
    yield from _conv(config, f"{name}.block.3", narrow, width, 1)
    if config.use_conv_shortcut:
        yield from _conv(config, f"{name}.shortcut", width, width, 1)


def _lstm(config: EncodecConfig, name: str, width: int) -> Iterator[tuple[str, Shape]]:
    shapes: Mapping[str, Shape] = {
        "weight_ih": (4 * width, width),
        "weight_hh": (4 * width, width),
        "bias_ih": (4 * width,),
        "bias_hh": (4 * width,),
    }
    for number in range(config.num_lstm_layers):
        yield from ((f"{name}.lstm.{kind}_l{number}", shape) for kind, shape in shapes.items())
