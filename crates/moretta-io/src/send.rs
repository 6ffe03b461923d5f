//! Sending: one train from contiguous memory, or a batch of payloads gathered into trains.
//!
//! Nothing is queued here. What the kernel does not take is dropped and counted, datagram by datagram: a payload that
//! is too long, or an error about an earlier one, never costs its neighbours.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use crate::{
    ErrorKind,
    address::RawAddress,
    control::{ControlBuffer, ControlWriter},
    socket::{UdpSocket, is_report},
    sys,
};

/// Most datagrams in one segmented send; kernels before 6.8 refuse more.
pub const MAX_TRAIN_SEGMENTS: usize = 64;

/// Most payload bytes in one segmented send: the kernel builds one IP packet of it, headers included.
pub const MAX_TRAIN_BYTES: usize = 65_000;

/// Most runs in one `sendmmsg`.
const MAX_RUNS: usize = 64;

/// Datagrams of equal size for one destination.
#[derive(Debug, Clone, Copy)]
pub struct OutgoingTrain<'a> {
    /// The destination; `None` on connected sockets.
    pub remote: Option<SocketAddr>,
    /// The source address; only sockets opened with packet info look at it.
    pub local: Option<IpAddr>,
    /// ECN bits for every packet.
    pub ecn: u8,
    /// Bytes per datagram; `None` if `data` is one datagram. Only the last may be shorter.
    pub segment_size: Option<usize>,
    /// The payloads one behind the other, as many as there are: longer trains than the kernel takes are cut.
    pub data: &'a [u8],
}

/// What became of the datagrams of one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendOutcome {
    /// Datagrams the kernel took.
    pub sent: usize,
    /// Datagrams dropped; the socket's counters say why.
    pub dropped: usize,
    /// The first reason for a drop.
    pub error: Option<ErrorKind>,
}

impl SendOutcome {
    fn fail(&mut self, datagrams: usize, kind: ErrorKind) {
        self.dropped += datagrams;
        self.error.get_or_insert(kind);
    }
}

/// Payloads that leave as one message: equal sizes, the last may be shorter.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: usize,
    count: usize,
    bytes: usize,
}

/// Reusable arrays for [`UdpSocket::send_batch`], one per worker.
#[derive(Default)]
pub struct SendBatch {
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    controls: Vec<ControlBuffer>,
    runs: Vec<Run>,
}

// SAFETY: the raw pointers are written by prepare() and used only within the same send_batch() call.
unsafe impl Send for SendBatch {}

impl SendBatch {
    /// Empty arrays; they grow to what the largest batch needs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Groups the first payloads into runs and readies a message for each; returns how many payloads that covers.
    fn prepare<P: AsRef<[u8]>>(&mut self, payloads: &[P], gso: bool) -> usize {
        self.iovecs.clear();
        self.headers.clear();
        self.runs.clear();
        let mut sizes = payloads.iter().map(|payload| payload.as_ref().len()).peekable();
        let mut covered = 0;
        while self.runs.len() < MAX_RUNS
            && let Some(size) = sizes.next()
        {
            let mut run = Run { first: covered, count: 1, bytes: size };
            // An empty payload has no segment size, so it goes alone.
            while gso
                && size > 0
                && run.count < MAX_TRAIN_SEGMENTS
                && let Some(next) =
                    sizes.next_if(|&next| next > 0 && next <= size && run.bytes + next <= MAX_TRAIN_BYTES)
            {
                run.count += 1;
                run.bytes += next;
                if next < size {
                    break;
                }
            }
            covered += run.count;
            self.runs.push(run);
        }
        self.iovecs.extend(payloads.iter().take(covered).map(|payload| {
            let bytes = payload.as_ref();
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
        }));
        if self.controls.len() < self.runs.len() {
            self.controls.resize(self.runs.len(), ControlBuffer::new());
        }
        for (run, control) in self.runs.iter().zip(&mut self.controls) {
            let mut header = sys::empty_message();
            let Some(iovecs) = self.iovecs.get_mut(run.first..run.first + run.count) else { break };
            if let [first, _, ..] = iovecs {
                ControlWriter::new(&mut header, control).segment_size(first.iov_len as u16);
            }
            header.msg_iov = iovecs.as_mut_ptr();
            header.msg_iovlen = iovecs.len() as _;
            self.headers.push(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
        }
        covered
    }
}

impl UdpSocket {
    /// Sends a train, by segmentation offload where the kernel has it.
    pub fn send_train(&mut self, train: &OutgoingTrain<'_>) -> SendOutcome {
        let mut outcome = SendOutcome::default();
        let segment = train.segment_size.unwrap_or(train.data.len()).max(1);
        if train.data.is_empty() {
            self.send_chunk(train, segment, train.data, &mut outcome);
            return outcome;
        }
        let per_call = (MAX_TRAIN_BYTES / segment).clamp(1, MAX_TRAIN_SEGMENTS) * segment;
        let mut chunks = train.data.chunks(per_call);
        while let Some(chunk) = chunks.next() {
            self.send_chunk(train, segment, chunk, &mut outcome);
            if outcome.error == Some(ErrorKind::WouldBlock) {
                let rest = chunks.map(|chunk| chunk.len().div_ceil(segment)).sum();
                self.drop_unsent(rest, ErrorKind::WouldBlock, &mut outcome);
                break;
            }
        }
        outcome
    }

    /// Sends as much of a train as fits one call.
    fn send_chunk(&mut self, train: &OutgoingTrain<'_>, segment: usize, chunk: &[u8], outcome: &mut SendOutcome) {
        let count = chunk.len().div_ceil(segment).max(1);
        if count == 1 || !self.capabilities.gso {
            self.send_segments(train, segment, chunk, outcome);
            return;
        }
        match self.send_contiguous(train, Some(segment as u16), chunk) {
            Ok(()) => self.count_sent(count, chunk.len(), outcome),
            Err(libc::EMSGSIZE) => {
                // Every full segment is as long as the first; only a shorter last one has a chance.
                let tail = chunk.len() % segment;
                let full = chunk.len() / segment;
                self.drop_unsent(full, ErrorKind::MessageTooLong, outcome);
                if tail > 0 {
                    self.send_segments(train, segment, chunk.get(full * segment..).unwrap_or_default(), outcome);
                }
            }
            Err(errno) if means_no_gso(errno) => {
                let sent_before = outcome.sent;
                self.send_segments(train, segment, chunk, outcome);
                self.judge_gso(outcome.sent > sent_before);
            }
            Err(errno) => self.drop_unsent(count, ErrorKind::from_errno(errno), outcome),
        }
    }

    fn send_segments(&mut self, train: &OutgoingTrain<'_>, segment: usize, chunk: &[u8], outcome: &mut SendOutcome) {
        let mut rest = chunk;
        loop {
            let (datagram, later) = rest.split_at(segment.min(rest.len()));
            match self.send_contiguous(train, None, datagram) {
                Ok(()) => self.count_sent(1, datagram.len(), outcome),
                Err(libc::EAGAIN) => {
                    let unsent = 1 + later.len().div_ceil(segment);
                    self.drop_unsent(unsent, ErrorKind::WouldBlock, outcome);
                    return;
                }
                Err(errno) => self.drop_unsent(1, ErrorKind::from_errno(errno), outcome),
            }
            rest = later;
            if rest.is_empty() {
                return;
            }
        }
    }

    fn send_contiguous(&mut self, train: &OutgoingTrain<'_>, segment: Option<u16>, data: &[u8]) -> Result<(), i32> {
        let mut iovec = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
        let mut header = sys::empty_message();
        let mut control = ControlBuffer::new();
        let mut writer = ControlWriter::new(&mut header, &mut control);
        if let Some(segment) = segment {
            writer.segment_size(segment);
        }
        if train.ecn != 0 && self.carries_quic() {
            writer.ecn(self.is_ipv6(), train.ecn);
        }
        if let Some(source) = self.source_for(train.local) {
            writer.source(source);
        }
        let name = train.remote.map(RawAddress::new);
        if let Some(name) = &name {
            let (pointer, length) = name.as_parts();
            header.msg_name = pointer.cast_mut().cast();
            header.msg_namelen = length;
        }
        header.msg_iov = &raw mut iovec;
        header.msg_iovlen = 1;
        // SAFETY: name, iovec, control buffer and data all outlive the call; the kernel only reads them.
        unsafe { self.send_message(&header, segment.is_some()) }
    }

    /// Sends payloads to the connected target in as few calls as possible: equal sizes share a segmented message,
    /// and all messages one `sendmmsg`. Order is kept, nothing is copied; payloads are given back with the borrow.
    ///
    /// A payload that cannot be sent is dropped and counted alone. When the send buffer is full the rest of the
    /// batch is dropped, counted as [`ErrorKind::WouldBlock`].
    pub fn send_batch<P: AsRef<[u8]>>(&mut self, batch: &mut SendBatch, payloads: &[P]) -> SendOutcome {
        let mut outcome = SendOutcome::default();
        let mut rest = payloads;
        while !rest.is_empty() {
            let covered = batch.prepare(rest, self.capabilities.gso);
            let (now, later) = rest.split_at(covered.min(rest.len()));
            self.send_runs(batch, now, &mut outcome);
            if outcome.error == Some(ErrorKind::WouldBlock) {
                self.drop_unsent(later.len(), ErrorKind::WouldBlock, &mut outcome);
                break;
            }
            rest = later;
        }
        outcome
    }

    fn send_runs<P: AsRef<[u8]>>(&mut self, batch: &mut SendBatch, payloads: &[P], outcome: &mut SendOutcome) {
        let mut next = 0;
        while let Some(runs) = batch.runs.get(next..).filter(|runs| !runs.is_empty()) {
            let together = if runs.len() > 1 && self.capabilities.sendmmsg {
                self.send_together(runs, batch.headers.get_mut(next..).unwrap_or_default())
            } else {
                Ok(0)
            };
            match together {
                Ok(sent) if sent > 0 => {
                    for run in runs.iter().take(sent) {
                        self.count_sent(run.count, run.bytes, outcome);
                    }
                    next += sent;
                }
                // Alone, refused, or the first of them failed: that one by itself, then on with the others.
                refusal => {
                    let (Some(run), Some(header)) = (runs.first(), batch.headers.get(next)) else { return };
                    let sent_before = outcome.sent;
                    self.send_run(*run, header.msg_hdr, payloads, outcome);
                    if matches!(refusal, Err(libc::ENOSYS | libc::EPERM)) && outcome.sent > sent_before {
                        // The same message passed by another call: it was the call that was refused.
                        self.capabilities.sendmmsg = false;
                        self.counters.fallback_sendmmsg = 1;
                    }
                    next += 1;
                    if outcome.error == Some(ErrorKind::WouldBlock) {
                        let unsent = batch.runs.iter().skip(next).map(|run| run.count).sum();
                        self.drop_unsent(unsent, ErrorKind::WouldBlock, outcome);
                        return;
                    }
                }
            }
        }
    }

    /// One `sendmmsg`; returns how many messages of `runs` went out, or the errno of the first.
    fn send_together(&mut self, runs: &[Run], headers: &mut [libc::mmsghdr]) -> Result<usize, i32> {
        self.counters.send_calls += 1;
        if self.refuse.sendmmsg {
            return Err(libc::ENOSYS);
        }
        let mut count = runs.len().min(headers.len());
        if self.refuse.gso {
            count = runs.iter().take_while(|run| run.count == 1).count().min(count);
            if count == 0 {
                return Err(libc::EIO);
            }
        }
        // SAFETY: the headers point to iovecs, controls and payloads that the caller of send_batch keeps alive; the
        // kernel reads them and writes only msg_len.
        let result = unsafe { libc::sendmmsg(self.as_raw_fd(), headers.as_mut_ptr(), count as u32, 0) };
        sys::check_count(result)
    }

    fn send_run<P: AsRef<[u8]>>(&mut self, run: Run, header: libc::msghdr, payloads: &[P], outcome: &mut SendOutcome) {
        let payloads = payloads.get(run.first..run.first + run.count).unwrap_or_default();
        // SAFETY: the header was readied by prepare() for these payloads, which are borrowed until we return.
        match unsafe { self.send_message(&header, run.count > 1) } {
            Ok(()) => self.count_sent(run.count, run.bytes, outcome),
            Err(libc::EMSGSIZE) if run.count > 1 => {
                let longest = payloads.first().map_or(0, |payload| payload.as_ref().len());
                let tail = usize::from(payloads.last().is_some_and(|payload| payload.as_ref().len() < longest));
                self.drop_unsent(run.count - tail, ErrorKind::MessageTooLong, outcome);
                self.send_singly(payloads.get(run.count - tail..).unwrap_or_default(), outcome);
            }
            Err(errno) if run.count > 1 && means_no_gso(errno) => {
                let sent_before = outcome.sent;
                self.send_singly(payloads, outcome);
                self.judge_gso(outcome.sent > sent_before);
            }
            Err(errno) => self.drop_unsent(run.count, ErrorKind::from_errno(errno), outcome),
        }
    }

    fn send_singly<P: AsRef<[u8]>>(&mut self, payloads: &[P], outcome: &mut SendOutcome) {
        for (index, payload) in payloads.iter().enumerate() {
            let bytes = payload.as_ref();
            let mut iovec = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            let mut header = sys::empty_message();
            header.msg_iov = &raw mut iovec;
            header.msg_iovlen = 1;
            // SAFETY: the iovec and the payload outlive the call.
            match unsafe { self.send_message(&header, false) } {
                Ok(()) => self.count_sent(1, bytes.len(), outcome),
                Err(libc::EAGAIN) => {
                    self.drop_unsent(payloads.len() - index, ErrorKind::WouldBlock, outcome);
                    return;
                }
                Err(errno) => self.drop_unsent(1, ErrorKind::from_errno(errno), outcome),
            }
        }
    }

    /// One message, by the cheapest call; tried again after an error that may be about an earlier datagram, because
    /// the kernel reports such an error instead of sending.
    ///
    /// # Safety
    /// Everything that `header` points to is alive.
    unsafe fn send_message(&mut self, header: &libc::msghdr, segmented: bool) -> Result<(), i32> {
        let mut reports = 0;
        loop {
            self.counters.send_calls += 1;
            if segmented && self.refuse.gso {
                return Err(libc::EIO);
            }
            let result = if header.msg_iovlen == 1 && header.msg_name.is_null() && header.msg_control.is_null() {
                // SAFETY: a message with one iovec points to it, and that to the payload (caller).
                unsafe { libc::send(self.as_raw_fd(), (*header.msg_iov).iov_base, (*header.msg_iov).iov_len, 0) }
            } else {
                // SAFETY: the caller's promise.
                unsafe { libc::sendmsg(self.as_raw_fd(), header, 0) }
            };
            match sys::check_size(result) {
                Ok(_) => return Ok(()),
                Err(libc::EINTR) => {}
                Err(errno) if reports < 1 && is_report(ErrorKind::from_errno(errno)) => reports += 1,
                Err(errno) => return Err(errno),
            }
        }
    }

    /// After a segmented send failed and its datagrams were sent one by one.
    fn judge_gso(&mut self, singles_passed: bool) {
        if singles_passed {
            self.capabilities.gso = false;
            self.counters.fallback_gso = 1;
        }
    }

    fn count_sent(&mut self, datagrams: usize, bytes: usize, outcome: &mut SendOutcome) {
        outcome.sent += datagrams;
        self.counters.datagrams_sent += datagrams as u64;
        self.counters.bytes_sent += bytes as u64;
    }

    fn drop_unsent(&mut self, datagrams: usize, kind: ErrorKind, outcome: &mut SendOutcome) {
        if datagrams > 0 {
            outcome.fail(datagrams, kind);
            self.counters.send_dropped.add(kind, datagrams as u64);
        }
    }
}

/// Errnos with which kernels and interfaces refuse segmentation. EINVAL is also what kernels before 6.2 say about a
/// segment longer than the MTU, so the datagrams are always tried singly before the socket gives up on it.
fn means_no_gso(errno: i32) -> bool {
    matches!(errno, libc::EIO | libc::EINVAL | libc::ENOPROTOOPT | libc::EOPNOTSUPP)
}
