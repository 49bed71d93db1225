"""Which codes belong to which audio: by ids, whatever either side adds to them.

Ids are compared as they are; where that finds little, without the ending of audio files, by their last parts alone,
with folders and name run together, and without what the dump's ids all begin or end with (`_codes`).
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.importing.candidates import Candidate
from tokenizer_jobs.importing.dump import guess_ids
from tokenizer_jobs.records import Item
from tokenizer_jobs.sources.header import AUDIO_EXTENSIONS
from tokenizer_jobs.sources.roots import path_from_id

__all__ = ["IdRule", "Matching", "match_ids", "whole"]

Form = Callable[[str], str]
MOST_LETTERS = 200
"""Of an id in which ids of audio are looked for."""
ENOUGH = 0.9
"""Share of the sampled codes with audio at which no less of the ids is compared."""


def whole(text: str) -> str:
    """An id without the ending of an audio file."""
    stem, dot, ending = text.rpartition(".")
    return stem if dot and ending.lower() in AUDIO_EXTENSIONS else text


def last_parts(text: str, *, number: int) -> str:
    """The last parts between slashes of what stands behind `#` in an id, without the ending of an audio file."""
    return "/".join(whole(text.rpartition("#")[2]).split("/")[-number:])


def exact(text: str) -> str:
    """An id as it is."""
    return text


def run_together(text: str) -> str:
    """An id without the ending of an audio file, folders and words joined by `_` as in one folder."""
    return re.sub(r"[/\\_. -]+", "_", whole(text.rpartition("#")[2]))


FORMS: tuple[Form, ...] = (exact, whole, *(partial(last_parts, number=number) for number in (4, 3, 2, 1)), run_together)
"""What is compared of ids: the most that finds audio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdRule:
    """Where in a candidate its id is."""

    name: str
    """`path` or `field:NAME`."""

    def of(self, candidate: Candidate) -> str | None:
        """The id; None where it has none."""
        if not self.name.startswith("field:"):
            return candidate.name
        value = candidate.fields.get(self.name.removeprefix("field:"))
        return None if value is None or value == "" else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """How ids are matched, and the audio by its keys."""

    rule: IdRule
    form: Form
    places: Mapping[str, int]
    """Of audio, by key; of several with one key the first."""
    shared: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Audio whose key another one has too."""
    share: float
    """Of the sampled codes that have audio."""
    prefix: str = ""
    suffix: str = ""
    """What the ids of the dump have more than those of the audio."""

    def place(self, text: str) -> int:
        """The place of the audio of an id; -1: there is none."""
        key = self.form(text)
        if self.prefix or self.suffix:
            if not (key.startswith(self.prefix) and key.endswith(self.suffix)):
                return -1
            key = key[len(self.prefix) : len(key) - len(self.suffix)]
        return self.places.get(key, -1)

    def item_key(self, text: str) -> str:
        """What two ids of one item have in common."""
        return text if self.form is exact else whole(text)

    @property
    def told(self) -> str:
        """How ids are read, in words."""
        more = [f"beginning with {self.prefix!r}"] * bool(self.prefix) + [f"ending in {self.suffix!r}"] * bool(
            self.suffix
        )
        return f"{self.rule.name}, {' and '.join(more)}" if more else self.rule.name


def match_ids(sample: Sequence[Candidate], audio: Sequence[Item], *, said: str | None) -> Matching:
    """Find out how the ids of a dump and of audio correspond.

    Args:
        sample: Of the dump.
        audio: All of it.
        said: A rule for ids, as `import-codes` takes it; None: the one that finds most.

    Raises:
        ConfigError: no rule finds any audio.
    """
    best: Matching | None = None
    for form in FORMS:
        if best is not None and best.share >= ENOUGH:
            break
        places, shared = _keys(audio, form)
        for rule in _rules(sample, said):
            ids = [rule.of(candidate) for candidate in sample]
            share = sum(each is not None and form(each) in places for each in ids) / max(1, len(ids))
            if best is None or share > best.share + 0.05:
                best = Matching(rule=rule, form=form, places=places, shared=shared, share=share)
    if best is None or best.share == 0:
        best = _with_affixes(sample, audio, said=said)
    if best is None or best.share == 0:
        one = sample[0].name if sample else "nothing"
        other = audio[0].id if len(audio) else "nothing"
        fields = ", ".join(sorted({name for candidate in sample for name in candidate.fields})) or "none"
        raise ConfigError(
            f"no codes of the dump have the id of any audio: the dump has ids such as {one!r} (fields beside them: "
            f"{fields}), the audio {other!r}; say which by --id field:NAME, or give other --audio"
        )
    return best


def _with_affixes(sample: Sequence[Candidate], audio: Sequence[Item], *, said: str | None) -> Matching | None:
    """By ids that are in those of the dump, with the same in front of and behind each."""
    for form in (partial(last_parts, number=1), run_together):
        places, shared = _keys(audio, form)
        for rule in _rules(sample, said):
            keys = [form(name) for candidate in sample if (name := rule.of(candidate)) is not None]
            votes = Counter(affixes for key in keys for affixes in _affixes(key[:MOST_LETTERS], places))
            if not votes:
                continue
            (prefix, suffix), count = max(votes.items(), key=lambda vote: (vote[1], -len("".join(vote[0]))))
            if count >= ENOUGH * len(keys) and count > 1:
                share = count / len(sample)
                return Matching(
                    rule=rule, form=form, places=places, shared=shared, share=share, prefix=prefix, suffix=suffix
                )
    return None


def _affixes(key: str, places: Mapping[str, int]) -> set[tuple[str, str]]:
    """What is around each id of audio inside a key: never letters or figures of one word with it."""
    edges = [n for n in range(len(key) + 1) if n in (0, len(key)) or not (key[n - 1].isalnum() and key[n].isalnum())]
    return {(key[:i], key[j:]) for i in edges for j in edges if i < j and key[i:j] in places}


def _rules(sample: Sequence[Candidate], said: str | None) -> list[IdRule]:
    if said is not None:
        guess_ids(sample, said)  # refuses what is no rule
        return [IdRule(name="path" if said == "name" else said)]
    names = dict.fromkeys(
        name for candidate in sample for name, value in candidate.fields.items() if isinstance(value, str)
    )
    ordered = sorted(names, key=lambda name: name != "id")
    rules = [IdRule(name=f"field:{name}") for name in ordered]
    return [*rules[: int("id" in names)], IdRule(name="path"), *rules[int("id" in names) :]]


def _keys(audio: Sequence[Item], form: Form) -> tuple[dict[str, int], dict[str, list[int]]]:
    places = dict[str, int]()
    shared = dict[str, list[int]]()
    for place, item in enumerate(audio):
        key = form(path_from_id(item.id))
        first = places.setdefault(key, place)
        if first != place:
            shared.setdefault(key, [first]).append(place)
    return places, shared
