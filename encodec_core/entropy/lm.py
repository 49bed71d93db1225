"""The language model that tells the entropy coder how likely each code is (EnCodec paper, section 3.3).

At each frame it sees the codes of the frames before and predicts those of all codebooks at once.

Letters in shapes: B batch, K codebooks in use (n_q), T frames, E entries of a codebook.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, Self, Unpack, cast

import torch
from torch import Tensor, nn

from encodec_core.checkpoint import Provenance, read_weights
from encodec_core.config import EncodecConfig
from encodec_core.hub import CONFIG_FILE, DEMO, HubOptions, Location, read_json_object
from encodec_core.modules.transformer import CausalTransformer, TransformerState
from encodec_core.stored import file_sha256
from encodec_core.weights import weights_sha256, write_weights

__all__ = ["LM_SUBFOLDER", "LanguageModel", "LanguageModelConfig", "language_model_sha256", "previous_codes"]

WEIGHTS_FILE = "model.safetensors"
MODEL_TYPE = "encodec_lm"
LM_SUBFOLDER = "lm"
"""Where the language model of a codec lies inside the codec's folder."""
CONTEXT_SECONDS = 3.5
PUBLISHED_HEADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelConfig:
    """Shape of a language model; the defaults are the paper's.

    Raises:
        ValueError: a number is out of range, or the numbers do not go together.
    """

    n_q: int
    """Codebooks that the model knows; it can be used on the first few of them."""
    codebook_size: int
    """E."""
    past_context: int
    """Frames before the present one that an attention layer sees."""
    dim: int = 200
    """Channels."""
    num_heads: int = 8
    """Of each attention layer."""
    num_layers: int = 5
    feed_forward_dim: int = 800
    """Hidden channels of the feed-forward networks."""
    codec_weights_sha256: str | None = None
    """Weights of the codec whose codes the model was trained on, see `encodec_core.weights`; None: not recorded. Where
    it is set, files of other codecs are refused."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and (type(value) is not int or value < 1):
                raise ValueError(f"{field.name} = {value!r} of a language model; expected an integer of at least 1")
        if self.dim % 2 or self.dim < 4 or self.dim % self.num_heads:
            raise ValueError(
                f"dim = {self.dim} with num_heads = {self.num_heads}; choose an even dim of at least 4 that the heads "
                "divide"
            )

    @classmethod
    def for_codec(cls, codec: EncodecConfig, **changes: Any) -> Self:
        """Return the paper's model for the codes of `codec`: all its codebooks, 3.5 s of context; with `changes`."""
        shape: dict[str, Any] = {
            "n_q": codec.num_quantizers,
            "codebook_size": codec.codebook_size,
            "past_context": int(CONTEXT_SECONDS * codec.frame_rate),
        }
        return cls(**(shape | changes))


def previous_codes(codes: Tensor) -> Tensor:
    """Return what the model sees when it predicts `codes` `[B, K, T]`: int64, the frame before plus 1; first 0."""
    shifted = torch.zeros_like(codes, dtype=torch.int64)
    shifted[..., 1:] = codes[..., :-1].long() + 1
    return shifted


class LanguageModel(nn.Module):
    """A causal transformer over frames of codes, with a linear layer for each codebook.

    Args:
        config: the shape. Weights are random, drawn from torch's global generator.

    The state dict has the names and shapes of Meta's `LMModel`; either loads the other's.
    """

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.provenance: Provenance | None = None
        """Where the weights came from; None for weights that no file was read for."""
        self.transformer = CausalTransformer(
            config.dim,
            num_heads=config.num_heads,
            num_layers=config.num_layers,
            feed_forward_dim=config.feed_forward_dim,
            past_context=config.past_context,
        )
        self.emb = nn.ModuleList(nn.Embedding(config.codebook_size + 1, config.dim) for _ in range(config.n_q))
        self.linears = nn.ModuleList(nn.Linear(config.dim, config.codebook_size) for _ in range(config.n_q))

    def forward(self, previous: Tensor, state: TransformerState | None = None) -> tuple[Tensor, TransformerState]:
        """Predict the next T frames, each from the frames before it.

        Args:
            previous: int64 `[B, K, T]` in [0, E]: the codes of the frame before each, plus 1; 0 where there is none.
                See `previous_codes`. K may be less than the model's `n_q`.
            state: what the call on the frames before returned; None: these are the first.

        Returns:
            Logits `[B, E, K, T]` (`cross_entropy` takes them with codes `[B, K, T]`), and the state for the next call.

        Raises:
            ValueError: K is 0 or more than `n_q`.
        """
        _, num_codebooks, _ = previous.shape
        if not 1 <= num_codebooks <= self.config.n_q:
            raise ValueError(f"{num_codebooks} codebooks; expected 1 to {self.config.n_q}, those of the language model")
        embedded = self.emb[0](previous[:, 0])
        for codebook in range(1, num_codebooks):
            embedded = embedded + self.emb[codebook](previous[:, codebook])
        features, state = self.transformer(embedded, state)
        logits = torch.stack([self.linears[codebook](features) for codebook in range(num_codebooks)], dim=1)
        return logits.permute(0, 3, 1, 2), state

    def probabilities(self, previous: Tensor, state: TransformerState | None = None) -> tuple[Tensor, TransformerState]:
        """Return the softmax over E of `forward`, `[B, E, K, T]`, and the state.

        Frame by frame on one machine the result is Meta's to the last bit. Another number of frames at once, another
        machine or another version of torch rounds differently, which entropy coding does not forgive.
        """
        logits, state = self(previous, state)
        return torch.softmax(logits, dim=1), state

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **options: Unpack[HubOptions]) -> Self:
        """Load a trained language model, in evaluation mode, on the CPU, in float32.

        Args:
            pretrained_model_name_or_path: a folder written by `save_pretrained`, a checkpoint of Meta's (a path that
                ends in `.th`), a hub id, or "demo" for the one of the codec in this package.
            options: as of `EncodecModel.from_pretrained`. `subfolder="lm"` finds the language model beside a codec.

        Raises:
            FileNotFoundError: there is no such folder, file, repository or cached copy.
            ValueError: a file is damaged, or holds something else than a language model.
            TypeError: an unknown keyword.
        """
        location = Location.of(pretrained_model_name_or_path, **_in_demo(pretrained_model_name_or_path, options))
        if str(pretrained_model_name_or_path).endswith(".th"):
            path = Path(pretrained_model_name_or_path).expanduser()
            if not path.is_file():
                raise FileNotFoundError(f"there is no language model {path}; give the path of a .th file, or a folder")
            state = read_weights(path)
            config, revision = infer_lm_config(state, source=path), None
        else:
            config = _read_config(_found(location, CONFIG_FILE))
            path = _found(location, WEIGHTS_FILE)
            state, revision = read_weights(path), location.commit_of(path)
        model = cls._filled(config, state, source=pretrained_model_name_or_path)
        model.provenance = Provenance(
            source=str(pretrained_model_name_or_path),
            revision=revision,
            files=((path.name, file_sha256(path)),),
            weights_sha256=weights_sha256(model),
        )
        return model

    @classmethod
    def _filled(cls, config: LanguageModelConfig, state: Mapping[str, Tensor], *, source: str | PathLike[str]) -> Self:
        with torch.device("meta"):
            model = cls(config)
        expected = model.state_dict()
        for name in sorted(expected.keys() | state.keys()):
            theirs = tuple(state[name].shape) if name in state else "missing"
            ours = tuple(expected[name].shape) if name in expected else "unknown"
            if theirs != ours:
                raise ValueError(
                    f"{name} of {source} is {theirs}, its config makes it {ours}; is {CONFIG_FILE} another model's, or "
                    "the file not a language model's?"
                )
        model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
        return model.eval().requires_grad_(False)

    def save_pretrained(self, folder: str | PathLike[str], *, dtype: torch.dtype = torch.float32) -> None:
        """Write `config.json` and `model.safetensors` into `folder`, made where it is missing.

        Args:
            folder: where to.
            dtype: of the file; float16 halves it, and the model loaded from it then has the rounded weights.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        keys = {"model_type": MODEL_TYPE} | asdict(self.config)
        (path / CONFIG_FILE).write_text(json.dumps(keys, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        state = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in self.state_dict().items()}
        write_weights(state, path / WEIGHTS_FILE)


def language_model_sha256(model: LanguageModel) -> str:
    """Hash what decides the probabilities: the weights, see `encodec_core.weights`, and the shape.

    The shape counts because the number of heads and the context leave no trace in the weights. The codec that the model
    was trained for does not count.

    Returns:
        64 hexadecimal digits.
    """
    shape = {name: value for name, value in asdict(model.config).items() if name != "codec_weights_sha256"}
    facts = json.dumps({"shape": shape, "weights_sha256": weights_sha256(model)}, sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()


def infer_lm_config(state: Mapping[str, Tensor], *, source: str | PathLike[str]) -> LanguageModelConfig:
    """Infer the shape of a checkpoint that has no config, as Meta's `.th` files.

    What leaves no trace in the tensors is that of the published models: 8 heads, and 3.5 s of context at the frame rate
    that goes with the codebooks (16: the 48 kHz codec at 150 frames per second; else 75, the 24 kHz one's).

    Raises:
        ValueError: the tensors are not those of a language model.
    """
    try:
        rows, dim = state["emb.0.weight"].shape
        feed_forward_dim = state["transformer.layers.0.linear1.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{source} is not a language model: {error} among {sorted(state)[:5]}...; give Meta's encodec_lm_*.th, or "
            "a folder written by save_pretrained"
        ) from error
    n_q = len([name for name in state if re.fullmatch(r"emb\.\d+\.weight", name)])
    num_layers = len([name for name in state if re.fullmatch(r"transformer\.layers\.\d+\.linear1\.weight", name)])
    codec = EncodecConfig.encodec_48khz() if n_q == EncodecConfig.encodec_48khz().num_quantizers else EncodecConfig()
    return LanguageModelConfig.for_codec(
        codec,
        n_q=n_q,
        codebook_size=rows - 1,
        dim=dim,
        num_heads=PUBLISHED_HEADS,
        num_layers=num_layers,
        feed_forward_dim=feed_forward_dim,
    )


def _in_demo(name_or_path: str | PathLike[str], options: HubOptions) -> HubOptions:
    if name_or_path != DEMO:
        return options
    return cast(HubOptions, {**options, "subfolder": LM_SUBFOLDER})


def _found(location: Location, name: str) -> Path:
    path = location.find(name)
    if path is None:
        where = location.folder or location.name_or_path
        raise FileNotFoundError(
            f"there is no language model in {where}: it has no {name}. Train one (tokenizer-jobs train-lm), give a "
            "folder written by save_pretrained, or code without a language model"
        )
    return path


def _read_config(path: Path) -> LanguageModelConfig:
    keys = read_json_object(path)
    if keys.pop("model_type", None) != MODEL_TYPE:
        raise ValueError(f'{path} is not the config of a language model: its model_type is not "{MODEL_TYPE}"')
    known = {field.name for field in fields(LanguageModelConfig)}
    required = {"n_q", "codebook_size", "past_context"}
    if not required <= keys.keys() <= known:
        raise ValueError(
            f"{path} has the keys {sorted(keys)}; expected {sorted(required)} and perhaps {sorted(known - required)}"
        )
    return LanguageModelConfig(**keys)
