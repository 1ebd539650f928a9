"""Faults for tests of your own agents: a TCP proxy in front of a real server."""

from .proxy import FaultProxy
from .toxics import Bandwidth, Direction, Latency, LimitData, ResetPeer, Slicer, SlowClose, Timeout, Toxic

__all__ = [
    "Bandwidth",
    "Direction",
    "FaultProxy",
    "Latency",
    "LimitData",
    "ResetPeer",
    "Slicer",
    "SlowClose",
    "Timeout",
    "Toxic",
]
