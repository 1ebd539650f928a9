"""Transports: custom headers and auth through the HTTP client, environments, streams that the server closes."""

from __future__ import annotations

import httpx
from mcp.client.auth import OAuthClientProvider, TokenStorage
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from .. import snippet


@snippet(on=("http",))
async def send_headers(connect, server):
    async with httpx.AsyncClient(headers={"X-Tenant": "blue"}, timeout=httpx.Timeout(30, read=300)) as http_client:
        async with connect(server, http_client=http_client) as session:
            await session.initialize()
            print((await session.call_tool("header", {"name": "x-tenant"})).structuredContent)
            print((await session.call_tool("header", {"name": "user-agent"})).structuredContent)


@snippet(on=("http",))
async def send_a_token(connect, server):
    class Bearer(httpx.Auth):
        def auth_flow(self, request):
            request.headers["Authorization"] = "Bearer open-sesame"
            yield request

    async with httpx.AsyncClient(auth=Bearer(), follow_redirects=True) as http_client:
        async with connect(server, http_client=http_client) as session:
            await session.initialize()
            print((await session.call_tool("header", {"name": "authorization"})).structuredContent)


class Storage(TokenStorage):
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
    async def show(url: str) -> None:
        print("visit", url)

    async def wait() -> tuple[str, str | None]:
        raise AssertionError("no login is needed: there is a token")

    provider = OAuthClientProvider(
        server_url=server,
        client_metadata=OAuthClientMetadata(
            client_name="My agent",
            redirect_uris=[AnyUrl("http://localhost:3030/callback")],
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
            scope="user",
        ),
        storage=Storage(OAuthToken(access_token="stored", token_type="Bearer")),
        redirect_handler=show,
        callback_handler=wait,
    )
    async with httpx.AsyncClient(auth=provider, follow_redirects=True) as http_client:
        async with connect(server, http_client=http_client) as session:
            await session.initialize()
            print((await session.call_tool("header", {"name": "authorization"})).structuredContent)
            print(len((await session.list_tools()).tools))


@snippet(on=("http",))
async def prepare_client_credentials(connect, server):
    provider = ClientCredentialsOAuthProvider(
        server_url=server, storage=Storage(), client_id="robot", client_secret="s3cr3t", scopes="read"
    )
    async with httpx.AsyncClient(auth=provider) as http_client:
        async with connect(server, http_client=http_client) as session:
            await session.initialize()
            print((await session.call_tool("header", {"name": "authorization"})).structuredContent)


@snippet(on=("resumable",))
async def come_back_for_the_rest(connect, server):
    async def on_progress(progress, total, message):
        print(progress, total, message)

    async with connect(server) as session:
        await session.initialize()
        result = await session.call_tool("compost", progress_callback=on_progress)
        print(result.content)
