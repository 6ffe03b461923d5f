//! Client side: the tunnels that are asked for through a gateway, and the proxy's answers.

use std::sync::Arc;
use std::time::Instant;

use moretta_proto::Now;
use moretta_proto::error::{EndReason, Reason, h3_code};
use moretta_proto::request::{self, Opened, Rejected};
use moretta_proto::tunnel::udp::{Options, Role as TunnelRole, UdpTunnel};
use moretta_wire::head::ResponseHead;
use moretta_wire::template::UriTemplate;
use quinn_proto::Dir;

use crate::client::GatewayStage;
use crate::connection::{Connection, End};
use crate::core::{Core, flow_id};
use crate::ids::TunnelToken;
use crate::input::{FlowKind, OpenUdp};
use crate::output::{Action, Event, Outputs};
use crate::store::Key;
use crate::timer::Owner;
use crate::tunnel::{Flow, Intent, Side, Tunnel};

/// Tunnels that may wait for a gateway to be connected, or for the proxy to allow another stream.
const WAITING_TUNNELS: usize = 4096;

/// A tunnel that was asked for and has no stream yet.
pub(crate) struct WaitingTunnel {
    pub(crate) token: TunnelToken,
    flow_kind: FlowKind,
    host: String,
    port: u16,
    pub(crate) deadline: Instant,
}

/// A client's request for a tunnel that has its stream.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) token: TunnelToken,
    flow_kind: FlowKind,
    deadline: Instant,
}

/// What a token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Tunnel(Key),
    WaitingAt(Key),
}

impl Core {
    pub(crate) fn open_udp(&mut self, open: OpenUdp) {
        let OpenUdp { gateway: id, tunnel: token, flow_kind, host, port, deadline } = open;
        if self.tunnel_names.contains_key(&token) {
            self.counters.unknown_commands += 1;
            return;
        }
        let key = self.gateway_names.get(&id).copied();
        let Some((key, gateway)) = key.and_then(|key| Some((key, self.gateways.get_mut(key)?))) else {
            self.counters.unknown_commands += 1;
            self.refuse_named(token, Reason::GatewayLost);
            return;
        };
        if gateway.waiting.len() >= WAITING_TUNNELS {
            self.refuse_named(token, Reason::Overloaded);
            return;
        }
        gateway.waiting.push_back(WaitingTunnel { token, flow_kind, host, port, deadline });
        self.tunnel_names.insert(token, Named::WaitingAt(key));
        self.mark_gateway(key);
    }

    /// Tells that a tunnel which never had a stream will not be.
    pub(crate) fn refuse_named(&mut self, token: TunnelToken, reason: Reason) {
        self.counters.tunnels_refused += 1;
        let event = Event::TunnelRefused { tunnel: token, status: None, proxy_status: None, reason };
        self.pending.push(Action::Event(event));
    }

    pub(crate) fn finish_named_tunnel(&mut self, token: TunnelToken) {
        self.named_tunnel(token, Intent::Finish(EndReason::ClientFinished));
    }

    pub(crate) fn reset_named_tunnel(&mut self, token: TunnelToken) {
        self.named_tunnel(token, Intent::End(EndReason::ClientReset));
    }

    fn named_tunnel(&mut self, token: TunnelToken, intent: Intent) {
        match self.tunnel_names.get(&token).copied() {
            Some(Named::Tunnel(key)) => {
                if let Some(tunnel) = self.tunnels.get_mut(key) {
                    tunnel.intent = Some(intent);
                }
                self.mark_tunnel(key);
            }
            Some(Named::WaitingAt(key)) => {
                self.tunnel_names.remove(&token);
                if let Some(gateway) = self.gateways.get_mut(key) {
                    gateway.waiting.retain(|waiting| waiting.token != token);
                }
                self.refuse_named(token, Reason::RequestCancelled);
            }
            None => self.counters.unknown_commands += 1,
        }
    }

    pub(crate) fn streams_available(&mut self, connection: &mut Connection) {
        if let End::Client(gateway) = connection.end {
            self.mark_gateway(gateway);
        }
    }

    /// Sends the requests that waited, as far as the proxy allows streams.
    pub(crate) fn send_requests(&mut self, key: Key, now: Now, out: &mut Outputs) {
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        let Some(connection_key) = gateway.connection else { return };
        if gateway.waiting.is_empty() {
            return;
        }
        let template = gateway.template.clone();
        let going_away = gateway.stage == GatewayStage::GoingAway;
        let mut waiting = std::mem::take(&mut gateway.waiting);
        if going_away {
            for tunnel in waiting.drain(..) {
                self.tunnel_names.remove(&tunnel.token);
                self.refuse_named(tunnel.token, Reason::Draining);
            }
            return;
        }
        self.guarded(connection_key, now, out, |core, connection, _| {
            while !waiting.is_empty() {
                // The proxy's next MAX_STREAMS brings us back.
                let Some(stream) = connection.quic.streams().open(Dir::Bi) else { break };
                if let Some(tunnel) = waiting.pop_front() {
                    core.send_request(connection, u64::from(stream), tunnel, &template);
                }
            }
        });
        if let Some(gateway) = self.gateways.get_mut(key) {
            gateway.waiting = waiting;
        }
        self.mark_sending(connection_key);
    }

    fn send_request(
        &mut self,
        connection: &mut Connection,
        stream: u64,
        waiting: WaitingTunnel,
        template: &UriTemplate,
    ) {
        let WaitingTunnel { token, flow_kind, host, port, deadline } = waiting;
        let head = request::connect_udp(template, &host, port);
        if let Err(error) = connection.http.send_request(stream, &head, false) {
            self.tunnel_names.remove(&token);
            let reason =
                if error == moretta_h3::SendError::GoingAway { Reason::Draining } else { Reason::MalformedRequest };
            self.refuse_named(token, reason);
            // The stream was opened for this request alone. It is new, so that this cannot fail.
            let id = crate::http::stream_id(stream);
            let _new = connection.quic.send_stream(id).reset(crate::http::varint(h3_code::REQUEST_CANCELLED));
            return;
        }
        connection.http_dirty = true;
        let id = self.new_tunnel_id();
        let request = Request { token, flow_kind, deadline };
        let timers = &mut self.timers;
        let key = self.tunnels.insert_with(|key| {
            let timer = timers.register(Owner::Tunnel(key));
            timers.set(timer, Some(deadline));
            Tunnel::new(id, connection.key, stream, Side::Client(Box::new(request)), timer)
        });
        connection.tunnels.insert(stream, key);
        self.tunnel_names.insert(token, Named::Tunnel(key));
    }

    /// A request whose answer does not come in time is abandoned.
    pub(crate) fn step_request(&mut self, connection: &mut Connection, key: Key, now: Now, out: &mut Outputs) {
        let Some(Side::Client(request)) = self.tunnels.get(key).map(|tunnel| &tunnel.side) else { return };
        if request.deadline <= now.instant {
            self.request_failed(connection, key, Reason::RequestTimeout, out);
        } else {
            let deadline = request.deadline;
            self.arm_tunnel(key, Some(deadline));
        }
    }

    /// The proxy's final answer (RFC 9298 §3.5).
    pub(crate) fn response(
        &mut self,
        connection: &mut Connection,
        now: Now,
        stream: u64,
        head: &ResponseHead,
        fin: bool,
        out: &mut Outputs,
    ) {
        let Some(key) = connection.tunnels.find(stream) else { return };
        match request::judge_response(head) {
            Ok(opened) => {
                self.open_client_tunnel(connection, key, now, opened, out);
                if fin {
                    self.stream_finished(connection, now, stream, out);
                }
            }
            Err(rejected) => self.request_rejected(connection, key, rejected, out),
        }
    }

    fn open_client_tunnel(
        &mut self,
        connection: &mut Connection,
        key: Key,
        now: Now,
        opened: Opened,
        out: &mut Outputs,
    ) {
        let snapshot = Arc::clone(&self.snapshot.proto);
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let Side::Client(request) = &tunnel.side else { return };
        if tunnel.machine.is_some() {
            return;
        }
        let (token, kind, stream) = (request.token, request.flow_kind, tunnel.stream);
        let options = Options {
            datagrams: connection.datagrams,
            ..Options::new(TunnelRole::Client, snapshot.profile, &snapshot.limits)
        };
        let machine = UdpTunnel::new(options, now);
        let deadline = machine.poll_timeout();
        tunnel.machine = Some(machine);
        let flow = self.flows.insert(Flow { tunnel: key, paused: false });
        tunnel.flow_opens(flow, self.turn);
        let max_datagram_bytes = tunnel.announced_payload(connection.max_datagram);
        connection.http.enable_datagrams(stream);
        self.arm_tunnel(key, deadline);
        self.counters.tunnels_opened += 1;
        out.actions.push(Action::OpenFlow { flow: flow_id(flow), kind });
        out.actions.push(Action::Event(Event::TunnelOpened {
            tunnel: token,
            flow: flow_id(flow),
            max_datagram_bytes,
            datagrams: connection.datagrams,
            status: opened.status,
            proxy_status: opened.proxy_status,
        }));
        self.deliver_held(connection, key, now, out);
    }

    /// There will be no tunnel.
    pub(crate) fn request_failed(&mut self, connection: &mut Connection, key: Key, reason: Reason, out: &mut Outputs) {
        self.request_over(connection, key, reason, None, None, out);
    }

    fn request_rejected(&mut self, connection: &mut Connection, key: Key, rejected: Rejected, out: &mut Outputs) {
        let Rejected { reason, status, proxy_status } = rejected;
        self.request_over(connection, key, reason, Some(status), proxy_status, out);
    }

    fn request_over(
        &mut self,
        connection: &mut Connection,
        key: Key,
        reason: Reason,
        status: Option<u16>,
        proxy_status: Option<String>,
        out: &mut Outputs,
    ) {
        let Some(tunnel) = self.tunnels.get(key) else { return };
        let Side::Client(request) = &tunnel.side else { return };
        let (token, stream) = (request.token, tunnel.stream);
        self.counters.tunnels_refused += 1;
        out.actions.push(Action::Event(Event::TunnelRefused { tunnel: token, status, proxy_status, reason }));
        connection.http.reset(stream, reason.row().h3_code);
        connection.http_dirty = true;
        self.forget_tunnel(connection, key, out);
    }
}
