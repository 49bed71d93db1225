"""A job worth looking at, its report, and a picture of that: `docs/report.png`.

    python -m benchmarks.report_picture [--minutes 12] [--output FOLDER] [--picture docs/report.png]

Some hundred recordings made by code, among them silence, files cut in half, and files that are no audio; tokenized by
two encoders in small units, stopped in between and resumed, then more of them for a second snapshot. The picture needs
Chromium; without it the output and its page are made all the same.
"""

import argparse
import io
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import yaml

from tests.tokenizer_jobs.browser import CHROMIUM, browser_tab

RATES = (16000, 22050, 24000, 44100, 48000)
FORMATS = (("wav", "WAV", "PCM_16"), ("flac", "FLAC", "PCM_16"), ("ogg", "OGG", "VORBIS"), ("mp3", "MP3", None))
BLOCK = 4096
"""libsndfile 1.2.2 overflows its stack when a long Vorbis recording is written in one call."""
STOPPED_AFTER_UNITS = 8
WIDTH = 1200
"""Of the picture, in pixels."""
LAST_PART = "Units in hand"
"""Title of the plot that the picture ends below."""

Samples = npt.NDArray[np.float32]
"""[n, C] in [-1, 1]."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12.0, help="of audio, about")
    parser.add_argument("--output", type=Path, help="where the audio and the output stay; else they are thrown away")
    parser.add_argument("--picture", type=Path, help="where the picture goes, as a PNG")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.output or Path(folder)
        page = make_report_of_a_job(root, minutes=arguments.minutes)
        print(f"{page}: {page.stat().st_size / 1e6:.2f} MB")
        if arguments.picture is not None:
            take_picture(page, arguments.picture, profile=Path(folder) / "profile")
            print(f"{arguments.picture}: {arguments.picture.stat().st_size / 1e3:.0f} kB")


def make_report_of_a_job(root: Path, *, minutes: float) -> Path:
    """Make audio, tokenize it in two generations, the first of them stopped and resumed; where the page is."""
    audio, job = root / "recordings", root / "job.yaml"
    root.mkdir(parents=True, exist_ok=True)
    job.write_text(yaml.safe_dump(_job(root / "speech", audio)))
    write_recordings(audio / "2026-05", minutes=0.8 * minutes, seed=1)
    run = [sys.executable, "-m", "tokenizer_jobs", "run", str(job)]
    _stop_after(run, commits=root / "speech" / "_commits" / "000001")
    subprocess.run(run, check=True)
    write_recordings(audio / "2026-06", minutes=0.2 * minutes, seed=2)
    subprocess.run(run, check=True)
    words = [sys.executable, "-m", "tokenizer_jobs", "report", str(root / "speech"), "--samples", "6"]
    subprocess.run(words, check=True)
    return root / "speech" / "report.html"


def _job(output: Path, audio: Path) -> dict[str, object]:
    return {
        "output": str(output),
        "recipe": {"codec": {"model": "demo", "bandwidth_kbps": 6.0}},
        "selection": {
            "source": {"kind": "files", "paths": [str(audio)]},
            "filters": {"min_seconds": 0.3, "max_silent_fraction": 0.95},
            "shards": {"unit_minutes": 0.25},
        },
        "runtime": {"executor": "ray", "encoders": 2, "device": "cpu"},
    }


def _stop_after(words: list[str], *, commits: Path) -> None:
    """Begin a run and stop it as Ctrl-C does, once a few units are committed."""
    process = subprocess.Popen(words)
    while process.poll() is None and len(list(commits.glob("*.json"))) < STOPPED_AFTER_UNITS:
        time.sleep(0.2)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.wait()


def write_recordings(folder: Path, *, minutes: float, seed: int) -> None:
    """Recordings of 1 to 30 s in four formats and five rates, and a few files with something wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    left, number = 60.0 * minutes, 0
    while left > 0:
        seconds = float(np.clip(generator.lognormal(1.7, 0.7), 1.0, 30.0))
        extension, container, coding = FORMATS[number % len(FORMATS)]
        rate = RATES[number % len(RATES)]
        samples = _speech(seconds, rate=rate, generator=generator)
        channels = 2 if number % 7 == 3 else 1
        content = _encoded(np.repeat(samples, channels, axis=1), rate=rate, container=container, coding=coding)
        (folder / f"speaker-{number % 9}" / "x").parent.mkdir(exist_ok=True)
        (folder / f"speaker-{number % 9}" / f"{number:04}.{extension}").write_bytes(content)
        left, number = left - seconds, number + 1
    quiet = np.zeros((48000, 1), np.float32)
    whole = _encoded(_speech(4.0, rate=24000, generator=generator), rate=24000, container="WAV", coding="PCM_16")
    (folder / "silence.wav").write_bytes(_encoded(quiet, rate=24000, container="WAV", coding="PCM_16"))
    (folder / "blip.wav").write_bytes(_encoded(quiet[:2400] + 0.1, rate=24000, container="WAV", coding="PCM_16"))
    for name in ("cut-1.wav", "cut-2.wav"):
        (folder / name).write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp3").write_bytes(b"")
    (folder / "notes.flac").write_bytes(b"these are notes, not audio\n" * 100)
    (folder / "loud.wav").write_bytes(_encoded(6 * quiet + 6, rate=24000, container="WAV", coding="FLOAT"))


def _speech(seconds: float, *, rate: int, generator: np.random.Generator) -> Samples:
    """What sounds a little like a voice: syllables of a gliding pitch with two formants, and pauses; [n, 1]."""
    num_samples = round(seconds * rate)
    time = np.arange(num_samples) / rate
    knots = np.arange(0.0, seconds + 0.5, 0.22)
    pitch = generator.uniform(90, 220) * np.interp(time, knots, generator.uniform(0.8, 1.25, len(knots)))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    first, second = (np.interp(time, knots, generator.uniform(*band, len(knots))) for band in ((280, 800), (900, 2400)))
    voice = np.zeros(num_samples)
    for harmonic in range(1, 28):
        hertz = harmonic * pitch
        strength = 1 / (1 + ((hertz - first) / 120) ** 2) + 0.5 / (1 + ((hertz - second) / 180) ** 2)
        voice += np.where(hertz < 0.45 * rate, strength * np.sin(harmonic * phase), 0.0)
    hiss = generator.normal(size=num_samples) * (np.interp(time, knots, generator.uniform(0, 1, len(knots))) > 0.8)
    loud = np.interp(time, knots, generator.choice([0.0, 0.35, 0.7, 1.0], len(knots), p=[0.22, 0.18, 0.3, 0.3]))
    found = (voice / (np.abs(voice).max() + 1e-9) + 0.15 * hiss) * loud + 2e-4 * generator.normal(size=num_samples)
    samples: Samples = (found * generator.uniform(0.1, 0.8)).astype(np.float32)[:, None]
    return samples


def _encoded(samples: Samples, *, rate: int, container: str, coding: str | None) -> bytes:
    content = io.BytesIO()
    with soundfile.SoundFile(
        content, "w", samplerate=rate, channels=samples.shape[1], format=container, subtype=coding
    ) as file:
        for start in range(0, len(samples), BLOCK):
            file.write(samples[start : start + BLOCK])
    return content.getvalue()


_BOTTOM = f"""
Math.round(Array.from(document.querySelectorAll("figure")).find(
  one => one.querySelector("h3").textContent === "{LAST_PART}"
).querySelector(".plot").getBoundingClientRect().bottom + 4)
"""


def take_picture(page: Path, destination: Path, *, profile: Path) -> None:
    """The top of a page, light."""
    if CHROMIUM is None:
        raise SystemExit("Chromium is not installed (Debian: apt-get install chromium)")
    with browser_tab(profile) as tab:
        tab.open(page)
        # Where the output happens to lie says nothing to anybody else.
        tab.evaluate(f"document.querySelector('.where bdi').textContent = 'out/{page.parent.name}'")
        tab.show(width=WIDTH, height=900, scheme="light")
        height = tab.evaluate(_BOTTOM)
        tab.show(width=WIDTH, height=height, scheme="light")
        tab.take_picture(destination, is_whole=False)


if __name__ == "__main__":
    main()
