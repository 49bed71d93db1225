"""How the work went, from made-up commits: nothing is lost between units, stages and bins."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_jobs.commit_records import Commit, EncodeWork
from tokenizer_jobs.report import work as work_module
from tokenizer_jobs.report.sections.work import FEWEST_UNITS, work_section
from tokenizer_jobs.report.work import WorkLog

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def _commit(index: int, start: float, seconds: float, *, device: str = "cpu", audio: float = 10.0) -> Commit:
    return Commit(
        unit_id=f"{index:016x}",
        generation=1,
        index=index,
        recipe_id="r",
        files=(),
        num_items=1,
        num_rows=1,
        num_rejects=0,
        num_filtered=0,
        rejects_by_reason={},
        num_frames=1,
        audio_seconds=audio,
        digest="0" * 64,
        row_ids_sha256="0" * 64,
        attempt=1 + index % 2,
        device=device,
        host="here",
        started_at=BEGIN + timedelta(seconds=start),
        finished_at=BEGIN + timedelta(seconds=start + seconds),
        stage_seconds={"encode": seconds / 2, "write": seconds / 4},
        encode_work=EncodeWork(num_calls=1, peak_items=1, num_samples=90, num_padded_samples=10),
    )


units = st.lists(
    st.tuples(st.floats(0, 5000), st.floats(0, 200), st.sampled_from(["cpu", "cuda:0", "cuda:1"])),
    min_size=1,
    max_size=25,
)


@given(units)
@settings(max_examples=80, deadline=None)
def test_bins_hold_all_audio_and_all_time_and_rows_of_a_lane_never_overlap(
    spans: list[tuple[float, float, str]],
) -> None:
    log = WorkLog()
    for index, (start, seconds, device) in enumerate(spans):
        log.add(_commit(index, start, seconds, device=device))
    work = log.work()
    assert work is not None
    assert sum(work.stage_seconds.values()) == pytest.approx(sum(seconds for _, seconds, _ in spans), abs=1e-3)
    if work.bins:
        assert sum(one.audio_seconds for one in work.bins) == pytest.approx(10.0 * len(spans))
        for stage, seconds in work.stage_seconds.items():
            assert sum(one.stage_seconds[stage] for one in work.bins) == pytest.approx(seconds, abs=1e-6)
    assert sum(lane.units for lane in work.lanes) == len(work.spans) == len(spans)
    assert work.padding_share == pytest.approx(0.1)
    placed: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for span in work.spans:
        assert -1e-6 <= span.start_seconds <= span.end_seconds <= work.clock_seconds + 1e-6
        placed.setdefault((span.lane, span.row), []).append((span.start_seconds, span.end_seconds))
    for row in placed.values():
        row.sort()
        assert all(before[1] <= after[0] + 1e-6 for before, after in pairwise(row))
    for lane in work.lanes:
        assert lane.busy_seconds <= work.clock_seconds + 1e-3


def test_a_pause_is_no_time_and_what_runs_through_it_makes_it_none() -> None:
    log = WorkLog()
    log.add(_commit(0, 0, 10))
    log.add(_commit(1, 100_000, 10))
    work = log.work()
    assert work is not None
    assert work.pauses == 1
    assert work.clock_seconds == pytest.approx(20)
    assert work.pause_seconds == pytest.approx(99_990)
    assert work.speed == pytest.approx(1.0)
    assert work.pauses_at == pytest.approx([10])
    assert "1 pause of 1 d 3 h in all left out" in work_section(work)
    log.add(_commit(2, 5, 100_000))
    work = log.work()
    assert work is not None
    assert work.pauses == 0
    assert work.clock_seconds == pytest.approx(100_010)


def test_units_too_many_to_show_are_thinned_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_module, "MOST_SPANS", 10)
    log = WorkLog()
    for index in range(95):
        log.add(_commit(index, index, 1))
    work = log.work()
    assert work is not None
    assert len(work.spans) <= 10
    assert len(work.spans) + work.spans_left_out == 95
    assert work.retried_units == 47


def test_few_units_are_told_by_one_bar_and_more_of_them_over_time() -> None:
    log = WorkLog()
    for index in range(FEWEST_UNITS - 1):
        log.add(_commit(index, index, 1))
    for plots in (["Time of all units, by stage"], [*FIRST_PLOTS, "Units by device, over the time of the work"]):
        section = ElementTree.fromstring(work_section(log.work()))
        assert [svg.get("aria-label") for svg in section.iter("svg")] == plots
        log.add(_commit(FEWEST_UNITS, FEWEST_UNITS, 1))
    (bar, *_) = section.iter("svg")
    assert [rect.get("class") for rect in bar.iter("rect")] == ["layer-0", "layer-3", "layer-4"]
    assert [float(str(rect.get("width"))) for rect in bar.iter("rect")] == pytest.approx([460, 230, 230], abs=1)


FIRST_PLOTS = [
    "Time of all units, by stage",
    "Seconds of audio per second, over the time of the work",
    "Units in hand by stage, over the time of the work",
]


def test_no_commit_is_no_work() -> None:
    assert WorkLog().work() is None
