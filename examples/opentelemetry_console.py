"""Traces and metrics on the console: `pip install opentelemetry-sdk` and the usual configuration are enough.

A retried call is one CLIENT span; its events record the failed attempt, the retry and the new connection. With mcp 2.x
the SDK's own span of each attempt is its child, and the server receives the trace context.
"""

import asyncio

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from resilient_mcp import ResilienceError, ResilientClient
from resilient_mcp.demo import stdio_server


def one_line(span: ReadableSpan) -> str:
    events = [event.name for event in span.events]
    return f"span: {span.name} {span.kind.name} error={(span.attributes or {}).get('error.type')} {events}\n"


async def main() -> None:
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=one_line)))
    trace.set_tracer_provider(tracing)
    reader = PeriodicExportingMetricReader(ConsoleMetricExporter())
    metrics.set_meter_provider(MeterProvider([reader]))

    async with ResilientClient(stdio_server(), name="shop") as client:
        await client.call_tool("forecast", {"city": "Bergen"})
        try:
            await client.call_tool("place_order", {"item": "umbrella"})  # the server dies before it answers
        except ResilienceError as error:
            print(f"lost: {error.advice}")
        await client.call_tool("forecast", {"city": "Oslo"})


if __name__ == "__main__":
    asyncio.run(main())
