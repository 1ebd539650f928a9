"""A server of the tests must not outlive the test that started it."""

from __future__ import annotations

import os
import sys
import threading


def die_with_the_test() -> None:
    """End this process when its stdin ends, which the test holds open."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
