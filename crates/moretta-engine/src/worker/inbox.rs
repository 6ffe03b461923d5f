//! What other threads ask of a worker.

use super::links::LinkUse;
use super::{Gateway, KEY_FORWARD, KEY_KIND_SHIFT, Local, LocalEnd, Worker, link_key};
use crate::document::{self, Event};
use crate::frontend::{Forward, ForwardRequest};
use crate::mailbox::{GatewayRequest, ListenerSocket, Message};
use moretta_core::{Command, FlowKind, GatewayId, Input, LinkId, Now, OpenGateway, OpenUdp, QueryId, TunnelToken};
use moretta_io::{ErrorKind, Interest, OpenError, SocketOptions, Trigger, UdpSocket};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

impl Worker {
    /// Takes everything that waits: messages in their order, then tunnels whose applications have sent.
    pub(super) fn take_inbox(&mut self, now: Now) {
        let mut messages = std::mem::take(&mut self.messages);
        self.shell.mailbox.take_messages(&mut messages);
        for message in messages.drain(..) {
            self.take_message(message, now);
        }
        self.messages = messages;
        let mut notified = std::mem::take(&mut self.notified);
        self.shell.mailbox.take_notified(&mut notified);
        for token in notified.drain(..) {
            // Without a flow its datagrams wait in the queue until there is one.
            let local = self.shell.locals.get(&TunnelToken(token));
            if let Some(flow) = local.and_then(|local| local.flow) {
                self.shell.flows.make_ready(flow);
            }
        }
        self.notified = notified;
        self.sweep_forwards(now);
    }

    fn take_message(&mut self, message: Message, now: Now) {
        match message {
            Message::Snapshot { snapshot, add, remove } => {
                self.core.handle(now, Input::Snapshot(snapshot));
                for listener in add {
                    self.add_listener(listener, now);
                }
                for link in remove {
                    self.remove_listener(link, now);
                }
            }
            Message::OpenGateway(request) => self.open_gateway(*request, now),
            Message::OpenUdp { gateway, queue, host, port, deadline } => {
                let tunnel = TunnelToken(queue.token());
                self.shell.locals.insert(tunnel, Local { end: LocalEnd::Application(queue), flow: None });
                if self.shell.gateways.contains_key(&gateway) {
                    self.command(
                        Command::OpenUdp(OpenUdp {
                            gateway: GatewayId(gateway),
                            tunnel,
                            flow_kind: FlowKind::Local { tunnel },
                            host,
                            port,
                            deadline,
                        }),
                        now,
                    );
                } else {
                    self.refuse_tunnel(tunnel, "gateway_closed", "the gateway's connection has ended");
                }
            }
            Message::FinishTunnel(tunnel) => self.command(Command::FinishTunnel(TunnelToken(tunnel)), now),
            Message::ResetTunnel(tunnel) => self.command(Command::ResetTunnel(TunnelToken(tunnel)), now),
            Message::CloseGateway(gateway) => self.command(Command::CloseGateway(GatewayId(gateway)), now),
            Message::Rebind { gateway, bind } => self.rebind(gateway, bind, now),
            Message::Forward(request) => self.open_forward(request, now),
            Message::CloseForward(forward) => self.close_forward(forward, "closed", now),
            Message::Ping { gateway, ping } => self.ping(gateway, ping, now),
            Message::Resolved { query, result } => {
                self.core.handle(now, Input::Resolved { query: QueryId(query), result });
            }
            Message::Drain { deadline } => {
                self.shell.draining = true;
                self.command(Command::Drain { deadline }, now);
            }
            Message::Close => {
                self.shell.closing = Some(now.instant + super::CLOSE_TIME);
                self.shell.drained = false;
                self.command(Command::Close, now);
            }
            Message::Stats(answer) => {
                // Whoever asked may have given up waiting.
                drop(answer.try_send(self.stats()));
            }
        }
    }

    pub(super) fn command(&mut self, command: Command, now: Now) {
        self.core.handle(now, Input::Command(command));
    }

    fn add_listener(&mut self, listener: ListenerSocket, now: Now) {
        let ListenerSocket { link, name, loopback, socket } = listener;
        if let Some(socket) = socket {
            let key = link_key(link);
            if let Err(kind) = self.shell.poller.register(socket.as_fd(), key, Interest::Readable, Trigger::Level) {
                // Only for want of kernel memory. The other workers' sockets go on.
                let detail = kind.to_string();
                return self.core.handle(now, Input::LinkError { link, detail });
            }
            self.shell.links.insert(link, LinkUse::Listener, socket);
        } else if let Some(open) = self.shell.links.get_mut(link) {
            open.usage = LinkUse::Listener;
        }
        self.command(Command::AddListener { link, name, loopback }, now);
    }

    fn remove_listener(&mut self, link: LinkId, now: Now) {
        if let Some(open) = self.shell.links.get_mut(link) {
            open.usage = LinkUse::RemovedListener;
        }
        self.command(Command::RemoveListener { link }, now);
    }

    fn open_gateway(&mut self, request: GatewayRequest, now: Now) {
        let GatewayRequest { gateway, remotes, bind, server_name, tls, template, deadline } = request;
        let v6 = remotes.first().is_some_and(SocketAddr::is_ipv6);
        let link = match self.open_client_link(gateway, bind.unwrap_or_else(|| any(v6))) {
            Ok(link) => link,
            Err(error) => {
                let words = format!("{error}: choose another local address, or none");
                return self.gateway_failed(gateway, "link_failed", &words);
            }
        };
        let known = Gateway { links: vec![link], started: now.instant, handshake: None, pings: Vec::new() };
        self.shell.gateways.insert(gateway, known);
        let open = OpenGateway { gateway: GatewayId(gateway), link, remotes, server_name, tls, template, deadline };
        self.command(Command::OpenGateway(open), now);
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

    /// The connection goes on from a new socket; the one before it stays open for packets on their way, the one before
    /// that closes.
    fn rebind(&mut self, gateway: u64, bind: Option<IpAddr>, now: Now) {
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
            let instance = &self.shell.instance;
            self.shell.links.close(|link| {
                let over = link.id == oldest;
                if over {
                    instance.remove_own_socket(link.socket.local_address());
                }
                over
            });
        }
    }

    fn ping(&mut self, gateway: u64, ping: u64, now: Now) {
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

    #[allow(clippy::wildcard_enum_match_arm, reason = "kinds without a remedy are told in the system's words")]
    fn open_forward(&mut self, request: ForwardRequest, now: Now) {
        let (id, bind) = (request.forward, request.bind);
        if !self.shell.gateways.contains_key(&request.gateway) {
            return self.forward_failed(id, "gateway_closed", "the gateway's connection has ended");
        }
        let forward = match Forward::open(request, now.instant) {
            Ok(forward) => forward,
            Err(error) => {
                let (reason, words) = match error.kind {
                    ErrorKind::AddressInUse => {
                        ("port_in_use", format!("{bind} is in use: stop the other program or choose another port"))
                    }
                    ErrorKind::PermissionDenied => {
                        ("permission_denied", format!("no permission to listen on {bind}: choose a port above 1023"))
                    }
                    _ => ("system_error", format!("could not listen on {bind}: {error}")),
                };
                return self.forward_failed(id, reason, &words);
            }
        };
        let key = KEY_FORWARD << KEY_KIND_SHIFT | (id & u64::from(u32::MAX));
        if let Err(kind) = self.shell.poller.register(forward.socket.as_fd(), key, Interest::Readable, Trigger::Level) {
            return self.forward_failed(id, "system_error", &format!("could not watch {bind}: {kind}"));
        }
        let address = forward.socket.local_address();
        self.shell.instance.add_own_socket(address);
        self.shell.forwards.push(forward);
        self.shell.instance.border.push(Event::Forwarding(document::Forwarding { forward: id, address }));
    }

    /// Ends a forward and the tunnels of its peers.
    pub(super) fn close_forward(&mut self, id: u64, reason: &str, now: Now) {
        let Some(index) = self.shell.forwards.iter().position(|forward| forward.request.forward == id) else { return };
        let mut forward = self.shell.forwards.remove(index);
        for token in forward.tokens() {
            self.command(Command::FinishTunnel(token), now);
        }
        forward.socket.refresh_drops();
        self.shell.closed_forwards.add(forward.socket.counters());
        self.shell.closed_forward_counts.add(&forward.counters);
        self.shell.instance.remove_own_socket(forward.socket.local_address());
        self.shell.forget_forward(id);
        let closed = document::ForwardClosed { forward: id, reason: reason.to_owned() };
        self.shell.instance.border.push(Event::ForwardClosed(closed));
    }

    fn forward_failed(&mut self, forward: u64, reason: &str, error: &str) {
        self.shell.forget_forward(forward);
        let failed = document::ForwardFailed { forward, reason: reason.to_owned(), error: error.to_owned() };
        self.shell.instance.border.push(Event::ForwardFailed(failed));
        // There will be no `forward_closed`.
        self.shell.instance.border.release(1);
    }

    fn sweep_forwards(&mut self, now: Now) {
        for index in 0..self.shell.forwards.len() {
            let Some(forward) = self.shell.forwards.get_mut(index) else { return };
            if now.instant >= forward.next_sweep() {
                for token in forward.sweep(now.instant) {
                    self.command(Command::FinishTunnel(token), now);
                }
            }
        }
    }
}

fn any(v6: bool) -> SocketAddr {
    let ip = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    SocketAddr::new(ip, 0)
}
