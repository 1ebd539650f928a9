"""The README's table: one row for each fault, or for several faults with the same outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .faults import FAULTS, Promise
from .harness import ANSWERED, HUNG, TORN, WRONG, Outcome
from .stages import Place

HEAD = """| fault | plain SDK, stdio | plain SDK, HTTP | this library, repeatable call | this library, other call |
| --- | --- | --- | --- | --- |
"""
NONE = "-"
SEPARATOR = "; "


@dataclass(frozen=True)
class Cell:
    """The outcome of a fault for one side at one place."""

    fault: str
    side: str
    place: Place
    outcome: Outcome


def table(cells: Sequence[Cell]) -> str:
    """The table in Markdown."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name in dict.fromkeys(cell.fault for cell in cells):
        here = [cell for cell in cells if cell.fault == name]
        bare = [cell for cell in here if cell.side == "plain"]
        own = [([cell.place], cell.outcome) for cell in here if cell.side == "ours"]
        columns = [
            joined(([cell.place], plain(cell.outcome)) for cell in bare if not cell.place.http),
            joined(([cell.place], plain(cell.outcome)) for cell in bare if cell.place.http),
            *ours(own),
        ]
        rows.setdefault(tuple(columns), []).append(name)
    return HEAD + "".join(f"| {SEPARATOR.join(names)} | {' | '.join(columns)} |\n" for columns, names in rows.items())


def read(text: str) -> dict[str, list[str]]:
    """The columns of each fault in a text that contains the table."""
    rows = text[text.index(HEAD) + len(HEAD) :].split("\n\n", maxsplit=1)[0].splitlines()
    cells = [row.strip("| ").split(" | ") for row in rows]
    return {name: columns for names, *columns in cells for name in names.split(SEPARATOR)}


def promised(name: str) -> list[str]:
    """The columns of `ResilientClient`, as promised."""
    return ours([(fault.places, fault.promise) for fault in FAULTS if fault.name == name])


def ours(parts: Sequence[tuple[Sequence[Place], Outcome | Promise]]) -> list[str]:
    """The columns of `ResilientClient`: the outcomes of its two calls, measured or promised."""
    return [joined((places, struck(found, tool)) for places, found in parts) for tool in ("echo", "order")]


def struck(found: Outcome | Promise, tool: str) -> str:
    """The outcome of one call of `ResilientClient`, in a few words."""
    came = found.calls.get(tool)
    if came is None:
        return NONE
    return "answered, sent again" if came == ANSWERED and found.seen.get(tool, 0) > 1 else code(came)


def plain(found: Outcome) -> str:
    """An outcome in a few words."""
    (came,) = found.calls.values()
    words = [code(came)]
    if came != TORN:
        if found.next not in (None, ANSWERED):
            words = [f"{code(came)} forever"] if found.next == came else [*words, f"then {code(found.next)}"]
        if found.bystander not in (ANSWERED, came):
            words.append(f"another call {code(found.bystander)}")
    if found.leaving == HUNG:
        words.append("leaving HUNG")
    if found.processes:
        words.append("a process is left")
    return ", ".join(words)


def code(word: str) -> str:
    """Errors formatted as code; the harness's own words as they are."""
    return word if word in {ANSWERED, HUNG, TORN, WRONG, "notified", "ended"} else f"`{word}`"


def joined(parts: Iterable[tuple[Sequence[Place], str]]) -> str:
    """The text for several places: once if it is the same everywhere, else prefixed with the places it applies to."""
    by_word: dict[str, list[Place]] = {}
    for places, said in parts:
        by_word.setdefault(said, []).extend(places)
    if not by_word:
        return NONE
    if len(by_word) == 1:
        return next(iter(by_word))
    everywhere = [place for places in by_word.values() for place in places]
    return "; ".join(f"{where(places, everywhere)}: {said}" for said, places in by_word.items())


def where(places: Sequence[Place], everywhere: Sequence[Place]) -> str:
    """The shortest words that distinguish `places` from the rest."""
    for name, has in TRAITS.items():
        if all(has(place) is (place in places) for place in everywhere):
            return name
    return ", ".join(str(place) for place in places)


TRAITS: dict[str, Callable[[Place], bool]] = {
    "stdio": lambda place: not place.http,
    "HTTP": lambda place: place.http,
    "2025-11-25": lambda place: not place.modern,
    "2026-07-28": lambda place: place.modern,
    "JSON": lambda place: place.transport == "json",
    "SSE": lambda place: place.transport == "sse",
}
