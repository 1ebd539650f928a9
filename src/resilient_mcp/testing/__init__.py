"""Faults for testing your own agents: a TCP proxy for real servers, and scripted servers that misbehave."""

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
