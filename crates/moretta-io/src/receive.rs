//! Receive buffers: slabs whose parts travel on as `BytesMut` (QUIC), or plain memory that is borrowed (flows).

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

use bytes::BytesMut;

use crate::{
    ErrorKind,
    messages::{Message, Messages, SLOT_BYTES, SLOT_STRIDE},
    socket::UdpSocket,
};

/// Datagrams of equal size from one sender, received as one piece.
#[derive(Debug)]
pub struct ReceivedTrain {
    /// The payloads one behind the other; only the last may be shorter than `segment_size`. Empty means one
    /// datagram of zero bytes.
    pub data: BytesMut,
    /// Bytes per datagram, at least 1.
    pub segment_size: usize,
    /// The sender.
    pub remote: SocketAddr,
    /// The address it was sent to, on sockets opened with packet info; else `None`, the socket's own address.
    pub local: Option<IpAddr>,
    /// ECN bits of the packets (RFC 3168); all packets of a train carry the same.
    pub ecn: u8,
}

/// Receive slabs for QUIC sockets, shared by all such sockets of a worker.
///
/// Each slab takes one train of up to 64 KiB; the train leaves as `BytesMut`, so payloads can be decrypted in place
/// and passed on as slices. A slab is used again when every slice of it is gone; until then a spare one serves. After
/// the first rounds nothing is allocated unless more slices are kept than there are spares.
pub struct ReceiveBatch {
    messages: Messages,
    slabs: Vec<BytesMut>,
    spares: VecDeque<BytesMut>,
    /// The first slots, which the last call used and which need buffers again.
    used: usize,
    slabs_allocated: u64,
}

impl ReceiveBatch {
    /// `trains`: how many messages one system call may return, 1 to 1024; each reserves about 70 KiB.
    pub fn new(trains: usize) -> Self {
        let trains = trains.clamp(1, 1024);
        Self {
            messages: Messages::new(trains, true),
            slabs: (0..trains).map(|_| BytesMut::with_capacity(SLOT_STRIDE)).collect(),
            spares: VecDeque::with_capacity(trains),
            used: trains,
            slabs_allocated: trains as u64,
        }
    }

    /// How many messages one receive call can return.
    pub fn capacity(&self) -> usize {
        self.messages.slots()
    }

    /// Slabs taken from the allocator so far.
    pub fn slabs_allocated(&self) -> u64 {
        self.slabs_allocated
    }

    /// What the last [`UdpSocket::receive`] returned, each train once. Trains not taken are dropped with the next
    /// receive call.
    pub fn drain(&mut self) -> impl Iterator<Item = ReceivedTrain> + '_ {
        self.messages.received.drain(..).zip(self.slabs.iter_mut()).filter_map(|(message, slab)| {
            let data = take(slab, message.bytes);
            let remote = message.remote?;
            (!message.truncated).then(|| ReceivedTrain {
                segment_size: segment_size(&message),
                data,
                remote,
                local: message.meta.local,
                ecn: message.meta.ecn,
            })
        })
    }

    pub(crate) fn receive(&mut self, socket: &mut UdpSocket) -> Result<usize, ErrorKind> {
        self.messages.received.clear();
        for index in 0..self.used {
            self.refill(index);
        }
        let Self { messages, .. } = self;
        let count = messages.slots();
        // SAFETY: refill() armed every slot with a slab that has SLOT_BYTES of spare capacity; slabs are touched
        // only by drain(), after which `used` makes refill() arm them again.
        let result = unsafe { socket.receive_messages(messages, count) };
        self.used = *result.as_ref().unwrap_or(&0);
        result
    }

    /// Gives slot `index` a slab with room for a whole train.
    fn refill(&mut self, index: usize) {
        let Self { messages, slabs, spares, slabs_allocated, .. } = self;
        let Some(slab) = slabs.get_mut(index) else { return };
        slab.clear();
        if !slab.try_reclaim(SLOT_BYTES) {
            // Someone still holds slices of this slab: park it, and take the one parked longest if that is free now.
            let free = spares.front_mut().is_some_and(|oldest| oldest.try_reclaim(SLOT_BYTES));
            let spare = if free { spares.pop_front() } else { None };
            let next = spare.unwrap_or_else(|| {
                *slabs_allocated += 1;
                BytesMut::with_capacity(SLOT_STRIDE)
            });
            if spares.len() == messages.slots() {
                spares.pop_front();
            }
            spares.push_back(std::mem::replace(slab, next));
        }
        // SAFETY: the slab has at least SLOT_BYTES of capacity behind its (zero) length, and stays untouched in
        // `self.slabs` until receive() has returned.
        unsafe { messages.arm(index, slab.as_mut_ptr()) };
    }
}

/// Splits the first `bytes` off a slab that the kernel has just filled.
fn take(slab: &mut BytesMut, bytes: usize) -> BytesMut {
    debug_assert!(bytes <= slab.capacity());
    let bytes = bytes.min(slab.capacity());
    // SAFETY: `bytes` is within capacity, and the kernel initialised that many bytes from the start of the slab: the
    // slot was armed with this slab's pointer while its length was zero, and it has not been changed since.
    unsafe { slab.set_len(bytes) };
    slab.split()
}

fn segment_size(message: &Message) -> usize {
    match message.meta.segment_size {
        Some(size) if size > 0 && size <= message.bytes => size,
        _ => message.bytes.max(1),
    }
}

/// Plain receive buffers for connected target sockets, shared by all of a worker's flows.
///
/// Contents are borrowed, valid until the next receive call; nothing is ever allocated after construction.
pub struct FlowBuffers {
    messages: Messages,
    memory: Vec<u8>,
}

impl FlowBuffers {
    /// `messages`: how many messages one system call may return, 1 to 1024; each reserves about 70 KiB.
    pub fn new(messages: usize) -> Self {
        let messages = messages.clamp(1, 1024);
        Self { messages: Messages::new(messages, false), memory: vec![0; messages * SLOT_STRIDE] }
    }

    /// How many messages one receive call can return.
    pub fn capacity(&self) -> usize {
        self.messages.slots()
    }

    /// What the last [`UdpSocket::receive_flow`] returned: payloads one behind the other and the size of each; only
    /// the last of a slice may be shorter. An empty slice is one datagram of zero bytes. The size is at least 1.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], usize)> + '_ {
        self.messages.received.iter().zip(self.memory.chunks(SLOT_STRIDE)).filter_map(|(message, slot)| {
            let data = slot.get(..message.bytes)?;
            (!message.truncated).then_some((data, segment_size(message)))
        })
    }

    pub(crate) fn receive(&mut self, socket: &mut UdpSocket, limit: usize) -> Result<usize, ErrorKind> {
        self.messages.received.clear();
        let count = limit.clamp(1, self.messages.slots());
        for (index, slot) in self.memory.chunks_mut(SLOT_STRIDE).enumerate().take(count) {
            // SAFETY: each chunk has SLOT_STRIDE > SLOT_BYTES bytes, lives as long as `self`, and is not touched
            // before the receive call below has returned.
            unsafe { self.messages.arm(index, slot.as_mut_ptr()) };
        }
        // SAFETY: the slots up to `count` are armed.
        unsafe { socket.receive_messages(&mut self.messages, count) }
    }
}

pub(crate) fn datagrams(message: &Message) -> u64 {
    (message.bytes.div_ceil(segment_size(message)).max(1)) as u64
}
