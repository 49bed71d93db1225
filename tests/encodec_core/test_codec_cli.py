"""python -m encodec_core: what Meta's command does, what it refuses, and what is left behind when it fails."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from encodec_core import EncodecModel
from encodec_core import __main__ as command
from encodec_core.__main__ import main
from encodec_core.entropy import PUBLISHED_CODECS, compress, read_header
from encodec_core.resample import convert_blocks
from tests.encodec_core.language_models import language_model_of, make_language_model, narrow_config
from tests.encodec_core.models import fitted_model
from tests.encodec_core.test_ecdc import meta_compress
from tests.fitted_models import synthetic_waveform


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """0.5 s of stereo at 22.05 kHz, loud enough to clip."""
    audio = synthetic_waveform(11_025, num_channels=2, sampling_rate=22_050, seed=1)
    path = tmp_path / "clip.wav"
    soundfile.write(path, audio.T.numpy(), 22_050)
    return path


@pytest.fixture
def published(tmp_path: Path) -> list[str]:
    """Options for a codec under the published name, in a folder."""
    fitted_model("causal_mono").save_pretrained(tmp_path / "codec")
    return ["--model", str(tmp_path / "codec"), "--as", "encodec_24khz"]


@pytest.fixture
def demo_lm(tmp_path: Path) -> list[str]:
    config = narrow_config(EncodecModel.from_pretrained("demo").config)
    make_language_model(config).save_pretrained(tmp_path / "lm")
    return ["--lm-model", str(tmp_path / "lm")]


def refusal(arguments: Sequence[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([str(argument) for argument in arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def run(*arguments: str | Path) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def test_names_of_outputs_follow_from_the_input(clip: Path) -> None:
    run("compress", clip)
    run("decompress", clip.with_suffix(".ecdc"))
    run("decompress", clip.with_suffix(".ecdc"), "--decompress_suffix", ".again")
    names = sorted(path.name for path in clip.parent.iterdir())
    assert names == ["clip.again.wav", "clip.ecdc", "clip.wav", "clip_decompressed.wav"]
    info = soundfile.info(clip.with_name("clip_decompressed.wav"))
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (24_000, 1, 12_000, "PCM_16")


def test_refusals_of_the_program_go_to_standard_error(clip: Path) -> None:
    missing = clip.with_name("none.wav")
    command = [sys.executable, "-m", "encodec_core", "compress", str(missing)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"encodec_core: input file {missing} does not exist\n"


@pytest.mark.parametrize("words", [[], ["compress"], ["decompress"]])
def test_help_has_an_example_that_parses(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--help"])
    lines = capsys.readouterr().out.partition("example:\n")[2].splitlines()
    assert lines
    for line in lines:
        assert line.split()[:3] == ["python", "-m", "encodec_core"]
        command._parser().parse_args(line.split()[3:])


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("compres a.wav", "compress"),
        ("compress a.wav --bandwidht 3", "--bandwidth"),
        ("compress a --as encodec_24k", "encodec_24khz"),
    ],
)
def test_misspelt_words_suggest_the_right_one(line: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(line.split())
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_compress_writes_what_the_library_makes(clip: Path) -> None:
    samples, rate = soundfile.read(clip, dtype="float32")
    waveform = convert_blocks(
        [samples], source_rate=rate, target_rate=24_000, source_channels=samples.shape[1], num_channels=1
    )
    run("compress", clip, clip.with_name("3.ecdc"), "-b", "3")
    run("compress", clip, clip.with_name("6.ecdc"))
    model = EncodecModel.from_pretrained("demo")
    for bandwidth in (3.0, 6.0):
        expected = compress(model, torch.from_numpy(waveform), bandwidth_kbps=bandwidth)
        assert clip.with_name(f"{bandwidth:g}.ecdc").read_bytes() == expected


def test_a_wav_output_is_the_round_trip(clip: Path) -> None:
    run("compress", clip, clip.with_name("direct.wav"))
    run("compress", clip)
    run("decompress", clip.with_suffix(".ecdc"))
    assert clip.with_name("direct.wav").read_bytes() == clip.with_name("clip_decompressed.wav").read_bytes()


def test_the_reference_reads_what_is_made_under_a_published_name(clip: Path, published: list[str]) -> None:
    run("compress", clip, *published, "-b", "12")
    compressed = clip.with_suffix(".ecdc").read_bytes()
    with meta_compress() as module:
        waveform, rate = module.decompress(compressed)
    assert (waveform.shape, rate) == ((1, 12_000), 24_000)
    run("decompress", clip.with_suffix(".ecdc"), *published)


@pytest.mark.parametrize("given_as", ["folder beside the codec", "option"])
def test_language_models_of_other_codecs_make_streams_that_travel(
    clip: Path, tmp_path: Path, demo_lm: list[str], given_as: str
) -> None:
    options = demo_lm
    if given_as != "option":
        EncodecModel.from_pretrained("demo").save_pretrained(tmp_path)
        options = ["--model", str(tmp_path)]
    run("compress", clip, "--lm", *options)
    run("decompress", clip.with_suffix(".ecdc"), *options)
    with clip.with_suffix(".ecdc").open("rb") as file:
        header = read_header(file)
    assert header.uses_lm
    assert header.fixed_point
    beside = options if given_as != "option" else []
    run("compress", clip, clip.with_name("packed.ecdc"), *beside)
    run("decompress", clip.with_name("packed.ecdc"), clip.with_name("packed.wav"), *beside)
    assert clip.with_name("packed.wav").read_bytes() == clip.with_name("clip_decompressed.wav").read_bytes()


def test_a_published_codec_with_its_language_model_makes_what_the_reference_reads(
    clip: Path, published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = clip.parent / "hub"
    (hub / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    path = hub / "checkpoints" / PUBLISHED_CODECS["encodec_24khz"].lm_file
    torch.save(language_model_of("causal_mono").state_dict(), path)
    # Its file is not Meta's: what another language model makes is no file of the reference's.
    run("compress", clip, *published, "--lm")
    assert clip.with_suffix(".ecdc").read_bytes()[4] == 1
    run("decompress", clip.with_suffix(".ecdc"), *published)
    monkeypatch.setattr("encodec_core.entropy.lm.file_sha256", lambda path: "1608e3c0" + 56 * "0")
    run("compress", clip, *published, "--lm", "--force")
    compressed = clip.with_suffix(".ecdc").read_bytes()
    assert compressed[4] == 0
    run("compress", clip, clip.with_name("fixed.ecdc"), *published, "--lm", "--fixed-point")
    assert clip.with_name("fixed.ecdc").read_bytes()[4] == 1
    run("decompress", clip.with_suffix(".ecdc"), *published, "--force")


def test_what_metas_command_refuses_is_refused(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing, folder = clip.with_name("none.wav"), clip.parent / "nowhere"
    assert "does not exist" in refusal(["compress", missing], capsys)
    assert "is not a regular file" in refusal(["compress", clip.parent], capsys)
    assert "output folder" in refusal(["compress", clip, folder / "out.ecdc"], capsys)
    assert "must be .ecdc or .wav" in refusal(["compress", clip, clip.with_suffix(".mp3")], capsys)
    offered = ", ".join(f"{rate:g}" for rate in EncodecModel.from_pretrained("demo").config.target_bandwidths)
    message = refusal(["compress", clip, "-b", "2.5"], capsys)
    assert f"bandwidth 2.5 is not supported by the codec demo; choose one of {offered}" in message
    run("compress", clip)
    before = clip.with_suffix(".ecdc").read_bytes()
    assert "use -f / --force" in refusal(["compress", clip, "-b", "3"], capsys)
    assert clip.with_suffix(".ecdc").read_bytes() == before
    assert "must be .wav" in refusal(["decompress", clip.with_suffix(".ecdc"), clip.with_suffix(".flac")], capsys)
    assert "must be .ecdc" in refusal(["decompress", clip], capsys)
    assert "use decompress" in refusal(["compress", clip.with_suffix(".ecdc")], capsys)
    assert "--hq and --model demo" in refusal(["compress", clip, "--hq", "--model", "demo", "-f"], capsys)


def test_options_that_cannot_take_effect_are_refused(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("compress", clip)
    compressed, wav = clip.with_suffix(".ecdc"), clip.with_name("out.wav")
    assert "give --lm too" in refusal(["compress", clip, "--fixed-point", "-f"], capsys)
    assert "--lm-model x is not used without --lm" in refusal(["compress", clip, "--lm-model", "x", "-f"], capsys)
    assert "--rescale is for decoded audio" in refusal(["compress", clip, "-r", "-f"], capsys)
    assert "--rescale is for decoded audio" in refusal(["compress", clip, compressed, "-r", "-f"], capsys)
    assert "--decompress_suffix x is not used" in refusal(["decompress", compressed, wav, "-s", "x"], capsys)
    assert not wav.exists()


@pytest.mark.parametrize("link", ["itself", "symbolic", "hard"])
def test_an_input_is_never_replaced(clip: Path, link: str, capsys: pytest.CaptureFixture[str]) -> None:
    before, output = clip.read_bytes(), clip.with_name("link.wav")
    if link == "symbolic":
        output.symlink_to(clip)
    elif link == "hard":
        output.hardlink_to(clip)
    else:
        output = clip.parent / ".." / clip.parent.name / clip.name
    assert "is the input, which it would replace" in refusal(["compress", clip, output, "--force"], capsys)
    assert clip.read_bytes() == before


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems take no names that are not UTF-8")
def test_names_of_any_bytes_and_any_length_are_taken(clip: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(clip.parent) + b"/r\xe4uber.wav"))
    odd.write_bytes(clip.read_bytes())
    long = clip.with_name("x" * 251 + ".wav")
    run("compress", odd)
    run("decompress", odd.with_suffix(".ecdc"), long)
    run("compress", clip)
    run("decompress", clip.with_suffix(".ecdc"), clip.with_name("short.wav"))
    assert long.read_bytes() == clip.with_name("short.wav").read_bytes()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no fifos here")
def test_a_fifo_is_no_input(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fifo = clip.with_name("fifo.wav")
    os.mkfifo(fifo)
    assert "is not a regular file" in refusal(["compress", fifo], capsys)


@pytest.mark.parametrize(("container", "coding"), [("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_audio_is_read_in_blocks_as_at_once(
    clip: Path, container: str, coding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, rate = soundfile.read(clip, dtype="float32")
    path = clip.with_name("clip.audio")
    soundfile.write(path, samples, rate, format=container, subtype=coding)
    model = EncodecModel.from_pretrained("demo")
    whole, _ = soundfile.read(path, dtype="float32")
    expected = convert_blocks(
        [whole], source_rate=rate, target_rate=24_000, source_channels=whole.shape[1], num_channels=1
    )
    for num_samples in (2**16, 1000):
        monkeypatch.setattr(command, "BLOCK_SAMPLES", num_samples)
        # soundfile.read seeks to 0 first, after which mpg123 rounds otherwise.
        np.testing.assert_allclose(command._read_audio(path, model).numpy(), expected, rtol=0, atol=1e-6)


def test_ctrl_c_leaves_a_line_and_nothing_else(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    assert main(["compress", str(clip)]) == 130
    assert capsys.readouterr().err == "encodec_core: interrupted; nothing was written\n"
    assert [path.name for path in clip.parent.iterdir()] == ["clip.wav"]


def test_files_that_are_none_are_refused(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = clip.with_name("damaged.ecdc")
    damaged.write_bytes(b"RIFF" + bytes(100))
    assert "begins with b'RIFF'" in refusal(["decompress", damaged], capsys)
    run("compress", clip, clip.with_name("good.ecdc"))
    damaged.write_bytes(clip.with_name("good.ecdc").read_bytes()[:-1])
    assert "ended" in refusal(["decompress", damaged], capsys)
    text = clip.with_name("text.wav")
    text.write_text("no audio")
    assert "text.wav" in refusal(["compress", text], capsys)
    soundfile.write(text, np.zeros((0, 1)), 24_000)
    assert "samples > 0" in refusal(["compress", text], capsys)
    soundfile.write(text, np.zeros((10, 3)), 24_000)
    assert "3 channels" in refusal(["compress", text], capsys)
    soundfile.write(text, np.zeros((10, 1)), 1)
    assert "1 samples per second; expected 1000 to 768000" in refusal(["compress", text], capsys)
    damaged.write_bytes(clip.with_name("good.ecdc").read_bytes() + b"x")
    assert "bytes follow the recording" in refusal(["decompress", damaged], capsys)
    clip.with_name("good.ecdc").unlink()
    assert sorted(path.name for path in clip.parent.iterdir()) == ["clip.wav", "damaged.ecdc", "text.wav"]


def test_codecs_whose_place_is_unknown_are_asked_for(
    clip: Path, published: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run("compress", clip, *published[:2])
    compressed = clip.with_suffix(".ecdc")
    assert "give it with --model" in refusal(["decompress", compressed], capsys)
    assert "this one is 'demo:" in refusal(["decompress", compressed, "--model", "demo"], capsys)
    run("decompress", compressed, *published[:2])


def test_a_folder_called_demo_is_not_the_demo_codec(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = clip.parent / "demo"
    fitted_model("causal_mono").save_pretrained(folder)
    run("compress", clip, "--model", folder)
    compressed = clip.with_suffix(".ecdc")
    assert "give it with --model" in refusal(["decompress", compressed], capsys)
    moved = folder.rename(clip.parent / "elsewhere")
    run("decompress", compressed, "--model", moved)


def test_a_copy_of_the_demo_codec_is_the_demo_codec(clip: Path) -> None:
    EncodecModel.from_pretrained("demo").save_pretrained(clip.parent / "copy")
    run("compress", clip, "--model", clip.parent / "copy")
    run("decompress", clip.with_suffix(".ecdc"))


def test_the_demo_codec_has_a_language_model(clip: Path) -> None:
    run("compress", clip)
    run("compress", clip, clip.with_name("lm.ecdc"), "--lm")
    with clip.with_name("lm.ecdc").open("rb") as file:
        header = read_header(file)
    assert header.uses_lm
    assert header.fixed_point
    run("decompress", clip.with_name("lm.ecdc"))
    run("decompress", clip.with_suffix(".ecdc"))
    assert clip.with_name("lm_decompressed.wav").read_bytes() == clip.with_name("clip_decompressed.wav").read_bytes()


def test_missing_language_models_are_named(
    clip: Path, published: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(clip.parent))
    message = refusal(["compress", clip, "--lm", *published], capsys)
    assert "https://dl.fbaipublicfiles.com/encodec/v0/encodec_lm_24khz-1608e3c0.th" in message
    assert "no language model" in refusal(["compress", clip, "--lm", *published[:2]], capsys)


@pytest.mark.parametrize("rescale", [False, True])
def test_loud_audio_is_clipped_with_a_warning_or_rescaled(
    clip: Path, rescale: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = torch.tensor([[2.0, -1.0, 0.5, 0.0]])
    monkeypatch.setattr("encodec_core.__main__.decompress", lambda *_, **__: loud)
    run("compress", clip, clip.with_name("out.wav"), *(["-r"] if rescale else []))
    assert ("Clipping!! max scale 2" in capsys.readouterr().err) != rescale
    written, _ = soundfile.read(clip.with_name("out.wav"))
    expected = [0.99, -0.495, 0.2475, 0.0] if rescale else [0.99, -0.99, 0.5, 0.0]
    np.testing.assert_allclose(written, expected, rtol=0, atol=2**-15)
