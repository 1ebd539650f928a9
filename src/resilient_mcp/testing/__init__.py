"""Faults for testing your own agents: a TCP proxy for real servers, and scripted servers that misbehave.

`ScriptedHttpServer` and `ScriptedStdioServer` are good servers except where a script says otherwise: statuses,
redirects, HTML, streams and bodies that are cut, answers that never come, come twice or belong to another request,
processes that exit, hang, freeze, flood stderr or close stdout. Their `requests` list what reached them.

`FaultProxy("http://127.0.0.1:8000/mcp")` stands in front of any server. `add()` gives its connections a fault, such as
`Latency(0.2, jitter=0.1)`, `Bandwidth`, `Slicer`, `SlowClose`, `Timeout` (a black hole), `ResetPeer` or `LimitData`, in
one direction and with a probability. `down()` ends all connections and refuses new ones until `up()`. `seed=` makes
chance repeatable.

`instant_waits()` makes the waits of this library pass immediately.
"""

from .http_server import ScriptedHttpServer
from .proxy import FaultProxy
from .replies import HttpReply, Reply, SseEvent, StdioReply
from .script import Log, Request
from .stdio_server import ScriptedStdioServer
from .toxics import Bandwidth, Direction, Latency, LimitData, ResetPeer, Slicer, SlowClose, Timeout, Toxic
from .waits import instant_waits

__all__ = [
    "Bandwidth",
    "Direction",
    "FaultProxy",
    "HttpReply",
    "Latency",
    "LimitData",
    "Log",
    "Reply",
    "Request",
    "ResetPeer",
    "ScriptedHttpServer",
    "ScriptedStdioServer",
    "Slicer",
    "SlowClose",
    "SseEvent",
    "StdioReply",
    "Timeout",
    "Toxic",
    "instant_waits",
]
