//! What several tests need: a deadline instead of sleeps, and a flow with its target.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    net::SocketAddr,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use bytes::Bytes;
use moretta_io::{
    Events, FlowBuffers, Interest, OutgoingTrain, PollEvent, Poller, ReceiveBatch, SendBatch, SocketOptions, Trigger,
    UdpSocket,
};

const DEADLINE: Duration = Duration::from_secs(10);

/// Waits until `fd` has an event; fails the test at the deadline.
pub(crate) fn readable(fd: &impl AsFd) -> PollEvent {
    let poller = Poller::new().unwrap();
    poller.register(fd.as_fd(), 1, Interest::Readable, Trigger::Level).unwrap();
    let mut events = Events::with_capacity(1);
    let end = Instant::now() + DEADLINE;
    loop {
        let left = end.checked_duration_since(Instant::now()).expect("nothing arrived in time");
        poller.wait(&mut events, Some(left)).unwrap();
        if let Some(event) = events.iter().next() {
            return event;
        }
    }
}

pub(crate) fn ipv6_available() -> bool {
    let available = std::net::UdpSocket::bind("[::1]:0").is_ok();
    if !available {
        println!("IPv6 part skipped: this host has no [::1]");
    }
    available
}

/// Payloads of these sizes, each with bytes of its own.
pub(crate) fn payloads(sizes: &[usize]) -> Vec<Bytes> {
    let payload = |(index, size): (usize, &usize)| (0..*size).map(|byte| (byte * 7 + index) as u8).collect();
    sizes.iter().enumerate().map(payload).collect()
}

/// A flow connected to a target, which answers it.
pub(crate) struct Link {
    pub(crate) flow: UdpSocket,
    pub(crate) target: UdpSocket,
}

impl Link {
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::open_with(address, &SocketOptions::target())
    }

    pub(crate) fn open_with(address: SocketAddr, options: &SocketOptions) -> Self {
        let target = UdpSocket::open_listener(address, &SocketOptions::quic()).unwrap();
        let flow = UdpSocket::open_connected(target.local_address(), None, options).unwrap();
        Self { flow, target }
    }

    pub(crate) fn target_sends(&mut self, payloads: &[Bytes]) {
        for payload in payloads {
            let remote = Some(self.flow.local_address());
            let train = OutgoingTrain { remote, local: None, ecn: 0, segment_size: None, data: payload };
            assert_eq!(self.target.send_train(&train).sent, 1);
        }
    }

    pub(crate) fn flow_sends(&mut self, payloads: &[Bytes]) {
        assert_eq!(self.flow.send_batch(&mut SendBatch::new(), payloads).sent, payloads.len());
    }

    /// The next `count` datagrams at the target.
    pub(crate) fn target_receives(&mut self, count: usize) -> Vec<Bytes> {
        receive_at(&mut self.target, count)
    }

    /// The next `count` datagrams at the flow.
    pub(crate) fn flow_receives(&mut self, count: usize) -> Vec<Bytes> {
        let mut buffers = FlowBuffers::new(4);
        let mut received = Vec::new();
        while received.len() < count {
            readable(&self.flow);
            self.flow.receive_flow(&mut buffers, 4).unwrap();
            for (data, segment_size) in buffers.iter() {
                split(data, segment_size, &mut received);
            }
        }
        received
    }
}

/// The next `count` datagrams at an unconnected socket.
pub(crate) fn receive_at(socket: &mut UdpSocket, count: usize) -> Vec<Bytes> {
    let mut batch = ReceiveBatch::new(8);
    let mut received = Vec::new();
    while received.len() < count {
        readable(socket);
        socket.receive(&mut batch).unwrap();
        for train in batch.drain() {
            split(&train.data, train.segment_size, &mut received);
        }
    }
    received
}

fn split(data: &[u8], segment_size: usize, received: &mut Vec<Bytes>) {
    if data.is_empty() {
        received.push(Bytes::new());
    }
    received.extend(data.chunks(segment_size).map(Bytes::copy_from_slice));
}
