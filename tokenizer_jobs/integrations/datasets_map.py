"""`TokenizeAudio` for `datasets.map`: the service's codes as columns of a Hugging Face dataset.

ds = ds.map(TokenizeAudio("facebook/encodec_24khz", bandwidth_kbps=6.0), batched=True, batch_size=32)
"""

import json
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from multiprocess.reduction import ForkingPickler

from tokenizer_jobs.batching import auto_batch_seconds
from tokenizer_jobs.decode import decoder_versions
from tokenizer_jobs.encoding import DeviceName, choose_device
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.format_version import FORMAT_VERSION
from tokenizer_jobs.integrations.loading import (
    OnError,
    codec_facts,
    codec_here,
    device_of_rank,
    make_recipe,
    on_one_thread,
    target_of,
)
from tokenizer_jobs.integrations.tokenizing import add_columns, output_schema, python_columns
from tokenizer_jobs.recipe import CodecFacts

if TYPE_CHECKING:
    from datasets import Features

__all__ = ["TokenizeAudio"]


class TokenizeAudio:
    """Adds the codes of an audio column to a batch: a function for `datasets.map`, batched.

    The codes are those of a job with the same recipe. Stored audio (`Audio`, decoded or not, paths, bytes) is decoded
    here, with the checks against damage that a job makes, from the bytes of the dataset: torchcodec is not needed, and
    all channels are kept. Where `datasets` hands over a decoder or an array instead (streaming, or a format), damage is
    no longer to be seen; of a decoder all channels are taken, of an array [channels, samples] too, and an array
    [samples] is mono, which a stereo codec gets twice, as of a mono file. Audio is resampled once, from its own rate to
    the codec's: `Audio(sampling_rate=...)` changes only what decoders and arrays hold. Decoding runs in this process.

    A second `map` over the same dataset comes from the cache: the hash of the object is that of what decides the codes,
    down to the weights, not of files behind paths. `batch_size` is part of `datasets`' own hash, `device` of none. With
    `num_proc` each process loads the codec once and computes with one thread; several GPUs want `num_proc` and
    `with_rank=True`, and `multiprocess.set_start_method("spawn")` where CUDA is in use before. `IterableDataset.map`
    does as well; without torchcodec it wants `cast_column("audio", Audio(decode=False))` first.

    Types are right without `features=`, but for a first batch that holds no codes at all; to be safe with
    `on_error="null"`: `features=Features({**ds.features, **tokenize.features})`.

    Args:
        model: Hub id, local folder, a `.th` file, or `demo`.
        bandwidth_kbps: One of the model's bandwidths in kbit/s.
        revision: Commit or tag of a hub id; None: the hub's default.
        precision: Arithmetic of the convolutions; only fp32 gives the reference's codes.
        resampler: As `recipe.audio.resampler`.
        channels: As `recipe.audio.channels`.
        audio_column: Name of the column; None: `audio`, or else the only column that looks like audio.
        device: Where the codec runs.
        on_error: What becomes of a row that cannot be tokenized. `null`: null columns, and columns `reject_reason` and
            `reject_message`, which are empty where there are codes.

    Raises:
        ConfigError: a value is not offered.
    """

    def __init__(
        self,
        model: str = "facebook/encodec_24khz",
        *,
        bandwidth_kbps: float = 6.0,
        revision: str | None = None,
        precision: Literal["fp32", "tf32", "bf16"] = "fp32",
        resampler: Literal["soxr_hq", "reference"] = "soxr_hq",
        channels: Literal["auto", "mono", "stereo", "first", "left", "right"] = "auto",
        audio_column: str | None = None,
        device: DeviceName = "auto",
        on_error: OnError = "raise",
    ) -> None:
        codec = {"model": model, "revision": revision, "bandwidth_kbps": bandwidth_kbps, "precision": precision}
        audio = {"resampler": resampler, "channels": channels}
        self._recipe = make_recipe(codec, audio, on_error=on_error, origin="TokenizeAudio")
        self._audio_column = audio_column
        self._on_error = on_error
        self._device: DeviceName = device
        self._expected_sha256: str | None = None
        """Of the weights that another process promised; None: whatever the model has."""

    def __call__(self, batch: Any, rank: int | None = None) -> Any:
        """Tokenize a batch.

        Args:
            batch: A mapping of columns, an Arrow table, or the audio column itself (`input_columns`).
            rank: Of the worker, as `with_rank=True` gives it.

        Returns:
            The columns to add, by name; of an Arrow table the table with them.

        Raises:
            ConfigError: the batch has no such column or a cell of an unknown kind, or the codec cannot be loaded.
            ItemError: a row cannot be tokenized, where `on_error` is `raise`.
        """
        if rank is not None and not isinstance(rank, int):
            raise ConfigError(
                f"rank = {rank!r}; expected a number: call map with with_rank=True, not with_indices=True"
            )
        on_one_thread()
        with device_of_rank(rank, device=self._device):
            added = add_columns(
                batch,
                name=self._audio_column,
                codec=codec_here(self._recipe.codec, device=self._device),
                target=target_of(self._facts(), self._recipe),
                keeps_rejects=self._on_error == "null",
                batch_seconds=auto_batch_seconds(choose_device(self._device)),
            )
        if not isinstance(batch, pa.Table):
            return python_columns(added)
        for name in added.column_names:
            batch = batch.append_column(added.schema.field(name), added[name])
        return batch

    @property
    def features(self) -> "Features":
        """The columns that are added, with their types.

        Raises:
            ConfigError: the codec cannot be loaded.
        """
        from datasets import Features  # takes seconds to import, and who calls this has done so

        schema = output_schema(windowed=self._facts().windowed, keeps_rejects=self._on_error == "null")
        return Features.from_arrow_schema(schema)

    def _facts(self) -> CodecFacts:
        facts = codec_facts(self._recipe.codec)
        if self._expected_sha256 not in (None, facts.weights_sha256):
            raise ConfigError(
                f"{facts.name} has weights {facts.weights_sha256} here and {self._expected_sha256} where "
                "TokenizeAudio was made; give all processes the same model"
            )
        return facts

    def __getstate__(self) -> str:
        # What is pickled is what `datasets` hashes. One string, since a pickle also says which values are one object.
        state = {
            "recipe": self._recipe.model_dump(mode="json"),
            "audio_column": self._audio_column,
            "on_error": self._on_error,
            "weights_sha256": self._facts().weights_sha256,
            "format_version": FORMAT_VERSION,
            "versions": decoder_versions(),
        }
        return json.dumps(state, sort_keys=True)

    def __setstate__(self, state: str) -> None:
        fields = json.loads(state)
        recipe, self._on_error = fields["recipe"], fields["on_error"]
        self._recipe = make_recipe(recipe["codec"], recipe["audio"], on_error=self._on_error, origin="TokenizeAudio")
        self._audio_column, self._device = fields["audio_column"], "auto"
        self._expected_sha256 = fields["weights_sha256"]

    def __repr__(self) -> str:
        codec = self._recipe.codec
        return f"TokenizeAudio({codec.model!r}, bandwidth_kbps={codec.bandwidth_kbps:g}, precision={codec.precision!r})"


def _rebuild(state: str, device: DeviceName) -> TokenizeAudio:
    rebuilt = TokenizeAudio.__new__(TokenizeAudio)
    rebuilt.__setstate__(state)
    rebuilt._device = device
    return rebuilt


def _reduce_with_device(tokenize: TokenizeAudio) -> tuple[Any, ...]:
    return _rebuild, (tokenize.__getstate__(), tokenize._device)


# The device decides no code, so it is not in the state; the workers of `num_proc`, which this pickler feeds, need it.
ForkingPickler.register(TokenizeAudio, _reduce_with_device)
