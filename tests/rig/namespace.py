"""A network of its own in which every address there is answers: what escapes a gateway in it is heard.

The calling thread moves into a new network namespace, and so does whatever it starts (the engine's threads, the event
loop's sockets). Loopback takes all addresses of both families as its own, so that one socket on the wildcard address is
a live listener on 10.0.0.1, 169.254.169.254 and any other; a packet socket beside it hears what no UDP socket could,
such as broadcasts. Nothing has to be cleaned up: the namespace goes with its last thread and socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import os
import select
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 0x0003
ETHERNET_HEADER_BYTES = 14
#: An interface with addresses that are public by their prefix and the gateway's own all the same.
OWN_IPV4 = ipaddress.IPv4Interface("44.1.2.3/24")
OWN_IPV6 = ipaddress.IPv6Interface("2a0e:b100::3/64")
#: What a test sends through a tunnel stands between these; nothing else on the wire is in the clear.
MARK = b"moretta was here: "
END = b"\n"

COMMANDS = f"""
ip link set lo up
ip route add local 0.0.0.0/0 dev lo
ip route add 224.0.0.0/4 dev lo
ip -6 route add local ::/0 dev lo
ip link add uplink type veth peer name beyond
ip link set uplink up
ip link set beyond up
ip addr add {OWN_IPV4} brd + dev uplink
ip -6 addr add {OWN_IPV6} dev uplink nodad
ip -6 addr add fe80::b100:3/64 dev uplink nodad
"""


def marked(label: str) -> bytes:
    return MARK + label.encode() + END


@dataclass
class Everywhere:
    """The listeners and the ears of one namespace."""

    port: int
    _taps: list[socket.socket]
    _listeners: list[socket.socket]
    #: The last address at which each label arrived.
    arrived_at: dict[str, str] = field(default_factory=dict)

    def heard(self) -> list[str]:
        """The labels of what has left the gateway in the clear and was not asked for yet, in order, each once."""
        found: list[str] = []
        for ear in self._taps + self._listeners:
            while True:
                try:
                    packet = ear.recv(65_536)
                except BlockingIOError:
                    break
                # Segmentation offload may show several payloads as one packet.
                for said in packet.split(MARK)[1:]:
                    label = said.partition(END)[0].decode()
                    if ear in self._taps:
                        self.arrived_at[label] = str(_destination(packet[ETHERNET_HEADER_BYTES:]))
                    if label not in found:
                        found.append(label)
        return found

    def wait_for(self, labels: set[str], seconds: float = 10.0) -> set[str]:
        """Waits until all `labels` were heard; returns those that never were."""
        missing = labels - set(self.heard())
        until = time.monotonic() + seconds
        while missing and select.select(self._taps, [], [], max(0.0, until - time.monotonic()))[0]:
            missing -= set(self.heard())
        return missing


def _destination(packet: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if packet[0] >> 4 == 4:
        return ipaddress.IPv4Address(packet[16:20])
    return ipaddress.IPv6Address(packet[24:40])


def _enter() -> int:
    """Moves this thread into a new network namespace; returns the way back."""
    if shutil.which("ip") is None:
        pytest.skip("a network namespace needs the ip command (iproute2)")
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        os.close(home)
        pytest.skip(f"a network namespace needs CAP_SYS_ADMIN: {os.strerror(ctypes.get_errno())}")
    return home


def _run(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this kernel cannot `{command}`: {done.stderr.strip()}")


@contextlib.contextmanager
def loopback_only() -> Iterator[Callable[[int], None]]:
    """A network with nothing but loopback; what is returned sets its MTU."""
    home = _enter()
    try:
        _run("ip link set lo up")
        yield lambda mtu: _run(f"ip link set lo mtu {mtu}")
    finally:
        _leave(home)


#: linux/if_tun.h: a device of IP packets as they are, with checksums and without any help of hardware.
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def _tunnel_device() -> int:
    try:
        return os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        pytest.skip(f"no tunnel devices here: {error}")


@contextlib.contextmanager
def beyond_a_tunnel_device() -> Iterator[int]:
    """A network whose only way out is a descriptor from which each packet is read as it would be on a wire."""
    home = _enter()
    try:
        device = _tunnel_device()
        try:
            fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"uplink", IFF_TUN | IFF_NO_PI))
            for command in (
                "ip link set lo up",
                "ip link set uplink up",
                f"ip addr add {OWN_IPV4} dev uplink",
                f"ip -6 addr add {OWN_IPV6} dev uplink nodad",
                "ip route add default dev uplink",
                "ip -6 route add default dev uplink",
            ):
                _run(command)
            yield device
        finally:
            os.close(device)
    finally:
        _leave(home)


def _wait_for_routes(seconds: float = 10.0) -> None:
    """The kernel brings a link up behind the back of whoever asked for it: until then IPv6 multicast has no source."""
    until = time.monotonic() + seconds
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        while True:
            try:
                probe.sendto(b"", ("ff02::1", 9))
            except OSError:
                if time.monotonic() > until:
                    raise
            else:
                return


def _leave(home: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(home, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot return to the first network namespace")
    os.close(home)


@contextlib.contextmanager
def everywhere() -> Iterator[Everywhere]:
    home = _enter()
    try:
        # Without this, addresses of loopback would be refused from other interfaces before anybody hears them.
        Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text("0")
        for command in COMMANDS.strip().splitlines():
            _run(command)
        _wait_for_routes()
        with contextlib.ExitStack() as stack:
            listener4 = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            listener4.bind(("0.0.0.0", 0))
            port: int = listener4.getsockname()[1]
            listener6 = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            listener6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener6.bind(("::", port))
            taps = []
            for interface in ("lo", "uplink"):
                tap = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
                tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
                tap.bind((interface, 0))
                taps.append(tap)
            for ear in (listener4, listener6, *taps):
                ear.settimeout(0)
            yield Everywhere(port, taps, [listener4, listener6])
    finally:
        _leave(home)
