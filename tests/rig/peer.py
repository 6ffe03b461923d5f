"""Raw HTTP/3 endpoints on aioquic's QUIC: they say what a test tells them and record what comes back.

aioquic supplies QUIC and TLS, pylsqpack supplies QPACK; HTTP/3 itself is left to the test, byte by byte.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pylsqpack
from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.tls import SessionTicket

from rig import wire

Fields = list[tuple[bytes, bytes]]
PATIENCE_SECONDS = 10.0
# aioquic sends packets of at most 1200 bytes unless told otherwise: too small for a payload of 1200.
PACKET_BYTES = 1350
DEFAULT_SETTINGS = [(wire.SETTING_H3_DATAGRAM, 1)]


@dataclass(frozen=True)
class Response:
    status: int
    fields: Fields

    def all(self, name: str) -> list[bytes]:
        return [value for key, value in self.fields if key == name.encode()]

    def one(self, name: str) -> bytes | None:
        values = self.all(name)
        assert len(values) <= 1, f"{name} appears {len(values)} times"
        return values[0] if values else None


@dataclass
class Stream:
    data: bytes = b""
    finished: bool = False
    reset_code: int | None = None
    stop_code: int | None = None

    @property
    def ended(self) -> bool:
        return self.finished or self.reset_code is not None


@dataclass(frozen=True)
class Close:
    code: int
    frame_type: int | None
    reason: str

    @property
    def by_application(self) -> bool:
        return self.frame_type is None


class RawPeer(QuicConnectionProtocol):
    """One connection. Everything received stays readable: `streams`, `datagrams`, `handshake`, `closed`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.streams: dict[int, Stream] = {}
        self.datagrams: list[bytes] = []
        self.handshake: events.HandshakeCompleted | None = None
        self.closed: Close | None = None
        self.control_stream_id: int | None = None
        self._encoder = pylsqpack.Encoder()
        self._encoder.apply_settings(0, 0)
        self._decoder = pylsqpack.Decoder(0, 0)
        self._changed = asyncio.Event()

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            stream = self.streams.setdefault(event.stream_id, Stream())
            stream.data += event.data
            stream.finished |= event.end_stream
        elif isinstance(event, events.StreamReset):
            self.streams.setdefault(event.stream_id, Stream()).reset_code = event.error_code
        elif isinstance(event, events.StopSendingReceived):
            self.streams.setdefault(event.stream_id, Stream()).stop_code = event.error_code
        elif isinstance(event, events.DatagramFrameReceived):
            self.datagrams.append(event.data)
        elif isinstance(event, events.HandshakeCompleted):
            self.handshake = event
        elif isinstance(event, events.ConnectionTerminated):
            self.closed = Close(event.error_code, event.frame_type, event.reason_phrase)
        self._changed.set()

    # Waiting

    async def until(self, condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
        """Waits for `condition` to hold after some event of this connection and returns its value."""
        try:
            async with asyncio.timeout(seconds):
                while not (value := condition()):
                    self._changed.clear()
                    await self._changed.wait()
                return value
        except TimeoutError:
            raise AssertionError(
                f"waited {seconds:g} s in vain for {what}; closed={self.closed}, streams={self.streams}"
            ) from None

    async def settled(self) -> None:
        """Waits until the other side has acknowledged a PING sent now, so that all sent before has been read by its QUIC."""
        await asyncio.wait_for(self.ping(), PATIENCE_SECONDS)
        await asyncio.wait_for(self.ping(), PATIENCE_SECONDS)

    # Sending

    def send(self, stream_id: int, data: bytes, *, fin: bool = False) -> None:
        self._quic.send_stream_data(stream_id, data, fin)
        self.transmit()

    def send_datagram_frame(self, data: bytes) -> None:
        self._quic.send_datagram_frame(data)
        self.transmit()

    def send_http_datagram(
        self, stream_id: int, payload: bytes, *, context: bytes = b"\x00", quarter: bytes | None = None
    ) -> None:
        self.send_datagram_frame((wire.varint(stream_id // 4) if quarter is None else quarter) + context + payload)

    def reset(self, stream_id: int, code: int = wire.H3_REQUEST_CANCELLED) -> None:
        self._quic.reset_stream(stream_id, code)
        self.transmit()

    def stop(self, stream_id: int, code: int = wire.H3_REQUEST_CANCELLED) -> None:
        self._quic.stop_stream(stream_id, code)
        self.transmit()

    def open_uni(self, stream_type: int, data: bytes = b"", *, fin: bool = False) -> int:
        stream_id = self._quic.get_next_available_stream_id(is_unidirectional=True)
        self.send(stream_id, wire.varint(stream_type) + data, fin=fin)
        return stream_id

    def open_control(self, pairs: Iterable[tuple[int, int]] = DEFAULT_SETTINGS) -> int:
        self.control_stream_id = self.open_uni(0x00, wire.settings(list(pairs)))
        return self.control_stream_id

    def encode(self, fields: Fields, stream_id: int = 0) -> bytes:
        """A field section; pylsqpack lower-cases nothing and checks nothing."""
        _, section = self._encoder.encode(stream_id, fields)
        return bytes(section)

    def headers_frame(self, fields: Fields) -> bytes:
        return wire.frame(wire.FRAME_HEADERS, self.encode(fields))

    def send_headers(self, stream_id: int, fields: Fields, *, fin: bool = False) -> None:
        self.send(stream_id, self.headers_frame(fields), fin=fin)

    def send_data(self, stream_id: int, data: bytes, *, fin: bool = False) -> None:
        self.send(stream_id, wire.frame(wire.FRAME_DATA, data), fin=fin)

    def request(self, fields: Fields, *, fin: bool = False) -> int:
        stream_id = self._quic.get_next_available_stream_id()
        self.send_headers(stream_id, fields, fin=fin)
        return stream_id

    # Reading

    def stream(self, stream_id: int) -> Stream:
        return self.streams.setdefault(stream_id, Stream())

    def frames(self, stream_id: int) -> list[wire.Frame]:
        return wire.read_frames(self.stream(stream_id).data)

    def body(self, stream_id: int) -> bytes:
        return b"".join(f.payload for f in self.frames(stream_id) if f.type == wire.FRAME_DATA)

    def capsules(self, stream_id: int) -> list[wire.Capsule]:
        return wire.read_capsules(self.body(stream_id))

    def heads(self, stream_id: int) -> list[Fields]:
        sections = [f.payload for f in self.frames(stream_id) if f.type == wire.FRAME_HEADERS]
        return [self._decoder.feed_header(stream_id, section)[1] for section in sections]

    async def response(self, stream_id: int, seconds: float = PATIENCE_SECONDS) -> Response:
        await self.until(
            lambda: self.frames(stream_id) or self.stream(stream_id).ended or self.closed,
            f"a response on stream {stream_id}",
            seconds,
        )
        heads = self.heads(stream_id)
        assert heads, f"no response on stream {stream_id}: {self.stream(stream_id)}, closed={self.closed}"
        fields = heads[0]
        statuses = [value for name, value in fields if name == b":status"]
        assert len(statuses) == 1
        return Response(int(statuses[0]), [f for f in fields if not f[0].startswith(b":")])

    async def request_head(self, stream_id: int) -> dict[bytes, bytes]:
        await self.until(lambda: self.frames(stream_id) or self.closed, f"a request on stream {stream_id}")
        return dict(self.heads(stream_id)[0])

    async def stream_reset(self, stream_id: int, seconds: float = PATIENCE_SECONDS) -> int:
        await self.until(
            lambda: self.stream(stream_id).reset_code is not None or self.closed,
            f"a reset of stream {stream_id}",
            seconds,
        )
        assert self.closed is None, f"the whole connection was closed: {self.closed}"
        code = self.stream(stream_id).reset_code
        assert code is not None
        return code

    async def stream_finished(self, stream_id: int, seconds: float = PATIENCE_SECONDS) -> None:
        await self.until(lambda: self.stream(stream_id).ended or self.closed, f"the end of stream {stream_id}", seconds)
        assert self.stream(stream_id).finished, f"stream {stream_id}: {self.stream(stream_id)}, closed={self.closed}"

    async def connection_closed(self, seconds: float = PATIENCE_SECONDS) -> Close:
        close = await self.until(lambda: self.closed, "the connection to be closed", seconds)
        assert isinstance(close, Close)
        return close

    async def http_datagram(self, stream_id: int, seconds: float = PATIENCE_SECONDS) -> bytes:
        """The next HTTP Datagram payload (context ID and all) for `stream_id`; others stay queued."""
        quarter = wire.varint(stream_id // 4)

        def take() -> list[bytes]:
            for index, data in enumerate(self.datagrams):
                if data.startswith(quarter):
                    return [self.datagrams.pop(index)[len(quarter) :]]
            return []

        found: list[bytes] = await self.until(take, f"a datagram for stream {stream_id}", seconds)
        return found[0]

    async def settings_pairs(self) -> list[tuple[int, int]]:
        """The peer's SETTINGS as they stand on the wire."""

        def control() -> wire.Frame | None:
            for stream_id, stream in self.streams.items():
                if stream_id & 0x2 and stream.data[:1] == b"\x00":
                    frames = wire.read_frames(stream.data[1:])
                    if frames:
                        return frames[0]
            return None

        first = await self.until(control, "the peer's control stream")
        assert first.type == wire.FRAME_SETTINGS
        pairs, offset = [], 0
        while offset < len(first.payload):
            key = wire.read_varint(first.payload, offset)
            assert key is not None
            value = wire.read_varint(first.payload, key[1])
            assert value is not None
            pairs.append((key[0], value[0]))
            offset = value[1]
        return pairs

    def transport_parameters(self) -> QuicConnection:
        """aioquic keeps the peer's transport parameters as attributes of its connection."""
        return self._quic


def connect_udp_fields(
    authority: str, target_host: str, target_port: int | str, *, path: str | None = None, extra: Fields | None = None
) -> Fields:
    if path is None:
        path = f"/.well-known/masque/udp/{target_host.replace(':', '%3A')}/{target_port}/"
    return [
        (b":method", b"CONNECT"),
        (b":protocol", b"connect-udp"),
        (b":scheme", b"https"),
        (b":authority", authority.encode()),
        (b":path", path.encode()),
        *([(b"capsule-protocol", b"?1")] if extra is None else extra),
    ]


@contextlib.asynccontextmanager
async def raw_client(
    address: tuple[str, int],
    ca_file: Path,
    *,
    settings: Iterable[tuple[int, int]] | None = DEFAULT_SETTINGS,
    max_datagram_frame_size: int | None = 65536,
    prepare: Callable[[QuicConfiguration], None] | None = None,
    **connect_arguments: Any,
) -> AsyncIterator[RawPeer]:
    """A connected client; `settings=None` leaves the control stream to the test."""
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["h3"], max_datagram_frame_size=max_datagram_frame_size, server_name="localhost"
    )
    configuration.max_datagram_size = PACKET_BYTES
    configuration.load_verify_locations(cafile=str(ca_file))
    if prepare is not None:
        prepare(configuration)
    async with connect(
        address[0], address[1], configuration=configuration, create_protocol=RawPeer, **connect_arguments
    ) as peer:
        assert isinstance(peer, RawPeer)
        if settings is not None:
            peer.open_control(settings)
        yield peer


@dataclass
class RawServer:
    """A mock proxy: every connection it accepted, in order; `on_connection` may set up each one."""

    address: tuple[str, int]
    connections: list[RawPeer] = field(default_factory=list)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def accept(self, seconds: float = PATIENCE_SECONDS) -> RawPeer:
        async with asyncio.timeout(seconds):
            while not self.connections:
                self._arrived.clear()
                await self._arrived.wait()
        return self.connections[-1]


@contextlib.asynccontextmanager
async def raw_server(
    certificate: Path,
    key: Path,
    *,
    settings: Iterable[tuple[int, int]] | None = (
        (wire.SETTING_ENABLE_CONNECT_PROTOCOL, 1),
        (wire.SETTING_H3_DATAGRAM, 1),
    ),
    max_datagram_frame_size: int | None = 65536,
    tickets: bool = False,
) -> AsyncIterator[RawServer]:
    """`tickets`: hands out session tickets that allow early data, each of use once."""
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=["h3"], max_datagram_frame_size=max_datagram_frame_size
    )
    configuration.max_datagram_size = PACKET_BYTES
    configuration.load_cert_chain(str(certificate), str(key))
    state = RawServer(("127.0.0.1", 0))

    class ServerPeer(RawPeer):
        def quic_event_received(self, event: events.QuicEvent) -> None:
            if isinstance(event, events.HandshakeCompleted):
                if settings is not None:
                    self.open_control(settings)
                state.connections.append(self)
                state._arrived.set()
            super().quic_event_received(event)

    sessions: dict[bytes, SessionTicket] = {}
    resumption: dict[str, Any] = {
        "session_ticket_handler": lambda ticket: sessions.update({ticket.ticket: ticket}),
        "session_ticket_fetcher": lambda label: sessions.pop(label, None),
    }
    server = await serve(
        "127.0.0.1",
        0,
        configuration=configuration,
        create_protocol=ServerPeer,
        **(resumption if tickets else {}),
    )
    assert server._transport is not None
    state.address = server._transport.get_extra_info("sockname")[:2]
    try:
        yield state
    finally:
        server.close()
