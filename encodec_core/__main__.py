"""python -m encodec_core compress | decompress: audio to .ecdc files and back, with the options of Meta's command."""

import argparse
import difflib
import os
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor

from encodec_core.entropy import (
    LM_SUBFOLDER,
    PUBLISHED_CODECS,
    EcdcError,
    FixedPointLanguageModel,
    LanguageModel,
    codec_name_of,
    compress,
    decompress,
    decompress_from_file,
    read_header,
)
from encodec_core.entropy.compression import check_end
from encodec_core.entropy.naming import is_published_lm, is_same_codec
from encodec_core.hub import DEMO
from encodec_core.model import EncodecModel
from encodec_core.resample import convert_blocks

__all__ = ["main"]

COMPRESSED_SUFFIX = ".ecdc"
AUDIO_SUFFIX = ".wav"
DECOMPRESSED_SUFFIX = "_decompressed"
INTERRUPTED = 130
"""Exit status of a program that Ctrl-C ended, by convention of shells."""
BLOCK_SAMPLES = 2**16
"""Read at once."""
PEAK_LIMIT = 0.99
HQ_CODEC = "encodec_48khz"
LM_URL = "https://dl.fbaipublicfiles.com/encodec/v0/"
_COMPRESS_EXAMPLES = (
    "python -m encodec_core compress speech.wav speech.ecdc -b 6",
    "python -m encodec_core compress song.flac song.ecdc --hq --lm",
)
_DECOMPRESS_EXAMPLE = "python -m encodec_core decompress speech.ecdc speech_decoded.wav"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status, 1 where it refuses, 130 where it was interrupted."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    try:
        run(options)
    except (OSError, ValueError, MemoryError, soundfile.SoundFileError) as error:
        print(f"encodec_core: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("encodec_core: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    return 0


class _Parser(argparse.ArgumentParser):
    """Help with examples as they were written; a misspelt word is answered with the one that was meant."""

    def __init__(self, *, examples: Sequence[str] = (), **options: Any) -> None:
        super().__init__(
            epilog="\n".join(["example:", *(f"  {line}" for line in examples)]) if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [flag for parser in self._all() for action in parser._actions for flag in action.option_strings]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{_did_you_mean(unknown[0], flags)}")
        return options

    def _all(self) -> Iterator[argparse.ArgumentParser]:
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from action.choices.values()

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            message = f"{value!r} is none of {', '.join(choices)}{_did_you_mean(str(value), choices)}"
            raise argparse.ArgumentError(action, message)


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word.partition("=")[0], list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m encodec_core",
        description="EnCodec: audio in few bits.",
        examples=("python -m encodec_core compress speech.wav speech.ecdc -b 6", _DECOMPRESS_EXAMPLE),
    )
    commands = parser.add_subparsers(required=True, metavar="{compress,decompress}")
    common = _Parser(add_help=False)
    common.add_argument("-m", "--model", help="hub id, folder, .th checkpoint, or demo")
    common.add_argument("--as", dest="codec_name", choices=sorted(PUBLISHED_CODECS), help="the weights of --model are "
                        "this published codec's, though nothing tells it (a copy in a folder)")  # fmt: skip
    common.add_argument("--lm-model", help="the language model: a folder or Meta's .th; else the one beside the codec")
    common.add_argument("-f", "--force", action="store_true", help="overwrite the output file")
    common.add_argument("-r", "--rescale", action="store_true", help="rescale decoded audio rather than clip it")

    packing = commands.add_parser(
        "compress", parents=[common], help="audio to .ecdc, or to what .ecdc makes of it", examples=_COMPRESS_EXAMPLES
    )
    packing.add_argument("input", type=Path, help="audio that libsndfile reads: wav, flac, mp3, ogg, ...")
    packing.add_argument("output", type=Path, nargs="?", help=".ecdc, or .wav to hear the codec; else beside the input")
    packing.add_argument(
        "-b", "--bandwidth", type=float, default=6.0, metavar="KBPS", help="target, default %(default)s"
    )
    packing.add_argument("-q", "--hq", action="store_true", help="the published stereo codec at 48 kHz")
    packing.add_argument("-l", "--lm", action="store_true", help="code with a language model: smaller, slower")
    packing.add_argument("--fixed-point", action="store_true", help="with --lm: a stream that every machine reads and "
                         "Meta's package refuses; always so unless codec and language model are Meta's")  # fmt: skip
    packing.set_defaults(run=_compress)

    unpacking = commands.add_parser(
        "decompress", parents=[common], help=".ecdc to .wav", examples=(_DECOMPRESS_EXAMPLE,)
    )
    unpacking.add_argument("input", type=Path, help="an .ecdc file")
    unpacking.add_argument("output", type=Path, nargs="?", help=".wav; else beside the input")
    unpacking.add_argument("-s", "--decompress_suffix", metavar="SUFFIX", help="what follows the stem of an output "
                           f"without a name, default {DECOMPRESSED_SUFFIX}")  # fmt: skip
    unpacking.set_defaults(run=_decompress)
    return parser


def _compress(options: argparse.Namespace) -> None:
    _check_input(options.input)
    if options.input.suffix.lower() == COMPRESSED_SUFFIX:
        raise ValueError(f"input file {options.input} is compressed already; use decompress")
    output = options.output or options.input.with_suffix(COMPRESSED_SUFFIX)
    _check_output(output, options=options, suffixes=(COMPRESSED_SUFFIX, AUDIO_SUFFIX))
    if options.fixed_point and not options.lm:
        raise ValueError("--fixed-point is a way of coding with a language model; give --lm too, or leave it out")
    if options.lm_model is not None and not options.lm:
        raise ValueError(f"--lm-model {options.lm_model} is not used without --lm; give --lm too, or leave it out")
    if options.rescale and output.suffix.lower() == COMPRESSED_SUFFIX:
        raise ValueError("--rescale is for decoded audio; give it to decompress, or name an output in .wav")
    codec = _named_codec(options)
    model = EncodecModel.from_pretrained(codec)
    if options.bandwidth not in model.config.target_bandwidths:
        offered = ", ".join(f"{bandwidth:g}" for bandwidth in model.config.target_bandwidths)
        raise ValueError(
            f"bandwidth {options.bandwidth:g} is not supported by the codec {codec}; choose one of {offered}"
        )
    name = options.codec_name or codec_name_of(model)
    language_model = _chosen_language_model(options, codec, name) if options.lm else None
    compressed = compress(
        model,
        _read_audio(options.input, model),
        bandwidth_kbps=options.bandwidth,
        language_model=language_model,
        codec_name=name,
    )
    if output.suffix.lower() == COMPRESSED_SUFFIX:
        _publish(output, lambda file: file.write(compressed))
        return
    waveform = decompress(compressed, model, language_model=language_model, codec_name=name)
    _write_audio(output, waveform, sampling_rate=model.config.sampling_rate, rescale=options.rescale)


def _decompress(options: argparse.Namespace) -> None:
    _check_input(options.input)
    if options.input.suffix.lower() != COMPRESSED_SUFFIX:
        raise ValueError(f"input extension is {options.input.suffix or 'missing'}; it must be {COMPRESSED_SUFFIX}")
    if options.decompress_suffix is not None and options.output is not None:
        raise ValueError(
            f"--decompress_suffix {options.decompress_suffix} is not used where the output is named {options.output}; "
            "leave one of them out"
        )
    suffix = DECOMPRESSED_SUFFIX if options.decompress_suffix is None else options.decompress_suffix
    output = options.output or options.input.with_name(options.input.stem + suffix + AUDIO_SUFFIX)
    _check_output(output, options=options, suffixes=(AUDIO_SUFFIX,))
    with options.input.open("rb") as file:
        header = read_header(file)
    codec = options.model or _codec_of(header.codec_name)
    model = EncodecModel.from_pretrained(codec)
    name = options.codec_name or codec_name_of(model)
    language_model: LanguageModel | FixedPointLanguageModel | None = None
    if header.uses_lm:
        language_model = _load_language_model(_language_model_path(options, name), codec)
    with options.input.open("rb") as file:
        waveform = decompress_from_file(file, model, language_model=language_model, codec_name=name)
        check_end(file)
    _write_audio(output, waveform, sampling_rate=model.config.sampling_rate, rescale=options.rescale)


def _check_input(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"input file {path} does not exist")
    if not path.is_file():
        raise ValueError(f"input {path} is not a regular file; give a file, or write the stream to one first")


def _check_output(path: Path, *, options: argparse.Namespace, suffixes: tuple[str, ...]) -> None:
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"output extension is {path.suffix or 'missing'}; it must be {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"output folder for {path} does not exist; make it first")
    if path.exists() and path.samefile(options.input):
        raise ValueError(f"output file {path} is the input, which it would replace; name another file")
    if path.exists() and not options.force:
        raise FileExistsError(f"output file {path} exists; use -f / --force to overwrite it")


def _named_codec(options: argparse.Namespace) -> str:
    if options.hq and options.model is not None:
        raise ValueError(f"--hq and --model {options.model} name two codecs; give one of them")
    return PUBLISHED_CODECS[HQ_CODEC].hub_id if options.hq else options.model or DEMO


def _codec_of(name: str) -> str:
    """Find the codec by its name in a file."""
    if name in PUBLISHED_CODECS:
        return PUBLISHED_CODECS[name].hub_id
    demo_name = codec_name_of(EncodecModel.from_pretrained(DEMO))
    if is_same_codec(name, demo_name):
        return DEMO
    raise EcdcError(
        f"the file was made by the codec {name!r}, whose place is not known here, and not by this {demo_name!r}; give "
        "it with --model"
    )


def _chosen_language_model(
    options: argparse.Namespace, codec: str, name: str
) -> LanguageModel | FixedPointLanguageModel:
    """Load the language model to compress with, in floating point where Meta's package is to read the stream."""
    language_model = _load_language_model(_language_model_path(options, name), codec)
    if is_published_lm(language_model, name) and not options.fixed_point:
        return language_model
    return FixedPointLanguageModel(language_model)


def _load_language_model(path: Path | None, codec: str) -> LanguageModel:
    if path is not None:
        return LanguageModel.from_pretrained(path)
    if codec.endswith(".th"):
        raise ValueError(f"the checkpoint {codec} has no language model beside it; give one with --lm-model")
    return LanguageModel.from_pretrained(codec, subfolder=LM_SUBFOLDER)


def _language_model_path(options: argparse.Namespace, name: str) -> Path | None:
    """Say where the language model is; None: beside the codec."""
    if options.lm_model is not None:
        return Path(options.lm_model)
    if name not in PUBLISHED_CODECS:
        return None
    file = PUBLISHED_CODECS[name].lm_file
    # Where Meta's package leaves it.
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        raise FileNotFoundError(
            f"the language model of {name} is not at {path}; download {LM_URL}{file}, and give it with --lm-model"
        )
    return path


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile publishes no types
    """A SoundFile that is only read on.

    soundfile seeks to the place where it is after every read, and mpg123 then starts anew, without the bits that a
    frame of an mp3 borrows from earlier ones.
    """

    def seekable(self) -> bool:
        return False

    def blocks_to_the_end(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield `[n, C]`, until there are no more: a header may promise any number of samples."""
        while len(block := self.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
            yield block


def _read_audio(path: Path, model: EncodecModel) -> Tensor:
    config = model.config
    # Opened here: soundfile takes no names that are not UTF-8.
    with path.open("rb") as file:
        try:
            with _SequentialFile(file.fileno(), closefd=False) as audio:
                converted = convert_blocks(
                    audio.blocks_to_the_end(),
                    source_rate=audio.samplerate,
                    target_rate=config.sampling_rate,
                    source_channels=audio.channels,
                    num_channels=config.audio_channels,
                )
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{path} is not audio that libsndfile reads, or damaged: {error.error_string}") from error
    return torch.from_numpy(converted)


def _write_audio(path: Path, waveform: Tensor, *, sampling_rate: int, rescale: bool) -> None:
    """Write 16-bit PCM; what is louder than the limit is clipped, with a warning, or all is scaled down."""
    peak = waveform.abs().max().item()
    if peak > PEAK_LIMIT:
        if rescale:
            waveform = waveform * (PEAK_LIMIT / peak)
        else:
            print(
                f"Clipping!! max scale {peak:.4g}, limit is {PEAK_LIMIT}. To avoid clipping, use the `-r` option to "
                "rescale the output.",
                file=sys.stderr,
            )
    samples = np.ascontiguousarray(waveform.clamp(-PEAK_LIMIT, PEAK_LIMIT).T.numpy())

    def write(file: BinaryIO) -> None:
        with soundfile.SoundFile(
            file.fileno(), "w", sampling_rate, samples.shape[1], "PCM_16", format="WAV", closefd=False
        ) as audio:
            audio.write(samples)

    _publish(path, write)


def _publish(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file that appears whole, or not at all.

    A crash, or a power failure, leaves
        before `replace`    what was at `path`, and perhaps the staged name, whole or in part: it can be deleted;
        after it            what was at `path`, or the new file, whole: its bytes were on the disk before its name.
    """
    staged = path.with_name(f".encodec-{uuid.uuid4().hex}")
    try:
        with staged.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
