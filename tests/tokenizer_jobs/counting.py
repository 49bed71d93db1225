"""A storage that counts what is asked of it."""

from collections import Counter
from typing import Any

from tokenizer_jobs.storage import Storage

COUNTED = ("read_bytes", "open_file", "exists", "list", "put_if_absent", "replace", "publish", "publish_if_absent")


def counting(storage: Storage) -> tuple[Storage, Counter[str]]:
    """The same output, and the number of its calls by name from now on."""
    counts: Counter[str] = Counter()

    def counted(name: str) -> Any:
        def call(self: Storage, *arguments: Any) -> Any:
            counts[name] += 1
            return getattr(type(storage), name)(self, *arguments)

        return call

    kind: Any = type(f"Counting{type(storage).__name__}", (type(storage),), {name: counted(name) for name in COUNTED})
    return kind(storage.url), counts
