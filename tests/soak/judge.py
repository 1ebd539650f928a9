"""The final comparison of the callers' outcomes with the servers' journals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..promises import Kind, Outcome, broken_promise
from ..servers.counting_server import fate
from ..servers.soak_server import fates_of
from .book import Book
from .place import Place

# Calls reported with their full story, at most.
_STORIES = 5


@dataclass
class Ledger:
    """The journal of one server."""

    words: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @classmethod
    def read(cls, path: Path) -> Ledger:
        ledger = cls()
        if path.exists():
            for line in path.read_text().splitlines():
                word, _, key = line.partition(" ")
                ledger.words[word][key] += 1
        return ledger

    def taken(self, key: str) -> int:
        """How often a key was taken; a server that never refuses records only what it received."""
        return self.words["taken" if "taken" in self.words else "received"][key]


def compare(book: Book, places: list[Place]) -> Iterator[str]:
    """Every broken promise; the first ones with the call's story."""
    ledgers = {place.spec.name: Ledger.read(place.journal) for place in places}
    known = set(book.running)  # calls in flight when the run was aborted
    stories = _STORIES
    for key, name, began, took, kind, text, story in book.finished():
        known.add(key)
        ledger = ledgers[name]
        ran, taken = ledger.words["ran"][key], ledger.taken(key)
        why = broken_promise(key, Outcome(Kind(kind), text), ran, taken)
        if why is None:
            continue
        yield f"{key} {why}: its outcome: {kind} {text[:500]}"
        if stories:
            stories -= 1
            yield f"    at {began:.3f}, for {took:.3f} s; taken {taken} times, executed {ran} times. Its story:"
            yield from (f"    | {line}" for line in story)
            yield "    The connection meanwhile:"
            yield from (f"    | {line}" for line in book.connection_events(name, began - 5, began + took + 1))
    for name, ledger in ledgers.items():
        for key in ledger.words["ran"].keys() - known:
            yield f"{key} was executed by {name}, but never called"


def fates(place: Place, seed: int) -> Counter[str]:
    """The fates of the keys of one place, according to its journal."""
    table = fates_of(place.spec.kind)
    happened: Counter[str] = Counter()
    for key, count in Ledger.read(place.journal).words["received"].items():
        happened.update(fate(seed, key, arrival, table) for arrival in range(1, count + 1))
    del happened["answer"]
    return happened


def starts(place: Place) -> int:
    """The number of server starts."""
    return Ledger.read(place.journal).words["started"].total()
