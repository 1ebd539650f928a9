"""Outages behind real gateways with the default policy: no repeatable call is lost, and service resumes.

A short selection of those that `python -m tests.outages` measures.
"""

from __future__ import annotations

import pytest

from .middleboxes import needs_haproxy, needs_nginx
from .outages.sides import ERAS, ours
from .outages.situations import situations
from .support import every_pair

pytestmark = [pytest.mark.anyio, needs_nginx, needs_haproxy]

SITUATIONS = {each.name: each for each in situations(short=2.0, long=2.0, replicas=2)}
OLDEST, NEWEST = next(iter(ERAS)), list(ERAS)[-1]
NAMES = [
    f"nginx 502, away 2 s, stateful, {OLDEST}",
    f"nginx page 200, away 2 s, stateless, {NEWEST}",
    f"haproxy 503 checked, away 2 s, stateless, {NEWEST}",
    f"rolling deploy, haproxy session table stateful, {OLDEST}",
]


@pytest.mark.timeout(60)  # mostly waiting, on a machine that may be busy
@every_pair("name", NAMES)
async def test_twenty_callers_survive_an_outage(name: str):
    """Every call is answered, even during the outage, and none is refused once the server is back."""
    found = await SITUATIONS[name].outcome(ours)
    assert not found.failed
    assert not found.refused
    assert found.every is not None
    assert not found.torn
