"""The fault proxy: the effect of each toxic on real sockets at both ends, and on a client of an SDK server."""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import pytest

from resilient_mcp import ConnectionLost, DeadlineExceeded, ToolPolicy
from resilient_mcp.testing import Bandwidth, FaultProxy, Latency, LimitData, ResetPeer, Slicer, SlowClose, Timeout

from .support import QUICK, client_of, free_port, http_server, measured, nothing_left, text_of

pytestmark = pytest.mark.anyio

END = (anyio.EndOfStream,)
RESET = (anyio.BrokenResourceError, ConnectionResetError)


class Peer:
    """A server on a socket that hands each connection to the test."""

    def __init__(self) -> None:
        self.port = 0
        self._send, self._receive = anyio.create_memory_object_stream[Any](100)

    async def accepted(self) -> anyio.abc.SocketStream:
        with anyio.fail_after(10):
            return await self._receive.receive()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Peer]:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with anyio.create_task_group() as tg, self._send, self._receive:

                async def hand_over(stream: Any) -> None:
                    async with stream:
                        self._send.send_nowait(stream)
                        await anyio.sleep_forever()

                tg.start_soon(listener.serve, hand_over)
                yield self
                tg.cancel_scope.cancel()


@asynccontextmanager
async def pair(seed: int = 1) -> AsyncIterator[tuple[FaultProxy, Peer]]:
    async with Peer().serve() as peer, FaultProxy(f"127.0.0.1:{peer.port}", seed=seed) as proxy:
        yield proxy, peer


async def connect(proxy: FaultProxy) -> anyio.abc.SocketStream:
    return await anyio.connect_tcp("127.0.0.1", proxy.port)


async def both(proxy: FaultProxy, peer: Peer) -> tuple[anyio.abc.SocketStream, anyio.abc.SocketStream]:
    client = await connect(proxy)
    return client, await peer.accepted()


async def read(stream: anyio.abc.SocketStream, count: int) -> bytes:
    data = b""
    with anyio.fail_after(10):
        while len(data) < count:
            data += await stream.receive(count - len(data))
    return data


async def read_to_end(stream: anyio.abc.SocketStream) -> tuple[list[bytes], type[BaseException]]:
    chunks = []
    with anyio.fail_after(10):
        while True:
            try:
                chunks.append(await stream.receive())
            except (*END, *RESET) as exc:
                return chunks, type(exc)


async def is_silent(stream: anyio.abc.SocketStream, seconds: float = 0.1) -> bool:
    with anyio.move_on_after(seconds):
        await stream.receive()
        return False
    return True


async def test_without_toxics_the_proxy_is_transparent():
    """Bytes, counts and the end of each direction pass, and nothing is left behind."""
    async with nothing_left():
        async with pair() as (proxy, peer):
            assert proxy.url == f"127.0.0.1:{proxy.port}"
            client, server = await both(proxy, peer)
            async with client:
                await client.send(b"question")
                assert await read(server, 8) == b"question"
                await client.send_eof()
                assert await read_to_end(server) == ([], anyio.EndOfStream)
                await server.send(b"an answer")
                await server.send_eof()
                chunks, end = await read_to_end(client)
                assert (b"".join(chunks), end) == (b"an answer", anyio.EndOfStream)
            assert proxy.passed == {"upstream": 8, "downstream": 9}
            assert proxy.connections == 1


async def test_a_large_transfer_arrives_whole_both_ways():
    """Megabytes in both directions at the same time arrive byte for byte."""
    data = random.Random(5).randbytes(3_000_000)
    async with pair() as (proxy, peer):
        client, server = await both(proxy, peer)
        async with client, anyio.create_task_group() as tg:
            tg.start_soon(client.send, data)
            tg.start_soon(server.send, data[::-1])
            tg.start_soon(compare, server, data)
            tg.start_soon(compare, client, data[::-1])


async def compare(stream: anyio.abc.SocketStream, expected: bytes) -> None:
    assert await read(stream, len(expected)) == expected


async def test_back_pressure_passes_through():
    """A server that does not read stops the client's writes: the proxy buffers a bounded amount."""
    async with pair() as (proxy, peer):
        client, server = await both(proxy, peer)
        async with client:
            for stream in (client, server):
                raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            await client.send(b"!")
            await read(server, 1)  # from here on the event loop reads only when asked to
            sent = 0
            block = b"x" * 64 * 1024
            for _ in range(1000):
                with anyio.move_on_after(0.5) as scope:
                    await client.send(block)
                    sent += len(block)
                if scope.cancelled_caught:
                    break
            assert sent < 32_000_000
            assert await read(server, sent) == b"x" * sent


async def test_latency_delays_each_byte_and_keeps_the_order():
    """No byte arrives early, and bytes sent together are not delayed twice."""
    async with pair() as (proxy, peer):
        proxy.add(Latency(0.2))
        client, server = await both(proxy, peer)
        async with client:
            with measured() as took:
                await server.send(b"a")
                assert await read(client, 1) == b"a"
            assert took[0] >= 0.2
            with measured() as took:
                await client.send(b"upstream is not delayed")
                await read(server, 23)
                for letter in b"bcdefghijk":
                    await server.send(bytes([letter]))
                assert await read(client, 10) == b"bcdefghijk"
            assert took[0] >= 0.2


async def test_removing_latency_releases_what_it_holds():
    """An hour of latency ends when it is removed, and can be added to a live connection."""
    async with pair() as (proxy, peer):
        client, server = await both(proxy, peer)
        async with client:
            hour = proxy.add(Latency(3600))
            await server.send(b"late")
            assert await is_silent(client)
            proxy.remove(hour)
            assert await read(client, 4) == b"late"


async def test_down_refuses_and_up_accepts_on_the_same_port():
    """Open connections end, new ones are refused, and the port is the same afterwards."""
    async with pair() as (proxy, peer):
        port = proxy.port
        client, server = await both(proxy, peer)
        async with client:
            proxy.down()
            proxy.down()
            with pytest.raises(OSError):
                await connect(proxy)
            assert await read_to_end(client) == ([], anyio.EndOfStream)
            assert await read_to_end(server) == ([], anyio.EndOfStream)
        proxy.up()
        proxy.up()
        client, server = await both(proxy, peer)
        async with client:
            assert proxy.port == port
            await client.send(b"x")
            assert await read(server, 1) == b"x"
            proxy.down(reset=True)
            assert (await read_to_end(client))[1] in RESET
            assert (await read_to_end(server))[1] in RESET
            assert proxy.connections == 2


async def test_disconnect_ends_open_connections_and_accepts_new_ones():
    """Open connections end with EOF or with a reset."""
    async with pair() as (proxy, peer):
        for reset, expected in ((False, END), (True, RESET)):
            client, server = await both(proxy, peer)
            async with client:
                proxy.disconnect(reset=reset)
                assert (await read_to_end(client))[1] in expected
                assert (await read_to_end(server))[1] in expected


@pytest.mark.parametrize("direction", ["upstream", "downstream"])
async def test_reset_peer_drops_the_first_bytes_and_resets_both_ends(direction):
    """Upstream the server sees nothing of the request, downstream the client nothing of the answer."""
    async with pair() as (proxy, peer):
        client, server = await both(proxy, peer)
        async with client:
            proxy.add(ResetPeer(direction=direction))
            sender = client if direction == "upstream" else server
            await sender.send(b"lost")
            for stream in (client, server):
                chunks, end = await read_to_end(stream)
                assert chunks == []
                assert end in RESET


async def test_reset_peer_after_a_while():
    """The reset comes no earlier, and not at all if the toxic is removed in time."""
    async with pair() as (proxy, peer):
        client, server = await both(proxy, peer)
        async with client:
            toxic = proxy.add(ResetPeer(3600))
            await server.send(b"saved")
            assert await is_silent(client)
            proxy.remove(toxic)
            assert await read(client, 5) == b"saved"
            proxy.add(ResetPeer(0.1))
            with measured() as took:
                await server.send(b"lost")
                assert (await read_to_end(client))[1] in RESET
            assert took[0] >= 0.1


async def test_timeout_is_a_black_hole_until_it_is_removed():
    """Neither bytes nor the server's exit get through; later both do, in order."""
    async with pair() as (proxy, peer):
        client, server = await both(proxy, peer)
        async with client:
            hole = proxy.add(Timeout())
            await server.send(b"last words")
            await server.send_eof()
            assert await is_silent(client)
            await client.send(b"the other direction is open")
            await read(server, 27)
            proxy.remove(hole)
            chunks, end = await read_to_end(client)
            assert (b"".join(chunks), end) == (b"last words", anyio.EndOfStream)


async def test_timeout_closes_the_connection_in_the_end():
    """After its time the connection closes without the held bytes, in both directions."""
    async with pair() as (proxy, peer):
        client, server = await both(proxy, peer)
        async with client:
            with measured() as took:
                proxy.add(Timeout(0.15))
                await server.send(b"never")
                assert await read_to_end(client) == ([], anyio.EndOfStream)
            assert took[0] >= 0.15
            await read_to_end(server)


async def test_a_black_hole_hides_that_the_server_is_gone():
    """A new connection is accepted and stays silent; without the black hole it is reset."""
    async with FaultProxy(f"127.0.0.1:{free_port()}") as proxy:
        hole = proxy.add(Timeout())
        async with await connect(proxy) as client:
            assert await is_silent(client)
            proxy.remove(hole)
            assert (await read_to_end(client))[1] in RESET


async def test_slow_close_delays_only_the_end():
    """The bytes arrive immediately, the end comes later."""
    async with pair() as (proxy, peer):
        client, server = await both(proxy, peer)
        async with client:
            toxic = proxy.add(SlowClose(3600))
            await server.send(b"all")
            await server.send_eof()
            assert await read(client, 3) == b"all"
            assert await is_silent(client)
            proxy.remove(toxic)
            assert await read_to_end(client) == ([], anyio.EndOfStream)


@pytest.mark.parametrize("reset", [False, True])
async def test_limit_data_cuts_at_the_byte(reset):
    """Each connection delivers exactly that many bytes, then EOF or a reset."""
    async with pair() as (proxy, peer):
        proxy.add(LimitData(5, reset=reset))
        for _ in range(2):
            client, server = await both(proxy, peer)
            async with client:
                await server.send(b"abc")
                assert await read(client, 3) == b"abc"
                await server.send(b"defghi")
                chunks, end = await read_to_end(client)
                assert b"".join(chunks) == b"de"
                assert end in (RESET if reset else END)


async def test_bandwidth_bounds_the_bytes_in_a_second():
    """Half a second's worth takes no less, and a removed limit holds nothing back."""
    async with pair() as (proxy, peer):
        client, server = await both(proxy, peer)
        async with client:
            slow = proxy.add(Bandwidth(10_000))
            with measured() as took:
                await server.send(b"x" * 3_000)
                await read(client, 3_000)
            assert took[0] >= 0.3
            proxy.remove(slow)
            proxy.add(Bandwidth(0.001))
            await server.send(b"y" * 100_000)
            assert await is_silent(client)
            proxy.clear()
            await read(client, 100_000)


async def test_slices_are_small_and_come_from_the_seed():
    """The client reads pieces cut where the seed determines, whatever the server sends in one write."""
    data = random.Random(2).randbytes(300)
    seen: dict[int, set[int]] = {}
    for seed in (7, 7, 8):
        async with pair(seed) as (proxy, peer):
            proxy.add(Slicer(20, 10, delay=0.02))
            client, server = await both(proxy, peer)
            async with client:
                await server.send(data)
                chunks = []
                while sum(map(len, chunks)) < len(data):
                    chunks.append(await client.receive())
                assert b"".join(chunks) == data
                boundaries = set(itertools.accumulate(map(len, chunks)))
                sizes = random.Random(f"{seed}/1/downstream slices")
                expected = set(itertools.accumulate(20 + sizes.randint(-10, 10) for _ in range(30))) | {300}
                assert boundaries <= expected  # two pieces may be read together
                assert len(boundaries) > 5
                seen[seed] = seen.get(seed, set()) | boundaries
    assert seen[7] != seen[8]


async def afflicted(seed: int, peer: Peer, connections: int = 12) -> list[bool]:
    hit = []
    async with FaultProxy(f"127.0.0.1:{peer.port}", seed=seed) as proxy:
        proxy.add(ResetPeer(toxicity=0.5))
        for _ in range(connections):
            client, server = await both(proxy, peer)
            async with client:
                await server.send(b"x")
                chunks, _ = await read_first(client)
                hit.append(chunks == [])
    return hit


async def read_first(stream: anyio.abc.SocketStream) -> tuple[list[bytes], bool]:
    try:
        return [await stream.receive()], False
    except RESET:
        return [], True


async def test_toxicity_is_drawn_for_each_connection_from_the_seed():
    """The same seed hits the same connections, another seed others; 0 and 1 are certain."""
    async with Peer().serve() as peer:
        first = await afflicted(1, peer)
        assert first == await afflicted(1, peer)
        assert first != await afflicted(2, peer)
        assert 0 < sum(first) < 12
        async with FaultProxy(f"127.0.0.1:{peer.port}") as proxy:
            proxy.add(Timeout(toxicity=0))
            client, server = await both(proxy, peer)
            async with client:
                await server.send(b"x")
                assert await read(client, 1) == b"x"


async def test_each_proxy_shows_its_own_seed():
    """A failed run can be reproduced from the seed."""
    seeds = {FaultProxy("127.0.0.1:1").seed for _ in range(10)}
    assert len(seeds) > 1


@pytest.mark.parametrize("target", ["127.0.0.1", "/mcp", "stdio://", "127.0.0.1:port"])
def test_a_target_without_a_host_or_port_is_refused(target):
    """It is rejected immediately, with a message."""
    with pytest.raises(ValueError):
        FaultProxy(target)


def test_wrong_numbers_are_refused():
    """The toxic itself rejects invalid numbers."""
    for make in (
        lambda: Latency(-1),
        lambda: Latency(1, toxicity=2),
        lambda: Latency(float("nan")),
        lambda: Latency(1, direction="sideways"),
        lambda: Bandwidth(0),
        lambda: Slicer(0),
        lambda: Slicer(5, 5),
    ):
        with pytest.raises(ValueError):
            make()


async def test_a_toxic_that_was_not_added_cannot_be_removed():
    """Removing a toxic that was not added is an error, and removing one of two leaves the other."""
    async with pair() as (proxy, _):
        proxy.add(Latency(1))
        proxy.add(Latency(1))
        proxy.remove(Latency(1))
        assert proxy.toxics == (Latency(1),)
        with pytest.raises(ValueError, match="was not added"):
            proxy.remove(Latency(2))


async def test_leaving_the_context_cleans_up():
    """An exception in the body is raised unchanged, a cancelled body leaves nothing, a held connection ends."""
    async with nothing_left():
        async with Peer().serve() as peer:
            with pytest.raises(ZeroDivisionError):
                async with FaultProxy(f"127.0.0.1:{peer.port}") as proxy:
                    proxy.add(Timeout())
                    client, server = await both(proxy, peer)
                    async with client:
                        await server.send(b"x")
                        raise ZeroDivisionError
            with anyio.move_on_after(0.05):
                async with FaultProxy(f"127.0.0.1:{peer.port}") as proxy:
                    client, server = await both(proxy, peer)
                    await anyio.sleep_forever()
            assert await read_to_end(client) == ([], anyio.EndOfStream)
            await client.aclose()


@pytest.mark.parametrize("answers", [["--json"], []], ids=["json", "sse"])
async def test_a_client_recovers_behind_the_proxy(answers):
    """A client survives a cut while idle and a cut after a call, in front of a real SDK server."""
    async with http_server(*answers) as server, FaultProxy(server.url) as proxy:
        assert proxy.url == f"http://127.0.0.1:{proxy.port}/mcp"
        async with client_of(proxy.url) as client:
            assert text_of(await client.call_tool("echo", {"text": "1"})) == "1"
            proxy.disconnect(reset=True)
            assert text_of(await client.call_tool("echo", {"text": "2"})) == "2"
            cut = proxy.add(ResetPeer())
            async with anyio.create_task_group() as tg:

                async def mend() -> None:
                    while proxy.connections == before:
                        await anyio.sleep(0.01)
                    proxy.remove(cut)

                before = proxy.connections
                tg.start_soon(mend)
                assert text_of(await client.call_tool("echo", {"text": "3"})) == "3"
        assert proxy.passed["downstream"] > 0


@pytest.mark.parametrize(
    ("toxic", "error"), [(Timeout(), DeadlineExceeded), (ResetPeer(), ConnectionLost)], ids=["black hole", "reset"]
)
async def test_the_error_depends_on_where_the_connection_was_cut(toxic, error):
    """A black hole ends in a deadline, a lost answer in a lost connection."""
    once = ToolPolicy(repeatable=False, attempt_timeout=1)
    policy = QUICK.model_copy(update={"tools": {"echo": once}})
    async with http_server("--json") as server, FaultProxy(server.url) as proxy, client_of(proxy.url, policy) as client:
        await client.call_tool("echo", {"text": "1"})  # and the handshake is complete, including its last notification
        proxy.add(toxic)
        with pytest.raises(error):
            await client.call_tool("echo", {"text": "2"})
        proxy.remove(toxic)
        assert text_of(await client.call_tool("echo", {"text": "3"})) == "3"


async def test_a_refused_connection_is_waited_for():
    """A call that finds the port closed is answered once it is open again."""
    async with http_server("--json") as server, FaultProxy(server.url) as proxy, client_of(proxy.url) as client:
        proxy.down()
        async with anyio.create_task_group() as tg:
            tg.start_soon(up_after_a_refusal, proxy)
            assert text_of(await client.call_tool("echo", {"text": "1"})) == "1"


async def up_after_a_refusal(proxy: FaultProxy) -> None:
    with pytest.raises(OSError):
        await connect(proxy)
    proxy.up()


async def test_the_old_sse_transport_through_the_proxy():
    """Answers come over one long stream: when it is cut, the connection is lost and made again."""
    from mcp.client.sse import sse_client

    async with http_server(transport="sse") as server, FaultProxy(server.url.replace("/mcp", "/sse")) as proxy:
        async with client_of(lambda: sse_client(proxy.url), QUICK) as client:
            assert text_of(await client.call_tool("echo", {"text": "1"})) == "1"
            proxy.disconnect(reset=True)
            assert text_of(await client.call_tool("echo", {"text": "2"})) == "2"
