//! One turn: what happens in which order, how much of it, and what a panic costs.
//!
//! The order is: control, packets that arrived, HTTP events and admissions (flow batches fill as they are
//! found), timers, and last of all transmission, per connection a train of streams and then one of datagrams. Only lists
//! of what has something to do are walked.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use moretta_h3::{Role as HttpRole, code};
use moretta_proto::Now;
use moretta_proto::error::EndReason;
use quinn_proto::{ConnectionEvent, ConnectionHandle, EndpointEvent, Event as QuicEvent};

use crate::address::{self, PeerAddress};
use crate::connection::{Connection, DrainStage, End, Parts, Stage};
use crate::core::{Core, flow_id};
use crate::endpoint::Role;
use crate::input::Train;
use crate::output::{Action, Outputs, Wake};
use crate::store::Key;
use crate::timer::Owner;
use crate::transmit::Progress;

/// Packets decrypted in one turn, all connections together: about 2 ms of work.
const PACKETS_PER_TURN: usize = 4096;
/// No connection gets fewer than this of its inbox, however many there are.
const PACKETS_PER_CONNECTION: usize = 64;
/// Handshakes begun in one turn: each costs about as much as 300 packets.
const ACCEPTS_PER_TURN: usize = 4;
/// Bytes handed out in one turn: what the kernel takes in about a millisecond.
const SENT_BYTES_PER_TURN: usize = 2 * 1024 * 1024;
/// Timers handled in one turn.
const TIMERS_PER_TURN: usize = 4096;
/// Tunnels decided or timed out in one turn.
const TUNNEL_STEPS_PER_TURN: usize = 256;
/// Datagrams for which there was no tunnel yet, kept until the end of the turn.
pub(crate) const STRAYS_PER_TURN: usize = 64;
/// No server takes a first packet that is smaller (RFC 9000 §14.1).
const FIRST_PACKET_BYTES: u64 = 1200;
/// How long a client has for its handshake: a half-open connection costs as much as an open one.
const HANDSHAKE_TIME: std::time::Duration = std::time::Duration::from_secs(10);
/// A connection that is over is forgotten after this time, although its endpoint has not drained it; the library's own
/// time is three probe timeouts (RFC 9000 §10.2).
const FORGET_TIME: std::time::Duration = std::time::Duration::from_secs(10);
/// Connections that are over are forgotten together, with one wake-up for all whose time comes within this.
const FORGET_STEP: std::time::Duration = std::time::Duration::from_millis(10);
/// How often used address tokens are looked through.
const FORGET_TOKENS_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

impl Core {
    /// Does what is due, within its budget, and appends to `out`.
    pub fn turn(&mut self, now: Now, out: &mut Outputs) -> Wake {
        self.counters.turns += 1;
        self.turn += 1;
        self.quic.set_time(now);
        out.actions.append(&mut self.pending);
        self.flush_answers(out);
        self.forward_newborn(out);

        let mut cut_short = self.fire_timers(now);
        cut_short |= self.accept_waiting(now);
        cut_short |= self.serve_connections(now, out);
        cut_short |= self.serve_tunnels(now, out);
        self.serve_gateways(now, out);
        cut_short |= self.recheck_tunnels(now, out);
        self.advance_drain(now, out);
        cut_short |= self.send(now, out);
        self.finish_drain(out);

        self.flush_answers(out);
        out.actions.append(&mut self.pending);
        for key in self.resumable.drain(..) {
            out.actions.push(Action::ResumeFlow { flow: flow_id(key) });
        }
        self.wake(now, cut_short)
    }

    fn wake(&mut self, now: Now, cut_short: bool) -> Wake {
        let handled = self.counters.datagrams_from_peer + self.counters.datagrams_from_flows;
        let gap = self.coalescer.note(now.instant, handled - self.datagrams_before);
        self.datagrams_before = handled;
        let again_now = cut_short
            || !self.dirty.is_empty()
            || !self.tunnel_work.is_empty()
            || !self.gateway_work.is_empty()
            || !self.newborn.is_empty()
            || !self.sending.is_empty();
        if cut_short {
            self.counters.turns_cut_short += 1;
        }
        let not_before = gap.filter(|_| !again_now).map(|gap| now.instant + gap);
        if not_before.is_some() {
            self.counters.turns_coalesced += 1;
        }
        Wake { again_now, not_before, at: self.timers.next() }
    }

    fn fire_timers(&mut self, now: Now) -> bool {
        for _ in 0..TIMERS_PER_TURN {
            match self.timers.pop_due(now.instant) {
                None => return false,
                Some(Owner::Connection(key)) => self.mark(key),
                Some(Owner::Tunnel(key)) => self.mark_tunnel(key),
                Some(Owner::Gateway(key)) => self.mark_gateway(key),
                // Looked at in every turn.
                Some(Owner::Drain) => {}
            }
        }
        self.timers.next().is_some_and(|at| at <= now.instant)
    }

    /// Begins handshakes, a few at a time.
    fn accept_waiting(&mut self, now: Now) -> bool {
        if now.instant >= self.forget_tokens_at {
            self.forget_tokens_at = now.instant + FORGET_TOKENS_EVERY;
            self.quic.shared().token_log.forget_expired(std::time::UNIX_EPOCH + now.unix);
        }
        for _ in 0..ACCEPTS_PER_TURN {
            let Some((key, incoming)) = self.waiting.pop() else { return false };
            let address_validated = incoming.remote_address_validated();
            if address_validated {
                self.counters.connections_address_validated += 1;
            }
            let mut buffer = self.answer_buffer();
            let Some(endpoint) = self.endpoints.get_mut(key) else { continue };
            let Role::Listener(listener) = &endpoint.role else { continue };
            let (link, listener) = (endpoint.link, listener.clone());
            // The error holds an answer by value; it is boxed to cross the closure.
            let accept = || endpoint.quic.accept(incoming, now.instant, &mut buffer, None).map_err(Box::new);
            let accepted = catch_unwind(AssertUnwindSafe(accept));
            self.return_answer_buffer(buffer);
            match accepted {
                Ok(Ok((handle, quic))) => {
                    self.counters.connections_accepted += 1;
                    self.half_open += 1;
                    let key = self.add_connection(now, key, handle, quic, End::Server(listener));
                    if let Some(connection) = self.connections.get_mut(key)
                        && !address_validated
                    {
                        // The library counts all but the first packet.
                        let received = FIRST_PACKET_BYTES + connection.quic.stats().udp_rx.bytes;
                        connection.address = PeerAddress::claimed(connection.remote, received);
                    }
                }
                Ok(Err(error)) => {
                    self.counters.failed_first_packets += 1;
                    if let Some(transmit) = error.response {
                        self.answer(link, &transmit);
                    }
                }
                Err(_panic) => self.rebuild_endpoint(key),
            }
        }
        self.waiting.len() > 0
    }

    /// Takes a connection of the library in.
    pub(crate) fn add_connection(
        &mut self,
        now: Now,
        endpoint: Key,
        handle: ConnectionHandle,
        quic: quinn_proto::Connection,
        end: End,
    ) -> Key {
        let http_role = match &end {
            End::Server(_) => HttpRole::Server,
            End::Client(_) => HttpRole::Client,
        };
        // A gateway's attempts have deadlines of their own.
        let mut give_up_at = None;
        if matches!(end, End::Server(_)) {
            self.quic.shared().connections.add();
            give_up_at = Some(now.instant + HANDSHAKE_TIME);
        }
        self.live_connections += 1;
        let http = self.new_http(http_role);
        let limits = &self.snapshot.proto.limits;
        let capsule_bytes = limits.capsule_assembly_bytes;
        let timers = &mut self.timers;
        let key = self.connections.insert_with(|key| {
            let timer = timers.register(Owner::Connection(key));
            Box::new(Connection::new(Parts {
                key,
                endpoint,
                handle,
                quic,
                http,
                end,
                timer,
                capsule_bytes,
                give_up_at,
            }))
        });
        if let Some(endpoint) = self.endpoints.get_mut(endpoint) {
            endpoint.attach(handle, key);
        }
        self.mark(key);
        key
    }

    fn serve_connections(&mut self, now: Now, out: &mut Outputs) -> bool {
        let round = self.dirty.len();
        let budget = (PACKETS_PER_TURN / round.max(1)).max(PACKETS_PER_CONNECTION);
        for _ in 0..round {
            let Some(key) = self.dirty.pop_front() else { break };
            self.guarded(key, now, out, |core, connection, out| {
                connection.dirty = false;
                core.serve(connection, now, budget, out);
            });
            self.mark_sending(key);
        }
        !self.dirty.is_empty()
    }

    /// Decisions and timeouts of tunnels.
    fn serve_tunnels(&mut self, now: Now, out: &mut Outputs) -> bool {
        let round = self.tunnel_work.len().min(TUNNEL_STEPS_PER_TURN);
        for _ in 0..round {
            let Some(key) = self.tunnel_work.pop_front() else { break };
            let Some(connection) = self.tunnels.get(key).map(|tunnel| tunnel.connection) else { continue };
            self.guarded(connection, now, out, |core, connection, out| core.step_tunnel(connection, key, now, out));
            self.mark_sending(connection);
        }
        !self.tunnel_work.is_empty()
    }

    /// Runs `work` on a connection. A panic ends that connection and nothing else.
    pub(crate) fn guarded<R>(
        &mut self,
        key: Key,
        now: Now,
        out: &mut Outputs,
        work: impl FnOnce(&mut Self, &mut Connection, &mut Outputs) -> R,
    ) -> Option<R> {
        let mut connection = self.connections.lend(key)?;
        // What a panic leaves half done is the connection, which is dropped, and queues and counters of this core, which
        // hold no invariant across its calls that a missing connection breaks.
        let result = catch_unwind(AssertUnwindSafe(|| work(self, &mut connection, out)));
        match result {
            Ok(result) => {
                self.connections.put_back(key, connection);
                Some(result)
            }
            Err(_panic) => {
                self.counters.panicked_connections += 1;
                self.abandon(connection, now, EndReason::InternalError, out);
                None
            }
        }
    }

    /// Forgets a connection without a word to its peer, which learns it from a stateless reset.
    fn abandon(&mut self, mut connection: Box<Connection>, now: Now, reason: EndReason, out: &mut Outputs) {
        let (key, endpoint, handle) = (connection.key, connection.endpoint, connection.handle);
        self.inbox_packets -= connection.inbox.len();
        connection.inbox.clear();
        self.end_all_tunnels(&mut connection, now, reason, out);
        self.connection_gone(&mut connection);
        if let Some(endpoint) = self.endpoints.get_mut(endpoint) {
            // After a rebuild the handle may name another connection.
            if endpoint.connection(handle) == Some(key) {
                let told = || endpoint.quic.handle_event(handle, EndpointEvent::drained());
                drop(catch_unwind(AssertUnwindSafe(told)));
                endpoint.detach(handle, key);
            }
        }
        self.timers.release(connection.timer);
        self.connections.forget_lent(key);
        // Dropping what panicked may panic again.
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(connection)));
        drop(dropped);
    }

    /// Sorts a train; a panic of the endpoint costs its connections and nothing else.
    pub(crate) fn guarded_train(&mut self, now: Now, train: Train) {
        let link = train.link;
        if catch_unwind(AssertUnwindSafe(|| self.handle_train(now, train))).is_err()
            && let Some(&endpoint) = self.links.get(&link)
        {
            self.rebuild_endpoint(endpoint);
        }
    }

    /// Replaces an endpoint that panicked. Its connections are marked and found abandoned in the next turn.
    fn rebuild_endpoint(&mut self, key: Key) {
        self.counters.panicked_endpoints += 1;
        for incoming in self.waiting.take_of(key) {
            // The endpoint that should be told is the one that panicked; its counts go with it.
            drop(incoming);
        }
        let Some(endpoint) = self.endpoints.get_mut(key) else { return };
        let connections = endpoint.all_connections();
        self.quic.rebuild(endpoint);
        for key in connections {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.orphaned = true;
            }
            self.mark(key);
        }
    }

    /// Everything that arrived for one connection.
    fn serve(&mut self, connection: &mut Connection, now: Now, budget: usize, out: &mut Outputs) {
        if connection.orphaned {
            self.lose_orphan(connection, now, out);
            return;
        }
        connection.last_read = None;
        self.decrypt(connection, now, budget, out);
        if connection.quic.poll_timeout().is_some_and(|at| at <= now.instant) {
            connection.quic.handle_timeout(now.instant);
        }
        self.library_events(connection, now, out);
        if connection.give_up_at.is_some_and(|at| at <= now.instant) {
            self.give_up(connection, now, out);
        }
        if connection.http.poll_timeout().is_some_and(|at| at <= now.instant) {
            connection.http.handle_timeout(now.instant);
            connection.http_dirty = true;
        }
        self.stray_datagrams(connection, now, out);
        if connection.quic.remote_address() != connection.remote {
            connection.remote = connection.quic.remote_address();
            self.counters.connections_migrated += 1;
        }
        self.follow_limits(connection, out);
        self.count_lost_early(connection);
    }

    /// Datagrams that HTTP/3 held and has dropped since: they waited too long, or their request was refused.
    /// Those that a connection held at its end are counted with it.
    fn count_lost_early(&mut self, connection: &mut Connection) {
        if connection.stage == Stage::Closed {
            return;
        }
        let held = connection.http.early_datagrams() as u64;
        self.counters.up_dropped_early += connection.held_datagrams.saturating_sub(held);
        connection.held_datagrams = held;
    }

    /// A handshake that takes too long, or a connection that is over and that the library does not let go of, as one
    /// whose first packet was its last.
    fn give_up(&mut self, connection: &mut Connection, now: Now, out: &mut Outputs) {
        connection.give_up_at = None;
        match connection.stage {
            Stage::Handshaking => {
                self.counters.failed_handshakes += 1;
                self.close_connection(connection, now, code::H3_NO_ERROR, "", out);
            }
            Stage::Closed if !connection.drained => {
                if let Some(endpoint) = self.endpoints.get_mut(connection.endpoint) {
                    endpoint.quic.handle_event(connection.handle, EndpointEvent::drained());
                }
                connection.drained = true;
            }
            Stage::Open | Stage::Closed => {}
        }
    }

    /// Hands packets of the inbox to the library, and takes the datagrams out after each: no packet holds more of them
    /// than the library's buffer does, so that it never drops any.
    fn decrypt(&mut self, connection: &mut Connection, now: Now, budget: usize, out: &mut Outputs) {
        for _ in 0..budget {
            let Some(event) = connection.inbox.pop_front() else { break };
            self.inbox_packets -= 1;
            address::hand_over(connection, event);
            while let Some(datagram) = connection.quic.datagrams().recv() {
                self.datagram_from_peer(connection, now, datagram, out);
            }
        }
        if connection.inbox.is_empty() {
            let inbox = std::mem::take(&mut connection.inbox);
            self.return_inbox(inbox);
        } else {
            connection.dirty = true;
            self.dirty.push_back(connection.key);
        }
    }

    /// Everything that the library has to say about a connection, to its endpoint and to us.
    pub(crate) fn library_events(&mut self, connection: &mut Connection, now: Now, out: &mut Outputs) {
        loop {
            self.endpoint_events(connection);
            let Some(event) = connection.quic.poll() else { break };
            match event {
                QuicEvent::Connected => self.established(connection, now, out),
                QuicEvent::ConnectionLost { reason } => self.connection_lost(connection, now, &reason, out),
                QuicEvent::Stream(event) if connection.stage != Stage::Closed => {
                    self.handle_stream_event(connection, now, &event, out);
                }
                // Datagrams are taken after every packet, and never wait to be sent.
                QuicEvent::Stream(_)
                | QuicEvent::HandshakeDataReady
                | QuicEvent::DatagramReceived
                | QuicEvent::DatagramsUnblocked => {}
            }
        }
    }

    pub(crate) fn endpoint_events(&mut self, connection: &mut Connection) {
        while let Some(event) = connection.quic.poll_endpoint_events() {
            let Some(endpoint) = self.endpoints.get_mut(connection.endpoint) else { return };
            connection.drained |= event.is_drained();
            let answer: Option<ConnectionEvent> = endpoint.quic.handle_event(connection.handle, event);
            if let Some(answer) = answer {
                connection.quic.handle_event(answer);
            }
        }
    }

    fn established(&mut self, connection: &mut Connection, now: Now, out: &mut Outputs) {
        if connection.stage != Stage::Handshaking {
            return;
        }
        self.counters.connections_established += 1;
        if matches!(connection.end, End::Server(_)) {
            self.half_open -= 1;
            // Who can finish a handshake has received its messages (RFC 9000 §8.1). Until now there was one address.
            connection.address.prove(connection.address.known());
        }
        connection.stage = Stage::Open;
        connection.give_up_at = None;
        connection.http.start();
        connection.http_dirty = true;
        if connection.drain == DrainStage::Not && self.drain.is_some() {
            Self::announce_drain(connection, now);
        }
        // At once: the peer's SETTINGS may be in the same packets, and datagrams are allowed once ours are on their way.
        self.http_output(connection, now, out);
        self.follow_limits(connection, out);
    }

    /// Sends what connections have, one streams-and-datagrams pass each in turns, until nobody has more or the turn has
    /// sent enough.
    fn send(&mut self, now: Now, out: &mut Outputs) -> bool {
        let mut enough = false;
        while let Some(key) = self.sending.pop_front() {
            if out.sent_bytes() >= SENT_BYTES_PER_TURN {
                self.sending.push_front(key);
                enough = true;
                break;
            }
            let more = self.guarded(key, now, out, |core, connection, out| {
                connection.sending = false;
                core.send_one(connection, now, out)
            });
            match more {
                Some(AfterSend::More) => self.mark_sending(key),
                Some(AfterSend::Drained) => self.remove_connection(key, now, out),
                Some(AfterSend::Done) | None => {}
            }
        }
        enough
    }

    fn send_one(&mut self, connection: &mut Connection, now: Now, out: &mut Outputs) -> AfterSend {
        if connection.drained {
            return AfterSend::Drained;
        }
        if connection.stage == Stage::Closed && connection.give_up_at.is_none() {
            connection.give_up_at = Some(now.instant + FORGET_TIME);
        }
        self.capsule_replies(connection, now);
        self.http_output(connection, now, out);
        let progress = if connection.silent { Progress::Done } else { self.transmit(connection, now.instant, out) };
        self.finish_emptied_tunnels(connection);
        let was_open = connection.stage == Stage::Open;
        self.continue_drain(connection, now, out);
        self.library_events(connection, now, out);
        // What was closed just now says goodbye in this turn, which may be the driver's last.
        let closed_now = was_open && connection.stage == Stage::Closed;
        self.resume_flows(connection);
        let is_open = connection.stage == Stage::Open;
        let http = connection.http.poll_timeout().filter(|_| is_open);
        let goaway = connection.second_goaway_at.filter(|_| is_open);
        let at = [connection.quic.poll_timeout(), http, goaway, connection.give_up_at].into_iter().flatten().min();
        // Nobody waits for the library to let go of a connection that is over.
        let at = at.map(|at| if connection.stage == Stage::Closed { self.end_of_step(at) } else { at });
        self.timers.set(connection.timer, at);
        if connection.drained {
            AfterSend::Drained
        } else if progress == Progress::Sent || closed_now || connection.http_dirty && connection.stage == Stage::Open {
            AfterSend::More
        } else {
            AfterSend::Done
        }
    }

    /// The end of the step of [`FORGET_STEP`] that a time is in, counted from the core's beginning.
    fn end_of_step(&self, at: Instant) -> Instant {
        let into_step = at.saturating_duration_since(self.began).as_nanos() % FORGET_STEP.as_nanos();
        at + FORGET_STEP.saturating_sub(std::time::Duration::from_nanos(into_step as u64))
    }

    fn remove_connection(&mut self, key: Key, now: Now, out: &mut Outputs) {
        let Some(mut connection) = self.connections.remove(key) else { return };
        self.inbox_packets -= connection.inbox.len();
        self.end_all_tunnels(&mut connection, now, EndReason::ConnectionLost, out);
        self.connection_gone(&mut connection);
        if let Some(endpoint) = self.endpoints.get_mut(connection.endpoint) {
            endpoint.detach(connection.handle, key);
        }
        self.timers.release(connection.timer);
        self.close_empty_endpoint(connection.endpoint);
    }
}

/// What is left after a pass.
enum AfterSend {
    More,
    Done,
    Drained,
}
