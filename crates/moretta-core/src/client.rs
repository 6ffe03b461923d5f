//! Client side: gateways, from the first address that is tried to the end of the last connection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moretta_h3::code;
use moretta_proto::Now;
use moretta_proto::error::{EndReason, Reason};
use moretta_wire::template::UriTemplate;

use crate::connection::{Connection, End, Stage};
use crate::core::Core;
use crate::endpoint::Role;
use crate::ids::{GatewayId, LinkId};
use crate::input::OpenGateway;
use crate::output::{Action, Event, GatewayFailure, Outputs};
use crate::request::WaitingTunnel;
use crate::store::Key;
use crate::timer::{Owner, TimerId};

/// No address of a proxy is given less time than this before the next one is tried, unless the deadline comes first.
const LEAST_ATTEMPT: Duration = Duration::from_millis(500);

/// One client's relation to one proxy.
pub(crate) struct Gateway {
    id: GatewayId,
    endpoint: Key,
    tls: Arc<rustls::ClientConfig>,
    server_name: String,
    pub(crate) template: UriTemplate,
    /// Not tried yet.
    remotes: VecDeque<SocketAddr>,
    deadline: Instant,
    attempt_deadline: Option<Instant>,
    pub(crate) connection: Option<Key>,
    pub(crate) stage: GatewayStage,
    /// Why the last attempt failed.
    last_failure: GatewayFailure,
    pub(crate) waiting: VecDeque<WaitingTunnel>,
    timer: TimerId,
    in_work: bool,
    /// To be closed for this reason, with the connection at hand.
    closing: Option<GatewayFailure>,
    rebound: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GatewayStage {
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

impl Core {
    pub(crate) fn open_gateway(&mut self, open: OpenGateway) {
        let OpenGateway { gateway: id, link, remotes, server_name, tls, template, deadline } = open;
        if self.gateway_names.contains_key(&id) || self.links.contains_key(&link) {
            self.counters.unknown_commands += 1;
            return;
        }
        if self.drain.is_some() {
            // The end may have been told already: nothing would close it any more.
            let event = Event::GatewayFailed { gateway: id, failure: GatewayFailure::Closed };
            self.pending.push(Action::Event(event));
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

    /// Our own code failed: all gateways are over.
    pub(crate) fn fail_gateways(&mut self) {
        for key in self.gateways.keys() {
            if let Some(gateway) = self.gateways.get_mut(key) {
                gateway.closing = Some(GatewayFailure::Internal);
            }
            self.mark_gateway(key);
        }
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
                    let connection = self.add_connection(now, endpoint, handle, quic, End::Client(key));
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
