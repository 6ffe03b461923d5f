//! What a turn wants done: packets and datagrams to send, flows to open and close, questions to ask.

use super::flows::FlowEnd;
use super::receive::{flow_failed, flow_path};
use super::{Local, LocalEnd, Worker, flow_key};
use crate::helper::HelperMessage;
use moretta_core::{Action, FlowId, FlowKind, FlowPath, Input, Now, QueryId, Record, SlotId, Train};
use moretta_io::{ErrorKind, Interest, OutgoingTrain, SocketOptions, Trigger, UdpSocket};
use moretta_proto::admission::{OpenError, ResolveError};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

impl Worker {
    /// Does what the turn said; true if the core was told something that asks for another turn.
    pub(super) fn act(&mut self, now: Now) -> bool {
        self.shell.fed = false;
        self.send_trains();
        let mut fed = self.send_to_flows(now);
        // Taken out, so that acting can borrow everything; the vector goes back for its memory.
        std::mem::swap(&mut self.actions, &mut self.outputs.actions);
        let mut actions = std::mem::take(&mut self.actions);
        self.outputs.clear();
        for action in actions.drain(..) {
            fed |= self.act_on(action, now);
        }
        self.actions = actions;
        fed || self.shell.fed
    }

    fn send_trains(&mut self) {
        let shell = &mut self.shell;
        for train in self.outputs.trains() {
            let Some(link) = shell.links.get_mut(train.link) else {
                shell.counters.trains_without_link += 1;
                continue;
            };
            // What the kernel does not take is counted by the socket; QUIC notices the loss.
            link.socket.send_train(&OutgoingTrain {
                remote: Some(train.remote),
                local: train.local,
                ecn: train.ecn,
                segment_size: train.segment_size,
                data: train.data,
            });
        }
    }

    fn send_to_flows(&mut self, now: Now) -> bool {
        let shell = &mut self.shell;
        let mut fed = false;
        for (id, payloads) in self.outputs.flow_sends() {
            let Some(flow) = shell.flows.get_mut(id) else {
                shell.counters.datagrams_without_flow += payloads.len() as u64;
                continue;
            };
            match &mut flow.end {
                FlowEnd::Socket(socket) => {
                    let outcome = socket.send_batch(&mut shell.send, payloads);
                    if let Some(kind) = outcome.error {
                        flow_failed(&mut self.core, id, socket, kind, now);
                        fed = true;
                    }
                }
                FlowEnd::Application(queue) => queue.deliver(payloads.iter().map(AsRef::as_ref)),
                FlowEnd::Peer { forward, token } => {
                    let (forward, token) = (*forward, *token);
                    if let Some(forward) = shell.forwards.iter_mut().find(|open| open.request.forward == forward) {
                        forward.send(token, payloads, now.instant);
                    }
                }
            }
        }
        fed
    }

    fn act_on(&mut self, action: Action, now: Now) -> bool {
        match action {
            Action::OpenFlow { flow, kind } => {
                self.open_flow(flow, kind, now);
                return true;
            }
            Action::CloseFlow { flow } => self.shell.flows.remove(flow),
            Action::ResumeFlow { flow } => self.shell.flows.resume(flow),
            Action::ReadFlowPath { flow } => return self.read_flow_path(flow, now),
            Action::FlowLimit { flow, max_datagram_bytes } => {
                if let Some(open) = self.shell.flows.get_mut(flow)
                    && let FlowEnd::Application(queue) = &open.end
                {
                    queue.set_max_datagram_bytes(max_datagram_bytes);
                }
            }
            Action::Resolve { query, name, source } => return self.resolve(query, name.as_str(), source, now),
            Action::CancelResolve(QueryId(query)) => {
                let message = HelperMessage::CancelResolve { worker: self.shell.index, query };
                // A full inbox keeps the question; its answer will find nobody and be counted.
                drop(self.shell.instance.helper.try_send(message));
            }
            Action::Forward { slot, train } => self.hand_over(slot, train),
            Action::Record(record) => {
                match &record {
                    Record::Opened(_) => {}
                    Record::Refused(refused) => self.shell.gateway_tunnels.refused(refused.reason),
                    Record::Closed(closed) => self.shell.gateway_tunnels.ended(closed.reason),
                }
                crate::records::push(&self.shell.instance, self.shell.index, record);
                self.shell.records_since.get_or_insert(now.instant);
            }
            Action::Event(event) => self.report(event, now),
        }
        false
    }

    fn open_flow(&mut self, flow: FlowId, kind: FlowKind, now: Now) {
        let result = match kind {
            FlowKind::Connected { target } => self.open_socket(flow, target),
            FlowKind::Local { tunnel } => {
                if let Some(Local { end, flow: known }) = self.shell.locals.get_mut(&tunnel) {
                    *known = Some(flow);
                    let end = match end {
                        LocalEnd::Application(queue) => FlowEnd::Application(std::sync::Arc::clone(queue)),
                        LocalEnd::Peer { forward } => FlowEnd::Peer { forward: *forward, token: tunnel },
                    };
                    self.shell.flows.insert(flow, end);
                    self.shell.flows.make_ready(flow);
                    Ok(FlowPath::ANY)
                } else {
                    Err(OpenError::Other(0))
                }
            }
        };
        self.core.handle(now, Input::FlowOpened { flow, result });
    }

    /// The address that was checked is the address that is connected, and never one of our own sockets.
    fn open_socket(&mut self, flow: FlowId, target: SocketAddr) -> Result<FlowPath, OpenError> {
        if self.shell.instance.is_own_socket(target) {
            self.shell.counters.own_socket_targets += 1;
            return Err(OpenError::Own);
        }
        // connect() would reach this host instead.
        if target.ip().is_unspecified() {
            return Err(OpenError::NoRoute);
        }
        let socket = UdpSocket::open_connected(target, None, &SocketOptions::target())
            .map_err(|error| open_error(error.kind))?;
        if socket.local_address() == target {
            // The kernel chose the target's own port for us: a socket that talks to itself.
            self.shell.counters.own_socket_targets += 1;
            return Err(OpenError::Own);
        }
        self.shell
            .poller
            .register(socket.as_fd(), flow_key(flow), Interest::Readable, Trigger::Edge)
            .map_err(open_error)?;
        let path = flow_path(&socket);
        self.shell.flows.insert(flow, FlowEnd::Socket(Box::new(socket)));
        Ok(path)
    }

    /// Tells the core what the path to a target carries now; true if there was something to tell.
    pub(super) fn read_flow_path(&mut self, flow: FlowId, now: Now) -> bool {
        let Some(FlowEnd::Socket(socket)) = self.shell.flows.get_mut(flow).map(|flow| &flow.end) else { return false };
        let path = flow_path(socket);
        self.core.handle(now, Input::FlowPath { flow, path });
        true
    }

    fn resolve(&mut self, query: QueryId, name: &str, source: IpAddr, now: Now) -> bool {
        let message =
            HelperMessage::Resolve { worker: self.shell.index, query: query.0, name: name.to_owned(), source };
        if self.shell.instance.helper.try_send(message).is_ok() {
            return false;
        }
        self.core.handle(now, Input::Resolved { query, result: Err(ResolveError::Overloaded) });
        true
    }

    fn hand_over(&mut self, slot: SlotId, train: Train) {
        match self.shell.instance.workers.get(usize::from(slot.get())) {
            Some(mailbox) if usize::from(slot.get()) != self.shell.index => mailbox.post_train(train),
            _ => self.shell.counters.packets_of_no_slot += 1,
        }
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "what cannot happen while opening has no word of its own")]
fn open_error(kind: ErrorKind) -> OpenError {
    match kind {
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::AddressNotAvailable => {
            OpenError::NoRoute
        }
        ErrorKind::PortsExhausted
        | ErrorKind::DescriptorsExhausted
        | ErrorKind::NoBuffers
        | ErrorKind::WouldBlock
        | ErrorKind::AddressInUse => OpenError::Exhausted,
        ErrorKind::ConnectionRefused => OpenError::Refused,
        ErrorKind::Other(errno) => OpenError::Other(errno),
        _ => OpenError::Other(0),
    }
}
