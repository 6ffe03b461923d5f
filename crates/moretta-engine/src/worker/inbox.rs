//! What other threads ask of a worker.

use super::links::LinkUse;
use super::{KEY_FORWARD, KEY_KIND_SHIFT, Local, LocalEnd, Worker, link_key};
use crate::document::{self, Event};
use crate::frontend::{Forward, ForwardRequest};
use crate::helper::HelperMessage;
use crate::mailbox::{ListenerSocket, Message};
use moretta_core::{Command, FlowKind, GatewayId, Input, LinkId, Now, OpenUdp, QueryId, TunnelToken};
use moretta_io::{ErrorKind, Interest, Trigger};
use std::os::fd::AsFd;

impl Worker {
    /// Takes everything that waits: messages in their order, then tunnels whose applications have sent.
    pub(super) fn take_inbox(&mut self, now: Now) {
        if self.messages.is_empty() {
            self.shell.mailbox.take_messages(&mut self.messages);
            self.messages.reverse();
        }
        // One at a time, so that a panic loses none of those behind.
        while let Some(message) = self.messages.pop() {
            self.take_message(message, now);
        }
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
            Message::CloseLink(link) => self.shell.links.close(|open| open.id == link),
            Message::OpenGateway(request) => self.open_gateway(*request, now),
            Message::OpenUdp { gateway, queue, host, port, deadline } => {
                let tunnel = TunnelToken(queue.token());
                self.shell.locals.insert(tunnel, Local { end: LocalEnd::Application(queue), flow: None });
                let flow_kind = FlowKind::Local { tunnel };
                let gateway = GatewayId(gateway);
                self.open_udp(OpenUdp { gateway, tunnel, flow_kind, host, port, deadline }, now);
            }
            Message::FinishTunnel(tunnel) => self.end_tunnel(Command::FinishTunnel(TunnelToken(tunnel)), now),
            Message::ResetTunnel(tunnel) => self.end_tunnel(Command::ResetTunnel(TunnelToken(tunnel)), now),
            Message::CloseGateway(gateway) => self.close_gateway(gateway, now),
            Message::Rebind { gateway, bind } => self.rebind(gateway, bind, now),
            Message::Forward(request) => self.open_forward(request, now),
            Message::CloseForward(forward) => self.close_forward(forward, "closed", now),
            Message::Ping { gateway, ping } => self.ping(gateway, ping, now),
            Message::Resolved { query, result } => {
                self.core.handle(now, Input::Resolved { query: QueryId(query), result });
            }
            Message::Drain { deadline } => {
                self.shell.drain = Some(deadline);
                if self.shell.drained {
                    // A drain that ended leaves nothing behind that another one could wait for.
                    self.shell.instance.worker_drained();
                } else {
                    self.shell.draining = true;
                    self.command(Command::Drain { deadline }, now);
                }
            }
            Message::Close => {
                self.shell.closing = Some(now.instant + super::CLOSE_TIME);
                self.command(Command::Close, now);
            }
            #[cfg(test)]
            Message::Fail { for_good } => {
                self.shell.fails_for_good = for_good;
                std::panic::panic_any("on purpose")
            }
            Message::Stats(answer) => {
                // Whoever asked may have given up waiting.
                drop(answer.try_send(self.stats()));
            }
        }
    }

    pub(super) fn command(&mut self, command: Command, now: Now) {
        self.core.handle(now, Input::Command(command));
        self.shell.fed = true;
    }

    fn add_listener(&mut self, listener: ListenerSocket, now: Now) {
        let ListenerSocket { link, name, loopback, socket } = listener;
        self.shell.listeners.push((link, name.clone(), loopback));
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
        self.shell.listeners.retain(|(open, ..)| *open != link);
        if let Some(open) = self.shell.links.get_mut(link) {
            open.usage = LinkUse::RemovedListener;
        }
        self.command(Command::RemoveListener { link }, now);
    }

    /// Tells the helper about removed listeners whose last connection has ended.
    pub(super) fn report_idle_listeners(&mut self) {
        let shell = &mut self.shell;
        for link in shell.links.removed() {
            if !self.core.has_link(link.id) {
                let message = HelperMessage::ListenerIdle { worker: shell.index, link: link.id };
                // A full inbox: told after the next turn.
                if shell.instance.helper.try_send(message).is_ok() {
                    link.usage = LinkUse::IdleListener;
                }
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
