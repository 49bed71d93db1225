"""Progress: what is shown follows from what was reported, on a terminal and elsewhere."""

import io
import threading
import time

import pytest

from tokenizer_jobs.progress import Pace, ProgressDisplay, progress_line
from tokenizer_jobs.results import Progress


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
