//! What a core tells about gateways and client tunnels, as events for control code.

use super::{LocalEnd, Worker};
use crate::border::lock;
use crate::document::{self, Event};
use crate::queue::TunnelState;
use crate::records::counters;
use moretta_core::{Event as CoreEvent, GatewayFailure, GatewayId, Input, Now, TunnelToken};
use moretta_proto::error::{EndReason, Reason};
use moretta_proto::tunnel::TunnelCounters;

impl Worker {
    pub(super) fn report(&mut self, event: CoreEvent, now: Now) {
        match event {
            CoreEvent::GatewayConnected { gateway: GatewayId(gateway), remote, datagrams } => {
                let Some(known) = self.shell.gateways.get_mut(&gateway) else { return };
                let handshake = now.instant.saturating_duration_since(known.started);
                known.handshake = Some(handshake);
                self.release_held(gateway, now);
                self.push(Event::GatewayConnected(document::GatewayConnected {
                    gateway,
                    remote,
                    handshake_seconds: handshake.as_secs_f64(),
                    datagrams,
                }));
            }
            CoreEvent::GatewayFailed { gateway: GatewayId(gateway), failure } => {
                if self.try_again(gateway, now) {
                    return;
                }
                let refused = self.shell.gateways.get(&gateway).is_some_and(|known| known.refused);
                if refused {
                    let words = "nothing listens at the gateway's address: check address and port";
                    self.gateway_failed(gateway, "connection_refused", words);
                } else {
                    self.gateway_failed(gateway, failure.code(), &sentence(&failure));
                }
                self.close_forwards_of(gateway, now);
            }
            CoreEvent::GatewayClosed { gateway: GatewayId(gateway), failure } => {
                self.gateway_gone(gateway, now);
                self.push(Event::GatewayClosed(document::GatewayClosed {
                    gateway,
                    reason: failure.code().into(),
                    error: sentence(&failure),
                }));
            }
            CoreEvent::TunnelOpened { tunnel, flow, max_datagram_bytes, datagrams, status, proxy_status } => {
                self.tunnel_opened(tunnel, flow, max_datagram_bytes, now);
                if !is_front_end(tunnel) {
                    self.push(Event::TunnelOpened(document::TunnelOpened {
                        tunnel: tunnel.0,
                        status,
                        proxy_status,
                        max_datagram_bytes,
                        datagrams,
                    }));
                }
            }
            CoreEvent::TunnelRefused { tunnel, status, proxy_status, reason } => {
                self.shell.client_tunnels.refused(reason);
                self.tunnel_refused(tunnel, status, proxy_status, reason, now);
            }
            CoreEvent::TunnelClosed { tunnel, reason, counters } => {
                self.shell.client_tunnels.ended(reason);
                self.tunnel_closed(tunnel, reason, &counters);
            }
            CoreEvent::Drained => {
                self.shell.drained = true;
                if std::mem::take(&mut self.shell.draining) {
                    self.shell.instance.worker_drained();
                }
            }
        }
    }

    fn push(&self, event: Event) {
        self.shell.instance.border.push(event);
    }

    fn tunnel_opened(&mut self, tunnel: TunnelToken, flow: moretta_core::FlowId, max: usize, now: Now) {
        let Some(local) = self.shell.locals.get(&tunnel) else { return };
        match &local.end {
            LocalEnd::Application(queue) => {
                queue.set_max_datagram_bytes(max);
                queue.set_state(TunnelState::Open);
                self.shell.flows.make_ready(flow);
            }
            LocalEnd::Peer { forward } => {
                let id = *forward;
                let core = &mut self.core;
                if let Some(forward) = self.shell.forwards.iter_mut().find(|open| open.request.forward == id) {
                    forward.opened(tunnel, flow, |data, segment_size| {
                        core.handle(now, Input::Flow { flow, data, segment_size });
                    });
                }
            }
        }
    }

    fn tunnel_refused(
        &mut self,
        tunnel: TunnelToken,
        status: Option<u16>,
        proxy_status: Option<String>,
        reason: Reason,
        now: Now,
    ) {
        let Some(local) = self.shell.locals.remove(&tunnel) else { return };
        match local.end {
            LocalEnd::Application(queue) => {
                queue.set_state(TunnelState::Closed);
                let error = match status {
                    Some(status) => format!("the gateway answered {status}: {}", reason.row().sentence),
                    None => format!("the gateway gave no answer: {}", reason.row().sentence),
                };
                self.refused(tunnel, status, proxy_status, reason.row().code, &error);
            }
            LocalEnd::Peer { forward } => {
                if let Some(forward) = self.shell.forwards.iter_mut().find(|open| open.request.forward == forward) {
                    forward.refused(tunnel, now.instant);
                }
            }
        }
    }

    /// A tunnel that the core never heard of.
    pub(super) fn refuse_tunnel(&mut self, tunnel: TunnelToken, reason: &str, error: &str, now: Now) {
        let Some(local) = self.shell.locals.remove(&tunnel) else { return };
        match local.end {
            LocalEnd::Application(queue) => {
                queue.set_state(TunnelState::Closed);
                self.refused(tunnel, None, None, reason, error);
            }
            LocalEnd::Peer { forward } => {
                if let Some(forward) = self.shell.forwards.iter_mut().find(|open| open.request.forward == forward) {
                    forward.refused(tunnel, now.instant);
                }
            }
        }
    }

    fn refused(
        &self,
        tunnel: TunnelToken,
        status: Option<u16>,
        proxy_status: Option<String>,
        reason: &str,
        error: &str,
    ) {
        self.push(Event::TunnelRefused(document::TunnelRefused {
            tunnel: tunnel.0,
            status,
            proxy_status,
            reason: reason.to_owned(),
            error: error.to_owned(),
        }));
        // There will be no `tunnel_closed`.
        self.shell.instance.border.release(1);
    }

    pub(super) fn tunnel_closed(&mut self, tunnel: TunnelToken, reason: EndReason, carried: &TunnelCounters) {
        let Some(local) = self.shell.locals.remove(&tunnel) else { return };
        match local.end {
            LocalEnd::Application(queue) => {
                queue.set_state(TunnelState::Closed);
                self.push(Event::TunnelClosed(document::TunnelClosed {
                    tunnel: tunnel.0,
                    reason: reason.row().code.into(),
                    counters: counters(carried),
                }));
            }
            LocalEnd::Peer { forward } => {
                if let Some(forward) = self.shell.forwards.iter_mut().find(|open| open.request.forward == forward) {
                    forward.closed(tunnel);
                }
            }
        }
    }
}

impl super::Shell {
    pub(super) fn forget_forward(&mut self, forward: u64) {
        lock(&self.instance.registry).forwards.remove(&forward);
    }
}

fn is_front_end(tunnel: TunnelToken) -> bool {
    tunnel.0 & crate::instance::FRONT_END_TOKEN != 0
}

/// RFC 9000 §20.1.
const CONNECTION_REFUSED: u64 = 0x02;

/// For people.
fn sentence(failure: &GatewayFailure) -> String {
    match failure {
        GatewayFailure::TimedOut => "the gateway did not answer in time: check address, port and firewall".into(),
        GatewayFailure::NoUsableAddress => "the gateway has no address that can be used from here".into(),
        GatewayFailure::Tls(detail) => format!("the gateway's identity was not accepted: {detail}"),
        GatewayFailure::ClosedByPeer { code: CONNECTION_REFUSED, application: false, .. } => {
            "the gateway takes no new connections now, it drains or is full: try again later".into()
        }
        GatewayFailure::ClosedByPeer { code, application, reason } => {
            let kind = if *application { "HTTP/3" } else { "QUIC" };
            let words = if reason.is_empty() { String::new() } else { format!(" ({reason:?})") };
            format!("the gateway closed the connection with {kind} code {code:#x}{words}")
        }
        GatewayFailure::Reset => "the gateway lost the connection's state, as after a restart: connect again".into(),
        GatewayFailure::Protocol(detail) => format!("the peer broke the protocol: {detail}"),
        GatewayFailure::NoExtendedConnect => {
            "the server does not offer extended CONNECT (RFC 9220): it is no MASQUE gateway".into()
        }
        GatewayFailure::Link(detail) => format!("the local socket failed: {detail}"),
        GatewayFailure::Closed => "closed by this side".into(),
        GatewayFailure::GoingAway => "the gateway is going away: connect again, to another if there is one".into(),
        GatewayFailure::Internal => "our own code failed; this is a bug".into(),
    }
}
