"""An agent loop that watches two notes while their server is killed.

The loop does not handle the crash: `watch()` subscribes again on the new process and reports that each note may have
changed meanwhile. The loop only reads the resource that a change names.
"""

import asyncio
import os
import re
import signal

from resilient_mcp import Event, ResilientClient, Restored, StateChanged
from resilient_mcp.demo import NOTES, notes_server

KILL_AFTER, END_AFTER = 3, 8  # changes seen


def show(event: Event) -> None:
    if isinstance(event, StateChanged):
        print(f"  ({event.new.value})")
    elif isinstance(event, Restored):
        print(f"restored: {', '.join(event.restored)}")


async def main() -> None:
    async with ResilientClient(notes_server(), on_event=show) as client, client.watch(NOTES) as changes:
        seen = 0
        async for change in changes:
            note = (await client.read_resource(change.uri)).contents[0].text
            print(f"{change.uri} {'may have changed' if change.missed else 'changed'}: {note}")
            seen += 1
            if seen == KILL_AFTER:
                pid = re.search(r"process (\d+)", note)[1]
                print("killing the server ...")
                os.kill(int(pid), signal.SIGTERM)
            if seen == END_AFTER:
                break


if __name__ == "__main__":
    asyncio.run(main())
