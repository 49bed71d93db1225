"""The encoder actor: a plain class that holds a codec for its life and tokenizes a few units at a time."""

import gc
import logging
import os
import socket
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import ray

from tokenizer_jobs.cluster.faults import EncoderBrokenError
from tokenizer_jobs.cluster.metrics import EncoderMeter
from tokenizer_jobs.cluster.reach import check_reach
from tokenizer_jobs.config import CodecRecipe
from tokenizer_jobs.encoding import Codec, EncodeDesk, open_desk
from tokenizer_jobs.errors import IntegrityError, TransientError
from tokenizer_jobs.logs import LogFormat, log_event, start_json_logs
from tokenizer_jobs.machine import uncollected
from tokenizer_jobs.outages import pause_seconds
from tokenizer_jobs.pipeline import UnitDone, UnitJob, tokenize_unit
from tokenizer_jobs.records import Decoded, WorkUnit
from tokenizer_jobs.storage import Storage

__all__ = ["EncoderActor", "UnitDecoder", "WhereAbouts"]

_log = logging.getLogger(__name__)

REACH_SECONDS = 300.0
"""That an encoder waits for storage which does not serve before it takes its first unit."""


class UnitDecoder(Protocol):
    """Where an encoder's waveforms come from."""

    def warm_up(self) -> None:
        """Get ready to decode, without waiting for it."""

    def allow(self, num_tasks: int) -> None:
        """Use so many decode tasks for a unit from now on, at most."""

    def note_encoding(self, seconds: float, *, audio_seconds: float) -> None:
        """Take note of how long a unit took to encode."""

    def decode(self, unit: WorkUnit, *, careful: bool) -> Iterator[Decoded]:
        """Decode a unit's items in plan order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhereAbouts:
    """Where the cluster placed an encoder."""

    node_id: str
    host: str
    pid: int
    gpu_ids: tuple[int | str, ...]
    """Of its node; empty on CPU."""


class EncoderActor:
    """Tokenizes units with a codec that stays loaded.

    Args:
        name: As logs and the dashboard show it.
        job: What the units share.
        codec_recipe: The codec to load.
        device: `auto` where the cluster gave it a GPU; else `cpu`, since without one it would see all GPUs.
        decoder: Decodes units.
        local_paths: Files and folders of the source that must be on this node.
        log_format: Of the log of its process; text leaves logging as it is.
    """

    def __init__(
        self,
        name: str,
        *,
        job: UnitJob,
        codec_recipe: CodecRecipe,
        device: Literal["auto", "cpu", "cuda"],
        decoder: UnitDecoder,
        local_paths: Sequence[str] = (),
        log_format: LogFormat = "text",
    ) -> None:
        if log_format == "json":
            start_json_logs(encoder=name, node=socket.gethostname())
        self._name = name
        self._job = job
        self._codec_recipe = codec_recipe
        self._device = device
        self._decoder = decoder
        self._local_paths = local_paths
        self._num_threads = 1
        self._loaded: tuple[Codec, Storage, str] | None = None
        self._desk: EncodeDesk | None = None
        self._meter = EncoderMeter(job.output, encoder=name)

    def __repr__(self) -> str:
        """As Ray's dashboard names the actor: a cluster may have several jobs, each with an `encoder-0`."""
        return f"{self._name} of {Storage.at(self._job.output).name.rstrip('/').rpartition('/')[2]}"

    def locate(self) -> WhereAbouts:
        """Say where the actor runs; the first call, which returns as soon as it is placed."""
        return WhereAbouts(
            node_id=ray.get_runtime_context().get_node_id(),
            host=socket.gethostname(),
            pid=os.getpid(),
            gpu_ids=tuple(ray.get_gpu_ids()),
        )

    def load(self, *, num_threads: int) -> str:
        """Load the codec, check that it is the job's, and return the name of the device it is on.

        Args:
            num_threads: Of torch, for one encode call.

        Raises:
            ConfigError: the output or the source is not on this node, or the codec cannot be loaded.
            ImportError: torch is not on this node, or cannot be loaded.
            IntegrityError: its weights are not those of the job.
            TransientError: storage did not serve for minutes.
        """
        self._await_output()
        self._decoder.warm_up()
        with uncollected():
            import torch  # here and not above: the driver names this class, and encodes nothing

            from tokenizer_jobs.encoding import choose_device, make_codec

            gc.freeze()
        self._num_threads = num_threads
        torch.set_num_threads(num_threads)
        device = choose_device(self._device)
        codec = make_codec(self._codec_recipe, device=device)
        found = codec.describe().weights_sha256
        if found != self._job.weights_sha256:
            raise IntegrityError(
                f"{self._name} on {socket.gethostname()} loaded {self._codec_recipe.model} with weights sha256 "
                f"{found}; the job's are {self._job.weights_sha256}; pin recipe.codec.revision, or make the same model "
                "available to every node"
            )
        self._loaded = (codec, Storage.at(self._job.output), device)
        self._desk = open_desk(codec, device=device)
        return device

    def _await_output(self) -> None:
        """Check that output and source are here; an encoder that takes a lost one's place may come into an outage."""
        deadline, num_failures = time.monotonic() + REACH_SECONDS, 0
        while True:
            try:
                return check_reach(self._job.output, paths=self._local_paths)
            except TransientError:
                num_failures += 1
                pause = pause_seconds(num_failures, key=self._name)
                if time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)

    def allow_decode_tasks(self, num_tasks: int) -> None:
        """Use so many decode tasks for a unit from now on, at most: nodes joined or left."""
        self._decoder.allow(num_tasks)

    def run(self, unit: WorkUnit, *, number: int, careful: bool) -> UnitDone:
        """Tokenize and commit a unit.

        Args:
            unit: The unit.
            number: Which attempt this is, from 1.
            careful: A worker died on the unit before.

        Raises:
            DecodeWorkerLostError: a decode worker died.
            EncoderBrokenError: the device fails; the actor is of no more use.
            TransientError: storage failed.
            IntegrityError: what is stored contradicts the unit.
        """
        assert self._loaded is not None, "load() comes before run()"
        codec, storage, device = self._loaded
        log_event(_log, logging.INFO, "unit_started", unit=unit.part_name, attempt=number, careful=careful)
        decoded = cast(Generator[Decoded, None, None], self._decoder.decode(unit, careful=careful))
        with closing(decoded), self._computing():
            done = tokenize_unit(
                unit,
                decoded=self._meter.watching(decoded, busy_seconds=self._busy_seconds),
                job=self._job,
                codec=codec,
                storage=storage,
                attempt=number,
                device=device,
                desk=self._desk,
            )
        self._meter.look(self._busy_seconds())
        commit = done.published.commit  # an earlier attempt's tells the pace as well
        log_event(
            _log,
            logging.INFO,
            "unit_done",
            unit=unit.part_name,
            attempt=number,
            outcome=str(done.published.outcome),
            items=commit.num_items,
            rejects=commit.num_rejects,
            audio_seconds=commit.audio_seconds,
            seconds=(commit.finished_at - commit.started_at).total_seconds(),
        )
        self._decoder.note_encoding(commit.stage_seconds.get("encode", 0.0), audio_seconds=commit.audio_seconds)
        return done

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Have torch compute with this encoder's threads, and say what it means when its device fails."""
        import torch

        # OpenMP counts threads for each calling thread, and Ray runs each call in one of its own pool.
        torch.set_num_threads(self._num_threads)
        try:
            yield
        except (torch.AcceleratorError, torch.OutOfMemoryError) as error:
            # After most CUDA errors every later call of the process fails too.
            raise EncoderBrokenError(f"{self._name} on {socket.gethostname()}: {error}") from error

    def _busy_seconds(self) -> float:
        return 0.0 if self._desk is None else self._desk.busy_seconds
