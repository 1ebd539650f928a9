"""Bounded collections: whatever is put in, they never hold more than their limit, and they drop the right entry."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_mcp.bounded import LruDict


def filled(limit: int, keys: str) -> LruDict[str, int]:
    """A dict of at most `limit` entries with `keys`, in that order."""
    lru: LruDict[str, int] = LruDict(limit)
    for value, key in enumerate(keys):
        lru[key] = value
    return lru


def test_one_more_drops_the_oldest():
    """Without any use, the entry that was written first is dropped."""
    assert dict(filled(3, "abcd")) == {"b": 1, "c": 2, "d": 3}


def test_get_counts_as_use():
    """An entry that is looked up stays, and one that was written later is dropped in its place."""
    lru = filled(3, "abc")
    assert lru.get("a") == 0
    lru["d"] = 3
    assert list(lru) == ["c", "a", "d"]


def test_writing_counts_as_use():
    """An entry that is written again stays, with its new value, and drops nothing."""
    lru = filled(3, "abc")
    lru["a"] = 7
    assert len(lru) == 3
    lru["d"] = 3
    assert dict(lru) == {"c": 2, "a": 7, "d": 3}


def test_looking_without_get_does_not_count_as_use():
    """`[]`, `in`, iteration and views leave the order alone, so that a report does not change what is dropped."""
    lru = filled(3, "abc")
    assert lru["a"] == 0
    assert "a" in lru
    assert (list(lru), list(lru.items())) == (["a", "b", "c"], [("a", 0), ("b", 1), ("c", 2)])
    lru["d"] = 3
    assert "a" not in lru


def test_get_of_an_unknown_key():
    """It gives the default, and keeps nothing."""
    lru = filled(3, "abc")
    assert lru.get("x") is None
    assert lru.get("x", 7) == 7
    assert list(lru) == ["a", "b", "c"]


def test_a_falsy_value_is_not_a_missing_one():
    """A stored 0 is returned in place of the default."""
    assert filled(1, "a").get("a", 7) == 0


@pytest.mark.parametrize("write", ["update", "setdefault", "|="])
def test_every_way_to_write_is_bounded(write: str):
    """The limit holds for the other methods of a dict that add entries."""
    lru = filled(2, "ab")
    if write == "update":
        lru.update({"c": 2, "d": 3})
    elif write == "setdefault":
        assert (lru.setdefault("c", 2), lru.setdefault("d", 3)) == (2, 3)
    else:
        lru |= {"c": 2, "d": 3}
    assert dict(lru) == {"c": 2, "d": 3}


KEYS = st.sampled_from("abcdef")


@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from(["write", "get", "look", "delete"]), KEYS), max_size=60))
def test_it_behaves_as_a_plain_model(limit: int, steps: list[tuple[str, str]]):
    """Any sequence of steps leaves what a list of (key, value) in order of use would hold."""
    lru: LruDict[str, int] = LruDict(limit)
    model: list[tuple[str, int]] = []
    for number, (step, key) in enumerate(steps):
        known = next((entry for entry in model if entry[0] == key), None)
        if step == "write":
            lru[key] = number
            model = [*(entry for entry in model if entry[0] != key), (key, number)][-limit:]
        elif step == "get":
            assert lru.get(key) == (None if known is None else known[1])
            if known is not None:
                model.remove(known)
                model.append(known)
        elif step == "look":
            assert (key in lru) == (known is not None)
        elif known is not None:
            del lru[key]
            model.remove(known)
        assert lru == OrderedDict(model)
