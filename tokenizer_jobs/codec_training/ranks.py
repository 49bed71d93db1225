"""Training in several processes of this machine: they start together, stop together, and an error of one ends all.

    parent ──▶ ranks          starts them, asks them to stop (SIGTERM), kills those that do not
           ◀── pipe of each   lines to show; the error that ended it

A rank whose parent is gone ends at once: a later run may have the output by then.
"""

import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Protocol

import torch
from torch import distributed

from encodec_core.training.ranks import LONGEST_WAIT
from tokenizer_jobs.errors import TokenizerJobsError, TransientError

__all__ = ["RankWork", "run_ranks"]

POLL_SECONDS = 0.2
STOP_SECONDS = 600
"""For ranks that were asked to stop: an update and a checkpoint.

Shorter than a k-means on a CPU, which can take an hour (see `LONGEST_WAIT`): ranks in the middle of one are killed, and
the next call goes on from the last checkpoint."""
FAILURE_SECONDS = 10
"""For the others where one has failed: they say what they know, and mostly wait for the one that is gone."""
BEFORE_THE_WORK = (-signal.SIGTERM, 1)
"""How a rank ends that is asked to stop while it still imports torch; the others are killed, and nothing is lost."""

RESUMES = "the same command goes on from the last checkpoint"


class RankWork(Protocol):
    """What each rank does; survives pickling."""

    def __call__(self, *, device: str, say: Callable[[str], None], stop: threading.Event) -> None:
        """Train on `device`, with torch.distributed set up, and end where `stop` is set on any rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    rank: int
    num_ranks: int
    device: str
    """cpu or cuda."""
    rendezvous: str
    """A URL that all ranks know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """Why a rank ended."""

    error: TokenizerJobsError | None
    """What a person can act on; None: a fault of the program."""
    trace: str


def run_ranks(
    work: RankWork, *, device: str, num_ranks: int, say: Callable[[str], None], stop: threading.Event
) -> None:
    """Do the work in several processes, and come back when all have ended.

    Args:
        work: of each.
        device: cpu or cuda; rank n has GPU n.
        num_ranks: processes.
        say: gets the lines of the first rank.
        stop: once it is set, every rank is asked to stop; those that have not after `STOP_SECONDS` are killed.

    Raises:
        TokenizerJobsError: what a rank raised.
        TransientError: a rank was killed by others.
        RuntimeError: a rank failed in another way; its trace is in the message.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes: list[SpawnProcess] = []
        pipes: list[Connection] = []
        try:
            for rank in range(num_ranks):
                place = _Place(rank=rank, num_ranks=num_ranks, device=device, rendezvous=f"file://{folder}/rendezvous")
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_run_rank, args=(work, place, sender), name=f"rank {rank}", daemon=True
                )
                process.start()
                sender.close()  # the rank has its own; so its end is the pipe's end
                processes.append(process)
                pipes.append(receiver)
            failures = _watch(processes, pipes, say=say, stop=stop)
            exit_codes = [process.exitcode for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.join()
            for pipe in pipes:
                pipe.close()
    _raise_first(failures, exit_codes, stopped=stop.is_set())
    if None in exit_codes and not any(exit_codes):
        say(f"rank {exit_codes.index(None)} did not stop within {STOP_SECONDS} s and was killed; {RESUMES}")


def _watch(
    processes: Sequence[SpawnProcess], pipes: Sequence[Connection], *, say: Callable[[str], None], stop: threading.Event
) -> list[_Failure]:
    """Pass on what the ranks say until all have ended, or have had their time."""
    open_pipes, failures = list(pipes), []
    deadline, is_asked = float("inf"), False
    while (open_pipes or any(process.is_alive() for process in processes)) and time.monotonic() < deadline:
        for message in _received(open_pipes):
            if isinstance(message, _Failure):
                failures.append(message)
            else:
                say(message)
        if stop.is_set() and not is_asked:
            is_asked, deadline = True, min(deadline, time.monotonic() + STOP_SECONDS)
            for process in processes:
                process.terminate()
        if failures or any(process.exitcode for process in processes):
            deadline = min(deadline, time.monotonic() + FAILURE_SECONDS)
    return failures


def _received(open_pipes: list[Connection]) -> Iterator[str | _Failure]:
    """Wait a little for messages; pipes that have ended are taken out."""
    if not open_pipes:
        time.sleep(POLL_SECONDS)
    for pipe in wait(open_pipes, timeout=POLL_SECONDS):
        assert isinstance(pipe, Connection)
        try:
            yield pipe.recv()
        except (EOFError, OSError):  # ended, or killed in the middle of a message
            open_pipes.remove(pipe)


def _raise_first(failures: Sequence[_Failure], exit_codes: Sequence[int | None], *, stopped: bool) -> None:
    """Raise what ended the ranks.

    First what a person can act on, then the death of one by a signal, which the others can only report as a lost
    connection, then what they report.

    Args:
        failures: that the ranks have sent.
        exit_codes: of each rank; None: it had to be killed.
        stopped: whether they were asked to stop.
    """
    for failure in failures:
        if failure.error is not None:
            raise failure.error
    for rank, code in enumerate(exit_codes):
        if code is not None and code < 0 and not stopped:
            raise TransientError(f"rank {rank} was killed by signal {-code} (9: perhaps for want of memory); {RESUMES}")
    if failures:
        raise RuntimeError(f"a rank failed:\n{failures[0].trace}")
    if stopped and any(code in BEFORE_THE_WORK for code in exit_codes):
        return
    for rank, code in enumerate(exit_codes):
        if code:
            raise TransientError(f"rank {rank} ended with code {code}; {RESUMES}")


def _run_rank(work: RankWork, place: _Place, pipe: Connection) -> None:
    # Where the work fails the group is left as it is: taking it down waits for ranks that wait for this one.
    with closing(pipe), _reported(pipe):
        # A group of its own: Ctrl-C on the terminal is for the parent, which asks each rank once.
        os.setpgrp()
        threading.Thread(target=_die_with_parent, daemon=True).start()
        stop = threading.Event()

        def ask(_signal: int, _frame: FrameType | None) -> None:
            stop.set()

        signal.signal(signal.SIGTERM, ask)
        is_first, on_gpu = place.rank == 0, place.device == "cuda"
        if on_gpu:
            torch.cuda.set_device(place.rank)
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            init_method=place.rendezvous,
            rank=place.rank,
            world_size=place.num_ranks,
            timeout=LONGEST_WAIT,
        )
        work(
            device=f"cuda:{place.rank}" if on_gpu else place.device,
            say=pipe.send if is_first else _say_nothing,
            stop=stop,
        )
        distributed.destroy_process_group()


@contextmanager
def _reported(pipe: Connection) -> Iterator[None]:
    """Send an error to the parent and end the process with it."""
    try:
        yield
    except TokenizerJobsError as error:
        pipe.send(_Failure(error=error, trace=traceback.format_exc()))
        raise SystemExit(1) from error
    except Exception as error:
        pipe.send(_Failure(error=None, trace=traceback.format_exc()))
        raise SystemExit(1) from error


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _say_nothing(_: str) -> None:
    """Let the first rank speak."""
