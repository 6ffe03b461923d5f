//! Tunnels and their flows: the way of a datagram in both directions.

use std::time::Instant;

use bytes::{Buf, Bytes};
use moretta_h3::DatagramRoute;
use moretta_proto::Now;
use moretta_proto::error::{DropReason, EndReason};
use moretta_proto::tunnel::udp::{Outgoing, TargetError, UdpTunnel, Verdict};
use moretta_wire::capsule;
use moretta_wire::datagram::{ContextId, MAX_UDP_PAYLOAD_BYTES, Prefix, split_quarter_stream_id};

use crate::admission::Applicant;
use crate::connection::Connection;
use crate::core::{CORE_QUEUE_BYTES, Core, flow_id, flow_key};
use crate::http::Reading;
use crate::ids::{FlowId, TunnelId};
use crate::input::FlowError;
use crate::output::{Action, Outputs};
use crate::queue::{PushedOut, TunnelQueue};
use crate::request::Request;
use crate::store::Key;
use crate::timer::TimerId;
use crate::turn::STRAYS_PER_TURN;

/// Bytes of capsules that wait in HTTP/3 for stream credit before more are taken from a tunnel's queue, where the
/// oldest can still be dropped.
pub(crate) const CAPSULE_HIGH_WATER: usize = 16 * 1024;
/// Bytes of a stream that are held for a request that is not decided; more is not read.
pub(crate) const HELD_BYTES: usize = 4096;
/// The driver sends before it acts: what a turn opens has nowhere to put that turn's payloads.
const NO_BATCH: usize = usize::MAX;

/// One request for a tunnel, from its arrival (or our sending it) to the tunnel's end.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) id: TunnelId,
    pub(crate) connection: Key,
    pub(crate) stream: u64,
    /// Goes before every payload towards the peer.
    pub(crate) prefix: Prefix,
    /// There once the request is answered with 2xx.
    pub(crate) machine: Option<UdpTunnel>,
    pub(crate) side: Side,
    pub(crate) flow: Option<Key>,
    /// Stream bytes that came before the request was decided.
    pub(crate) held: Vec<Bytes>,
    pub(crate) held_bytes: usize,
    /// The peer's side of the stream ended before the request was decided.
    pub(crate) held_fin: bool,
    /// Towards the peer.
    pub(crate) queue: TunnelQueue,
    pub(crate) in_ready: bool,
    pub(crate) in_capsule_ready: bool,
    pub(crate) in_work: bool,
    /// What was decided where the connection was not at hand.
    pub(crate) intent: Option<Intent>,
    /// FIN follows once the queue is empty.
    pub(crate) finishing: bool,
    pub(crate) timer: TimerId,
    /// The turn of the last batch towards the flow, and its number in the outputs; [`NO_BATCH`] in the turn in which the
    /// flow was opened.
    batch: (u64, usize),
}

/// Which end of the tunnel we are.
#[derive(Debug)]
pub(crate) enum Side {
    Server(Box<Applicant>),
    Client(Box<Request>),
}

/// To be done with the connection at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// The machine has ended for this reason.
    End(EndReason),
    /// In good order, for this reason.
    Finish(EndReason),
}

/// Where a tunnel's datagrams go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) tunnel: Key,
    /// Its share was 0 when the driver asked; it waits to be resumed.
    pub(crate) paused: bool,
}

impl Tunnel {
    pub(crate) fn new(id: TunnelId, connection: Key, stream: u64, side: Side, timer: TimerId) -> Self {
        Self {
            id,
            connection,
            stream,
            prefix: Prefix::new(stream, ContextId::UDP_PAYLOAD),
            machine: None,
            side,
            flow: None,
            held: Vec::new(),
            held_bytes: 0,
            held_fin: false,
            queue: TunnelQueue::default(),
            in_ready: false,
            in_capsule_ready: false,
            in_work: false,
            intent: None,
            finishing: false,
            timer,
            batch: (0, 0),
        }
    }

    /// The actions of this turn open a flow for it.
    pub(crate) fn flow_opens(&mut self, flow: Key, turn: u64) {
        self.flow = Some(flow);
        self.batch = (turn, NO_BATCH);
    }

    pub(crate) fn count_drops(&mut self, reason: DropReason, datagrams: u64) {
        if let Some(machine) = &mut self.machine {
            machine.count_drops(reason, datagrams);
        }
    }

    /// The largest UDP payload that fits a datagram of `max` bytes.
    pub(crate) fn max_payload(&self, max_datagram: Option<usize>) -> usize {
        max_datagram.map_or(0, |max| max.saturating_sub(self.prefix.as_slice().len()))
    }

    /// What the application of a client tunnel may send at most: capsules carry every UDP payload.
    pub(crate) fn announced_payload(&self, max_datagram: Option<usize>) -> usize {
        match &self.machine {
            Some(machine) if machine.replies_in_capsules() => MAX_UDP_PAYLOAD_BYTES,
            Some(_) | None => self.max_payload(max_datagram),
        }
    }
}

impl Core {
    /// Peer → tunnel. Hot: no allocation, no copy.
    #[inline]
    pub(crate) fn datagram_from_peer(
        &mut self,
        connection: &mut Connection,
        now: Now,
        mut datagram: Bytes,
        out: &mut Outputs,
    ) {
        self.counters.datagrams_from_peer += 1;
        // H3D-11, H3D-12, H3D-13.
        let Ok((stream, used)) = split_quarter_stream_id(&datagram) else {
            self.counters.up_dropped_bad_quarter_stream_id += 1;
            connection.http.handle_bad_datagram();
            connection.http_dirty = true;
            return;
        };
        datagram.advance(used);
        let tunnel = connection.tunnels.find(stream).filter(|_| connection.datagrams);
        match tunnel {
            Some(key) if self.tunnels.get(key).is_some_and(|tunnel| tunnel.machine.is_some()) => {
                self.payload_from_peer(connection, key, now, datagram, out);
            }
            // Its request may stand in the same packet: looked at again after the streams.
            _ if connection.strays.len() < STRAYS_PER_TURN => {
                connection.strays.push((stream, Bytes::copy_from_slice(&datagram)));
            }
            _ => self.counters.up_dropped_no_tunnel += 1,
        }
    }

    /// Judges one HTTP Datagram of a tunnel and forwards its payload.
    #[inline]
    fn payload_from_peer(
        &mut self,
        connection: &mut Connection,
        key: Key,
        now: Now,
        mut datagram: Bytes,
        out: &mut Outputs,
    ) {
        let Some(machine) = self.tunnels.get_mut(key).and_then(|tunnel| tunnel.machine.as_mut()) else { return };
        match machine.from_peer_datagram(&datagram) {
            Verdict::Forward { offset } => {
                datagram.advance(offset);
                machine.on_activity(now);
                self.forward_to_flow(key, datagram, out);
            }
            Verdict::Drop(_) => self.counters.up_dropped_by_tunnel += 1,
            Verdict::End(reason) => {
                self.counters.up_dropped_by_tunnel += 1;
                self.end_tunnel(connection, key, now, reason, out);
            }
        }
    }

    /// Adds a payload to this turn's batch of the tunnel's flow.
    #[inline]
    pub(crate) fn forward_to_flow(&mut self, key: Key, payload: Bytes, out: &mut Outputs) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let Some(flow) = tunnel.flow else {
            self.counters.up_dropped_no_flow += 1;
            tunnel.count_drops(DropReason::SocketError, 1);
            return;
        };
        if tunnel.batch.0 != self.turn {
            tunnel.batch = (self.turn, out.open_batch(flow_id(flow)));
        } else if tunnel.batch.1 == NO_BATCH {
            self.newborn.push((key, payload));
            return;
        }
        self.counters.datagrams_to_flows += 1;
        self.counters.bytes_to_flows += payload.len() as u64;
        out.push_payload(tunnel.batch.1, payload);
    }

    /// What the last turn had for the flows that it opened: with an answer that opens a tunnel, datagrams and capsules
    /// may come in one packet.
    pub(crate) fn forward_newborn(&mut self, out: &mut Outputs) {
        let mut newborn = std::mem::take(&mut self.newborn);
        for (key, payload) in newborn.drain(..) {
            if self.tunnels.get(key).is_some() {
                self.forward_to_flow(key, payload, out);
            } else {
                self.counters.up_dropped_no_flow += 1;
            }
        }
        self.newborn = newborn;
    }

    /// Datagrams that found no tunnel before this turn's stream events: for a request that came since, for one that is
    /// being decided (held by HTTP/3, bounded), or for nothing.
    pub(crate) fn stray_datagrams(&mut self, connection: &mut Connection, now: Now, out: &mut Outputs) {
        if connection.strays.is_empty() {
            return;
        }
        let mut strays = std::mem::take(&mut connection.strays);
        for (stream, payload) in strays.drain(..) {
            match connection.http.route_datagram(now.instant, stream, &payload) {
                DatagramRoute::Deliver => match connection.tunnels.find(stream) {
                    Some(key) => self.payload_from_peer(connection, key, now, payload, out),
                    None => self.counters.up_dropped_no_tunnel += 1,
                },
                DatagramRoute::Held => connection.held_datagrams += 1,
                DatagramRoute::Dropped(_) | DatagramRoute::AbortedStream | DatagramRoute::ClosedConnection => {
                    self.counters.up_dropped_no_tunnel += 1;
                }
            }
        }
        connection.http_dirty = true;
        connection.strays = strays;
        self.http_events(connection, now, out);
    }

    /// How much of a request stream may be read now.
    pub(crate) fn reading(&self, connection: &mut Connection, stream: u64) -> Reading {
        const UNIDIRECTIONAL: u64 = 0b10;
        if stream & UNIDIRECTIONAL != 0 {
            return Reading::Everything;
        }
        let tunnel = connection.tunnels.find(stream).and_then(|key| self.tunnels.get(key));
        match tunnel {
            Some(tunnel) if tunnel.machine.is_some() => Reading::Everything,
            // A client's tunnel is decided by what is read.
            Some(Tunnel { side: Side::Server(_), held_bytes, held_fin, .. })
                if *held_bytes >= HELD_BYTES || *held_fin =>
            {
                Reading::NothingNow
            }
            Some(_) | None => Reading::ALittle,
        }
    }

    /// Bytes of a tunnel's data stream (RFC 9297 §3.1).
    pub(crate) fn stream_data(
        &mut self,
        connection: &mut Connection,
        now: Now,
        stream: u64,
        bytes: &Bytes,
        out: &mut Outputs,
    ) {
        // Content of other requests, and of refused ones, is not wanted: RFC 9297 §3.2 (CAP-24).
        let Some(key) = connection.tunnels.find(stream) else { return };
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let Some(machine) = &mut tunnel.machine else {
            // A copy: a slice would pin the slab of a whole train until the request is decided.
            tunnel.held_bytes += bytes.len();
            tunnel.held.push(Bytes::copy_from_slice(bytes));
            return;
        };
        let mut found = std::mem::take(&mut self.found_payloads);
        let skipped = machine.counters().drops.get(DropReason::CapsuleTooLarge);
        let read = machine.from_peer_stream(bytes, &connection.capsule_budget, &mut |payload| found.push(payload));
        // Skipped capsules carry nothing: they keep no tunnel alive.
        if !found.is_empty() {
            machine.on_activity(now);
        }
        // What ICMP said about a path expires, and nobody tells when.
        if machine.counters().drops.get(DropReason::CapsuleTooLarge) > skipped
            && let Some(flow) = tunnel.flow
        {
            out.actions.push(Action::ReadFlowPath { flow: flow_id(flow) });
        }
        for payload in found.drain(..) {
            self.counters.datagrams_from_peer += 1;
            self.counters.datagrams_from_capsules += 1;
            self.forward_to_flow(key, payload, out);
        }
        self.found_payloads = found;
        if let Err(reason) = read {
            self.end_tunnel(connection, key, now, reason, out);
        }
    }

    /// Flow → tunnel: one copy, into the form in which it leaves.
    pub(crate) fn handle_flow(&mut self, now: Now, flow: FlowId, data: &[u8], segment_size: usize) {
        let segment = if segment_size == 0 || segment_size > data.len() { data.len().max(1) } else { segment_size };
        let Some(key) = self.flows.get(flow_key(flow)).map(|flow| flow.tunnel) else {
            self.counters.stale_flow_inputs += 1;
            return;
        };
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let Some(connection) = self.connections.get_mut(tunnel.connection) else { return };
        let limit = self.snapshot.proto.limits.tunnel_queue_bytes;
        let max_payload = tunnel.max_payload(connection.max_datagram);
        let mut rest = data;
        loop {
            let (payload, after) = rest.split_at_checked(segment).unwrap_or((rest, &[]));
            rest = after;
            self.counters.datagrams_from_flows += 1;
            self.counters.bytes_from_flows += payload.len() as u64;
            let Some(machine) = tunnel.machine.as_mut().filter(|_| !tunnel.finishing) else {
                self.counters.down_dropped_closed += 1;
                if rest.is_empty() {
                    break;
                }
                continue;
            };
            let ready = match machine.to_peer(payload.len(), max_payload) {
                Outgoing::Datagram => Some(true),
                Outgoing::Capsule => Some(false),
                Outgoing::Drop(DropReason::TooLargeForPath) => {
                    self.counters.down_dropped_too_large += 1;
                    None
                }
                Outgoing::Drop(_) => {
                    self.counters.down_dropped_closed += 1;
                    None
                }
            };
            if let Some(in_datagrams) = ready {
                if self.queued_bytes >= CORE_QUEUE_BYTES {
                    machine.count_drops(DropReason::Shed, 1);
                    self.counters.down_dropped_core_full += 1;
                } else {
                    let datagram = self.arena.write(tunnel.prefix.as_slice(), payload);
                    let cost = TunnelQueue::cost(&datagram);
                    self.spare_queues.lend(&mut tunnel.queue);
                    let out = tunnel.queue.push(datagram, now.instant, limit);
                    if out.datagrams > 0 {
                        let reason = if in_datagrams { DropReason::QueueFull } else { DropReason::NoStreamCredit };
                        machine.count_drops(reason, out.datagrams);
                        self.counters.down_dropped_queue_full += out.datagrams;
                    }
                    connection.queued_bytes = (connection.queued_bytes + cost).saturating_sub(out.bytes);
                    self.queued_bytes = (self.queued_bytes + cost).saturating_sub(out.bytes);
                    if in_datagrams && !tunnel.in_ready {
                        tunnel.in_ready = true;
                        connection.ready.push_back(key);
                    } else if !in_datagrams && !tunnel.in_capsule_ready {
                        tunnel.in_capsule_ready = true;
                        connection.capsule_ready.push(key);
                    }
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        if let Some(machine) = &mut tunnel.machine {
            machine.on_activity(now);
        }
        let connection = tunnel.connection;
        self.mark_sending(connection);
    }

    /// A socket error ends nothing by itself; the machine knows what the profile wants (C-19).
    pub(crate) fn handle_flow_error(&mut self, flow: FlowId, error: FlowError) {
        let Some(&Flow { tunnel: key, .. }) = self.flows.get(flow_key(flow)) else {
            self.counters.stale_flow_inputs += 1;
            return;
        };
        let (error, lost) = match error {
            FlowError::Unreachable => {
                self.counters.flow_errors_unreachable += 1;
                (TargetError::Refused, 0)
            }
            FlowError::TooLarge => {
                self.counters.flow_errors_too_large += 1;
                (TargetError::TooLarge, 1)
            }
            FlowError::Overloaded => {
                self.counters.flow_errors_overloaded += 1;
                (TargetError::Full, 1)
            }
            FlowError::Refused | FlowError::Closed | FlowError::Other(_) => {
                self.counters.flow_errors_other += 1;
                (TargetError::Other, 1)
            }
        };
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        if let Some(reason) = tunnel.machine.as_mut().and_then(|machine| machine.on_target_error(error, lost)) {
            tunnel.intent = Some(Intent::End(reason));
            self.mark_tunnel(key);
        }
    }

    /// Puts what waits for stream credit into DATAGRAM capsules (RFC 9297 §3.5). What HTTP/3 cannot hand to QUIC stays
    /// in the queue, where it grows old and is dropped.
    pub(crate) fn capsule_replies(&mut self, connection: &mut Connection, now: Now) {
        let mut at = 0;
        while let Some(&key) = connection.capsule_ready.get(at) {
            let left = match self.tunnels.get_mut(key) {
                None => false,
                Some(tunnel) => {
                    let stale = tunnel.queue.drop_stale(now.instant, self.snapshot.proto.limits.tunnel_queue_time);
                    if stale.datagrams > 0 {
                        tunnel.count_drops(DropReason::NoStreamCredit, stale.datagrams);
                        self.counters.down_dropped_stale += stale.datagrams;
                    }
                    let written = write_capsules(connection, tunnel);
                    self.counters.datagrams_to_peer_in_capsules += written.datagrams;
                    let gone = stale.bytes + written.bytes;
                    connection.queued_bytes = connection.queued_bytes.saturating_sub(gone);
                    self.queued_bytes = self.queued_bytes.saturating_sub(gone);
                    self.spare_queues.take_back(&mut tunnel.queue);
                    tunnel.in_capsule_ready = !tunnel.queue.is_empty();
                    tunnel.in_capsule_ready
                }
            };
            if left {
                at += 1;
            } else {
                connection.capsule_ready.swap_remove(at);
            }
        }
    }

    /// Drops everything that waits in a tunnel's queue.
    pub(crate) fn drop_queue(&mut self, connection: &mut Connection, tunnel: &mut Tunnel) {
        let mut dropped = 0;
        let bytes = tunnel.queue.bytes();
        while tunnel.queue.pop().is_some() {
            dropped += 1;
        }
        connection.queued_bytes = connection.queued_bytes.saturating_sub(bytes);
        self.queued_bytes = self.queued_bytes.saturating_sub(bytes);
        self.counters.down_dropped_at_close += dropped;
        tunnel.count_drops(DropReason::TunnelFinished, dropped);
    }

    /// The next deadline of a tunnel's machine.
    pub(crate) fn arm_tunnel(&mut self, key: Key, at: Option<Instant>) {
        if let Some(tunnel) = self.tunnels.get(key) {
            self.timers.set(tunnel.timer, at);
        }
    }
}

/// Moves datagrams from a tunnel's queue into one DATA frame of capsules.
fn write_capsules(connection: &mut Connection, tunnel: &mut Tunnel) -> PushedOut {
    let mut written = PushedOut::default();
    let queued = connection.http.queued_bytes(tunnel.stream);
    let room = CAPSULE_HIGH_WATER.saturating_sub(queued);
    let prefix_bytes = tunnel.prefix.as_slice().len();
    let mut capsules = Vec::new();
    while capsules.len() < room {
        let Some(datagram) = tunnel.queue.pop() else { break };
        written.datagrams += 1;
        written.bytes += TunnelQueue::cost(&datagram);
        let payload = datagram.get(prefix_bytes..).unwrap_or_default();
        capsule::write_datagram(ContextId::UDP_PAYLOAD, payload, &mut capsules);
    }
    if !capsules.is_empty() {
        // Fails only once our side is over; then the tunnel is about to end and its queue with it.
        let _over = connection.http.send_data(tunnel.stream, capsules.into(), false);
        connection.http_dirty = true;
    }
    written
}
