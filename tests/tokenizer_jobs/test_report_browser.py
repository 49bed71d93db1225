"""Pages in a real browser: of a real run, and of a crowded output whose job is running."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizer_jobs.browser import CHROMIUM, Tab, browser_tab
from tests.tokenizer_jobs.conftest import Quickstart
from tests.tokenizer_jobs.factories import finish_unit, plan_output
from tokenizer_jobs.report import make_report
from tokenizer_jobs.report.html import page
from tokenizer_jobs.report.statistics import Statistics, measure
from tokenizer_jobs.report.work import WorkLog
from tokenizer_jobs.storage import Storage

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")

SCREENS = [(1200, "light"), (1200, "dark"), (760, "light"), (390, "light"), (390, "dark")]
LAID_OUT = [(width, scheme) for width, scheme in SCREENS if scheme == "light" or (width, "light") not in SCREENS]
"""Screens whose layout is looked at. Schemes differ in colours alone, which are looked at on every screen."""

PLAYERS = """
(async () => {
  const found = [];
  const context = new OfflineAudioContext(1, 1, 24000);
  for (const player of document.querySelectorAll("audio")) {
    if (player.readyState === 0) {
      await new Promise((done, fail) => {
        player.addEventListener("loadedmetadata", done); player.addEventListener("error", fail); player.load();
      });
    }
    const text = atob(player.src.slice(player.src.indexOf(",") + 1));
    const sound = await context.decodeAudioData(Uint8Array.from(text, one => one.charCodeAt(0)).buffer);
    const loudest = sound.getChannelData(0).reduce((most, one) => Math.max(most, Math.abs(one)), 0);
    found.push([player.duration, Number(player.dataset.seconds), loudest]);
  }
  return found;
})()
"""
PLOTS = """
Array.from(document.querySelectorAll("svg:not(.sound)")).map(plot => [
  plot.getAttribute("aria-label"), plot.getBoundingClientRect().width,
  Array.from(plot.querySelectorAll("rect")).filter(one => one.getBoundingClientRect().height > 0.4).length,
])
"""
SPECTROGRAMS = """
Array.from(document.querySelectorAll("svg.sound")).map(plot => {
  const box = plot.querySelector("image").getBoundingClientRect();
  return [plot.getAttribute("aria-label"), plot.querySelectorAll("image").length, box.width, box.height];
})
"""
PAPER = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"

OPEN_ALL = "document.querySelectorAll('details').forEach(one => { one.open = true; })"
# Texts of drawings that are cut off, too small to read, or one on the other.
DRAWN_TEXTS = """
(() => {
  const faults = [];
  for (const plot of document.querySelectorAll("svg")) {
    const room = plot.getBoundingClientRect(), zoom = room.width / plot.viewBox.baseVal.width, seen = [];
    for (const text of plot.querySelectorAll("text")) {
      const box = text.getBoundingClientRect(), words = plot.getAttribute("aria-label") + ": " + text.textContent;
      if (box.left < room.left - 0.5 || box.right > room.right + 0.5) faults.push("cut off: " + words);
      if (box.top < room.top - 2 || box.bottom > room.bottom + 2) faults.push("cut off above or below: " + words);
      if (zoom * parseFloat(getComputedStyle(text).fontSize) < 9) faults.push("tiny: " + words);
      for (const [other, name] of seen) {
        const across = Math.min(box.right, other.right) - Math.max(box.left, other.left);
        const down = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
        if (across > 0.5 && down > 3.5) faults.push("on " + name + ": " + words);
      }
      seen.push([box, text.textContent]);
    }
  }
  return faults;
})()
"""
# Elements that are wider than their place, unless they, or what they are in, scroll by themselves.
OVERFLOWING = """
(() => {
  const scrolls = one => /auto|scroll/.test(getComputedStyle(one).overflowX), faults = [];
  const inside = one => { for (let up = one.parentElement; up; up = up.parentElement) if (scrolls(up)) return true; };
  for (const one of document.querySelectorAll("body *:not(svg *):not(script)")) {
    const words = one.tagName + "." + one.className + " " + one.textContent.slice(0, 40);
    if (one.clientWidth && !scrolls(one) && one.scrollWidth > one.clientWidth + 1) faults.push("too narrow: " + words);
    const box = one.getBoundingClientRect();
    const isOut = box.right > document.documentElement.clientWidth + 0.5;
    if (box.width && isOut && !inside(one)) faults.push("beyond the edge: " + words);
  }
  if (document.documentElement.scrollWidth > window.innerWidth) faults.push("the page itself");
  return faults;
})()
"""
# WCAG 2.2, AA: 4.5 for text, 3 for large text and for what drawings tell by colour.
FAINT = """
(() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number), faults = [];
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (one, two) => { const [a, b] = [light(one), light(two)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05); };
  const behind = one => { for (let up = one; up; up = up.parentElement) {
    const colour = numbers(getComputedStyle(up).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour; } return [255, 255, 255]; };
  const check = (colour, one, least, words) => { const found = ratio(numbers(colour), behind(one));
    if (found < least) faults.push(found.toFixed(2) + ": " + words); };
  for (const one of document.querySelectorAll("body *:not(script):not(title)")) {
    const style = getComputedStyle(one), box = one.getBoundingClientRect();
    const own = Array.from(one.childNodes).some(node => node.nodeType === 3 && node.textContent.trim());
    const size = parseFloat(style.fontSize), isLarge = size >= 24 || size >= 18.66 && style.fontWeight >= 700;
    if (own && box.width && one.className !== "skip")
      check(one.tagName === "text" ? style.fill : style.color, one, isLarge ? 3 : 4.5, one.textContent.slice(0, 40));
    if (one.matches("rect.mark, rect[class^=layer], .swatch, rect.less:not([fill-opacity^='0']), line.axis"))
      check(one.matches(".swatch") ? style.backgroundColor : one.tagName === "line" ? style.stroke : style.fill,
        one.parentElement, 3, one.getAttribute("class"));
  }
  return Array.from(new Set(faults));
})()
"""
# Right edges of the rows of tiles, and how many lines each value takes.
TILES = """
(() => {
  const ends = {}, tiles = document.querySelector(".figures"), lines = [];
  for (const tile of tiles.children) {
    const box = tile.getBoundingClientRect(), range = document.createRange();
    ends[Math.round(box.top)] = Math.max(ends[Math.round(box.top)] || 0, box.right);
    range.selectNodeContents(tile.querySelector("dd").firstChild);
    lines.push(range.getClientRects().length);
  }
  return [tiles.getBoundingClientRect().right - 1, Object.values(ends), Math.max(...lines)];
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser_tab(tmp_path_factory.mktemp("browser") / "profile") as tab:
        yield tab


@pytest.fixture(scope="module")
def pages(quickstart: Quickstart, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    make_report(str(quickstart[0]), destination=folder / "real.html")
    (folder / "crowded.html").write_text(page(_crowded(folder / "out"), name="/out/" + "long-name-" * 20))
    return {name: folder / f"{name}.html" for name in ("real", "crowded")}


@pytest.fixture
def tab(browser: Tab, pages: dict[str, Path]) -> Tab:
    browser.open(pages["real"])
    return browser


def _crowded(folder: Path) -> Statistics:
    """What is hard to lay out: long ids and foreign ones, large numbers, many devices, and a job that goes on."""
    storage = Storage.open(folder)
    names = ["deep/" * 60 + "x.wav", "\u0645\u0631\u062d\u0628\u0627/\u05e9\u05dc\u05d5\u05dd.wav", "\U0001f3b5.flac"]
    (unit,) = plan_output(storage, [[*names, *(f"item-{number}" for number in range(40))]])
    commit = finish_unit(storage, unit, rejected=[0, 1, 2]).commit
    found, log, begin = measure(storage), WorkLog(), datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(200):
        lane, seconds = number % 12, 600 + 37 * (number % 11)
        start = begin + timedelta(seconds=700 * (number // 12) + 10 * lane)
        changes: dict[str, Any] = {
            "index": number,
            "attempt": 1 + (number % 9 == 0),
            "host": f"node-{lane // 4}.cluster.example.org",
            "device": f"cuda:{lane % 4}",
            "audio_seconds": 36_000.0,
            "started_at": start,
            "finished_at": start + timedelta(seconds=seconds),
            "stage_seconds": {"encode": 0.6 * seconds, "decode_wait": 0.2 * seconds, "write": 0.1 * seconds},
        }
        log.add(commit.model_copy(update=changes))
    counts = {"state": "running", "units": 400, "units_committed": 200, "rows": 123_456_789, "frames": 98_765_432_100}
    assert found.content is not None
    measures = {
        name: one.model_copy(update={"counts": tuple(1_250_000 * (7 * place % 5) for place in range(len(one.counts)))})
        for name, one in found.content.measures.items()
    }
    return found.model_copy(
        update={
            "work": log.work(),
            "counts": found.counts.model_copy(update={**counts, "hours": 1_234_567.8, "items": 123_456_999}),
            "content": found.content.model_copy(update={"measures": measures}),
            "problems": ("codes/" + "part" * 60 + ".parquet was not there any more",),
        }
    )


def test_the_console_is_silent_and_nothing_is_asked_of_a_network(tab: Tab) -> None:
    tab.evaluate("new Promise(done => setTimeout(done, 300))")
    assert tab.complaints() == []
    assert [url[:80] for url in tab.requests() if not url.startswith(("data:", "file:", "about:"))] == []


def test_players_have_sound_of_the_length_that_is_told(tab: Tab) -> None:
    players = tab.evaluate(PLAYERS)
    assert len(players) == 12
    for seconds, told, loudest in players:
        assert seconds == pytest.approx(told, abs=0.01)
        assert loudest > 0.01


@pytest.mark.parametrize("name", ["real", "crowded"])
def test_plots_are_drawn(browser: Tab, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name])
    browser.show(width=1200, height=900, scheme="light")
    plots = browser.evaluate(PLOTS)
    assert len(plots) >= 10
    for label, width, marks in plots:
        assert width > 90, label
        assert marks > 0, label


def test_spectrograms_are_drawn(tab: Tab) -> None:
    tab.show(width=1200, height=900, scheme="light")
    spectrograms = tab.evaluate(SPECTROGRAMS)
    assert len(spectrograms) == 12
    for label, pictures, width, height in spectrograms:
        assert label.startswith("Spectrogram")
        assert pictures == 1, label
        assert width > 90, label
        assert height > 20, label


@pytest.mark.parametrize("name", ["real", "crowded"])
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_everything_can_be_read(browser: Tab, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    browser.open(pages[name])
    browser.show(width=width, height=900, scheme=scheme)
    browser.evaluate(OPEN_ALL)
    if (width, scheme) in LAID_OUT:
        assert browser.evaluate(DRAWN_TEXTS) == []
        assert browser.evaluate(OVERFLOWING) == []
    assert browser.evaluate(FAINT) == []


@pytest.mark.parametrize(
    ("look", "fault"),
    [
        (DRAWN_TEXTS, "svg text { font-size: 26px }"),
        (DRAWN_TEXTS, "svg text { font-size: 6px }"),
        (DRAWN_TEXTS, "svg .end { text-anchor: start }"),
        (OVERFLOWING, "h2 { width: 80rem }"),
        (OVERFLOWING, ".table { overflow: visible } table { width: 80rem !important }"),
        (FAINT, ":root { --muted: #999 }"),
        (FAINT, ":root { --second: #e8c890 }"),
    ],
)
def test_what_cannot_be_read_would_be_seen(tab: Tab, look: str, fault: str) -> None:
    tab.show(width=1200, height=900, scheme="light")
    tab.evaluate(f"var spoilt = new CSSStyleSheet(); spoilt.replaceSync({fault!r});")
    tab.evaluate("document.adoptedStyleSheets = [spoilt]; undefined")
    try:
        assert tab.evaluate(look) != []
    finally:
        tab.evaluate("document.adoptedStyleSheets = []; undefined")


@pytest.mark.parametrize("width", [1200, 760, 390])
def test_tiles_fill_their_rows_and_values_stand_on_one_line(tab: Tab, width: int) -> None:
    tab.show(width=width, height=900, scheme="light")
    edge, ends, lines = tab.evaluate(TILES)
    assert len(ends) >= 2
    assert ends == pytest.approx([edge] * len(ends), abs=1.0)
    assert lines == 1


def test_a_running_job_is_told_of_before_anything_else(browser: Tab, pages: dict[str, Path]) -> None:
    browser.open(pages["crowded"])
    assert browser.evaluate("document.title").endswith("running")
    assert browser.evaluate("document.querySelector('header .state').textContent") == "running"
    first = browser.evaluate("document.querySelector('#overview > p').textContent")
    assert first.startswith("200 of 400 units are committed; the job is running.")


def test_light_and_dark_follow_the_owner_and_the_button_and_paper_is_light(tab: Tab, tmp_path: Path) -> None:
    for scheme, is_light in (("light", True), ("dark", False)):
        tab.show(width=1200, height=900, scheme=scheme)
        assert (min(tab.evaluate(PAPER)) > 200) == is_light
        tab.take_picture(tmp_path / f"{scheme}.png")
    tab.evaluate("document.getElementById('theme').click()")
    assert min(tab.evaluate(PAPER)) > 200
    tab.evaluate("document.getElementById('theme').click()")
    assert max(tab.evaluate(PAPER)) < 60
    tab.show(width=1200, height=900, scheme="dark", media="print")
    assert min(tab.evaluate(PAPER)) > 200
    assert tab.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert tab.evaluate(FAINT) == []
    tab.show(width=1200, height=900, scheme="dark")
    tab.evaluate("localStorage.clear(); document.documentElement.removeAttribute('data-theme')")


def test_a_phone_scrolls_down_and_not_sideways(tab: Tab, tmp_path: Path) -> None:
    tab.show(width=390, height=844, scheme="light")
    tab.take_picture(tmp_path / "phone.png")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_keyboard_reaches_the_content_first_and_then_everything(tab: Tab) -> None:
    tab.show(width=1200, height=900, scheme="light")
    tab.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    tab.press("Tab", 9)
    assert tab.evaluate("document.activeElement.className") == "skip"
    tab.press("Tab", 9)
    assert tab.evaluate("document.activeElement.id") == "theme"
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
