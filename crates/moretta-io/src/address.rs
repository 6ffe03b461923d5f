//! Socket addresses in the kernel's shape.

use std::{
    mem,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
};

/// A socket address to hand to the kernel.
pub(crate) enum RawAddress {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl RawAddress {
    pub(crate) fn new(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => Self::V4(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(v6) => Self::V6(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            }),
        }
    }

    /// Pointer and length for a system call; valid while `self` is borrowed.
    pub(crate) fn as_parts(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        match self {
            Self::V4(v4) => (std::ptr::from_ref(v4).cast(), mem::size_of::<libc::sockaddr_in>() as libc::socklen_t),
            Self::V6(v6) => (std::ptr::from_ref(v6).cast(), mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t),
        }
    }
}

/// Reads what the kernel wrote; `None` if `length` is too short or the family is not an internet one.
pub(crate) fn decode(storage: &libc::sockaddr_storage, length: libc::socklen_t) -> Option<SocketAddr> {
    let length = length as usize;
    let start = std::ptr::from_ref(storage);
    match i32::from(storage.ss_family) {
        libc::AF_INET if length >= mem::size_of::<libc::sockaddr_in>() => {
            // SAFETY: sockaddr_storage is at least as large and as aligned as sockaddr_in, every bit pattern is a
            // valid sockaddr_in, and the borrow of `storage` outlives the read.
            let v4 = unsafe { start.cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 if length >= mem::size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above, for sockaddr_in6.
            let v6 = unsafe { start.cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// An empty place for the kernel to write an address to.
pub(crate) fn empty() -> libc::sockaddr_storage {
    // SAFETY: sockaddr_storage consists of integers; all zeroes is a valid value (family AF_UNSPEC).
    unsafe { mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_way_into_the_kernels_shape_and_back() {
        for text in ["192.0.2.7:443", "[2001:db8::7%3]:65535", "0.0.0.0:0", "[::]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let raw = RawAddress::new(address);
            let (pointer, length) = raw.as_parts();
            let mut storage = empty();
            // SAFETY: both regions are valid for `length` bytes and do not overlap.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    pointer.cast::<u8>(),
                    std::ptr::from_mut(&mut storage).cast::<u8>(),
                    length as usize,
                );
            }
            assert_eq!(decode(&storage, length), Some(address), "{text}");
            assert_eq!(decode(&storage, length - 1), None, "{text} cut short");
        }
    }
}
