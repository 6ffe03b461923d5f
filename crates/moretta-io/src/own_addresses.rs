//! The addresses of this host, followed as they change (netlink). None of them may be a tunnel's target unless the
//! operator says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::c_int,
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use crate::{ErrorKind, OpenError, Operation, sys};

const HEADER_BYTES: usize = 16; // struct nlmsghdr
const ADDRESS_MESSAGE_BYTES: usize = 8; // struct ifaddrmsg
const RECEIVE_BYTES: usize = 64 << 10;

/// Messages read per call of [`OwnAddresses::drain`], so that a storm of changes cannot hold a thread.
const MAX_READS: usize = 1024;

/// An address as the kernel names it: interface, address, prefix length.
type Key = (u32, IpAddr, u8);

/// All addresses of this host, and the addresses that its subnets use for broadcasts.
///
/// Never blocks: register the descriptor with a poller and call [`OwnAddresses::drain`] when it is readable.
#[derive(Debug)]
pub struct OwnAddresses {
    fd: OwnedFd,
    entries: BTreeMap<Key, Vec<IpAddr>>,
    /// What a running dump has said so far; replaces `entries` at its end, so that nothing is missing meanwhile.
    dump: Option<BTreeMap<Key, Vec<IpAddr>>>,
    dump_again: bool,
    addresses: BTreeSet<IpAddr>,
    buffer: Vec<u8>,
}

impl OwnAddresses {
    /// Opens the watcher and reads the present addresses.
    ///
    /// # Errors
    /// What the kernel says to a netlink socket, or `NoBuffers` if it does not finish its answer.
    pub fn open() -> Result<Self, OpenError> {
        let fd = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE).map_err(error)?;
        // SAFETY: sockaddr_nl consists of integers; zero is a valid value for each.
        let mut name: libc::sockaddr_nl = unsafe { mem::zeroed() };
        name.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        name.nl_groups = (libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR).cast_unsigned();
        let length = mem::size_of_val(&name) as libc::socklen_t;
        // SAFETY: `name` is valid for reads of `length` bytes.
        sys::check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), length) }).map_err(error)?;
        let mut watcher = Self {
            fd,
            entries: BTreeMap::new(),
            dump: None,
            dump_again: false,
            addresses: BTreeSet::new(),
            buffer: vec![0; RECEIVE_BYTES],
        };
        watcher.start_dump().map_err(error)?;
        // The kernel produces a dump as it is read, so this ends without waiting.
        watcher.drain();
        if watcher.dump.is_some() {
            return Err(error(libc::ENOBUFS));
        }
        Ok(watcher)
    }

    /// Every address that belongs to this host now, in both families.
    pub fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.addresses
    }

    /// The addresses of the interfaces, each with the prefix length of its subnet; one may appear on two interfaces.
    /// Unlike [`OwnAddresses::addresses`] without what the subnets use for broadcasts.
    pub fn interfaces(&self) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
        self.entries.keys().map(|(_, address, prefix)| (*address, *prefix))
    }

    /// Takes in what has changed; true if the set is different afterwards.
    pub fn drain(&mut self) -> bool {
        let mut touched = false;
        for _ in 0..MAX_READS {
            match self.read() {
                Ok(bytes) => {
                    let buffer = mem::take(&mut self.buffer);
                    touched |= self.handle(buffer.get(..bytes).unwrap_or_default());
                    self.buffer = buffer;
                }
                Err(libc::EINTR) => {}
                // Messages were lost: ask for everything again.
                Err(libc::ENOBUFS) => self.dump_again = true,
                Err(_) => break,
            }
            if self.dump_again && self.start_dump().is_ok() {
                self.dump_again = false;
            }
        }
        if !touched {
            return false;
        }
        let addresses = self.entries.iter().flat_map(|((_, address, _), others)| others.iter().chain([address]));
        let addresses: BTreeSet<IpAddr> = addresses.copied().collect();
        let changed = addresses != self.addresses;
        self.addresses = addresses;
        changed
    }

    fn start_dump(&mut self) -> Result<(), i32> {
        let mut request = [0_u8; HEADER_BYTES + ADDRESS_MESSAGE_BYTES];
        let length = request.len() as u32;
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        let fields = [&length.to_ne_bytes()[..], &libc::RTM_GETADDR.to_ne_bytes(), &flags.to_ne_bytes()].concat();
        // The rest stays zero: sequence number, sender, and AF_UNSPEC for both families.
        request.iter_mut().zip(fields).for_each(|(place, byte)| *place = byte);
        // SAFETY: `request` is valid for reads of its length.
        let result = unsafe { libc::send(self.fd.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
        sys::check_size(result)?;
        self.dump = Some(BTreeMap::new());
        Ok(())
    }

    /// One datagram from the kernel into the buffer.
    fn read(&mut self) -> Result<usize, i32> {
        // SAFETY: as in open().
        let mut name: libc::sockaddr_nl = unsafe { mem::zeroed() };
        let mut length = mem::size_of_val(&name) as libc::socklen_t;
        // SAFETY: buffer and name are valid for writes of the stated lengths.
        let result = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                self.buffer.as_mut_ptr().cast(),
                self.buffer.len(),
                libc::MSG_DONTWAIT,
                (&raw mut name).cast(),
                &raw mut length,
            )
        };
        let bytes = sys::check_size(result)?;
        // Only the kernel (port 0) is believed.
        Ok(if name.nl_pid == 0 { bytes } else { 0 })
    }

    /// Applies the messages of one datagram; true if an entry may have changed.
    fn handle(&mut self, mut data: &[u8]) -> bool {
        let mut touched = false;
        while let Some((message, rest)) = split_message(data) {
            data = rest;
            if message.flags & libc::NLM_F_DUMP_INTR as u16 != 0 {
                self.dump_again = true;
            }
            match c_int::from(message.kind) {
                libc::NLMSG_DONE => {
                    if let Some(entries) = self.dump.take() {
                        self.entries = entries;
                        touched = true;
                    }
                }
                libc::NLMSG_ERROR => self.dump_again = self.dump.take().is_some() || self.dump_again,
                _ if message.kind == libc::RTM_NEWADDR => {
                    if let Some((key, others)) = parse_address(message.body) {
                        if let Some(dump) = &mut self.dump {
                            dump.insert(key, others.clone());
                        }
                        self.entries.insert(key, others);
                        touched = true;
                    }
                }
                _ if message.kind == libc::RTM_DELADDR => {
                    if let Some((key, _)) = parse_address(message.body) {
                        if let Some(dump) = &mut self.dump {
                            dump.remove(&key);
                        }
                        self.entries.remove(&key);
                        touched = true;
                    }
                }
                _ => {}
            }
        }
        touched
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

fn split_message(data: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let (header, _) = data.split_first_chunk::<HEADER_BYTES>()?;
    let [l0, l1, l2, l3, k0, k1, f0, f1, ..] = *header;
    let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
    let body = data.get(HEADER_BYTES..length)?;
    let rest = data.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((Message { kind: u16::from_ne_bytes([k0, k1]), flags: u16::from_ne_bytes([f0, f1]), body }, rest))
}

/// The own address in a message, and what else its subnet uses.
fn parse_address(body: &[u8]) -> Option<(Key, Vec<IpAddr>)> {
    let (message, mut attributes) = body.split_first_chunk::<ADDRESS_MESSAGE_BYTES>()?;
    let [_, prefix, _, _, i0, i1, i2, i3] = *message;
    let (mut address, mut local, mut broadcast) = (None, None, None);
    while let Some(([l0, l1, k0, k1], _)) = attributes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let value = attributes.get(4..length)?;
        match u16::from_ne_bytes([*k0, *k1]) {
            libc::IFA_ADDRESS => address = parse_ip(value),
            libc::IFA_LOCAL => local = parse_ip(value),
            libc::IFA_BROADCAST => broadcast = parse_ip(value),
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    // On point-to-point links IFA_ADDRESS is the other end and its subnet is not ours to broadcast in.
    let own = local.or(address)?;
    let mut others: Vec<IpAddr> = broadcast.into_iter().collect();
    if address == Some(own) {
        others.extend(subnet_addresses(own, prefix));
    }
    Some(((u32::from_ne_bytes([i0, i1, i2, i3]), own, prefix), others))
}

fn parse_ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(|octets| Ipv4Addr::from(octets).into()),
        16 => <[u8; 16]>::try_from(value).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

/// First and last address of an IPv4 subnet (both broadcast on some kernels and hosts), and the first of an IPv6
/// subnet (RFC 4291 section 2.6.1: every router there answers to it, this host too if it forwards).
fn subnet_addresses(address: IpAddr, prefix: u8) -> Vec<IpAddr> {
    match address {
        IpAddr::V4(v4) if prefix < 31 => {
            let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            let bits = v4.to_bits();
            vec![Ipv4Addr::from_bits(bits & !hosts).into(), Ipv4Addr::from_bits(bits | hosts).into()]
        }
        IpAddr::V6(v6) if prefix < 127 => {
            let hosts = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
            vec![Ipv6Addr::from_bits(v6.to_bits() & !hosts).into()]
        }
        IpAddr::V4(_) | IpAddr::V6(_) => Vec::new(),
    }
}

fn error(errno: i32) -> OpenError {
    OpenError { operation: Operation::Netlink, kind: ErrorKind::from_errno(errno), address: None }
}

impl AsFd for OwnAddresses {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn loopback_is_an_own_address_and_so_is_the_end_of_its_subnet() {
        let watcher = OwnAddresses::open().unwrap();
        assert!(watcher.addresses().contains(&ip("127.0.0.1")), "{:?}", watcher.addresses());
        assert!(watcher.addresses().contains(&ip("127.255.255.255")));
        assert!(watcher.interfaces().any(|interface| interface == (ip("127.0.0.1"), 8)));
    }

    #[test]
    fn a_quiet_host_changes_nothing() {
        let mut watcher = OwnAddresses::open().unwrap();
        let before = watcher.addresses().clone();
        assert!(!watcher.drain());
        assert_eq!(&before, watcher.addresses());
    }

    #[test]
    fn addresses_follow_messages_of_the_kernel() {
        let message = |kind: u16, octets: [u8; 4]| {
            let mut body = vec![libc::AF_INET as u8, 24, 0, 0];
            body.extend(7_u32.to_ne_bytes());
            for attribute in [libc::IFA_ADDRESS, libc::IFA_LOCAL] {
                body.extend(8_u16.to_ne_bytes());
                body.extend(attribute.to_ne_bytes());
                body.extend(octets);
            }
            let mut message = ((HEADER_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
            message.extend(kind.to_ne_bytes());
            message.extend([0; 10]);
            message.extend(body);
            message
        };
        let mut watcher = OwnAddresses::open().unwrap();
        assert!(watcher.handle(&message(libc::RTM_NEWADDR, [192, 0, 2, 9])));
        let key = (7, ip("192.0.2.9"), 24);
        assert_eq!(watcher.entries.get(&key), Some(&vec![ip("192.0.2.0"), ip("192.0.2.255")]));
        assert!(watcher.handle(&message(libc::RTM_DELADDR, [192, 0, 2, 9])));
        assert!(!watcher.entries.contains_key(&key));
    }

    #[test]
    fn cut_messages_are_ignored_at_every_length() {
        let mut watcher = OwnAddresses::open().unwrap();
        let mut message = 40_u32.to_ne_bytes().to_vec();
        message.extend(libc::RTM_NEWADDR.to_ne_bytes());
        message.extend([0; 34]);
        for cut in 0..message.len() {
            assert!(!watcher.handle(&message[..cut]), "cut at {cut}");
        }
    }

    #[test]
    fn subnets_know_their_broadcast_addresses() {
        for (id, address, prefix, expected) in [
            ("ordinary subnet", "10.1.2.3", 24, vec!["10.1.2.0", "10.1.2.255"]),
            ("whole address space", "10.1.2.3", 0, vec!["0.0.0.0", "255.255.255.255"]),
            ("two hosts", "10.1.2.3", 31, vec![]),
            ("one host", "10.1.2.3", 32, vec![]),
            ("router anycast", "2001:db8::5", 64, vec!["2001:db8::"]),
            ("one IPv6 host", "2001:db8::5", 128, vec![]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(ip).collect();
            assert_eq!(subnet_addresses(ip(address), prefix), expected, "{id}");
        }
    }
}
