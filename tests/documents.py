"""Pages of Markdown: their blocks, headings and links.

    python -m tests.documents PAGE FOLDER [PAGE FOLDER …]

runs the marked blocks of each page in its folder, and prints a line of JSON for each: page, exit code.

A comment in the line before a block, which no reader of the rendered page sees, says what the block is:

    <!-- runnable -->             it runs without an error: Python or bash
    <!-- not runnable: why -->    Python that is not run, and why
    <!-- file: job.yaml -->       the content of that file, for the blocks that run

Blocks of a page run in its order, in one folder; its files are there from the start. Its Python blocks share one
process and one set of names, as if they were typed one after the other; that process is forked from one that has
imported torch, and nothing else that a page could have a say in. What a page says is in `said.txt` of its folder.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
PAGES = (README, *sorted((REPOSITORY / "docs").glob("*.md")))

_MARK = re.compile(r"<!-- (runnable|not runnable: .+|file: \S+) -->")
_FENCE = re.compile(r"```(\w*)")
_HEADING = re.compile(r"#+ +(.*)")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+(?:\([^()]*\)[^()\s]*)*)\)")
_CODE = re.compile(r"(`+)(.+?)\1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block."""

    language: str
    text: str
    line: int
    """Of the fence, from 1."""
    mark: str
    """Of the line before it; empty where it has none."""

    @property
    def is_runnable(self) -> bool:
        return self.mark == "runnable"

    @property
    def file_name(self) -> str | None:
        return self.mark.removeprefix("file: ") if self.mark.startswith("file: ") else None


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [part for part in _parts(text) if isinstance(part, Block)]


def prose_of(text: str) -> list[str]:
    """The lines of a page outside its blocks."""
    return [part for part in _parts(text) if isinstance(part, str)]


def code_spans(line: str) -> list[str]:
    """What stands in backquotes in a line of prose."""
    return [found[2].strip() for found in _CODE.finditer(line)]


def links_of(text: str) -> list[str]:
    """Targets of the links and pictures of a page."""
    return [link for line in prose_of(text) for link in _LINK.findall(_CODE.sub("", line))]


def anchors_of(text: str) -> set[str]:
    """Names that headings can be linked by, as GitHub makes them."""
    anchors: set[str] = set()
    for line in prose_of(text):
        if found := _HEADING.fullmatch(line):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", found[1]).replace("`", "").lower()
            slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
            number = 0
            while (name := f"{slug}-{number}" if number else slug) in anchors:
                number += 1
            anchors.add(name)
    return anchors


def command_lines(text: str) -> set[str]:
    """Lines of the bash blocks of a page, without comments, continued lines joined."""
    bash = [block.text for block in blocks_of(text) if block.language == "bash"]
    lines = [line for block in bash for line in block.replace("\\\n", " ").splitlines()]
    return {line.partition(" #")[0].strip() for line in lines if not line.startswith("#")} - {""}


def _parts(text: str) -> Iterator[Block | str]:
    lines = iter(enumerate(text.splitlines(), start=1))
    before = ""
    for number, line in lines:
        fence = _FENCE.fullmatch(line)
        if fence is None:
            yield line
        else:
            content = []
            for _, inner in lines:
                if inner == "```":
                    break
                content.append(f"{inner}\n")
            mark = _MARK.fullmatch(before)
            yield Block(language=fence[1], text="".join(content), line=number, mark="" if mark is None else mark[1])
        before = line


def run_page(page: Path) -> None:
    """Write the files of a page to the working directory and run its runnable blocks."""
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    for block in blocks:
        if block.file_name is not None:
            path = Path(block.file_name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        if block.is_runnable:
            print(f"{page.name}:{block.line}", flush=True)
            _run(block, page, names)


def _run(block: Block, page: Path, names: dict[str, object]) -> None:
    if block.language == "bash":
        subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], check=True)
        return
    # As many empty lines as the page has above it, so that a traceback names the page's own lines.
    exec(compile("\n" * block.line + block.text, page.name, "exec"), names)


def _run_pages(words: Sequence[str]) -> None:
    import torch  # noqa: F401  # once for all pages

    for page, folder in zip(map(Path, words[::2]), map(Path, words[1::2]), strict=True):
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _enter(folder)
            run_page(page)
            return  # to the end of this process, as any script ends
        print(json.dumps([str(page), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]))


def _enter(folder: Path) -> None:
    """Be a process that was started in a folder, which imports from it first."""
    os.chdir(folder)
    sys.path[0] = str(folder)
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
    with Path("said.txt").open("wb") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())


if __name__ == "__main__":
    _run_pages(sys.argv[1:])
