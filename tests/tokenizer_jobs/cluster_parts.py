"""Encoders for tests of the cluster: real actors with a codec that is quick and needs no weights."""

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from tests.tokenizer_jobs.factories import FACTS
from tokenizer_jobs.cluster.actors import EncoderActor, WhereAbouts
from tokenizer_jobs.cluster.decode_streams import DecodeFanOut
from tokenizer_jobs.encoding import EncodeDesk, Waveform
from tokenizer_jobs.pipeline import UnitDone
from tokenizer_jobs.recipe import CodecFacts
from tokenizer_jobs.records import EncodedItem, WorkUnit
from tokenizer_jobs.storage import Storage


class HashCodec:
    """Codes that follow from the samples by a hash: equal audio, equal codes."""

    def encode(self, waveforms: Sequence[Waveform]) -> list[EncodedItem]:
        return [EncodedItem(codes=_codes(waveform)) for waveform in waveforms]

    def decode(self, encoded: Sequence[EncodedItem], *, num_samples: Sequence[int]) -> list[Waveform]:
        raise NotImplementedError("codes that are a hash have no audio; nothing in the cluster decodes codes back")

    def describe(self) -> CodecFacts:
        return FACTS


def _codes(waveform: Waveform) -> np.ndarray[tuple[int, int], np.dtype[np.uint16]]:
    num_frames = -(-waveform.shape[1] // FACTS.hop_length)
    seed = hashlib.sha256(np.ascontiguousarray(waveform).tobytes()).digest()
    return np.random.default_rng(list(seed)).integers(0, 1024, (8, num_frames), dtype=np.uint16)


class HashEncoder(EncoderActor):
    """An encoder with the hash codec; it leaves a note in the output of where it is and how it was set up."""

    def locate(self) -> WhereAbouts:
        where = super().locate()
        note = Path(self._job.output) / "notes" / f"{self._name}.json"
        note.parent.mkdir(exist_ok=True)
        found = {"pid": where.pid, "gpu_ids": where.gpu_ids, "one_begins": cast(DecodeFanOut, self._decoder).one_begins}
        note.with_suffix(".tmp").write_text(json.dumps(found))
        note.with_suffix(".tmp").rename(note)
        return where

    def load(self, *, num_threads: int) -> str:
        self._loaded = (codec := HashCodec(), Storage.open(self._job.output), "cpu")
        self._desk = EncodeDesk(codec, merges=True)
        return "cpu"

    @contextmanager
    def _computing(self) -> Iterator[None]:
        yield  # nothing here needs torch, which takes seconds to import


class LateEncoder(HashEncoder):
    """Takes four seconds to come up, as one does that imports torch from a cold mount."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        time.sleep(4.0)
        super().__init__(*arguments, **options)


class SlowEncoder(HashEncoder):
    """Takes half a second for each unit, so that there is time to kill or stop something."""

    def run(self, unit: WorkUnit, *, number: int, careful: bool) -> UnitDone:
        time.sleep(0.5)
        return super().run(unit, number=number, careful=careful)


class MortalEncoder(HashEncoder):
    """Dies with its first unit, once for each output."""

    def run(self, unit: WorkUnit, *, number: int, careful: bool) -> UnitDone:
        try:
            (Path(self._job.output) / "died").touch(exist_ok=False)
        except FileExistsError:
            return super().run(unit, number=number, careful=careful)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")


class FrailEncoder(HashEncoder):
    """Dies while it loads, so often in each place as the output's `frailty` says."""

    def load(self, *, num_threads: int) -> str:
        output = Path(self._job.output)
        for life in range(int((output / "frailty").read_text())):
            try:
                (output / f"{self._name.partition('.')[0]}-died-{life}").touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(num_threads=num_threads)


class BareEncoder(HashEncoder):
    """Is on a node without torch."""

    def load(self, *, num_threads: int) -> str:
        raise ModuleNotFoundError("No module named 'torch'")
