"""moretta: UDP through HTTP/3 as RFC 9298 says it, as a gateway and as a client."""
