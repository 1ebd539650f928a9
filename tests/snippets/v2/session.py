"""`client.session`, the session below the client, and requests in the SDK's types."""

from __future__ import annotations

import mcp.types as types
from mcp import MCPError
from mcp.types.version import LATEST_MODERN_VERSION

from .. import snippet


@snippet()
async def use_the_session_below(connect, server):
    async with connect(server) as client:
        session = client.session
        print(session.protocol_version, session.server_info.name, session.instructions)
        print(session.initialize_result, LATEST_MODERN_VERSION in session.discover_result.supported_versions)
        print([tool.name for tool in (await session.list_tools()).tools])
        result = await session.call_tool("add", {"a": 2, "b": 3})
        print(result.structured_content)


@snippet()
async def send_a_request_through_the_session(connect, server):
    async with connect(server) as client:
        params = types.CallToolRequestParams(name="add", arguments={"a": 1, "b": 2})
        print(await client.session.send_request(types.CallToolRequest(params=params), types.CallToolResult))


@snippet()
async def send_notifications_through_the_session(connect, server):
    async with connect(server, mode="legacy") as client:
        params = types.CancelledNotificationParams(request_id="request-7", reason="The user left")
        print(await client.session.send_notification(types.CancelledNotification(params=params)))
        print(await client.session.send_roots_list_changed())


@snippet()
async def discover_through_the_session(connect, server):
    async with connect(server) as client:
        found = await client.session.discover()
        print(found.supported_versions, found.capabilities.tools is not None)
        raw = await client.session.send_discover(LATEST_MODERN_VERSION)
        print(sorted(raw)[:3])


@snippet()
async def talk_as_a_session_of_the_handshake(connect, server):
    async with connect(server, mode="legacy") as client:
        answer = client.session.initialize_result
        print(answer.server_info.name, answer.protocol_version, answer.capabilities.tools)
        print(client.session.discover_result)
        print(await client.session.send_ping())


@snippet()
async def send_requests_on_the_client_itself(connect, server):
    async with connect(server, mode="legacy") as client:
        print(await client.send_ping())
        print(await client.send_progress_notification("token-1", 0.5, total=1.0, message="half"))
        print(await client.send_roots_list_changed())


@snippet()
async def ping_where_there_is_no_ping(connect, server):
    async with connect(server) as client:
        try:
            print(await client.send_ping())
        except MCPError as exc:
            print(exc.code, exc.message)
