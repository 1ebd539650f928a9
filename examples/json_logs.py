"""One JSON object per log record, with the details of each event as fields, for a log pipeline.

The library logs under `resilient_mcp` and passes details in the record's `extra`, with names that start with `mcp_`.
All records of one call have the same `mcp_operation_id`. (With structlog, `structlog.stdlib.ExtraAdder` does the same.)
"""

import asyncio
import json
import logging
import sys

from resilient_mcp import ConnectionLost, ResilientClient
from resilient_mcp.demo import stdio_server


class JsonFormatter(logging.Formatter):
    """Formats a record's fields as JSON, without its message."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {name: value for name, value in vars(record).items() if name.startswith("mcp_")}
        return json.dumps({"level": record.levelname, "logger": record.name, **facts})


def configure() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("resilient_mcp")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)  # INFO in production: state changes and retries, silent while all is well


async def main() -> None:
    configure()
    async with ResilientClient(stdio_server(), name="shop") as client:
        await client.call_tool("forecast", {"city": "Bergen"})
        try:
            await client.call_tool("place_order", {"item": "umbrella"})  # the server dies before it answers
        except ConnectionLost:
            await client.call_tool("forecast", {"city": "Oslo"})


if __name__ == "__main__":
    asyncio.run(main())
