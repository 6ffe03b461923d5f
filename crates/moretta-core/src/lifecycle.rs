//! Listeners, and how connections begin and end.

use std::sync::Arc;

use bytes::Bytes;
use moretta_h3::{Config as HttpConfig, Role as HttpRole, code};
use moretta_proto::Now;
use moretta_proto::error::EndReason;
use quinn_proto::{ConnectionError, TransportErrorCode, VarInt};

use crate::Http3;
use crate::config::CoreSnapshot;
use crate::congestion::open_window;
use crate::connection::{Connection, End, Stage};
use crate::core::{Core, flow_id};
use crate::endpoint::{Listener, Role};
use crate::http::varint;
use crate::ids::LinkId;
use crate::output::{Action, GatewayFailure, Outputs};
use crate::store::Key;
use crate::tunnel::Side;

impl Core {
    pub(crate) fn new_http(&self, role: HttpRole) -> Http3 {
        let limits = &self.snapshot.proto.limits;
        Http3::new(
            role,
            HttpConfig {
                enable_connect_protocol: role == HttpRole::Server,
                h3_datagram: self.quic.config().transport.datagrams,
                max_field_section_bytes: limits.max_field_section_bytes,
                // A few more than tunnels, so that the one too many is told why instead of being reset.
                max_open_requests: limits.max_tunnels_per_connection + 16,
                early_datagram_bytes: limits.early_datagram_bytes,
                early_datagram_time: limits.early_datagram_time,
                ..HttpConfig::default()
            },
        )
    }

    /// Connections are accepted on this link from now on.
    pub(crate) fn add_listener(&mut self, link: LinkId, name: String, loopback: bool) {
        if let Some(key) = self.links.get(&link) {
            match self.endpoints.get_mut(*key) {
                // It comes back while connections of its former life go on.
                Some(endpoint) if endpoint.closing && matches!(endpoint.role, Role::Listener(_)) => {
                    endpoint.closing = false;
                }
                _ => self.counters.unknown_commands += 1,
            }
            return;
        }
        // Without a certificate nobody is served; a later snapshot may bring it.
        let server = self.snapshot.tls(&name).and_then(|tls| self.quic.server_config(tls));
        let listener = Arc::new(Listener { name: name.into(), loopback });
        let endpoint = self.quic.endpoint(Role::Listener(listener), link, server);
        let key = self.endpoints.insert(endpoint);
        self.links.insert(link, key);
    }

    /// Whether anything is attached to a link: false once the last connection of a removed listener has ended, and
    /// then its socket can be closed.
    #[must_use]
    pub fn has_link(&self, link: LinkId) -> bool {
        self.links.contains_key(&link)
    }

    /// Connections that live stay until they end.
    pub(crate) fn remove_listener(&mut self, link: LinkId) {
        let Some(&key) = self.links.get(&link) else {
            self.counters.unknown_commands += 1;
            return;
        };
        if let Some(endpoint) = self.endpoints.get_mut(key) {
            endpoint.closing = true;
        }
        for incoming in self.waiting.take_of(key) {
            if let Some(endpoint) = self.endpoints.get_mut(key) {
                endpoint.quic.ignore(incoming);
            }
        }
        self.close_empty_endpoint(key);
    }

    /// Forgets an endpoint that is closing and has no connections left.
    pub(crate) fn close_empty_endpoint(&mut self, key: Key) {
        if !self.endpoints.get(key).is_some_and(|endpoint| endpoint.closing && endpoint.connections == 0) {
            return;
        }
        if let Some(endpoint) = self.endpoints.remove(key) {
            for link in endpoint.other_links.iter().chain([&endpoint.link]) {
                if self.links.get(link) == Some(&key) {
                    self.links.remove(link);
                }
            }
        }
    }

    /// A link can no longer be used.
    pub(crate) fn handle_link_error(&mut self, link: LinkId, detail: String) {
        let Some(&key) = self.links.get(&link) else { return };
        self.counters.link_errors += 1;
        let Some(endpoint) = self.endpoints.get_mut(key) else { return };
        match endpoint.role {
            Role::Listener(_) => {}
            Role::Gateway(_) if endpoint.link != link => {
                endpoint.other_links.retain(|other| *other != link);
                self.links.remove(&link);
            }
            Role::Gateway(gateway) => self.fail_gateway_link(gateway, detail),
        }
    }

    /// New certificates for new connections; policy and limits are read from the snapshot where they are needed.
    pub(crate) fn handle_snapshot(&mut self, snapshot: Arc<CoreSnapshot>) {
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        for key in self.endpoints.keys() {
            let Some(endpoint) = self.endpoints.get_mut(key) else { continue };
            let Role::Listener(listener) = &endpoint.role else { continue };
            let tls = self.snapshot.tls(&listener.name);
            let unchanged = match (before.tls(&listener.name), tls) {
                (Some(before), Some(after)) => Arc::ptr_eq(before, after) && endpoint.server.is_some(),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !unchanged {
                endpoint.server = tls.and_then(|tls| self.quic.server_config(tls));
                endpoint.quic.set_server_config(endpoint.server.clone());
            }
        }
        self.begin_recheck();
    }

    /// Follows what the peer and the path allow now: whether datagrams may be sent, and how large.
    pub(crate) fn follow_limits(&mut self, connection: &mut Connection, out: &mut Outputs) {
        if connection.stage != Stage::Open {
            return;
        }
        let mut changed = Self::follow_path(connection);
        let allowed = connection.http.datagrams_allowed() && connection.max_datagram.is_some();
        if allowed != connection.datagrams {
            connection.datagrams = allowed;
            changed = true;
            for key in connection.tunnels.all() {
                if let Some(machine) = self.tunnels.get_mut(key).and_then(|tunnel| tunnel.machine.as_mut()) {
                    machine.set_datagrams(allowed);
                }
            }
        }
        if changed && matches!(connection.end, End::Client(_)) {
            for key in connection.tunnels.all() {
                let Some(tunnel) = self.tunnels.get(key) else { continue };
                if let (Some(flow), Side::Client(_)) = (tunnel.flow, &tunnel.side) {
                    let max_datagram_bytes = tunnel.announced_payload(connection.max_datagram);
                    out.actions.push(Action::FlowLimit { flow: flow_id(flow), max_datagram_bytes });
                }
            }
        }
    }

    /// The peer's SETTINGS are here.
    pub(crate) fn peer_settings(&mut self, connection: &mut Connection, out: &mut Outputs) {
        self.follow_limits(connection, out);
        if let End::Client(gateway) = connection.end {
            self.gateway_settings(connection, gateway, out);
        }
    }

    /// Closes a connection with a code of HTTP/3 and ends what it carries.
    pub(crate) fn close_connection(
        &mut self,
        connection: &mut Connection,
        now: Now,
        code: u64,
        reason: &'static str,
        out: &mut Outputs,
    ) {
        if connection.stage == Stage::Closed {
            return;
        }
        connection.quic.close(now.instant, varint(code), Bytes::from_static(reason.as_bytes()));
        let failure =
            if code == code::H3_NO_ERROR { GatewayFailure::Closed } else { GatewayFailure::Protocol(reason.into()) };
        self.connection_over(connection, now, EndReason::ConnectionClosed, failure, out);
    }

    /// The library gave a connection up.
    pub(crate) fn connection_lost(
        &mut self,
        connection: &mut Connection,
        now: Now,
        error: &ConnectionError,
        out: &mut Outputs,
    ) {
        let reason = match error {
            ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed => EndReason::ConnectionClosed,
            // RFC 9000 section 20.1: a close of the transport without an error is one too; curl ends all its connections so.
            ConnectionError::ConnectionClosed(close) if close.error_code == TransportErrorCode::NO_ERROR => {
                EndReason::ConnectionClosed
            }
            ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::ConnectionClosed(_)
            | ConnectionError::Reset
            | ConnectionError::TimedOut
            | ConnectionError::CidsExhausted => EndReason::ConnectionLost,
        };
        connection.silent = match error {
            ConnectionError::ApplicationClosed(_)
            | ConnectionError::ConnectionClosed(_)
            | ConnectionError::Reset
            | ConnectionError::TimedOut => true,
            ConnectionError::LocallyClosed
            | ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::CidsExhausted => false,
        };
        if connection.stage == Stage::Handshaking {
            self.counters.failed_handshakes += 1;
        }
        self.connection_over(connection, now, reason, gateway_failure(error), out);
    }

    /// Ends what a connection carries; the connection itself stays until its endpoint has drained it.
    fn connection_over(
        &mut self,
        connection: &mut Connection,
        now: Now,
        reason: EndReason,
        failure: GatewayFailure,
        out: &mut Outputs,
    ) {
        if connection.stage == Stage::Closed {
            return;
        }
        connection.over = Some(failure);
        open_window(&connection.quic);
        self.end_all_tunnels(connection, now, reason, out);
        self.connection_gone(connection);
    }

    /// The books of a connection that is over, whatever ended it. Of no effect the second time.
    pub(crate) fn connection_gone(&mut self, connection: &mut Connection) {
        if connection.stage == Stage::Closed {
            return;
        }
        if connection.stage == Stage::Handshaking && matches!(connection.end, End::Server(_)) {
            self.half_open -= 1;
        }
        connection.stage = Stage::Closed;
        connection.give_up_at = None;
        self.live_connections -= 1;
        self.counters.connections_closed += 1;
        self.counters.up_dropped_early += connection.held_datagrams;
        self.counters.up_dropped_connection_lost += connection.strays.len() as u64;
        connection.held_datagrams = 0;
        connection.strays = Vec::new();
        connection.ready.clear();
        connection.unread.clear();
        connection.finishing.clear();
        connection.capsule_ready.clear();
        self.reconcile_at_close(connection);
        match connection.end {
            End::Server(_) => self.quic.shared().connections.remove(),
            End::Client(gateway) => self.gateway_connection_over(connection, gateway),
        }
    }

    /// A connection whose endpoint panicked: nothing it says would be understood.
    pub(crate) fn lose_orphan(&mut self, connection: &mut Connection, now: Now, out: &mut Outputs) {
        self.connection_over(connection, now, EndReason::InternalError, GatewayFailure::Internal, out);
        connection.drained = true;
    }
}

/// What a gateway's owner is told.
pub(crate) fn gateway_failure(error: &ConnectionError) -> GatewayFailure {
    // TLS alerts are transport errors 0x100 to 0x1ff (RFC 9001 §4.8).
    const CRYPTO_ERRORS: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;
    match error {
        ConnectionError::TimedOut => GatewayFailure::TimedOut,
        ConnectionError::Reset => GatewayFailure::Reset,
        ConnectionError::LocallyClosed => GatewayFailure::Closed,
        ConnectionError::TransportError(error) if CRYPTO_ERRORS.contains(&u64::from(error.code)) => {
            GatewayFailure::Tls(error.reason.clone())
        }
        ConnectionError::ConnectionClosed(close) if CRYPTO_ERRORS.contains(&u64::from(close.error_code)) => {
            GatewayFailure::Tls(format!("the peer sent {}", close.error_code))
        }
        ConnectionError::ConnectionClosed(close) => GatewayFailure::ClosedByPeer {
            code: u64::from(close.error_code),
            application: false,
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::ApplicationClosed(close) => GatewayFailure::ClosedByPeer {
            code: VarInt::into_inner(close.error_code),
            application: true,
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::TransportError(_) | ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => {
            GatewayFailure::Protocol(error.to_string())
        }
    }
}
