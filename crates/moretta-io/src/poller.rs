//! Readiness with nanosecond deadlines, and a way to wake a waiting worker.

use std::{
    cell::Cell,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

use crate::{ErrorKind, OpenError, Operation, sys};

/// What to be told about a descriptor. Errors and hang-ups are always told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something to read.
    Readable,
    /// Room to write.
    Writable,
    /// Either.
    Both,
}

/// When to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// In every wait while the condition holds.
    Level,
    /// Once per change: the owner must read until nothing is left, or remember that it did not.
    Edge,
}

/// One descriptor's readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollEvent {
    /// The key it was registered with.
    pub key: u64,
    /// Something to read.
    pub readable: bool,
    /// Room to write.
    pub writable: bool,
    /// An error waits: see [`UdpSocket::take_error`](crate::UdpSocket::take_error).
    pub error: bool,
    /// The other side is gone.
    pub hangup: bool,
}

/// Reusable memory for the events of one wait.
pub struct Events {
    raw: Vec<libc::epoll_event>,
    filled: usize,
}

impl Events {
    /// Room for `capacity` events, at least one; what does not fit is told by the next wait.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { raw: vec![libc::epoll_event { events: 0, u64: 0 }; capacity.clamp(1, 65_536)], filled: 0 }
    }

    fn capacity(&self) -> i32 {
        i32::try_from(self.raw.len()).unwrap_or(i32::MAX)
    }

    /// The events of the last wait.
    pub fn iter(&self) -> impl Iterator<Item = PollEvent> + '_ {
        self.raw.iter().take(self.filled).map(|event| {
            let bits = event.events;
            let has = |mask: i32| bits & mask.cast_unsigned() != 0;
            PollEvent {
                key: event.u64,
                readable: has(libc::EPOLLIN),
                writable: has(libc::EPOLLOUT),
                error: has(libc::EPOLLERR),
                hangup: has(libc::EPOLLHUP | libc::EPOLLRDHUP),
            }
        })
    }

    /// How many events the last wait returned.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether the last wait returned none.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }
}

/// One worker's set of descriptors (epoll). Registering does not own: a descriptor leaves the set when it is
/// deregistered or when its last owner closes it.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    /// Cleared when the kernel (before 5.11) or a filter refuses `epoll_pwait2`; deadlines are then rounded up to
    /// milliseconds.
    precise: Cell<bool>,
}

impl Poller {
    /// # Errors
    /// [`ErrorKind::DescriptorsExhausted`] and the like.
    pub fn new() -> Result<Self, OpenError> {
        Self::build(true)
    }

    /// A poller that behaves as on a kernel without nanosecond waits, for tests.
    ///
    /// # Errors
    /// As [`Poller::new`].
    pub fn without_precise_waits() -> Result<Self, OpenError> {
        Self::build(false)
    }

    fn build(precise: bool) -> Result<Self, OpenError> {
        // SAFETY: no pointers are involved.
        let epoll = sys::own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map_err(create_error)?;
        Ok(Self { epoll, precise: Cell::new(precise) })
    }

    /// Whether waits end with nanosecond precision (and not milliseconds).
    pub fn is_precise(&self) -> bool {
        self.precise.get()
    }

    /// Starts watching `fd`; its events carry `key`.
    ///
    /// # Errors
    /// `Other(EEXIST)` if it is registered already, [`ErrorKind::NoBuffers`], `Other(ENOSPC)` at the system's limit.
    pub fn register(
        &self,
        fd: BorrowedFd<'_>,
        key: u64,
        interest: Interest,
        trigger: Trigger,
    ) -> Result<(), ErrorKind> {
        self.change(libc::EPOLL_CTL_ADD, fd, key, interest, trigger)
    }

    /// Changes key, interest or trigger of a registered descriptor; with [`Trigger::Edge`] a condition that holds
    /// now is told again.
    ///
    /// # Errors
    /// `Other(ENOENT)` if it is not registered.
    pub fn modify(&self, fd: BorrowedFd<'_>, key: u64, interest: Interest, trigger: Trigger) -> Result<(), ErrorKind> {
        self.change(libc::EPOLL_CTL_MOD, fd, key, interest, trigger)
    }

    /// Stops watching `fd`. Events already collected by a wait may still carry its key.
    ///
    /// # Errors
    /// `Other(ENOENT)` if it is not registered.
    pub fn deregister(&self, fd: BorrowedFd<'_>) -> Result<(), ErrorKind> {
        self.change(libc::EPOLL_CTL_DEL, fd, 0, Interest::Readable, Trigger::Level)
    }

    fn change(
        &self,
        operation: i32,
        fd: BorrowedFd<'_>,
        key: u64,
        interest: Interest,
        trigger: Trigger,
    ) -> Result<(), ErrorKind> {
        let interest = match interest {
            Interest::Readable => libc::EPOLLIN,
            Interest::Writable => libc::EPOLLOUT,
            Interest::Both => libc::EPOLLIN | libc::EPOLLOUT,
        };
        let trigger = match trigger {
            Trigger::Level => 0,
            Trigger::Edge => libc::EPOLLET,
        };
        let mut event = libc::epoll_event { events: (interest | trigger).cast_unsigned(), u64: key };
        // SAFETY: `event` is valid for the call; the kernel copies it.
        sys::check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) })
            .map(drop)
            .map_err(ErrorKind::from_errno)
    }

    /// Waits until something is ready or `timeout` has passed (`None`: for ever); fills `events`, which may stay
    /// empty, also after a signal.
    ///
    /// # Errors
    /// Only what means a programming error or a closed poller.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> Result<(), ErrorKind> {
        events.filled = 0;
        let result = if timeout == Some(Duration::ZERO) {
            self.wait_milliseconds(events, 0)
        } else if self.precise.get() {
            match self.wait_precisely(events, timeout) {
                Err(libc::ENOSYS | libc::EPERM) => {
                    self.precise.set(false);
                    self.wait_milliseconds(events, milliseconds(timeout))
                }
                result => result,
            }
        } else {
            self.wait_milliseconds(events, milliseconds(timeout))
        };
        match result {
            Ok(filled) => events.filled = filled,
            Err(libc::EINTR) => {}
            Err(errno) => return Err(ErrorKind::from_errno(errno)),
        }
        Ok(())
    }

    fn wait_precisely(&self, events: &mut Events, timeout: Option<Duration>) -> Result<usize, i32> {
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let deadline = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // Called by number: not every C library has the wrapper.
        // SAFETY: the event array is valid for writes of its length, the timespec lives on the stack, and no signal
        // mask is given.
        let result = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                events.raw.as_mut_ptr(),
                events.capacity(),
                deadline,
                std::ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        sys::check_size(result as isize)
    }

    fn wait_milliseconds(&self, events: &mut Events, timeout: i32) -> Result<usize, i32> {
        let (pointer, length) = (events.raw.as_mut_ptr(), events.capacity());
        // SAFETY: the event array is valid for writes of its length.
        sys::check_count(unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), pointer, length, timeout) })
    }
}

/// Rounded up, so that a deadline is never missed by waking before it over and over.
fn milliseconds(timeout: Option<Duration>) -> i32 {
    timeout.map_or(-1, |timeout| i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX))
}

fn create_error(errno: i32) -> OpenError {
    OpenError { operation: Operation::Create, kind: ErrorKind::from_errno(errno), address: None }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Wakes whoever polls it (eventfd). Any number of wakes between two [`WakeFd::drain`] calls count as one.
#[derive(Debug)]
pub struct WakeFd(OwnedFd);

impl WakeFd {
    /// # Errors
    /// [`ErrorKind::DescriptorsExhausted`] and the like.
    pub fn new() -> Result<Self, OpenError> {
        // SAFETY: no pointers are involved.
        sys::own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }).map(Self).map_err(create_error)
    }

    /// Makes the descriptor readable. Callable from any thread; never blocks.
    pub fn wake(&self) {
        let one = 1_u64;
        // The only failure is a counter about to overflow, and then the descriptor is readable anyway.
        // SAFETY: the value is eight readable bytes.
        let _written: isize = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Makes it unreadable again; true if it had been woken since the last call. Drain first, look for work after:
    /// a wake in between is then never lost.
    pub fn drain(&self) -> bool {
        let mut count = 0_u64;
        // SAFETY: the value is eight writable bytes.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) == 8 }
    }
}

impl AsFd for WakeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for WakeFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
