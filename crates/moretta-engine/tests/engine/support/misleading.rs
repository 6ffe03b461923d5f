//! A middlebox that leads the kernel's steering astray: it sends a packet for one worker behind an old packet of another
//! one, as a single train. The kernel looks at the first packet of a train and gives all of it to that one's worker.

use moretta_io::{Events, Interest, OutgoingTrain, Poller, ReceiveBatch, SocketOptions, Trigger, UdpSocket};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The low bits of octet 0 of a connection ID that name the slot.
const SLOT: u8 = 0x1f;

/// Relays between clients and one gateway, each client from a socket of its own.
pub struct Misleading {
    /// Where clients connect.
    pub address: SocketAddr,
    misled: Arc<AtomicU64>,
    powerless: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Relay {
    gateway: SocketAddr,
    front: UdpSocket,
    clients: Vec<(SocketAddr, UdpSocket)>,
    /// The longest packet so far for each slot. Its connection knows it for a duplicate, whoever sends it again.
    longest: HashMap<u8, Vec<u8>>,
    misled: Arc<AtomicU64>,
    powerless: Arc<AtomicBool>,
}

impl Misleading {
    pub fn start(gateway: SocketAddr) -> Self {
        let front = UdpSocket::open_client("127.0.0.1:0".parse().unwrap(), &SocketOptions::quic()).unwrap();
        let address = front.local_address();
        let (misled, powerless, stop) = (Arc::default(), Arc::default(), Arc::default());
        let stopped = Arc::clone(&stop);
        let relay = Relay {
            gateway,
            front,
            clients: Vec::new(),
            longest: HashMap::new(),
            misled: Arc::clone(&misled),
            powerless: Arc::clone(&powerless),
        };
        let thread = std::thread::spawn(move || relay.run(&stopped));
        Self { address, misled, powerless, stop, thread: Some(thread) }
    }

    /// Packets that the kernel gave to the wrong worker so far.
    pub fn misled(&self) -> u64 {
        self.misled.load(Ordering::SeqCst)
    }

    /// Where the kernel takes no trains (no generic segmentation offload), each packet is steered by itself.
    pub fn is_powerless(&self) -> bool {
        self.powerless.load(Ordering::SeqCst)
    }
}

impl Drop for Misleading {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Relay {
    fn run(mut self, stopped: &AtomicBool) {
        let poller = Poller::new().unwrap();
        poller.register(self.front.as_fd(), 0, Interest::Readable, Trigger::Level).unwrap();
        let mut events = Events::with_capacity(16);
        let mut batch = ReceiveBatch::new(8);
        while !stopped.load(Ordering::SeqCst) {
            poller.wait(&mut events, Some(Duration::from_millis(20))).unwrap();
            while self.front.receive(&mut batch).unwrap_or(0) > 0 {
                for train in batch.drain() {
                    let client = self.client(train.remote, &poller);
                    for packet in train.data.chunks(train.segment_size) {
                        self.pass_on(client, packet);
                    }
                }
            }
            for (client, socket) in &mut self.clients {
                while socket.receive(&mut batch).unwrap_or(0) > 0 {
                    for train in batch.drain() {
                        send(&mut self.front, *client, Some(train.segment_size), &train.data);
                    }
                }
            }
        }
    }

    fn client(&mut self, address: SocketAddr, poller: &Poller) -> usize {
        if let Some(known) = self.clients.iter().position(|(client, _)| *client == address) {
            return known;
        }
        let socket = UdpSocket::open_client("127.0.0.1:0".parse().unwrap(), &SocketOptions::quic()).unwrap();
        poller.register(socket.as_fd(), 1, Interest::Readable, Trigger::Level).unwrap();
        self.clients.push((address, socket));
        self.clients.len() - 1
    }

    fn pass_on(&mut self, client: usize, packet: &[u8]) {
        let (gateway, socket) = (self.gateway, &mut self.clients[client].1);
        let is_long = packet[0] & 0x80 != 0;
        let slot = packet[1] & SLOT;
        let other = self.longest.iter().find(|(other, longest)| **other != slot && longest.len() >= packet.len());
        match other {
            Some((_, first)) if !is_long => {
                send(socket, gateway, Some(first.len()), &[first, packet].concat());
                self.misled.fetch_add(1, Ordering::SeqCst);
                self.powerless.fetch_or(socket.counters().fallback_gso > 0, Ordering::SeqCst);
            }
            _ => send(socket, gateway, None, packet),
        }
        if !is_long && self.longest.get(&slot).is_none_or(|longest| longest.len() < packet.len()) {
            self.longest.insert(slot, packet.to_vec());
        }
    }
}

fn send(socket: &mut UdpSocket, remote: SocketAddr, segment_size: Option<usize>, data: &[u8]) {
    socket.send_train(&OutgoingTrain { remote: Some(remote), local: None, ecn: 0, segment_size, data });
}
