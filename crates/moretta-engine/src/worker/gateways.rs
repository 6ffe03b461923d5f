//! Gateways of a client: their sockets, and the families of addresses that are tried one after the other.
//!
//! A core tries all addresses of one family on one socket. A name that has addresses of both families gets two attempts
//! here, and what is asked of the gateway meanwhile waits for the one that may be the last.

use super::links::LinkUse;
use super::{Gateway, Worker, link_key};
use crate::border::lock;
use crate::document::{self, Event};
use crate::mailbox::GatewayRequest;
use moretta_core::{Command, GatewayId, Input, LinkId, Now, OpenGateway, OpenUdp, TunnelToken};
use moretta_io::{ErrorKind, Interest, OpenError, ReportedError, SocketOptions, Trigger, UdpSocket};
use moretta_wire::template::UriTemplate;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

/// What is left to try.
#[derive(Debug)]
pub(super) struct Attempts {
    /// Addresses of one family each, the best first.
    families: VecDeque<Vec<SocketAddr>>,
    bind: Option<SocketAddr>,
    server_name: String,
    tls: Arc<rustls::ClientConfig>,
    template: UriTemplate,
    deadline: Instant,
    /// Asked for while there is another attempt to come.
    held: Vec<OpenUdp>,
}

impl Worker {
    pub(super) fn open_gateway(&mut self, request: GatewayRequest, now: Now) {
        let GatewayRequest { gateway, remotes, bind, server_name, tls, template, deadline } = request;
        let families = families(remotes, bind);
        let attempts = Attempts { families, bind, server_name, tls, template, deadline, held: Vec::new() };
        let known = Gateway {
            links: Vec::new(),
            started: now.instant,
            handshake: None,
            pings: Vec::new(),
            attempts: Some(attempts),
            only_remote: None,
            refused: false,
        };
        self.shell.gateways.insert(gateway, known);
        if !self.try_gateway(gateway, now) {
            self.gateway_failed(gateway, "no_usable_address", "the gateway has no address of the family asked for");
        }
    }

    /// Begins the next attempt; false when none is left.
    fn try_gateway(&mut self, gateway: u64, now: Now) -> bool {
        let Some(known) = self.shell.gateways.get_mut(&gateway) else { return false };
        let Some(attempts) = &mut known.attempts else { return false };
        let Some(remotes) = attempts.families.pop_front() else { return false };
        known.refused = false;
        known.only_remote = if let [only] = remotes.as_slice() { Some(*only) } else { None };
        // Each family gets an equal share of the time that is left.
        let left = attempts.deadline.saturating_duration_since(now.instant);
        let share = left / u32::try_from(attempts.families.len() + 1).unwrap_or(1);
        let v6 = remotes.first().is_some_and(SocketAddr::is_ipv6);
        let bind = attempts.bind.unwrap_or_else(|| any(v6));
        let (server_name, tls) = (attempts.server_name.clone(), Arc::clone(&attempts.tls));
        let template = attempts.template.clone();
        let link = match self.open_client_link(gateway, bind) {
            Ok(link) => link,
            Err(error) => {
                if !self.try_gateway(gateway, now) {
                    let words = format!("{error}: choose another local address, or none");
                    self.gateway_failed(gateway, "link_failed", &words);
                }
                return true;
            }
        };
        if let Some(known) = self.shell.gateways.get_mut(&gateway) {
            known.links = vec![link];
        }
        let deadline = now.instant + share;
        let open = OpenGateway { gateway: GatewayId(gateway), link, remotes, server_name, tls, template, deadline };
        self.command(Command::OpenGateway(open), now);
        let known = self.shell.gateways.get(&gateway);
        if known.and_then(|known| known.attempts.as_ref()).is_some_and(|attempts| attempts.families.is_empty()) {
            self.release_held(gateway, now);
        }
        true
    }

    /// No other attempt will follow: what waited goes to the core.
    pub(super) fn release_held(&mut self, gateway: u64, now: Now) {
        let attempts = self.shell.gateways.get_mut(&gateway).and_then(|known| known.attempts.take());
        for open in attempts.into_iter().flat_map(|attempts| attempts.held) {
            self.command(Command::OpenUdp(open), now);
        }
    }

    /// The attempt of the core has failed; true if another one has begun.
    pub(super) fn try_again(&mut self, gateway: u64, now: Now) -> bool {
        let Some(known) = self.shell.gateways.get_mut(&gateway) else { return false };
        let links = std::mem::take(&mut known.links);
        let is_in_time = known.attempts.as_ref().is_some_and(|attempts| now.instant < attempts.deadline);
        self.close_links(&links);
        is_in_time && self.try_gateway(gateway, now)
    }

    fn open_client_link(&mut self, gateway: u64, bind: SocketAddr) -> Result<LinkId, OpenError> {
        let socket = UdpSocket::open_client(bind, &SocketOptions::quic())?;
        let link = self.shell.instance.new_link();
        self.shell
            .poller
            .register(socket.as_fd(), link_key(link), Interest::Readable, Trigger::Level)
            .map_err(|kind| OpenError { operation: moretta_io::Operation::Create, kind, address: Some(bind) })?;
        self.shell.instance.add_own_socket(socket.local_address());
        self.shell.links.insert(link, LinkUse::Gateway(gateway), socket);
        Ok(link)
    }

    fn close_links(&mut self, links: &[LinkId]) {
        let instance = &self.shell.instance;
        self.shell.links.close(|link| {
            let over = links.contains(&link.id);
            if over {
                instance.remove_own_socket(link.socket.local_address());
            }
            over
        });
    }

    /// A report about a packet that was sent on a client's link. What ICMP says about a QUIC path proves nothing
    /// (RFC 9000 section 14.2.1), so it is only counted, except that nobody should wait for the timeout where the one
    /// address there is says that nothing listens: an attempt that has no answer yet is given up.
    pub(super) fn link_reported(&mut self, id: LinkId, error: &ReportedError, now: Now) {
        let Some(LinkUse::Gateway(gateway)) = self.shell.links.get_mut(id).map(|link| link.usage) else { return };
        let Some(known) = self.shell.gateways.get_mut(&gateway) else { return };
        let is_refused = error.kind == ErrorKind::ConnectionRefused && error.remote == known.only_remote;
        if is_refused && known.only_remote.is_some() && known.handshake.is_none() {
            known.refused = true;
            let detail = "nothing listens there".to_owned();
            self.core.handle(now, Input::LinkError { link: id, detail });
        }
    }

    /// Asks for a tunnel, or keeps the question while there is another attempt to come.
    pub(super) fn open_udp(&mut self, open: OpenUdp, now: Now) {
        let GatewayId(gateway) = open.gateway;
        match self.shell.gateways.get_mut(&gateway) {
            Some(Gateway { attempts: Some(attempts), .. }) => attempts.held.push(open),
            Some(_) => self.command(Command::OpenUdp(open), now),
            None => self.refuse_tunnel(open.tunnel, "gateway_closed", "the gateway's connection has ended", now),
        }
    }

    /// Ends a tunnel, be it one that the core has not heard of.
    pub(super) fn end_tunnel(&mut self, command: Command, now: Now) {
        if let Command::FinishTunnel(tunnel) | Command::ResetTunnel(tunnel) = &command {
            let tunnel = *tunnel;
            let mut held = self.shell.gateways.values_mut().filter_map(|known| known.attempts.as_mut());
            if held.any(|attempts| attempts.held.extract_if(.., |open| open.tunnel == tunnel).next().is_some()) {
                return self.refuse_tunnel(tunnel, "request_cancelled", "given up before it was asked for", now);
            }
        }
        self.command(command, now);
    }

    pub(super) fn close_gateway(&mut self, gateway: u64, now: Now) {
        self.refuse_held(gateway, "closed", "the gateway was closed", now);
        self.command(Command::CloseGateway(GatewayId(gateway)), now);
    }

    /// There is no further attempt, and what waited for one is refused.
    fn refuse_held(&mut self, gateway: u64, reason: &str, error: &str, now: Now) {
        let attempts = self.shell.gateways.get_mut(&gateway).and_then(|known| known.attempts.take());
        let held: Vec<TunnelToken> =
            attempts.into_iter().flat_map(|attempts| attempts.held).map(|open| open.tunnel).collect();
        for tunnel in held {
            self.refuse_tunnel(tunnel, reason, error, now);
        }
    }

    /// A gateway that never connected.
    pub(super) fn gateway_failed(&mut self, gateway: u64, reason: &str, error: &str) {
        self.refuse_held(gateway, reason, error, super::now());
        self.shell.forget_gateway(gateway);
        lock(&self.shell.instance.registry).gateways.remove(&gateway);
        self.shell.instance.border.push(Event::GatewayFailed(document::GatewayFailed {
            gateway,
            reason: reason.to_owned(),
            error: error.to_owned(),
        }));
        // There will be no `gateway_closed`.
        self.shell.instance.border.release(1);
    }

    /// A gateway is no more: its front ends end with it.
    pub(super) fn gateway_gone(&mut self, gateway: u64, now: Now) {
        self.shell.forget_gateway(gateway);
        lock(&self.shell.instance.registry).gateways.remove(&gateway);
        self.close_forwards_of(gateway, now);
    }

    pub(super) fn close_forwards_of(&mut self, gateway: u64, now: Now) {
        let forwards: Vec<u64> = self
            .shell
            .forwards
            .iter()
            .filter(|forward| forward.request.gateway == gateway)
            .map(|forward| forward.request.forward)
            .collect();
        for forward in forwards {
            self.close_forward(forward, "gateway_closed", now);
        }
    }

    /// The connection goes on from a new socket; the one before it stays open for packets on their way, the one before
    /// that closes.
    pub(super) fn rebind(&mut self, gateway: u64, bind: Option<IpAddr>, now: Now) {
        let Some(known) = self.shell.gateways.get(&gateway) else { return };
        let Some(latest) = known.links.last().copied() else { return };
        let Some(v6) = self.shell.links.get_mut(latest).map(|link| link.socket.local_address().is_ipv6()) else {
            return;
        };
        let bind = bind.map_or_else(|| any(v6), |address| SocketAddr::new(address, 0));
        // Without a new socket the connection stays where it is.
        let Ok(link) = self.open_client_link(gateway, bind) else { return };
        let Some(known) = self.shell.gateways.get_mut(&gateway) else { return };
        known.links.push(link);
        let oldest = (known.links.len() > 2).then(|| known.links.remove(0));
        self.command(Command::Rebind { gateway: GatewayId(gateway), link }, now);
        if let Some(oldest) = oldest {
            let detail = "replaced by a newer socket".to_owned();
            self.core.handle(now, Input::LinkError { link: oldest, detail });
            self.close_links(&[oldest]);
        }
    }

    pub(super) fn ping(&mut self, gateway: u64, ping: u64, now: Now) {
        let path = self.core.gateway_path(GatewayId(gateway));
        let known = self.shell.gateways.get_mut(&gateway).filter(|known| known.handshake.is_some());
        if let (Some(known), Some(path)) = (known, path) {
            known.pings.push((ping, path.acknowledgements));
            self.shell.pings += 1;
            self.command(Command::Ping(GatewayId(gateway)), now);
        } else {
            let failed = document::PongFailed { gateway, ping, reason: "gateway_not_connected".into() };
            self.shell.instance.border.push(Event::PongFailed(failed));
        }
    }

    /// Answers pings whose packet has been acknowledged.
    pub(super) fn answer_pings(&mut self) {
        if self.shell.pings == 0 {
            return;
        }
        for (id, known) in &mut self.shell.gateways {
            let Some(path) = self.core.gateway_path(GatewayId(*id)) else { continue };
            let handshake = known.handshake.unwrap_or_default();
            for (ping, _) in known.pings.extract_if(.., |(_, before)| path.acknowledgements > *before) {
                self.shell.pings -= 1;
                self.shell.instance.border.push(Event::Pong(document::Pong {
                    gateway: *id,
                    ping,
                    round_trip_seconds: path.round_trip.as_secs_f64(),
                    handshake_seconds: handshake.as_secs_f64(),
                }));
            }
        }
    }
}

/// Addresses by family, in the order of each family's best one; only one family fits a given local address.
fn families(remotes: Vec<SocketAddr>, bind: Option<SocketAddr>) -> VecDeque<Vec<SocketAddr>> {
    let mut families: VecDeque<Vec<SocketAddr>> = VecDeque::new();
    for remote in remotes {
        if bind.is_some_and(|bind| bind.is_ipv6() != remote.is_ipv6()) {
            continue;
        }
        let same = |family: &&mut Vec<SocketAddr>| family.first().is_some_and(|one| one.is_ipv6() == remote.is_ipv6());
        match families.iter_mut().find(same) {
            Some(family) => family.push(remote),
            None => families.push_back(vec![remote]),
        }
    }
    families
}

fn any(v6: bool) -> SocketAddr {
    let ip = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    SocketAddr::new(ip, 0)
}
