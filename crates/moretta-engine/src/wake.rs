//! A descriptor that another event loop can watch.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

#[derive(Debug)]
pub(crate) struct WakeFd {
    ours: UnixStream,
    theirs: UnixStream,
}

impl WakeFd {
    pub(crate) fn new() -> std::io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        Ok(Self { ours, theirs })
    }

    pub(crate) fn wake(&self) {
        // A full pipe is a wake-up already.
        drop((&self.ours).write(&[1]));
    }

    pub(crate) fn clear(&self) {
        let mut sink = [0; 64];
        while matches!((&self.theirs).read(&mut sink), Ok(64)) {}
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.theirs.as_raw_fd()
    }
}
