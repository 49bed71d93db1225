"""A page of `report`, taken apart as a browser would."""

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import soundfile

SPECTROGRAM = "sound"
"""Class of the drawings that are a picture and not marks."""


@dataclass(frozen=True)
class Page:
    """What is well-formed as XML is so as HTML, as it is written."""

    text: str
    root: ElementTree.Element

    @staticmethod
    def parse(text: str) -> "Page":
        declaration, _, rest = text.partition("\n")
        assert declaration == "<!DOCTYPE html>"
        return Page(text, ElementTree.fromstring(rest))

    @staticmethod
    def read(path: Path) -> "Page":
        return Page.parse(path.read_text(encoding="utf-8"))

    def words(self, name: str) -> str:
        """All text of the element with an id."""
        element = self.root.find(f".//*[@id='{name}']")
        assert element is not None, name
        return " ".join("".join(element.itertext()).split())

    def addresses(self) -> list[str]:
        """Whatever the page would load or lead to."""
        names = ("src", "href", "srcset", "poster", "data", "action", "formaction", "background", "ping")
        found = [value for element in self.root.iter() for key, value in element.items() if key in names]
        return found + re.findall(r"url\(([^)]*)\)|@import ([^;]*)", "".join(self.root.itertext()))

    def plots(self) -> list[tuple[str, int]]:
        """Label of every plot but spectrograms, and its marks."""
        return [
            (svg.get("aria-label", ""), sum(1 for one in svg.iter("rect") if one.get("class") != "frame"))
            for svg in self.root.iter("svg")
            if svg.get("class") != SPECTROGRAM
        ]

    def spectrograms(self) -> list[tuple[str, int]]:
        """Label of every spectrogram, and its pictures."""
        return [
            (svg.get("aria-label", ""), sum(1 for _ in svg.iter("image")))
            for svg in self.root.iter("svg")
            if svg.get("class") == SPECTROGRAM
        ]

    def players(self) -> list[tuple[str, float, float]]:
        """Label of every player, the seconds of its sound and those that the page tells."""
        found = []
        for audio in self.root.iter("audio"):
            content = base64.b64decode(audio.get("src", "").removeprefix("data:audio/flac;base64,"), validate=True)
            with soundfile.SoundFile(io.BytesIO(content)) as file:
                length = file.frames / file.samplerate
            found.append((audio.get("aria-label", ""), length, float(audio.get("data-seconds", ""))))
        return found
