"""The page: complete, well-formed, alone, and deaf to what ids and messages try."""

import base64
import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizer_jobs.conftest import Quickstart
from tests.tokenizer_jobs.factories import RECIPE, finish_unit, make_reject, plan_output
from tests.tokenizer_jobs.pages import Page
from tests.tokenizer_jobs.token_outputs import write_output
from tokenizer_jobs import JobConfig, run
from tokenizer_jobs.catalog import publish_snapshot
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.lease import Lease
from tokenizer_jobs.recipe import read_recipe, store_recipe
from tokenizer_jobs.report import make_report
from tokenizer_jobs.report.drawing import nice_ticks, time_ticks
from tokenizer_jobs.report.facts import read_plans
from tokenizer_jobs.report.html import page
from tokenizer_jobs.report.markup import Markup, audio_length, count, percent, short, tag
from tokenizer_jobs.report.samples import draw_samples
from tokenizer_jobs.report.spectrogram import BANDS, RANGE_DB, band_levels, height_of, png_of_levels
from tokenizer_jobs.report.statistics import Statistics, measure
from tokenizer_jobs.storage import Storage

SECTIONS = ("overview", "work", "audio", "codes", "rejects", "samples", "provenance")

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "javascript:alert(1)",
    "</title></style></script><b>",
    "&lt;b&gt; &amp; ]]> <!-- --> <![CDATA[",
    "\x00\x1b[31m\x7f\u202etxt.exe",
    "\ud800 lone, \uffff none",
    "http://example.org/a?b=<c>",
)


def _page_of(storage: Storage) -> Page:
    return Page.parse(page(measure(storage), name=storage.name))


def _is_alone(found: Page) -> None:
    for address in found.addresses():
        assert re.match(r"#\w+$|data:(image/png|audio/flac);base64,[A-Za-z0-9+/=]+$", str(address)), str(address)[:80]
    assert not [key for element in found.root.iter() for key in element.attrib if key.startswith("on")]
    assert {element.tag for element in found.root.iter()}.isdisjoint(
        {"iframe", "object", "embed", "form", "link", "base"}
    )


def test_the_page_of_a_real_run_is_complete_and_alone(quickstart: Quickstart, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(quickstart[0], output)
    result = make_report(str(output), destination=tmp_path / "page.html")
    found = Page.read(tmp_path / "page.html")
    _is_alone(found)
    assert not result.problems
    assert result.page_bytes == (tmp_path / "page.html").stat().st_size < 3_000_000
    assert not (output / "report.html").exists()
    for name in SECTIONS:
        assert found.words(name)
    assert "32" in found.words("overview")
    for label, marks in found.plots():
        assert marks > 0, label
    labels = " ".join(label for label, _ in found.plots())
    for what in ("by stage", "duration", "loudness", "Entropy", "follows"):
        assert what in labels
    spectrograms = found.spectrograms()
    assert len(spectrograms) == 12
    for label, pictures in spectrograms:
        assert label.startswith("Spectrogram")
        assert pictures == 1, label
    players = found.players()
    assert len(players) == 2 * result.samples == 12
    for label, seconds, told in players:
        assert seconds == pytest.approx(told, abs=1e-4), label
    for (original, seconds, _), (decoded, other, _) in zip(players[::2], players[1::2], strict=True):
        assert (original.rpartition(", ")[0], seconds) == (decoded.rpartition(", ")[0], other)
    assert found.words("samples").count("SI-SNR") == 7
    assert "demo" in found.words("provenance")


def test_only_this_very_style_and_script_may_run(quickstart: Quickstart) -> None:
    found = _page_of(Storage.at(str(quickstart[0])))
    policy = found.root.find(".//meta[@http-equiv='Content-Security-Policy']")
    assert policy is not None
    for kind in ("style", "script"):
        (element,) = found.root.iter(kind)
        digest = base64.b64encode(hashlib.sha256((element.text or "").encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in str(policy.get("content"))
    assert str(policy.get("content")).startswith("default-src 'none'")
    assert not [element for element in found.root.iter() if element.get("style")]


def test_ids_and_messages_cannot_leave_their_place(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "out")
    names = [name for name in HOSTILE if "\ud800" not in name]
    (unit,) = plan_output(storage, [names])
    finish_unit(storage, unit, rejected=range(len(names)))
    found = measure(storage)
    assert found.rejects is not None
    (reason,) = found.rejects
    hostile = [
        example.model_copy(update={"id": text, "message": text, "source_uri": text})
        for example, text in zip(reason.examples * 2, HOSTILE, strict=False)
    ]
    statistics = found.model_copy(
        update={
            "rejects": (reason.model_copy(update={"reason": HOSTILE[0], "examples": tuple(hostile)}),),
            "problems": HOSTILE,
            "codec": found.codec.model_copy(update={"model": HOSTILE[1]}),
        }
    )
    text = page(statistics, name=f"/out/{HOSTILE[1]}", notes=HOSTILE, asked=1)
    parsed = Page.parse(text)
    _is_alone(parsed)
    assert len(list(parsed.root.iter("script"))) == 1
    assert len(list(parsed.root.iter("img"))) == 0
    assert HOSTILE[0] in parsed.words("rejects")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", text)


def test_a_running_job_says_so_and_how_to_look_again(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "out")
    first, _ = plan_output(storage, [["a", "b"], ["c"]])
    finish_unit(storage, first, rejected=[0])
    with Lease(storage, "some-run"):
        statistics = measure(storage)
    found = Page.parse(page(statistics, name="out"))
    words = found.words("overview")
    assert "1 of 2 units are committed; the job is running." in words
    assert f"{statistics.made_at:%H:%M:%S UTC on %Y-%m-%d}; the same command makes it anew" in words
    (bar,) = found.root.iter("progress")
    assert (bar.get("value"), bar.get("max")) == ("1", "2")


def test_an_empty_output_has_a_page_too(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "out")
    store_recipe(storage, RECIPE)
    found = _page_of(storage)
    _is_alone(found)
    for name in SECTIONS:
        assert found.words(name)
    assert (found.plots(), found.spectrograms()) == ([], [])
    assert "Nothing is planned yet" in found.words("overview")


def test_an_output_of_rejects_alone_shows_why(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "out")
    (unit,) = plan_output(storage, [["a", "b"]])
    finish_unit(storage, unit, rejected=[0, 1])
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    found = _page_of(storage)
    message = make_reject(0).message
    assert message.split("<")[0].strip() in found.words("rejects")
    assert "no codes yet" in found.words("codes")


def test_rejects_of_one_reason_in_many_files_give_five_examples(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "out")
    for unit in plan_output(storage, [[f"{number}-{item}" for item in range(3)] for number in range(8)]):
        finish_unit(storage, unit, rejected=[0, 2])
    found = measure(storage)
    assert found.rejects is not None
    (reason,) = found.rejects
    assert (reason.items, len(reason.examples)) == (16, 5)


def test_what_was_sampled_says_so(tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", [[50]] * 5)
    found = Page.parse(page(measure(storage, budget_seconds=0.0), name="out"))
    assert "A sample: 1 row in 1 of 5 shards" in found.words("audio")
    assert "A sample" in found.words("codes")


def test_axes_end_where_the_rows_do_or_where_nothing_can_be(tmp_path: Path) -> None:
    found = measure(write_output(tmp_path / "out", [[50]] * 2))
    assert found.content is not None
    assert _ticks(found, "peak")[-1] == "1"
    assert _ticks(found, "loudness")[-1] == "0 dB"
    assert _ticks(found, "silence")[-1] == "100 %"
    loud = found.content.measures["peak"]
    loud = loud.model_copy(update={"counts": (*loud.counts[:-1], 3)})
    content = found.content.model_copy(update={"measures": {**found.content.measures, "peak": loud}})
    assert _ticks(found.model_copy(update={"content": content}), "peak")[-1] == "1.2"


def _ticks(statistics: Statistics, what: str) -> list[str]:
    """Labels of the axis of x of a histogram."""
    (plot,) = (
        svg
        for svg in Page.parse(page(statistics, name="out")).root.iter("svg")
        if svg.get("aria-label") == f"Number of rows by {what}"
    )
    return [str(text.text) for text in plot.iter("text") if text.get("class") == "tick middle"]


def test_an_original_that_is_gone_is_told_beside_its_decoded_audio(tmp_path: Path) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    for name, pitch in (("kept", 0.05), ("gone", 0.09)):
        soundfile.write(folder / f"{name}.wav", 0.3 * np.sin(np.arange(24000) * pitch), 24000)
    _run(tmp_path / "out", folder)
    (folder / "gone.wav").unlink()
    assert make_report(str(tmp_path / "out"), destination=tmp_path / "none.html").samples == 0
    assert "Audio may be private" in Page.read(tmp_path / "none.html").words("samples")
    assert make_report(str(tmp_path / "out"), samples=5).samples == 2
    found = Page.read(tmp_path / "out" / "report.html")
    assert sorted(label for label, _, _ in found.players()) == [
        "gone.wav, decoded",
        "kept.wav, decoded",
        "kept.wav, original",
    ]
    assert "not at hand" in found.words("samples")


def _run(output: Path, folder: Path, *, model: str = "demo", **audio: object) -> None:
    fields = {
        "output": str(output),
        "recipe": {"codec": {"model": model, "bandwidth_kbps": 6.0}, "audio": audio},
        "selection": {"source": {"kind": "files", "paths": [str(folder)]}},
        "runtime": {"executor": "inline", "device": "cpu", "encoders": 1},
    }
    assert run(JobConfig.model_validate(fields)).exit_code == 0


def test_samples_of_slices_and_channels_are_compared_with_their_own_part(tmp_path: Path) -> None:
    """A wrong part of these sweeps would be another signal altogether: far below 0 dB."""
    folder = tmp_path / "audio"
    folder.mkdir()
    time = np.arange(5 * 24000) / 24000
    sweeps = np.stack([np.sin(2 * np.pi * (200 + 40 * time) * time), np.sin(2 * np.pi * (700 - 50 * time) * time)])
    soundfile.write(folder / "sweeps.wav", 0.4 * sweeps.T, 24000)
    _run(tmp_path / "out", folder, channels="each", slice_seconds=2)
    storage = Storage.at(str(tmp_path / "out"))
    samples, notes = draw_samples(storage, recipe=read_recipe(storage), plans=read_plans(storage), number=6)
    assert notes == []
    assert len({sample.id for sample in samples}) == 6
    for sample in samples:
        assert sample.si_snr_db is not None
        assert sample.si_snr_db > 3, sample.id


def test_samples_of_a_stereo_codec_with_windows(codec_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    tones = np.sin(np.outer(np.arange(60_000), [0.02, 0.03]))
    soundfile.write(folder / "tones.wav", 0.4 * tones, 48000)
    _run(tmp_path / "out", folder, model=str(codec_models / "windows_stereo"))
    make_report(str(tmp_path / "out"), samples=1, destination=tmp_path / "page.html")
    found = Page.read(tmp_path / "page.html")
    assert [(label, told) for label, _, told in found.players()] == [
        ("tones.wav, original", 1.25),
        ("tones.wav, decoded", 1.25),
    ]
    assert "window_frames" in found.words("provenance")


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make it first"):
        make_report(str(tmp_path / "none"), destination=tmp_path / "no" / "page.html")


class TestParts:
    @pytest.mark.parametrize("text", HOSTILE)
    def test_text_is_never_markup(self, text: str) -> None:
        made = tag("p", text, title=text)
        assert made.count("<") == 2
        assert re.fullmatch(r'<p title="[^"<>]*">[^<>]*</p>', made, re.DOTALL)

    def test_markup_is_taken_as_it_is(self) -> None:
        assert tag("p", Markup("<b>x</b>"), None, 3) == "<p><b>x</b>3</p>"

    @pytest.mark.parametrize(
        ("number", "text"),
        [(0, "0"), (0.05, "0.05"), (12, "12"), (3400, "3.4 k"), (2.16e9, "2.16 G"), (123456, "123 k")],
    )
    def test_numbers_are_short(self, number: float, text: str) -> None:
        assert short(number) == text

    @pytest.mark.parametrize(
        ("share", "text"),
        [
            (0, "0 %"),
            (1, "100 %"),
            (0.125, "12.5 %"),
            (1e-9, "< 0.001 %"),
            (0.00001, "0.001 %"),
            (0.00033, "0.03 %"),
            (0.000499, "0.05 %"),
            (0.9999, "> 99.9 %"),
        ],
    )
    def test_shares_are_percents_to_a_tenth_or_a_digit_and_never_round_to_all_or_nothing(
        self, share: float, text: str
    ) -> None:
        assert percent(share) == text

    @pytest.mark.parametrize(("hours", "text"), [(9.5 / 3600, "9.5 s"), (0.14, "8 min 24 s"), (1234.5, "1,234.50 h")])
    def test_audio_is_told_in_minutes_before_hours(self, hours: float, text: str) -> None:
        assert audio_length(hours) == text

    def test_counts_have_separators(self) -> None:
        assert count(1234567) == "1,234,567"

    @pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 7e9), (-100, 10), (0, 0.003), (3, 3)])
    def test_ticks_are_few_round_and_inside(self, low: float, high: float) -> None:
        ticks = nice_ticks(low, high)
        assert 1 <= len(ticks) <= 7
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)

    @given(st.floats(0.01, 3e7))
    def test_ticks_of_time_are_few_inside_and_all_different(self, seconds: float) -> None:
        ticks = time_ticks(seconds)
        assert 1 <= len(ticks) <= 18
        assert all(0 <= tick.place <= seconds * 1.0001 for tick in ticks)
        assert len({tick.label for tick in ticks}) == len(ticks)

    def test_a_spectrogram_is_brightest_where_the_tone_is(self) -> None:
        pil = pytest.importorskip("PIL.Image")
        import io

        rate, hertz = 24000, 3000.0
        tone = np.sin(2 * np.pi * hertz * np.arange(rate) / rate)[None].astype(np.float32)
        levels = band_levels(tone, sample_rate=rate)
        picture = pil.open(io.BytesIO(png_of_levels(levels, loudest_db=float(levels.max()))))
        assert picture.size == (levels.shape[1], levels.shape[0])
        pixels = np.asarray(picture)
        top = 2595 * np.log10(1 + rate / 2 / 700)
        low = 2595 * np.log10(1 + 40 / 700)
        band = (2595 * np.log10(1 + hertz / 700) - low) / (top - low) * (len(levels) - 1)
        assert np.abs((len(levels) - 1 - pixels[:, 40].argmax()) - band) < 1
        assert height_of(hertz, sample_rate=rate) * BANDS == pytest.approx(band + 0.5)
        assert levels.max() - np.median(levels) > RANGE_DB / 2
