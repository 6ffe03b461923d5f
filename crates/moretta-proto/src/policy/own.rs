//! The gateway's own addresses, which tunnels do not reach.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

/// Addresses of this machine's interfaces, what reaches it or its neighbours all at once, and its own sockets.
///
/// Built anew whenever an interface changes, and handed over whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    addresses: BTreeSet<IpAddr>,
    sockets: BTreeSet<SocketAddr>,
    /// Ports on which the gateway listens at every own address.
    wildcard_ports: BTreeSet<u16>,
}

impl OwnAddresses {
    /// `interfaces`: each interface address with the length of its subnet's prefix; a length that the family does not
    /// have counts as the whole address. The directed broadcast address of
    /// an IPv4 subnet and the subnet-router anycast address of an IPv6 subnet (RFC 4291 §2.6.1) count as own.
    pub fn new(interfaces: impl IntoIterator<Item = (IpAddr, u8)>) -> Self {
        let mut addresses = BTreeSet::new();
        for (address, prefix_length) in interfaces {
            addresses.insert(address);
            match IpNet::new(address, prefix_length).unwrap_or_else(|_| address.into()) {
                // RFC 3021: the two addresses of a /31 are hosts.
                IpNet::V4(subnet) if subnet.prefix_len() < 31 => {
                    addresses.insert(subnet.broadcast().into());
                    addresses.insert(subnet.network().into());
                }
                // RFC 6164 §5: so are those of a /127.
                IpNet::V6(subnet) if subnet.prefix_len() < 127 => {
                    addresses.insert(subnet.network().into());
                }
                IpNet::V4(_) | IpNet::V6(_) => {}
            }
        }
        Self { addresses, sockets: BTreeSet::new(), wildcard_ports: BTreeSet::new() }
    }

    /// With the sockets on which the gateway itself listens. No setting opens them to tunnels. One that listens on the
    /// unspecified address listens on every own address.
    #[must_use]
    pub fn with_sockets(mut self, sockets: impl IntoIterator<Item = SocketAddr>) -> Self {
        for socket in sockets {
            if socket.ip().is_unspecified() {
                self.wildcard_ports.insert(socket.port());
            } else {
                self.sockets.insert(SocketAddr::new(socket.ip(), socket.port()));
            }
        }
        self
    }

    /// Whether `address` is one of this machine.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Whether the gateway itself listens there.
    pub fn is_own_socket(&self, address: IpAddr, port: u16) -> bool {
        self.sockets.contains(&SocketAddr::new(address, port))
            || (self.wildcard_ports.contains(&port) && (self.contains(address) || is_this_host(address)))
    }
}

/// Addresses that reach this machine without being configured on it.
fn is_this_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(address) => address.is_loopback() || address.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(interfaces: &[&str]) -> OwnAddresses {
        OwnAddresses::new(interfaces.iter().map(|text| {
            let (address, length) = text.split_once('/').unwrap();
            (address.parse().unwrap(), length.parse().unwrap())
        }))
    }

    /// S-a: each interface address and the directed broadcast of every attached subnet. S-c: the subnet's router.
    #[test]
    fn interface_broadcast_and_router_addresses_are_own() {
        let own = own(&["198.51.100.7/24", "2001:db8:1::7/64", "203.0.113.4/31", "203.0.113.9/32"]);
        for (address, expected) in [
            ("198.51.100.7", true),
            ("198.51.100.255", true),
            ("198.51.100.0", true),
            ("198.51.100.8", false),
            ("2001:db8:1::7", true),
            ("2001:db8:1::", true),
            ("2001:db8:1::8", false),
            ("203.0.113.4", true),
            ("203.0.113.5", false),
            ("203.0.113.9", true),
        ] {
            assert_eq!(own.contains(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn a_listener_on_the_unspecified_address_is_at_every_own_address() {
        let sockets = ["0.0.0.0:4433".parse().unwrap(), "198.51.100.7:443".parse().unwrap()];
        let own = own(&["198.51.100.7/24"]).with_sockets(sockets);
        for (address, port, expected) in [
            ("198.51.100.7", 4433, true),
            ("127.0.0.9", 4433, true),
            ("198.51.100.7", 443, true),
            ("127.0.0.1", 443, false),
            ("198.51.100.8", 4433, false),
            ("198.51.100.7", 53, false),
        ] {
            assert_eq!(own.is_own_socket(address.parse().unwrap(), port), expected, "{address} {port}");
        }
    }
}
