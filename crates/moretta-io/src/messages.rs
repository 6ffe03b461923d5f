//! The receive arrays shared by both kinds of receive buffer: one slot per message.

use std::{ffi::c_int, mem, net::SocketAddr};

use crate::{
    address,
    control::{self, ControlBuffer, Received},
    sys,
};

/// The largest payload one receive slot takes: a whole merged train or the longest datagram.
pub(crate) const SLOT_BYTES: usize = 65_536;

/// Distance between two receive buffers. Exact multiples of 64 KiB would put the heads of all buffers into the same
/// cache sets; one page and one line more spreads them.
pub(crate) const SLOT_STRIDE: usize = SLOT_BYTES + 4_096 + 64;

/// How a receive call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Many,
    OneByOne,
}

/// What one message turned out to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    pub(crate) bytes: usize,
    pub(crate) truncated: bool,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) meta: Received,
}

/// Headers, addresses and control space for a fixed number of messages.
pub(crate) struct Messages {
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<ControlBuffer>,
    pub(crate) received: Vec<Message>,
}

// SAFETY: the raw pointers inside are written anew before each system call and read by nothing else; they point into
// vectors that move with this value (the heap parts stay where they are) or to buffers that the caller pairs with it.
unsafe impl Send for Messages {}

impl Messages {
    /// `with_names`: whether senders' addresses are wanted (not on connected sockets).
    pub(crate) fn new(slots: usize, with_names: bool) -> Self {
        let empty = libc::mmsghdr { msg_hdr: sys::empty_message(), msg_len: 0 };
        Self {
            iovecs: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; slots],
            headers: vec![empty; slots],
            names: vec![address::empty(); if with_names { slots } else { 0 }],
            controls: vec![ControlBuffer::new(); slots],
            received: Vec::with_capacity(slots),
        }
    }

    pub(crate) fn slots(&self) -> usize {
        self.headers.len()
    }

    /// Points slot `index` at `buffer` and readies its header.
    ///
    /// # Safety
    /// `buffer` must stay valid for writes of [`SLOT_BYTES`] bytes until the next [`Messages::receive`] has returned.
    pub(crate) unsafe fn arm(&mut self, index: usize, buffer: *mut u8) {
        let (Some(iovec), Some(header), Some(control)) =
            (self.iovecs.get_mut(index), self.headers.get_mut(index), self.controls.get_mut(index))
        else {
            return;
        };
        *iovec = libc::iovec { iov_base: buffer.cast(), iov_len: SLOT_BYTES };
        let message = &mut header.msg_hdr;
        message.msg_iov = iovec;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr();
        message.msg_controllen = ControlBuffer::capacity() as _;
        message.msg_flags = 0;
        if let Some(name) = self.names.get_mut(index) {
            message.msg_name = std::ptr::from_mut(name).cast();
            message.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        }
    }

    /// Receives into the first `count` slots, all of which must be armed; fills `self.received`.
    ///
    /// # Errors
    /// The errno if nothing was received; EAGAIN if nothing waits.
    ///
    /// # Safety
    /// Slots `0..count` were armed with buffers that are still valid.
    pub(crate) unsafe fn receive(&mut self, fd: c_int, method: Method, count: usize) -> Result<usize, i32> {
        self.received.clear();
        let count = count.min(self.headers.len());
        let filled = match method {
            Method::Many => {
                // SAFETY: the first `count` headers point to live buffers (caller) and arrays of this value.
                let result = unsafe {
                    libc::recvmmsg(
                        fd,
                        self.headers.as_mut_ptr(),
                        count as u32,
                        libc::MSG_DONTWAIT as _,
                        std::ptr::null_mut(),
                    )
                };
                sys::check_count(result)?
            }
            Method::OneByOne => {
                let mut filled = 0;
                for header in self.headers.iter_mut().take(count) {
                    // SAFETY: as above, for one header.
                    let result = unsafe { libc::recvmsg(fd, &raw mut header.msg_hdr, libc::MSG_DONTWAIT) };
                    match sys::check_size(result) {
                        Ok(bytes) => header.msg_len = bytes as u32,
                        Err(errno) if filled == 0 => return Err(errno),
                        // An error that is not about waiting is raised again by the next call or kept in the error
                        // queue; what was received comes first.
                        Err(_) => break,
                    }
                    filled += 1;
                }
                filled
            }
        };
        for (index, header) in self.headers.iter().enumerate().take(filled) {
            // SAFETY: the kernel has just filled this header, whose control buffer belongs to this value.
            let meta = unsafe { control::parse(&header.msg_hdr) };
            self.received.push(Message {
                bytes: (header.msg_len as usize).min(SLOT_BYTES),
                truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                remote: self.names.get(index).and_then(|name| address::decode(name, header.msg_hdr.msg_namelen)),
                meta,
            });
        }
        Ok(filled)
    }
}
