"""Ask a DNS server through a gateway, with dnspython.

usage: python resolve.py GATEWAY CA_FILE SERVER PORT NAME
       python resolve.py https://127.0.0.1:4433 ca.pem 9.9.9.9 53 example.com

The query travels as one UDP payload through a CONNECT-UDP tunnel; the server sees the gateway's address.
"""

import asyncio
import sys

import dns.message

import moretta


async def resolve(gateway_url: str, ca_file: str, server: str, port: str, name: str) -> None:
    query = dns.message.make_query(name, "A")
    async with (
        moretta.connect(gateway_url, ca_file=ca_file) as gateway,
        gateway.open_udp(server, int(port)) as tunnel,
        asyncio.timeout(5),
    ):
        tunnel.send(query.to_wire())
        answer = dns.message.from_wire(await tunnel.recv())
    for records in answer.answer:
        print(records)


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    try:
        asyncio.run(resolve(*sys.argv[1:]))
    except (moretta.MorettaError, TimeoutError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
