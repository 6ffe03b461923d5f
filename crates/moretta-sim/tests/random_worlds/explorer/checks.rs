//! What must hold when a world has come to rest, and when it has ended.

use std::{net::SocketAddr, time::Duration};

use moretta_core::{Command, Counters, Event, Levels, Record, TransportOptions, TunnelToken};
use moretta_proto::limits::Limits;
use moretta_sim::{LinkModel, Stamp, Tally, TargetKind};

use super::{CLEAN_TARGETS, Explorer, milliseconds, raw_address};
use crate::common::{GATEWAY, address, check_books};
use crate::model::Holder;

impl Explorer {
    /// All paths are perfect and nobody does anything: what is owed must come.
    pub(super) fn calm(&mut self) {
        self.world.set_misrouting(self.site, 0);
        let ends: Vec<_> = self.clients.iter().map(|client| client.own).collect();
        for own in ends.into_iter().chain((0..self.raw.len()).map(raw_address)) {
            self.world.set_path(own, address(GATEWAY), &LinkModel::default());
        }
        for raw in &mut self.raw {
            raw.reading = true;
            self.world.peer(raw.id).set_reading(true);
            raw.flush_all(&mut self.world);
        }
        // Longer than any deadline of a request, and than a backed-off probe timeout after three seconds of silence.
        self.world.run_for(Duration::from_secs(40));
        self.observe();
        self.check_answers();
        self.check_streams();
        self.check_probes();
    }

    /// Every request has its answer by now, and none but those that policy allows was granted.
    fn check_answers(&mut self) {
        for (tunnel, it) in &self.model.tunnels {
            match it.holder {
                Holder::Client(index) => {
                    let [opened, refused, closed] = self.count_events(*tunnel, index);
                    assert_eq!(opened + refused, 1, "tunnel {tunnel} is answered once: {it:?}");
                    assert!(closed <= opened, "tunnel {tunnel} ends once: {it:?}");
                    assert!(it.may_open || opened == 0, "tunnel {tunnel} was granted");
                }
                Holder::Raw(index, stream) => {
                    let raw = &self.raw[index];
                    let answered = raw.answered(stream) || raw.ended_by_gateway(&mut self.world, stream);
                    let has_gateway = raw.is_alive(&mut self.world) && raw.was_heard(&mut self.world);
                    let excused = raw.requests[&stream].reset || !has_gateway;
                    assert!(answered || excused, "request {stream} of raw client {index} has no answer: {it:?}");
                    assert!(it.may_open || !raw.accepted(stream), "tunnel {tunnel} was granted");
                }
            }
        }
    }

    /// Streams have credit and a perfect path: everything written on them has arrived.
    fn check_streams(&mut self) {
        for (tunnel, it) in &self.model.tunnels {
            let Holder::Raw(index, stream) = it.holder else { continue };
            let raw = &self.raw[index];
            let request = &raw.requests[&stream];
            let goes_on = raw.accepted(stream)
                && !request.reset
                && raw.is_alive(&mut self.world)
                && (request.over || !raw.ended_by_gateway(&mut self.world, stream));
            if !goes_on || self.drained || !it.reliable || self.targets[&it.target].0 == TargetKind::Refuse {
                continue;
            }
            let held_back = self.world.peer(raw.id).held_back(stream);
            assert_eq!(held_back, 0, "stream {stream} of raw client {index} has no credit for {held_back} bytes");
            let missing = it.up.missing();
            assert!(missing.is_empty(), "tunnel {tunnel}: on its stream {missing:?} did not arrive");
        }
    }

    /// Tunnels that are open carry.
    fn check_probes(&mut self) {
        let mut probes = Vec::new();
        for (tunnel, it) in &self.model.tunnels {
            let is_open = match it.holder {
                Holder::Client(index) => self.count_events(*tunnel, index)[..] == [1, 0, 0],
                Holder::Raw(index, stream) => {
                    let raw = &self.raw[index];
                    let is_alive = raw.is_alive(&mut self.world) && !raw.requests[&stream].over;
                    is_alive && raw.accepted(stream) && !raw.ended_by_gateway(&mut self.world, stream)
                }
            };
            let is_clean = it.target.port() <= 7000 + u16::from(CLEAN_TARGETS);
            if is_open && is_clean && self.targets[&it.target].0 == TargetKind::Echo {
                probes.push(*tunnel);
            }
        }
        for tunnel in probes {
            // After a move a gateway may send three times what it got until the path is validated (RFC 9000 §9.3.1), and
            // a quiet client gives it little: one that asks some more is answered.
            let answered = (0..6).any(|attempt| self.probe(tunnel, milliseconds(300) * (1 << attempt)));
            assert!(answered, "tunnel {tunnel} is dead: {:?}", self.model.tunnels[&tunnel].holder);
        }
    }

    /// Whether a datagram goes to the target and comes back in this time.
    fn probe(&mut self, tunnel: u64, time: Duration) -> bool {
        self.serial += 1;
        let serial = self.serial;
        let payload = Stamp { tunnel, serial }.payload(100);
        match self.model.tunnels[&tunnel].holder {
            Holder::Client(index) => {
                self.model.offer_up(tunnel, serial);
                assert!(
                    self.world.send(self.clients[index].id, TunnelToken(tunnel), &payload),
                    "tunnel {tunnel} is open"
                );
                self.clients[index].sent += 1;
            }
            Holder::Raw(index, stream) => {
                self.raw_sends(index, stream, tunnel, serial, &payload);
                self.raw[index].flush_all(&mut self.world);
            }
        }
        self.world.run_for(time);
        self.observe();
        let it = &self.model.tunnels[&tunnel];
        !it.up.missing().contains(&serial) && !it.down.missing().contains(&serial)
    }

    /// Everybody leaves, in good order or in silence, and nothing is left of them.
    pub(super) fn die(&mut self) {
        for client in &self.clients {
            self.world.command_client(client.id, Command::CloseGateway(client.gateway));
        }
        for index in 0..self.raw.len() {
            if self.random.chance(500) {
                let now = self.world.instant_after(Duration::ZERO);
                self.world.peer(self.raw[index].id).close(now, 0x100);
            } else {
                let silence = LinkModel { loss_per_mille: 1000, ..LinkModel::default() };
                self.world.set_path(raw_address(index), address(GATEWAY), &silence);
            }
        }
        self.world.run_for(Limits::default().idle_timeout + TransportOptions::default().idle_timeout * 2);
        self.observe();
        let nothing = Levels { timers: 1, ..Levels::default() };
        for levels in self.world.gateway_levels(self.site).unwrap() {
            assert_eq!(levels, nothing, "a slot of the gateway kept something");
        }
        for client in &self.clients {
            assert_eq!(self.world.client_levels(client.id).unwrap(), nothing, "a client kept something");
        }
        assert_eq!(self.world.gateway_load(self.site), (0, 0, 0));
        assert_eq!(self.world.counted_tunnels(self.site), 0, "the ledger");
        assert_eq!(self.world.counted_connections(self.site), 0, "the count of connections");
        for (tunnel, it) in &self.model.tunnels {
            if let Holder::Client(index) = it.holder {
                let [opened, refused, closed] = self.count_events(*tunnel, index);
                assert_eq!((opened + refused, closed), (1, opened), "tunnel {tunnel}: {it:?}");
            }
        }
        self.check_counters();
        self.check_records();
    }

    fn check_counters(&mut self) {
        let gateway = self.world.gateway_counters(self.site);
        check_books("gateway", &gateway);
        assert_eq!(gateway.tunnels_opened, gateway.tunnels_closed, "{gateway:?}");
        assert_eq!(gateway.connections_accepted, gateway.connections_closed, "{gateway:?}");
        assert_eq!(gateway.closed_http_errors, 0, "nobody broke HTTP/3: {gateway:?}");
        let [mut there, mut back] = [Tally::default(); 2];
        for client in &self.clients {
            let counters = self.world.client_counters(client.id);
            check_books("client", &counters);
            assert_eq!(counters.datagrams_from_flows, client.sent, "what applications sent: {counters:?}");
            assert_eq!(counters.datagrams_to_flows, client.received, "what applications got: {counters:?}");
            assert_eq!(counters.tunnels_opened, counters.tunnels_closed, "{counters:?}");
            assert_eq!(counters.closed_http_errors, 0, "{counters:?}");
            let [sent, got] = self.tallies(client.own);
            assert_eq!(sent.sent, sent_in_datagrams(&counters), "a client on the wire: {sent:?}, {counters:?}");
            check_arrival("a client", &got, &counters);
            there.add(&sent);
            back.add(&got);
        }
        for index in 0..self.raw.len() {
            let [sent, got] = self.tallies(raw_address(index));
            there.add(&sent);
            back.add(&got);
        }
        assert_eq!(back.sent, sent_in_datagrams(&gateway), "the gateway on the wire: {back:?}, {gateway:?}");
        check_arrival("the gateway", &there, &gateway);

        let gateway_host = self.world.host_of(address(GATEWAY)).unwrap();
        let [mut offered, mut arrived, mut reached] = [0; 3];
        for target in self.targets.keys() {
            let host = self.world.host_of(*target).unwrap();
            let there = self.world.network.link_counters(gateway_host, host);
            let back = self.world.network.link_counters(host, gateway_host);
            offered += there.offered;
            arrived += there.arrived;
            reached += back.arrived - back.unreachable;
        }
        assert_eq!(gateway.datagrams_to_flows, offered, "what the gateway sent is on the wire: {gateway:?}");
        assert_eq!(self.model.at_targets, arrived, "what arrived was seen");
        let read = gateway.datagrams_from_flows + self.world.unread_by_flows(self.site);
        assert_eq!(read, reached, "what reached sockets was read or counted: {gateway:?}");
    }

    /// DATAGRAM frames from a near end and towards it.
    fn tallies(&self, own: SocketAddr) -> [Tally; 2] {
        let host = self.world.host_of(own).unwrap();
        [true, false].map(|from_client| self.world.network.tally(host, from_client))
    }

    /// Records come in pairs, and what they say adds up to what the counters say.
    fn check_records(&self) {
        let gateway = self.world.gateway_counters(self.site);
        let [mut opened, mut closed, mut passed] = [0; 3];
        for record in self.world.records(self.site) {
            match record {
                Record::Opened(_) => opened += 1,
                Record::Refused(_) => {}
                Record::Closed(record) => {
                    closed += 1;
                    passed += record.counters.client_to_target.datagrams;
                }
            }
        }
        assert_eq!((opened, closed), (gateway.tunnels_opened, gateway.tunnels_closed));
        assert_eq!(passed, gateway.datagrams_to_flows + gateway.up_dropped_no_flow, "{gateway:?}");
    }

    fn count_events(&self, tunnel: u64, client: usize) -> [usize; 3] {
        let mut counts = [0; 3];
        for event in self.world.events(self.clients[client].id) {
            match event {
                Event::TunnelOpened { tunnel: TunnelToken(of), .. } if *of == tunnel => counts[0] += 1,
                Event::TunnelRefused { tunnel: TunnelToken(of), .. } if *of == tunnel => counts[1] += 1,
                Event::TunnelClosed { tunnel: TunnelToken(of), .. } if *of == tunnel => counts[2] += 1,
                Event::TunnelOpened { .. }
                | Event::TunnelRefused { .. }
                | Event::TunnelClosed { .. }
                | Event::GatewayConnected { .. }
                | Event::GatewayFailed { .. }
                | Event::GatewayClosed { .. }
                | Event::Drained => {}
            }
        }
        counts
    }
}

/// What arrived on the wire was taken, all of it: nothing is lost in between.
fn check_arrival(side: &str, tally: &Tally, counters: &Counters) {
    let taken = counters.datagrams_from_peer - counters.datagrams_from_capsules;
    let may_be = tally.arrived..=tally.arrived + tally.uncertain;
    assert!(may_be.contains(&taken), "{side} took {taken} datagrams: {tally:?}, {counters:?}");
}

/// DATAGRAM frames that the library has really sent.
fn sent_in_datagrams(counters: &Counters) -> u64 {
    counters.datagrams_to_peer - counters.datagrams_to_peer_lost_mtu_shrank - counters.datagrams_to_peer_lost_at_close
}
