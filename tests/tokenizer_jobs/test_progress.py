"""Progress: what is shown follows from what was reported, on a terminal and elsewhere."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest

from tests.tokenizer_jobs.conftest import REPOSITORY
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.job import run
from tokenizer_jobs.progress import Pace, ProgressDisplay, progress_line
from tokenizer_jobs.progress.capture import CapturedOutput
from tokenizer_jobs.progress.frame import Scene, frame
from tokenizer_jobs.progress.painter import Painter
from tokenizer_jobs.results import Progress
from tokenizer_jobs.watch import EncoderNow, EncoderState


def _progress(hours_done: float, elapsed_seconds: float, *, units: int = 10, message: str | None = None) -> Progress:
    return Progress(
        units=units,
        units_committed=int(hours_done),
        items=100,
        rows=int(hours_done) * 10,
        rejects=1,
        hours_done=hours_done,
        hours_total=10.0,
        elapsed_seconds=elapsed_seconds,
        message=message,
    )


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestPace:
    def test_what_an_earlier_run_did_is_not_speed_of_this_one(self) -> None:
        pace = Pace()
        pace.observe(_progress(0.0, 1.0, units=0))  # before the plan is open
        pace.observe(_progress(8.0, 10.0))  # resumed with 8 hours committed
        assert pace.speed is None
        pace.observe(_progress(9.0, 46.0))
        assert pace.speed == pytest.approx(100)
        assert pace.eta_seconds == pytest.approx(36)

    def test_the_next_plan_begins_anew_though_it_has_as_many_units(self) -> None:
        pace = Pace()
        pace.observe(_progress(2.0, 0.0))  # resumed
        pace.observe(_progress(10.0, 36.0))
        pace.observe(_progress(0.0, 40.0))  # another plan of 10 units: nothing of it is done
        assert pace.speed is None
        pace.observe(_progress(1.0, 76.0))
        assert pace.speed == pytest.approx(100)

    def test_more_audio_than_estimated_is_no_negative_time(self) -> None:
        pace = Pace()
        pace.observe(_progress(0.0, 0.0))
        pace.observe(_progress(12.0, 60.0))
        assert pace.eta_seconds == 0.0


class TestLines:
    def test_a_line_splits_into_names_and_values(self) -> None:
        line = progress_line(_progress(2.0, 20.0), Pace())
        word, *pairs = line.split()
        values = dict(pair.split("=") for pair in pairs)
        assert word == "progress"
        assert values["units"] == "2/10"
        assert values["hours"] == "2.000/10.000"
        assert (values["rows"], values["rejects"], values["speed"], values["eta"]) == ("20", "1", "?", "?")

    def test_lines_come_without_a_report_and_one_at_the_end(self) -> None:
        stream = io.StringIO()
        with ProgressDisplay(stream, line_seconds=0.02) as display:
            display.report(_progress(1.0, 10.0, message="resumed"))
            deadline = time.monotonic() + 5
            while stream.getvalue().count("progress ") < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            before = stream.getvalue().count("progress ")
        assert before >= 2
        assert stream.getvalue().count("progress ") > before
        assert stream.getvalue().startswith("resumed\n")

    def test_without_a_reader_the_work_goes_on(self) -> None:
        """The thread keeps its beat, and the end is no fault."""
        read, write = os.pipe()
        os.close(read)
        with open(write, "w", buffering=1) as stream, ProgressDisplay(stream, line_seconds=0.01) as display:  # noqa: PTH123
            display.report(_progress(1.0, 10.0, message="resumed"))
            time.sleep(0.05)
            assert "progress" in [thread.name for thread in threading.enumerate()]
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, write)  # what is buffered would be a fault where the stream is closed
            os.close(null)

    def test_no_thread_is_left(self) -> None:
        with ProgressDisplay(io.StringIO()):
            pass
        assert [thread.name for thread in threading.enumerate() if thread.name == "progress"] == []


class TestBar:
    def test_a_terminal_gets_a_bar_and_the_messages_above_it(self) -> None:
        stream = _Terminal()
        with ProgressDisplay(stream) as display:
            display.report(_progress(0.0, 0.0, message="encoding on cpu"))
            display.report(_progress(5.0, 60.0))
        shown = stream.getvalue()
        assert "encoding on cpu\n" in shown
        assert "progress units=" not in shown

    def test_a_terminal_without_cursor_gets_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "dumb")
        stream = _Terminal()
        with ProgressDisplay(stream) as display:
            display.report(_progress(5.0, 60.0))
        assert stream.getvalue().startswith("progress units=5/10 ")


def _scene(num_encoders: int) -> Scene:
    states = [*EncoderState]
    return Scene(
        progress=_progress(5.5, 60.0),
        elapsed_seconds=90061.0,
        speed=1234.0,
        eta_seconds=123456.0,
        encoders=[
            EncoderNow(name=f"encoder-{number}.2", state=states[number % len(states)], num_units=2, num_items=12_345)
            for number in range(num_encoders)
        ],
        stage_shares={"decode_wait": 0.3, "encode": 0.4, "encode_wait": 0.2, "write": 0.05, "other": 0.05},
        stop_seconds_left=29.0,
        note="model.safetensors: " + "x" * 300,
    )


class TestFrame:
    @pytest.mark.parametrize("num_encoders", [0, 2, 8, 64])
    def test_every_frame_fits_its_terminal(self, num_encoders: int) -> None:
        scene = _scene(num_encoders)
        for columns in range(10, 200):
            for rows in (2, 3, 6, 12, 50):
                lines = frame(scene, columns=columns, rows=rows)
                assert 0 < len(lines) < rows
                assert max(line.cell_len for line in lines) < columns

    def test_it_says_what_a_run_does(self) -> None:
        lines = [line.plain for line in frame(_scene(7), columns=80, rows=50)]
        shown = "\n".join(lines)
        for fact in (
            "5.50 h of 10.00 h",
            "4.50 h to do",
            "1,234 × real time",
            "1 d 10 h left",
            "1 reject",
            "30 %",
            "60 %",
            "5 %",
        ):
            assert fact in shown
        for state in EncoderState:
            assert f"{state} 0/12,345 items" in shown
        assert "Ctrl-C again" in shown

    def test_of_many_encoders_those_that_do_not_work_are_named(self) -> None:
        many = [EncoderNow(name=f"encoder-{number}", state=EncoderState.ENCODING) for number in range(63)]
        scene = replace(_scene(0), encoders=[*many, EncoderNow(name="encoder-63", state=EncoderState.LOST)])
        (line,) = (line.plain for line in frame(scene, columns=80, rows=50) if line.plain.startswith("encoders"))
        assert line == "encoders: 63 encoding · 1 lost · encoder-63 lost"

    def test_after_the_work_no_encoder_is_awaited(self) -> None:
        at_work = replace(_scene(0), progress=_progress(5.0, 60.0))
        done = replace(_scene(0), progress=_progress(10.0, 60.0))
        assert "encoders: none yet" in [line.plain for line in frame(at_work, columns=80, rows=50)]
        assert not any("encoders" in line.plain for line in frame(done, columns=80, rows=50))

    def test_an_encoder_that_holds_units_encodes(self) -> None:
        held = [EncoderNow.of("a", state, num_units=2).state for state in EncoderState]
        assert held == [EncoderState.ENCODING if each is EncoderState.WAITING else each for each in EncoderState]


def _emulated(written: str, *, columns: int = 80) -> list[str]:
    """What a terminal shows of the few control sequences that a view writes; it fails on any other."""
    screen, row = [""], 0
    plain = re.sub(r"\x1b\[[\d;]*m", "", written)
    for control, text in re.findall(r"(\x1b\[[?\d;]*[A-Za-z]|\r|\n)|([^\x1b\r\n]+)", plain):
        assert not text or len(text) <= columns, "a line of a frame would wrap"
        if text:
            screen[row] = text
        elif control == "\n":
            row += 1
            screen += [""] * (row + 1 - len(screen))
        elif control.endswith("A"):
            row -= int(control[2:-1])
        elif control.endswith("J"):
            screen[row:] = [""]
        else:
            assert control == "\r" or control.endswith(("K", "h", "l")), repr(control)
    return screen


class TestPainter:
    def test_what_stays_is_what_was_said_and_the_last_frame(self) -> None:
        stream = io.StringIO()
        painter = Painter(stream)
        painter.begin()
        painter.paint(["one", "two", "three"], widths=[3, 3, 5], columns=80)
        painter.say("first message")
        painter.paint(["only"], widths=[4], columns=80)
        painter.say("second")
        assert _emulated(stream.getvalue()) == ["first message", "second", "only", ""]
        painter.end()
        assert _emulated(stream.getvalue()) == ["first message", "second", ""]
        assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")

    def test_a_terminal_that_grew_narrower_has_broken_the_lines(self) -> None:
        """40 columns make 2 rows of a line of 79: the next frame begins 3 rows up, not 2."""
        stream = io.StringIO()
        painter = Painter(stream)
        painter.paint(["x" * 79, "y"], widths=[79, 1], columns=80)
        stream.truncate(0)
        painter.paint(["z"], widths=[1], columns=40)
        assert "\x1b[3A" in stream.getvalue()


_NOISY = """
import os, sys, time
from tokenizer_jobs.progress import ProgressDisplay
from tokenizer_jobs.results import Progress
with ProgressDisplay(sys.stderr) as display:
    display.report(Progress(units=2, hours_total=1.0, elapsed_seconds=1.0, message="said"))
    os.write(2, b"from C\\n")
    print("to stdout", flush=True)
    os.write(2, b"a bar: 10 %\\ra bar: 90 %\\r")
    time.sleep(0.6)
    os.write(2, b"\\nlast words")
    if len(sys.argv) > 1:
        raise KeyboardInterrupt
print("after")
"""


class TestTerminal:
    @pytest.mark.parametrize("ends", ["well", "by Ctrl-C"])
    def test_nobody_tears_the_view_and_it_leaves_no_trace(self, ends: str) -> None:
        """On a real terminal: descriptors that others write to come out above the view, in order."""
        words = [sys.executable, "-c", _NOISY, *(["interrupt"] if ends == "by Ctrl-C" else [])]
        written = _in_a_terminal(words, environment={"TERM": "xterm", "NO_COLOR": "1"})
        assert not re.search(r"\x1b\[[34]\dm", written)
        assert "0.0 s of 1.00 h" in written
        assert "a bar: 90 %" in written
        shown = [line for line in _emulated(written.replace("\r\n", "\n")) if line]
        kept = ["said", "from C", "to stdout", "a bar: 90 %", "last words"]
        assert shown[:5] == kept
        assert shown[5] == ("after" if ends == "well" else "Traceback (most recent call last):")
        assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")

    def test_output_to_elsewhere_is_waited_for_though_nothing_is_taken(self, foreign: TextIO) -> None:
        """Stdout and stderr of this process are not that terminal: a pipe without a writer would always be ready."""
        captured = CapturedOutput(foreign)
        with captured:
            began = time.monotonic()
            captured.wait(0.1)
            assert time.monotonic() - began >= 0.09
            assert captured.lines() == []

    def test_where_no_thread_can_be_started_the_terminal_is_given_back(
        self, foreign: TextIO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", fail)
        before = sorted(Path("/proc/self/fd").iterdir())
        with pytest.raises(RuntimeError, match="can't start"):
            ProgressDisplay(foreign).__enter__()
        assert sorted(Path("/proc/self/fd").iterdir()) == before


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """A terminal that nothing of this process goes to."""
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with open(theirs, "w") as stream:  # noqa: PTH123
        yield stream
    os.close(ours)


def _in_a_terminal(words: list[str], *, environment: dict[str, str]) -> str:
    """Everything that a command writes to a terminal of 80 columns that is its stdin, stdout and stderr."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, cwd=REPOSITORY, env=os.environ | environment
    ):
        os.close(theirs)
        written = b""
        with suppress(OSError):  # that the other end is closed is an error to Linux
            while some := os.read(ours, 65536):
                written += some
    os.close(ours)
    return written.decode()


def test_a_run_can_be_asked_at_any_time_what_its_encoders_do(tmp_path: Path) -> None:
    reports: list[Progress] = []
    seen: set[EncoderNow] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.002):
            watch = reports[-1].watch if reports else None
            seen.update((watch.encoders() or ()) if watch is not None else ())

    config = JobConfig.parse(
        {
            "output": str(tmp_path / "out"),
            "recipe": {"codec": {"model": "demo"}},
            "selection": {"source": {"kind": "demo"}, "limit": 3},
            "runtime": {"executor": "inline", "encoders": 1},
        },
        origin="the test",
    )
    looking = threading.Thread(target=look)
    looking.start()
    run(config, report=reports.append)
    ended.set()
    looking.join()
    assert {each.name for each in seen} == {"encoder-0"}
    assert {each.state for each in seen} == {EncoderState.LOADING, EncoderState.WAITING, EncoderState.ENCODING}
    assert max(each.num_decoded for each in seen) == 3
    watch = reports[-1].watch
    assert watch is not None
    recent = watch.recent()
    assert recent is not None
    assert recent.units == 1
    assert sum(recent.stage_shares.values()) == pytest.approx(1)
