"""Every format of `docs/formats.md` is read as the page says."""

from pathlib import Path

import pytest

from tests.tokenizer_jobs.formats import FORMATS, LEAST_DB, Format, page, try_format
from tokenizer_jobs.sources.header import AUDIO_EXTENSIONS

pytest.importorskip("av", reason="the extra `av` is not installed")

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


@pytest.mark.parametrize("tried", FORMATS, ids=lambda tried: tried.name)
def test_a_clip_survives(tried: Format) -> None:
    assert try_format(tried).snr_db > LEAST_DB
    assert AUDIO_EXTENSIONS.issuperset(tried.extensions), "a folder's files of this format would be skipped"


def test_the_page_says_what_is_read() -> None:
    assert PAGE.read_text() == page(), "write it anew: python -m tests.tokenizer_jobs.formats > docs/formats.md"
