//! Client side: gateways, and the tunnels that are asked for through them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moretta_h3::code;
use moretta_proto::Now;
use moretta_proto::error::{EndReason, Reason, h3_code};
use moretta_proto::request::{self, Opened, Rejected};
use moretta_proto::tunnel::udp::{Options, Role as TunnelRole, UdpTunnel};
use moretta_wire::head::ResponseHead;
use moretta_wire::template::UriTemplate;
use quinn_proto::Dir;

use crate::connection::{Connection, End, Stage};
use crate::core::{Core, flow_id};
use crate::endpoint::Role;
use crate::ids::{GatewayId, LinkId, TunnelToken};
use crate::input::{FlowKind, OpenGateway, OpenUdp};
use crate::output::{Action, Event, GatewayFailure, Outputs};
use crate::store::Key;
use crate::timer::{Owner, TimerId};
use crate::tunnel::{Flow, Intent, Side, Tunnel};

/// No address of a proxy is given less time than this before the next one is tried, unless the deadline comes first.
const LEAST_ATTEMPT: Duration = Duration::from_millis(500);
/// Tunnels that may wait for a gateway to be connected, or for the proxy to allow another stream.
const WAITING_TUNNELS: usize = 4096;

/// One client's relation to one proxy.
pub(crate) struct Gateway {
    id: GatewayId,
    endpoint: Key,
    tls: Arc<rustls::ClientConfig>,
    server_name: String,
    template: UriTemplate,
    /// Not tried yet.
    remotes: VecDeque<SocketAddr>,
    deadline: Instant,
    attempt_deadline: Option<Instant>,
    connection: Option<Key>,
    stage: GatewayStage,
    /// Why the last attempt failed.
    last_failure: GatewayFailure,
    waiting: VecDeque<WaitingTunnel>,
    timer: TimerId,
    in_work: bool,
    /// To be closed for this reason, with the connection at hand.
    closing: Option<GatewayFailure>,
    rebound: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GatewayStage {
    Connecting,
    Connected,
    /// The proxy sent GOAWAY: no new tunnels.
    GoingAway,
}

/// What a client's connection knows of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayPath {
    /// The estimate of RFC 9002 §5: smoothed, without the peer's own delay.
    pub round_trip: Duration,
    /// ACK frames received so far: one more says that the estimate is fresh.
    pub acknowledgements: u64,
}

/// A tunnel that was asked for and has no stream yet.
struct WaitingTunnel {
    token: TunnelToken,
    flow_kind: FlowKind,
    host: String,
    port: u16,
    deadline: Instant,
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
    pub(crate) fn open_gateway(&mut self, open: OpenGateway) {
        let OpenGateway { gateway: id, link, remotes, server_name, tls, template, deadline } = open;
        if self.gateway_names.contains_key(&id) || self.links.contains_key(&link) {
            self.counters.unknown_commands += 1;
            return;
        }
        let timers = &mut self.timers;
        let (endpoints, quic) = (&mut self.endpoints, &mut self.quic);
        let mut endpoint_key = None;
        let key = self.gateways.insert_with(|key| {
            let endpoint = endpoints.insert(quic.endpoint(Role::Gateway(key), link, None));
            endpoint_key = Some(endpoint);
            let timer = timers.register(Owner::Gateway(key));
            Gateway {
                id,
                endpoint,
                tls,
                server_name,
                template,
                remotes: remotes.into(),
                deadline,
                attempt_deadline: None,
                connection: None,
                stage: GatewayStage::Connecting,
                last_failure: GatewayFailure::NoUsableAddress,
                waiting: VecDeque::new(),
                timer,
                in_work: false,
                closing: None,
                rebound: false,
            }
        });
        if let Some(endpoint) = endpoint_key {
            self.links.insert(link, endpoint);
        }
        self.gateway_names.insert(id, key);
        self.mark_gateway(key);
    }

    pub(crate) fn mark_gateway(&mut self, key: Key) {
        if let Some(gateway) = self.gateways.get_mut(key)
            && !gateway.in_work
        {
            gateway.in_work = true;
            self.gateway_work.push_back(key);
        }
    }

    fn named_gateway(&mut self, id: GatewayId) -> Option<Key> {
        let key = self.gateway_names.get(&id).copied();
        if key.is_none() {
            self.counters.unknown_commands += 1;
        }
        key
    }

    pub(crate) fn close_gateway(&mut self, id: GatewayId) {
        let Some(key) = self.named_gateway(id) else { return };
        if let Some(gateway) = self.gateways.get_mut(key) {
            gateway.closing.get_or_insert(GatewayFailure::Closed);
        }
        self.mark_gateway(key);
    }

    pub(crate) fn fail_gateway_link(&mut self, key: Key, detail: String) {
        if let Some(gateway) = self.gateways.get_mut(key) {
            gateway.closing.get_or_insert(GatewayFailure::Link(detail));
        }
        self.mark_gateway(key);
    }

    /// The client moves to another socket (RFC 9000 §9): a new connection ID towards the proxy, and a packet from there.
    pub(crate) fn rebind_gateway(&mut self, id: GatewayId, link: LinkId) {
        let Some(key) = self.named_gateway(id) else { return };
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        let Some(endpoint) = self.endpoints.get_mut(gateway.endpoint) else { return };
        if self.links.contains_key(&link) {
            self.counters.unknown_commands += 1;
            return;
        }
        let old = std::mem::replace(&mut endpoint.link, link);
        endpoint.other_links.push(old);
        self.links.insert(link, gateway.endpoint);
        gateway.rebound = true;
        self.mark_gateway(key);
    }

    /// Sends a packet that the proxy must acknowledge; [`Core::gateway_path`] tells when it has.
    pub(crate) fn ping_gateway(&mut self, id: GatewayId) {
        let Some(key) = self.named_gateway(id) else { return };
        let connection = self.gateways.get(key).and_then(|gateway| gateway.connection);
        let Some(connection) = connection else { return };
        if let Some(open) = self.connections.get_mut(connection) {
            open.quic.ping();
        }
        self.mark_sending(connection);
    }

    /// The path to a proxy as its connection sees it now; `None` while there is no connection.
    #[must_use]
    pub fn gateway_path(&self, id: GatewayId) -> Option<GatewayPath> {
        let gateway = self.gateways.get(self.gateway_names.get(&id).copied()?)?;
        let connection = self.connections.get(gateway.connection?)?;
        Some(GatewayPath { round_trip: connection.quic.rtt(), acknowledgements: connection.quic.stats().frame_rx.acks })
    }

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
    fn refuse_named(&mut self, token: TunnelToken, reason: Reason) {
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

    pub(crate) fn serve_gateways(&mut self, now: Now, out: &mut Outputs) {
        for _ in 0..self.gateway_work.len() {
            let Some(key) = self.gateway_work.pop_front() else { break };
            self.step_gateway(key, now, out);
        }
    }

    fn step_gateway(&mut self, key: Key, now: Now, out: &mut Outputs) {
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        gateway.in_work = false;
        if let Some(failure) = gateway.closing.take() {
            self.end_gateway(key, failure, now, out);
            return;
        }
        if std::mem::take(&mut gateway.rebound)
            && let Some(connection) = gateway.connection
        {
            self.guarded(connection, now, out, |_, connection, _| connection.quic.local_address_changed());
            self.mark_sending(connection);
        }
        self.expire_waiting(key, now);
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        match gateway.stage {
            GatewayStage::Connecting => self.step_connecting(key, now, out),
            GatewayStage::Connected | GatewayStage::GoingAway => self.send_requests(key, now, out),
        }
        self.arm_gateway(key);
    }

    fn arm_gateway(&mut self, key: Key) {
        let Some(gateway) = self.gateways.get(key) else { return };
        let connecting = match gateway.stage {
            GatewayStage::Connecting => {
                Some(gateway.attempt_deadline.map_or(gateway.deadline, |at| at.min(gateway.deadline)))
            }
            GatewayStage::Connected | GatewayStage::GoingAway => None,
        };
        let waiting = gateway.waiting.iter().map(|waiting| waiting.deadline).min();
        let at = match (connecting, waiting) {
            (Some(connecting), Some(waiting)) => Some(connecting.min(waiting)),
            (connecting, waiting) => connecting.or(waiting),
        };
        self.timers.set(gateway.timer, at);
    }

    fn expire_waiting(&mut self, key: Key, now: Now) {
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        let mut expired = Vec::new();
        gateway.waiting.retain(|waiting| {
            let is_late = waiting.deadline <= now.instant;
            if is_late {
                expired.push(waiting.token);
            }
            !is_late
        });
        for token in expired {
            self.tunnel_names.remove(&token);
            self.refuse_named(token, Reason::RequestTimeout);
        }
    }

    /// Goes on to the next address where an attempt has failed or taken too long.
    fn step_connecting(&mut self, key: Key, now: Now, out: &mut Outputs) {
        loop {
            let Some(gateway) = self.gateways.get_mut(key) else { return };
            if now.instant >= gateway.deadline {
                let failure = match &gateway.last_failure {
                    GatewayFailure::NoUsableAddress => GatewayFailure::TimedOut,
                    failure @ (GatewayFailure::TimedOut
                    | GatewayFailure::Tls(_)
                    | GatewayFailure::ClosedByPeer { .. }
                    | GatewayFailure::Reset
                    | GatewayFailure::Protocol(_)
                    | GatewayFailure::NoExtendedConnect
                    | GatewayFailure::Link(_)
                    | GatewayFailure::Closed
                    | GatewayFailure::GoingAway
                    | GatewayFailure::Internal) => failure.clone(),
                };
                self.end_gateway(key, failure, now, out);
                return;
            }
            if let Some(attempt) = gateway.connection {
                if gateway.attempt_deadline.is_none_or(|at| now.instant < at) || gateway.remotes.is_empty() {
                    return;
                }
                gateway.last_failure = GatewayFailure::TimedOut;
                gateway.connection = None;
                self.guarded(attempt, now, out, |core, connection, out| {
                    core.close_connection(connection, now, code::H3_NO_ERROR, "", out);
                });
                self.mark_sending(attempt);
                continue;
            }
            let Some(remote) = gateway.remotes.pop_front() else {
                let failure = gateway.last_failure.clone();
                self.end_gateway(key, failure, now, out);
                return;
            };
            // Each address gets an equal share of the time that is left.
            let left = gateway.deadline.saturating_duration_since(now.instant);
            let share = (left / (gateway.remotes.len() as u32 + 1)).max(LEAST_ATTEMPT);
            gateway.attempt_deadline = Some(now.instant + share);
            let (endpoint, server_name) = (gateway.endpoint, gateway.server_name.clone());
            let Some(config) = self.quic.client_config(&gateway.tls) else {
                gateway.last_failure =
                    GatewayFailure::Tls("the TLS configuration does not offer TLS 1.3 for QUIC".into());
                continue;
            };
            let attempt =
                self.endpoints.get_mut(endpoint).map(|place| place.connect(now.instant, config, remote, &server_name));
            match attempt {
                Some(Ok((handle, quic))) => {
                    self.counters.connections_opened += 1;
                    let connection = self.add_connection(endpoint, handle, quic, End::Client(key));
                    if let Some(gateway) = self.gateways.get_mut(key) {
                        gateway.connection = Some(connection);
                    }
                    self.mark_sending(connection);
                    return;
                }
                Some(Err(error)) => {
                    if let Some(gateway) = self.gateways.get_mut(key) {
                        gateway.last_failure = connect_failure(&error);
                    }
                }
                None => return,
            }
        }
    }

    /// The proxy's SETTINGS: it must offer extended CONNECT (RFC 9220 §3).
    pub(crate) fn gateway_settings(&mut self, connection: &Connection, key: Key, out: &mut Outputs) {
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        if gateway.connection != Some(connection.key) || gateway.stage != GatewayStage::Connecting {
            return;
        }
        if !connection.http.peer_settings().is_some_and(|settings| settings.enable_connect_protocol) {
            gateway.closing = Some(GatewayFailure::NoExtendedConnect);
            self.mark_gateway(key);
            return;
        }
        gateway.stage = GatewayStage::Connected;
        gateway.attempt_deadline = None;
        out.actions.push(Action::Event(Event::GatewayConnected {
            gateway: gateway.id,
            remote: connection.quic.remote_address(),
            datagrams: connection.datagrams,
        }));
        self.mark_gateway(key);
    }

    pub(crate) fn streams_available(&mut self, connection: &mut Connection) {
        if let End::Client(gateway) = connection.end {
            self.mark_gateway(gateway);
        }
    }

    /// Sends the requests that waited, as far as the proxy allows streams.
    fn send_requests(&mut self, key: Key, now: Now, out: &mut Outputs) {
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
        tunnel.flow = Some(flow);
        let max_datagram_bytes = tunnel.max_payload(connection.max_datagram);
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

    /// The proxy drains (RFC 9114 §5.2): what it did not process fails, the rest goes on.
    pub(crate) fn peer_goes_away(&mut self, connection: &mut Connection, now: Now, id: u64, out: &mut Outputs) {
        let End::Client(key) = connection.end else { return };
        for tunnel in connection.tunnels.from(id) {
            if self.tunnels.get(tunnel).is_some_and(|tunnel| tunnel.machine.is_none()) {
                self.request_failed(connection, tunnel, Reason::Draining, out);
            } else {
                self.end_tunnel(connection, tunnel, now, EndReason::Drained, out);
            }
        }
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        if gateway.connection == Some(connection.key) {
            match gateway.stage {
                GatewayStage::Connecting => gateway.closing = Some(GatewayFailure::GoingAway),
                GatewayStage::Connected | GatewayStage::GoingAway => gateway.stage = GatewayStage::GoingAway,
            }
            self.mark_gateway(key);
        }
        self.gateway_tunnel_gone(connection);
    }

    /// A gateway whose proxy drains is over with its last tunnel.
    pub(crate) fn gateway_tunnel_gone(&mut self, connection: &mut Connection) {
        let End::Client(key) = connection.end else { return };
        if connection.stage != Stage::Open || !connection.tunnels.is_empty() {
            return;
        }
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        if gateway.stage == GatewayStage::GoingAway && gateway.connection == Some(connection.key) {
            gateway.closing.get_or_insert(GatewayFailure::GoingAway);
            self.mark_gateway(key);
        }
    }

    /// A gateway's connection is over, or an attempt of it.
    pub(crate) fn gateway_connection_over(&mut self, connection: &mut Connection, key: Key) {
        let failure = connection.over.take().unwrap_or(GatewayFailure::Internal);
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        if gateway.connection != Some(connection.key) {
            return;
        }
        gateway.connection = None;
        match gateway.stage {
            // The next address is tried in this turn or the next.
            GatewayStage::Connecting => gateway.last_failure = failure,
            GatewayStage::Connected | GatewayStage::GoingAway => {
                gateway.closing.get_or_insert(failure);
            }
        }
        self.mark_gateway(key);
    }

    /// No new tunnels; the gateway is over with its last one.
    pub(crate) fn drain_gateway(&mut self, key: Key) {
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        let has_tunnels = gateway
            .connection
            .and_then(|connection| self.connections.get(connection))
            .is_some_and(|connection| !connection.tunnels.is_empty());
        if gateway.stage == GatewayStage::Connected && has_tunnels {
            gateway.stage = GatewayStage::GoingAway;
        } else {
            gateway.closing.get_or_insert(GatewayFailure::Closed);
        }
        self.mark_gateway(key);
    }

    /// Forgets a gateway: its connection is closed, its tunnels end, and it says why.
    fn end_gateway(&mut self, key: Key, failure: GatewayFailure, now: Now, out: &mut Outputs) {
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        if let Some(connection) = gateway.connection.take() {
            self.guarded(connection, now, out, |core, connection, out| {
                core.close_connection(connection, now, code::H3_NO_ERROR, "", out);
            });
            self.mark_sending(connection);
        }
        let Some(gateway) = self.gateways.remove(key) else { return };
        self.timers.release(gateway.timer);
        self.gateway_names.remove(&gateway.id);
        for waiting in gateway.waiting {
            self.tunnel_names.remove(&waiting.token);
            self.refuse_named(waiting.token, Reason::GatewayLost);
        }
        // Refusals of what waited come first.
        out.actions.append(&mut self.pending);
        let event = match gateway.stage {
            GatewayStage::Connecting => Event::GatewayFailed { gateway: gateway.id, failure },
            GatewayStage::Connected | GatewayStage::GoingAway => Event::GatewayClosed { gateway: gateway.id, failure },
        };
        out.actions.push(Action::Event(event));
        if let Some(endpoint) = self.endpoints.get_mut(gateway.endpoint) {
            endpoint.closing = true;
        }
        self.close_empty_endpoint(gateway.endpoint);
    }
}

fn connect_failure(error: &quinn_proto::ConnectError) -> GatewayFailure {
    use quinn_proto::ConnectError;
    match error {
        ConnectError::InvalidServerName(name) => GatewayFailure::Tls(format!("{name} is not a server name")),
        ConnectError::InvalidRemoteAddress(_) => GatewayFailure::NoUsableAddress,
        ConnectError::EndpointStopping
        | ConnectError::CidsExhausted
        | ConnectError::NoDefaultClientConfig
        | ConnectError::UnsupportedVersion => GatewayFailure::Protocol(error.to_string()),
    }
}
