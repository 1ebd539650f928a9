"""What the model of these examples says, the same for every framework: it needs no network and no key.

It asks for the server's process id, kills that process, asks for tomorrow's weather, and repeats what it got. An
agent without a resilient client does not survive the second call.
"""

import os
import signal
from typing import Any

Call = tuple[str, dict[str, Any]]

KILL_BETWEEN_CALLS: list[Call] = [("pid", {}), ("forecast", {"city": "Bergen"})]


def next_turn(results: list[str], script: list[Call] = KILL_BETWEEN_CALLS) -> Call | str:
    """The model's next call, or its final answer, after the texts of the tools' results so far."""
    if len(results) == len(script):
        return f"The tool says: {results[-1]}"
    if results and script[len(results) - 1][0] == "pid":
        os.kill(int(results[-1]), getattr(signal, "SIGKILL", signal.SIGTERM))
    return script[len(results)]
