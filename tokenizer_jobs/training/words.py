"""Words with their times: which belong to a crop, and as a stream of text tokens beside the frames.

`words` is a column of list<struct<text: string, start_seconds: double, end_seconds: double>>, times within the
recording.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.errors import ConfigError

__all__ = ["crop_words", "text_stream"]

Word = Mapping[str, Any]
"""text, start_seconds, end_seconds."""


def crop_words(words: Sequence[Word], *, start_seconds: float, end_seconds: float) -> list[dict[str, Any]]:
    """Choose the words of a stretch, their times from its start on and within it.

    A word belongs to the stretch that its middle is in, so that of stretches that follow one another each word has one.

    Args:
        words: In any order.
        start_seconds: Where the stretch begins.
        end_seconds: Where it ends; a middle right there belongs to the next stretch.
    """
    length = end_seconds - start_seconds
    return [
        {
            "text": word["text"],
            "start_seconds": min(max(word["start_seconds"] - start_seconds, 0.0), length),
            "end_seconds": min(max(word["end_seconds"] - start_seconds, 0.0), length),
        }
        for word in words
        if start_seconds <= (word["start_seconds"] + word["end_seconds"]) / 2 < end_seconds
    ]


def text_stream(
    words: Sequence[Word],
    *,
    num_frames: int,
    frame_rate: float,
    tokenize: Callable[[str], Sequence[int]],
    pad_id: int,
    end_of_padding_id: int | None = None,
) -> npt.NDArray[np.int64]:
    """Lay words out beside the frames, as Moshi's inner monologue: a word's tokens begin at the frame where it does.

        frame      0    1    2    3    4    5    6    7
        stream     pad  end  the  pad  end  ca   t    pad

    A word that begins before the one before it is written out follows that one at once. What goes beyond the last frame
    is left out.

    Args:
        words: Times from the first frame on; the words of a sample.
        num_frames: Length of the stream.
        frame_rate: Frames per second.
        tokenize: A word's text → its tokens.
        pad_id: Of frames without text.
        end_of_padding_id: Of the frame before a word, where it would be padding; None: there is none.

    Returns:
        int64 [num_frames].

    Raises:
        ConfigError: a word begins before the first frame.
    """
    stream = np.full(num_frames, pad_id, np.int64)
    free = 0
    for word in sorted(words, key=lambda word: float(word["start_seconds"])):
        if word["start_seconds"] < 0:
            raise ConfigError(
                f"word {word['text']!r} begins at {word['start_seconds']} s; expected times from the first frame on, "
                "as `crop_words` gives them"
            )
        # Times of a crop are differences of frame times: a hair below a frame's start is that frame.
        start = max(free, math.floor(word["start_seconds"] * frame_rate + 1e-6))
        tokens = list(tokenize(word["text"]))[: max(0, num_frames - start)]
        if not tokens:
            continue
        if end_of_padding_id is not None and start > free:
            stream[start - 1] = end_of_padding_id
        stream[start : start + len(tokens)] = tokens
        free = start + len(tokens)
    return stream
