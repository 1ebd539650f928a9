"""The ledger: whatever happens in between, the server ends up with exactly what is wanted."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilient_mcp.subscriptions.ledger import BASE, CAP, STABLE, Key, Ledger, Listen, LogLevel, Resource

A, B = Resource("test://a"), Resource("test://b")
LEVEL = LogLevel()


def ledger_of(*wanted: Key, generation: int = 1) -> Ledger:
    ledger = Ledger()
    ledger.begin(generation, lambda key: True)
    for key in wanted:
        ledger.want(key, "user")
    return ledger


def settle(ledger: Ledger, key: Key, now: float = 0.0) -> bool:
    value = ledger.desired(key)
    ledger.sending(ledger.generation, key, value)
    return ledger.settled(ledger.generation, key, value, now)


def test_what_is_wanted_is_due_until_the_server_has_it():
    """A wanted item is due until the server confirms it, and again on the next connection."""
    ledger = ledger_of(A, B)
    assert ledger.due(0.0) == [A, B]
    assert settle(ledger, A)
    assert ledger.due(0.0) == [B]
    assert ledger.active() == [A]
    assert not ledger.begin(1, lambda key: True)
    assert ledger.begin(2, lambda key: True)
    assert ledger.due(0.0) == [A, B]
    assert ledger.keys() == {A, B}


def test_the_last_holder_ends_it():
    """Two holders share one subscription, which ends with the last of them."""
    ledger = ledger_of(A)
    ledger.want(A, "watcher")
    settle(ledger, A)
    ledger.release(A, "user")
    assert set(ledger.holders(A)) == {"watcher"}
    assert ledger.due(0.0) == []
    ledger.release(A, "watcher")
    assert ledger.due(0.0) == [A]
    assert not settle(ledger, A)
    assert ledger.due(0.0) == []
    ledger.release(A, "nobody")


def test_a_change_is_reported_once():
    """Confirming an item that is already in force changes nothing."""
    ledger = ledger_of(A)
    assert settle(ledger, A)
    assert not settle(ledger, A)


def test_answers_from_older_connections_are_ignored():
    """No answer from an older connection changes the ledger."""
    ledger = ledger_of(A, generation=2)
    ledger.sending(1, A, True)
    assert not ledger.settled(1, A, True, 0.0)
    ledger.failed(1, A, 0.0, 1.0, gone=True)
    assert ledger.due(0.0) == [A]
    assert not ledger.is_active(A)


def test_an_unanswered_subscription_is_settled_by_another_request():
    """A subscription that was sent and never answered is cancelled once it is no longer wanted."""
    ledger = ledger_of(A)
    ledger.sending(1, A, True)
    ledger.failed(1, A, 0.0, 0.0, gone=False)
    ledger.release(A, "user")
    assert ledger.due(CAP) == [A]
    assert ledger.desired(A) is None
    ledger.sending(1, A, None)
    ledger.settled(1, A, None, 1.0)
    assert ledger.due(math.inf) == []


def test_an_unsupported_method_is_not_repeated_on_the_connection():
    """It is sent again only for a new wish or on a new connection."""
    ledger = ledger_of(A)
    ledger.failed(1, A, 0.0, 1.0, gone=True, unknown=True)
    assert ledger.due(1e9) == []
    assert ledger.next_due(1e9) == math.inf
    ledger.want(A, "watcher")
    assert ledger.due(1e9) == [A]
    ledger.failed(1, A, 0.0, 1.0, gone=True, unknown=True)
    ledger.begin(2, lambda _: True)
    assert ledger.due(0.0) == [A]


def test_a_refusal_waits_longer_each_time():
    """Refusals back off exponentially with half jitter; a new wish does not wait."""
    ledger = ledger_of(A)
    waits = []
    now = 0.0
    for _ in range(12):
        ledger.failed(1, A, now, 1.0, gone=True)
        assert ledger.due(now) == []
        waits.append(ledger.next_due(now) - now)
        now = ledger.next_due(now)
        assert ledger.due(now) == [A]
    assert [round(wait, 6) for wait in waits] == [min(CAP, BASE * 2**n) for n in range(12)]
    ledger.failed(1, A, now, 1.0, gone=True)
    ledger.want(A, "watcher")
    assert ledger.due(now) == [A]
    assert ledger.next_due(now) == math.inf


def test_a_stable_stream_resets_its_back_off():
    """A stream that ends immediately is reopened less and less often; one that lasted is reopened soon."""
    ledger = ledger_of(A)
    for now in (0.0, 100.0):
        for _ in range(5):
            ledger.failed(1, A, now, 1.0, gone=True)
        settle(ledger, A, now)
        ledger.failed(1, A, now + STABLE, 1.0, gone=True)
        assert math.isclose(ledger.next_due(now + STABLE), now + STABLE + BASE)
    for wait in (2 * BASE, 4 * BASE, 4 * BASE, 4 * BASE):
        settle(ledger, A, 200.0)
        ledger.failed(1, A, 200.0, 1.0, gone=True)
        assert math.isclose(ledger.next_due(200.0), 200.0 + wait)


def test_what_is_not_offered_is_never_sent():
    """A capability that the server does not offer is reported as missing."""
    ledger = Ledger()
    ledger.want(A, "user")
    ledger.want(LEVEL, "user", "error")
    assert ledger.due(0.0) == []
    ledger.begin(1, lambda key: key == LEVEL)
    assert ledger.unsupported() == [A]
    assert ledger.due(0.0) == [LEVEL]


def test_the_log_level_changes_and_is_never_undone():
    """The latest level is the wanted one, and releasing it sends nothing."""
    ledger = ledger_of()
    assert ledger.want(LEVEL, "user", "error") is None
    settle(ledger, LEVEL)
    assert ledger.want(LEVEL, "user", "debug") == "error"
    assert ledger.desired(LEVEL) == "debug"
    assert ledger.due(0.0) == [LEVEL]
    settle(ledger, LEVEL)
    ledger.release(LEVEL, "user")
    assert ledger.due(0.0) == []


def test_keys_are_readable():
    """A key reads as method and target, and a filter names the capabilities it needs."""
    listen = Listen(("test://a",), tools=True, resource_list=True)
    assert [str(key) for key in (A, LEVEL, listen)] == [
        "resources/subscribe test://a",
        "logging/setLevel",
        "subscriptions/listen test://a tools resource_list",
    ]
    assert listen.capabilities() == ["resources.subscribe", "tools.listChanged", "resources.listChanged"]
    assert Listen(prompts=True).capabilities() == ["prompts.listChanged"]


class Journey(RuleBasedStateMachine):
    """A user, a ledger, and a server that crashes, refuses, and answers or not, in any order."""

    keys = st.sampled_from([Resource(f"test://{n}") for n in range(4)])

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.user: set[tuple[Key, str]] = set()
        self.server: set[Key] = set()
        self.up = False
        self.now = 0.0
        self.old: list[tuple[int, Key, bool | None]] = []

    @rule(key=keys, holder=st.sampled_from(["user", "watcher"]))
    def subscribe(self, key: Key, holder: str) -> None:
        self.ledger.want(key, holder)
        self.user.add((key, holder))

    @rule(key=keys, holder=st.sampled_from(["user", "watcher"]))
    def unsubscribe(self, key: Key, holder: str) -> None:
        self.ledger.release(key, holder)
        self.user.discard((key, holder))

    @rule()
    def crash(self) -> None:
        self.up = False
        self.server.clear()

    @precondition(lambda self: not self.up)
    @rule()
    def restore(self) -> None:
        assert self.ledger.begin(self.ledger.generation + 1, lambda key: True)
        self.up = True

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.up)
    @rule(outcome=st.sampled_from(["answered", "refused", "lost before", "lost after"]), pick=st.integers(0, 3))
    def replay_one(self, outcome: str, pick: int) -> None:
        due = self.ledger.due(self.now)
        if due:
            self.send(due[pick % len(due)], outcome)

    def send(self, key: Key, outcome: str) -> None:
        generation, value = self.ledger.generation, self.ledger.desired(key)
        self.ledger.sending(generation, key, value)
        assert not self.ledger.is_active(key)
        if outcome in ("answered", "lost after"):
            (self.server.add if value else self.server.discard)(key)
        if outcome == "refused" and not value:
            self.server.discard(key)  # a server refuses to unsubscribe from a resource without a subscription
        if outcome == "answered":
            self.ledger.settled(generation, key, value, self.now)
        else:
            self.ledger.failed(generation, key, self.now, 0.5, gone=outcome == "refused")
        self.old.append((generation, key, value))

    @precondition(lambda self: self.old)
    @rule(late=st.integers(0, 100), gone=st.booleans())
    def late_answer_of_an_old_connection(self, late: int, gone: bool) -> None:
        generation, key, value = self.old[late % len(self.old)]
        if generation < self.ledger.generation:
            assert not self.ledger.settled(generation, key, value, self.now)
            self.ledger.failed(generation, key, self.now, 0.5, gone=gone)

    @precondition(lambda self: self.up and self.server)
    @rule(pick=st.integers(0, 3))
    def the_server_ends_one(self, pick: int) -> None:
        key = sorted(self.server, key=str)[pick % len(self.server)]
        self.server.discard(key)
        self.ledger.failed(self.ledger.generation, key, self.now, 0.5, gone=True)

    @invariant()
    def what_is_said_to_be_in_force_is(self) -> None:
        if self.up:
            assert set(self.ledger.active()) <= self.server

    def teardown(self) -> None:
        """At rest, the server's set equals the user's."""
        if not self.up:
            self.restore()
        for _ in range(100):
            due = self.ledger.due(self.now)
            if not due and self.ledger.next_due(self.now) == math.inf:
                break
            for key in due:
                self.send(key, "answered")
            self.now += CAP
        wanted = {key for key, _ in self.user}
        assert self.server == wanted
        assert set(self.ledger.active()) == wanted
        assert set(self.ledger._parts) == wanted


Journey.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestJourney = Journey.TestCase
