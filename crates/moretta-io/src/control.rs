//! Control messages: what travels beside a datagram (segment size, ECN, addresses, drop counts, errors).

use std::{
    ffi::c_int,
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::address;

/// Room for everything one message can carry: segment size, drop count, ECN and packet info of one family; or an
/// extended error with the offender's address beside them.
const CONTROL_BYTES: usize = 256;

/// The space the kernel reads control messages from and writes them to.
/// Made of `u64` for their alignment.
#[derive(Clone, Copy)]
pub(crate) struct ControlBuffer([u64; CONTROL_BYTES / 8]);

impl ControlBuffer {
    pub(crate) const fn new() -> Self {
        Self([0; CONTROL_BYTES / 8])
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.0.as_mut_ptr().cast()
    }

    pub(crate) const fn capacity() -> usize {
        CONTROL_BYTES
    }
}

/// Appends control messages to a header; the header's length grows with them.
pub(crate) struct ControlWriter<'a> {
    header: &'a mut libc::msghdr,
    buffer: &'a mut ControlBuffer,
    used: usize,
}

impl<'a> ControlWriter<'a> {
    /// The header points to `buffer` once something was written, so the buffer must outlive the header's use.
    pub(crate) fn new(header: &'a mut libc::msghdr, buffer: &'a mut ControlBuffer) -> Self {
        header.msg_control = std::ptr::null_mut();
        header.msg_controllen = 0;
        Self { header, buffer, used: 0 }
    }

    fn push<T: Copy>(&mut self, level: c_int, kind: c_int, value: T) {
        let size = mem::size_of::<T>() as u32;
        // SAFETY: these two only compute sizes.
        let (space, length) = unsafe { (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size) as usize) };
        debug_assert!(self.used + space <= CONTROL_BYTES, "control buffer too small for what this crate sends");
        if self.used + space > CONTROL_BYTES {
            return;
        }
        let start = self.buffer.0.as_mut_ptr().wrapping_byte_add(self.used).cast::<libc::cmsghdr>();
        // SAFETY: `start` lies inside the buffer with `space` bytes after it (checked above), is aligned for cmsghdr
        // because the buffer and every CMSG_SPACE are, and the data part is written without assuming alignment.
        unsafe {
            (*start).cmsg_level = level;
            (*start).cmsg_type = kind;
            (*start).cmsg_len = length as _;
            libc::CMSG_DATA(start).cast::<T>().write_unaligned(value);
        }
        self.used += space;
        self.header.msg_control = self.buffer.as_mut_ptr();
        self.header.msg_controllen = self.used as _;
    }

    /// `UDP_SEGMENT`: cut the payload into datagrams of `bytes` each.
    pub(crate) fn segment_size(&mut self, bytes: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, bytes);
    }

    /// The ECN bits of the packet (RFC 3168); the other six bits of the field stay zero.
    pub(crate) fn ecn(&mut self, v6: bool, ecn: u8) {
        let value = c_int::from(ecn & 0b11);
        if v6 {
            self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, value);
        } else {
            self.push(libc::IPPROTO_IP, libc::IP_TOS, value);
        }
    }

    /// The source address of the packet.
    pub(crate) fn source(&mut self, source: IpAddr) {
        match source {
            IpAddr::V4(ip) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            IpAddr::V6(ip) => {
                let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
        }
    }
}

/// What the kernel said beside a received message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) segment_size: Option<usize>,
    pub(crate) ecn: u8,
    pub(crate) local: Option<IpAddr>,
    /// Packets dropped at this socket before this one was queued, modulo 2^32.
    pub(crate) dropped: Option<u32>,
    pub(crate) error: Option<ExtendedError>,
}

/// An entry of the error queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExtendedError {
    pub(crate) errno: i32,
    /// Raised by this host while sending, so the sender was told already.
    pub(crate) local: bool,
    pub(crate) info: u32,
}

/// Reads the control messages of a header that `recvmsg` or `recvmmsg` has just filled.
///
/// # Safety
/// `header.msg_control` must point to a [`ControlBuffer`] that is alive, aligned and not written meanwhile, and
/// `header.msg_controllen` must be what the kernel left there.
pub(crate) unsafe fn parse(header: &libc::msghdr) -> Received {
    /// # Safety
    /// `cmsg` points to a complete control message.
    unsafe fn value<T: Copy>(cmsg: *const libc::cmsghdr) -> Option<T> {
        // SAFETY: CMSG_LEN only computes; `cmsg` is valid (caller).
        let complete = unsafe { (*cmsg).cmsg_len >= libc::CMSG_LEN(mem::size_of::<T>() as u32) as _ };
        // SAFETY: the message holds at least size_of::<T>() data bytes; T is one of the plain C types below, for
        // which every bit pattern is valid; no alignment is assumed.
        complete.then(|| unsafe { libc::CMSG_DATA(cmsg).cast::<T>().read_unaligned() })
    }

    let mut received = Received::default();
    // SAFETY: the header describes a live, aligned control buffer (caller).
    let mut cmsg: *const libc::cmsghdr = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !cmsg.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a complete header inside the buffer.
        let (level, kind) = unsafe { ((*cmsg).cmsg_level, (*cmsg).cmsg_type) };
        // SAFETY: in every arm `cmsg` is a complete control message, which is all that `value` asks for.
        unsafe {
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    received.segment_size = value::<c_int>(cmsg).and_then(|size| usize::try_from(size).ok());
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => received.dropped = value::<u32>(cmsg),
                (libc::IPPROTO_IP, libc::IP_TOS) => received.ecn = value::<u8>(cmsg).unwrap_or(0) & 0b11,
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    received.ecn = value::<u32>(cmsg).unwrap_or(0) as u8 & 0b11;
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    received.local = value::<libc::in_pktinfo>(cmsg)
                        .map(|info| Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    received.local =
                        value::<libc::in6_pktinfo>(cmsg).map(|info| Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                    received.error = value::<libc::sock_extended_err>(cmsg).map(|error| ExtendedError {
                        errno: error.ee_errno.cast_signed(),
                        local: error.ee_origin == libc::SO_EE_ORIGIN_LOCAL,
                        info: error.ee_info,
                    });
                }
                _ => {}
            }
            cmsg = libc::CMSG_NXTHDR(header, cmsg);
        }
    }
    received
}

/// One entry of a socket's error queue: what it says and where the datagram had been sent. `None` if it is empty.
pub(crate) fn take_queued_error(fd: c_int) -> Option<(ExtendedError, Option<SocketAddr>)> {
    let mut buffer = ControlBuffer::new();
    let mut name = address::empty();
    let mut header = crate::sys::empty_message();
    header.msg_name = std::ptr::from_mut(&mut name).cast();
    header.msg_namelen = mem::size_of_val(&name) as libc::socklen_t;
    header.msg_control = buffer.as_mut_ptr();
    header.msg_controllen = ControlBuffer::capacity() as _;
    // SAFETY: the header points to live buffers of the stated lengths; it asks for no payload.
    let result = unsafe { libc::recvmsg(fd, &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
    if result < 0 {
        return None;
    }
    // SAFETY: recvmsg has just filled the header, whose control buffer is `buffer`.
    let error = unsafe { parse(&header) }.error?;
    Some((error, address::decode(&name, header.msg_namelen)))
}
