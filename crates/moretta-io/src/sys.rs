//! Thin wrappers over the calls that several modules need. Errors are errno values.

use std::{
    ffi::c_int,
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use std::net::SocketAddr;

use crate::address::{self, RawAddress};

/// The errno of the call that has just failed on this thread.
pub(crate) fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Turns the usual `-1` into the errno.
pub(crate) fn check(result: c_int) -> Result<c_int, i32> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

/// As [`check`], for calls that return a number of bytes.
pub(crate) fn check_size(result: isize) -> Result<usize, i32> {
    usize::try_from(result).map_err(|_| errno())
}

/// As [`check`], for calls that return a number of things.
pub(crate) fn check_count(result: c_int) -> Result<usize, i32> {
    usize::try_from(result).map_err(|_| errno())
}

/// Takes ownership of a descriptor that a call has just created.
pub(crate) fn own(result: c_int) -> Result<OwnedFd, i32> {
    let fd = check(result)?;
    // SAFETY: `fd` was returned by a call that creates a descriptor, and nothing else owns it yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A non-blocking socket that is closed on exec.
pub(crate) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> Result<OwnedFd, i32> {
    // SAFETY: no pointers are involved.
    own(unsafe { libc::socket(domain, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol) })
}

pub(crate) fn bind(fd: BorrowedFd<'_>, address: SocketAddr) -> Result<(), i32> {
    let raw = RawAddress::new(address);
    let (pointer, length) = raw.as_parts();
    // SAFETY: `pointer` is valid for `length` bytes while `raw` lives.
    check(unsafe { libc::bind(fd.as_raw_fd(), pointer, length) }).map(drop)
}

pub(crate) fn connect(fd: BorrowedFd<'_>, address: SocketAddr) -> Result<(), i32> {
    let raw = RawAddress::new(address);
    let (pointer, length) = raw.as_parts();
    // SAFETY: `pointer` is valid for `length` bytes while `raw` lives.
    check(unsafe { libc::connect(fd.as_raw_fd(), pointer, length) }).map(drop)
}

pub(crate) fn local_address(fd: BorrowedFd<'_>) -> Result<SocketAddr, i32> {
    let mut storage = address::empty();
    let mut length = mem::size_of_val(&storage) as libc::socklen_t;
    // SAFETY: `storage` is valid for writes of `length` bytes and both outlive the call.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), std::ptr::from_mut(&mut storage).cast(), &raw mut length) })?;
    address::decode(&storage, length).ok_or(libc::EAFNOSUPPORT)
}

pub(crate) fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> Result<(), i32> {
    let length = mem::size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the value is a c_int on the stack and `length` is its size.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), length) }).map(drop)
}

pub(crate) fn option(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> Result<c_int, i32> {
    let mut value: c_int = 0;
    let mut length = mem::size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the value is a c_int on the stack and `length` is its size.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) })?;
    Ok(value)
}

/// The kernel's own count of packets dropped at this socket (`SO_MEMINFO`), modulo 2^32.
pub(crate) fn dropped_packets(fd: BorrowedFd<'_>) -> Result<u32, i32> {
    // linux/sock_diag.h: SK_MEMINFO_DROPS is the ninth of nine.
    let mut numbers = [0_u32; 9];
    let mut length = mem::size_of_val(&numbers) as libc::socklen_t;
    let pointer = numbers.as_mut_ptr().cast();
    // SAFETY: `pointer` is valid for writes of `length` bytes.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, pointer, &raw mut length) })?;
    Ok(numbers[8])
}

/// A message header with nothing in it.
pub(crate) fn empty_message() -> libc::msghdr {
    // SAFETY: msghdr consists of integers and nullable pointers (and, on some C libraries, padding that must be
    // zero); all zeroes is a valid empty message.
    unsafe { mem::zeroed() }
}
