"""The page of a real run in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tokenizer_jobs.browser import CHROMIUM, Tab, browser_tab
from tests.tokenizer_jobs.conftest import Quickstart
from tokenizer_jobs.report import make_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")

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
Array.from(document.querySelectorAll("svg")).map(plot => [
  plot.getAttribute("aria-label"), plot.getBoundingClientRect().width,
  Array.from(plot.querySelectorAll("rect")).filter(one => one.getBoundingClientRect().height > 0.4).length,
])
"""
PAPER = "getComputedStyle(document.body).backgroundColor.match(/\\\\d+/g).map(Number)"


@pytest.fixture(scope="module")
def tab(quickstart: Quickstart, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    folder = tmp_path_factory.mktemp("browser")
    make_report(str(quickstart[0]), destination=folder / "report.html")
    with browser_tab(folder / "profile") as tab:
        tab.open(folder / "report.html")
        yield tab


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


def test_plots_are_drawn(tab: Tab) -> None:
    tab.show(width=1200, height=900, scheme="light")
    plots = tab.evaluate(PLOTS)
    assert len(plots) >= 10
    for label, width, marks in plots:
        assert width > 90, label
        assert marks > 0, label


def test_light_and_dark_follow_the_owner_and_the_button(tab: Tab, tmp_path: Path) -> None:
    for scheme, is_light in (("light", True), ("dark", False)):
        tab.show(width=1200, height=900, scheme=scheme)
        assert (min(tab.evaluate(PAPER)) > 200) == is_light
        tab.take_picture(tmp_path / f"{scheme}.png")
    tab.evaluate("document.getElementById('theme').click()")
    assert min(tab.evaluate(PAPER)) > 200
    tab.evaluate("document.getElementById('theme').click()")
    assert max(tab.evaluate(PAPER)) < 60


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
