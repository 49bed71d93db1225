"""Logs for machines: every line is one object, and the objects say what happened to which unit and item."""

import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from tokenizer_jobs.cli import main
from tokenizer_jobs.logs import active_log_format, json_logs, log_event


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_an_event_is_a_line_of_its_facts() -> None:
    stream, log = io.StringIO(), logging.getLogger("tokenizer_jobs.somewhere")
    with json_logs(stream):
        assert active_log_format() == "json"
        log_event(log, logging.INFO, "unit_done", unit="part-1", audio_seconds=1.5, device=None)
        log.warning("odd: %s", "zwei\nZeilen")
    log_event(log, logging.INFO, "unit_done", unit="part-2")
    done, odd = lines(stream.getvalue())
    assert done.pop("time").endswith("Z")
    assert done == {"level": "info", "event": "unit_done", "unit": "part-1", "audio_seconds": 1.5}
    assert (odd["level"], odd["event"], odd["message"]) == ("warning", "message", "odd: zwei\nZeilen")


def test_without_json_logs_an_event_is_a_message_of_names_and_values(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("tokenizer_jobs.somewhere")
    with caplog.at_level(logging.INFO):
        log_event(log, logging.INFO, "item_rejected", item="a b.wav", reason="corrupt")
    assert active_log_format() == "text"
    assert caplog.messages == ["item_rejected item='a b.wav' reason=corrupt"]


def test_logging_is_left_as_it_was() -> None:
    package = logging.getLogger("tokenizer_jobs")
    before = (list(package.handlers), package.level, package.propagate)
    with json_logs(io.StringIO()):
        pass
    assert (list(package.handlers), package.level, package.propagate) == before


def test_the_text_log_names_the_first_rejects_of_a_unit_and_how_many_more(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, job = tmp_path / "audio", tmp_path / "job.yaml"
    source.mkdir()
    for name in [f"{number:02d}.wav" for number in range(7)] + ["0 odd\x1b[31m.wav"]:
        (source / name).write_bytes(b"<html>")
    job.write_text(
        f"output: {tmp_path / 'out'}\nrecipe: {{codec: {{model: demo}}}}\n"
        f"selection: {{source: {{kind: files, paths: [{source}]}}}}\nruntime: {{executor: inline}}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])  # as in the command's own process, without those of pytest
        assert main(["run", str(job)]) == 1
    told = capfd.readouterr().err
    (line,) = [line for line in told.splitlines() if " rejects: " in line]
    assert re.fullmatch(r"part-000001-00000-[0-9a-f]{16} has 8 rejects: .* and 3 more", line)
    assert line.count("(not_audio)") == 5
    assert r"'0 odd\x1b[31m.wav' (not_audio)" in line, "a name moves no cursor and ends no line"
    assert "\x1b[31m" not in told


def test_a_run_logs_its_units_and_rejects_and_its_progress_as_json(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.wav").write_bytes(b"<html>")
    job = tmp_path / "job.yaml"
    job.write_text(
        f"output: {tmp_path / 'out'}\nrecipe: {{codec: {{model: demo}}}}\n"
        f"selection: {{source: {{kind: files, paths: [{tmp_path}]}}}}\n"
    )
    assert main(["run", str(job), "--log-format", "json"]) == 1, "every item was rejected"
    *logged, problem = capfd.readouterr().err.splitlines()
    events = {line["event"]: line for line in lines("\n".join(logged))}
    assert problem.startswith("problem: every item was rejected")
    assert {"message", "item_rejected", "unit_committed", "progress"} <= set(events)
    assert (events["item_rejected"]["item"], events["item_rejected"]["stage"]) == ("broken.wav", "decode")
    assert events["item_rejected"]["unit"] == events["unit_committed"]["unit"]
    assert events["progress"]["units_committed"] == 1
    assert events["unit_committed"]["rejected"] == "broken.wav (not_audio)"
    assert not any("reject" in line["message"] for line in lines("\n".join(logged)) if line["event"] == "message")
