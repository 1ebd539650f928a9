"""An agent of a few lines: it reads the weather, and orders an umbrella when it rains."""

from resilient_mcp import ConnectionLost, ResilienceError, ResilientClient


async def prepare(client: ResilientClient, city: str) -> str:
    try:
        forecast = (await client.call_tool("forecast", {"city": city})).content[0].text
    except ResilienceError as error:
        return f"No forecast. {error.advice}"
    if "rain" not in forecast:
        return "No umbrella needed."
    try:
        await client.call_tool("order", {"item": "umbrella"})
    except ConnectionLost:
        return "An umbrella may have been ordered: look before you order another."
    return "An umbrella is on its way."
