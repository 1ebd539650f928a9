"""Transports: custom headers and auth through the HTTP client, and the group of sessions."""

from __future__ import annotations

import httpx2
from mcp import ClientSessionGroup
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from .. import snippet


@snippet(on=("http",))
async def send_headers(connect, server):
    timeout = httpx2.Timeout(30.0, read=300.0)
    async with httpx2.AsyncClient(headers={"X-Tenant": "blue"}, timeout=timeout, follow_redirects=True) as http_client:
        async with connect(server, http_client=http_client) as client:
            print((await client.call_tool("header", {"name": "x-tenant"})).structured_content)
            print((await client.call_tool("header", {"name": "user-agent"})).structured_content)


@snippet(on=("http",))
async def send_a_token(connect, server):
    class Bearer(httpx2.Auth):
        def auth_flow(self, request):
            request.headers["Authorization"] = "Bearer open-sesame"
            yield request

    async with httpx2.AsyncClient(auth=Bearer()) as http_client:
        async with connect(server, http_client=http_client) as client:
            print((await client.call_tool("header", {"name": "authorization"})).structured_content)


class Storage:
    """Keeps tokens in memory."""

    def __init__(self, tokens: OAuthToken | None = None) -> None:
        self.tokens = tokens
        self.client_info: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client_info

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client_info = client_info


@snippet(on=("http",))
async def log_in_with_a_stored_token(connect, server):
    async def open_browser(url: str) -> None:
        print("visit", url)

    async def wait_for_callback() -> AuthorizationCodeResult:
        raise AssertionError("no login is needed: there is a token")

    provider = OAuthClientProvider(
        server_url=server,
        client_metadata=OAuthClientMetadata(
            client_name="My agent", redirect_uris=[AnyUrl("http://localhost:3030/callback")], scope="user"
        ),
        storage=Storage(OAuthToken(access_token="stored", token_type="Bearer")),
        redirect_handler=open_browser,
        callback_handler=wait_for_callback,
    )
    async with httpx2.AsyncClient(auth=provider, follow_redirects=True) as http_client:
        async with connect(server, http_client=http_client) as client:
            print((await client.call_tool("header", {"name": "authorization"})).structured_content)
            print(len((await client.list_tools()).tools))


@snippet(on=("http",))
async def prepare_client_credentials(connect, server):
    provider = ClientCredentialsOAuthProvider(
        server_url=server, storage=Storage(), client_id="robot", client_secret="s3cr3t", scope="read"
    )
    async with httpx2.AsyncClient(auth=provider) as http_client:
        async with connect(server, http_client=http_client) as client:
            print((await client.call_tool("header", {"name": "authorization"})).structured_content)


@snippet(on=("resumable",))
async def come_back_for_the_rest(connect, server):
    seen = []

    async def on_progress(progress, total, message):
        seen.append(message)

    async with connect(server, mode="legacy") as client:
        result = await client.call_tool("compost", progress_callback=on_progress)
        print(result.content, seen)


@snippet()
async def add_the_session_of_a_client_to_a_group(connect, server):
    async with connect(server, mode="legacy") as client:
        group = ClientSessionGroup(component_name_hook=lambda name, info: f"{info.name}.{name}")
        await group.connect_with_session(client.server_info, client.session)
        print(sorted(group.tools), sorted(group.resources), sorted(group.prompts))
        print((await group.call_tool("garden.add", {"a": 20, "b": 22})).structured_content)
