"""Manifests written for tests, and what is listed of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizer_jobs.clips import encode, speechlike
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.records import Item
from tokenizer_jobs.source_config import ManifestSource
from tokenizer_jobs.sources import Listing, make_source

CLIP = encode(speechlike(1600), container="WAV", coding="PCM_16")


def jsonl(*lines: Mapping[str, Any] | str) -> str:
    return "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def listing(*paths: Path | str, **options: Any) -> Listing:
    return make_source(ManifestSource(paths=tuple(map(str, paths)), **options)).list()


def items(*paths: Path | str, **options: Any) -> list[Item]:
    return list(listing(*paths, **options).items)


def ids(*paths: Path | str, **options: Any) -> list[str]:
    return sorted(item.id for item in items(*paths, **options))


def refusal(*paths: Path | str, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        listing(*paths, **options)
    return str(caught.value)


def one(tmp_path: Path, line: Mapping[str, Any], **options: Any) -> Item:
    (item,) = items(put(tmp_path / "one.jsonl", jsonl(line)), **options)
    return item


NEMO = {"audio_filepath": "audio/a.wav", "duration": 4.5, "text": "hello", "lang": "en"}
AUDIOCRAFT = {
    "path": "/music/track 1.mp3",
    "duration": 181.2,
    "sample_rate": 44100,
    "amplitude": None,
    "weight": 0.5,
    "info_path": None,
}
RECORDING: dict[str, Any] = {
    "id": "lbi-1272",
    "sources": [{"type": "file", "channels": [0], "source": "LibriSpeech/1272.flac"}],
    "sampling_rate": 16000,
    "num_samples": 160000,
    "duration": 10.0,
    "channel_ids": [0],
}
CUT: dict[str, Any] = {
    "id": "lbi-1272-0",
    "start": 2.5,
    "duration": 3.0,
    "channel": 0,
    "supervisions": [
        {
            "id": "s0",
            "recording_id": "lbi-1272",
            "start": 0.0,
            "duration": 3.0,
            "channel": 0,
            "text": "MISTER QUILTER",
            "language": "English",
            "speaker": "1272",
        }
    ],
    "recording": RECORDING,
    "custom": {"snr": 21.5},
    "type": "MonoCut",
}
STEREO: dict[str, Any] = {
    **RECORDING,
    "sources": [{"type": "file", "channels": [0, 1], "source": "calls/1.wav"}],
    "channel_ids": [0, 1],
}
