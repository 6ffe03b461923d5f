//! Every way in which a tunnel ends.

use bytes::Bytes;
use moretta_proto::Now;
use moretta_proto::error::{Closing, EndReason, Reason, h3_code};
use moretta_proto::tunnel::udp::Verdict;

use crate::connection::Connection;
use crate::core::{Core, flow_id};
use crate::output::{Action, Outputs};
use crate::store::Key;
use crate::tunnel::{Intent, Side, Tunnel};

impl Core {
    /// One tunnel's due work, with its connection at hand.
    pub(crate) fn step_tunnel(&mut self, connection: &mut Connection, key: Key, now: Now, out: &mut Outputs) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        tunnel.in_work = false;
        match tunnel.intent.take() {
            Some(Intent::End(reason)) => {
                self.end_or_cancel(connection, key, now, reason, out);
                return;
            }
            Some(Intent::Finish(reason)) => {
                self.finish_tunnel(connection, key, now, reason, out);
                return;
            }
            None => {}
        }
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        if let Some(machine) = &mut tunnel.machine {
            if let Some(reason) = machine.handle_timeout(now) {
                self.end_tunnel(connection, key, now, reason, out);
            } else {
                let at = machine.poll_timeout();
                self.arm_tunnel(key, at);
            }
        } else {
            match tunnel.side {
                Side::Server(_) => self.step_admission(connection, key, now, out),
                Side::Client(_) => self.step_request(connection, key, now, out),
            }
        }
    }

    /// The peer ended its side of a request stream in good order.
    pub(crate) fn stream_finished(&mut self, connection: &mut Connection, now: Now, stream: u64, out: &mut Outputs) {
        let Some(key) = connection.tunnels.find(stream) else { return };
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        match &mut tunnel.machine {
            Some(machine) => {
                if let Some(reason) = machine.on_peer_fin() {
                    self.end_tunnel(connection, key, now, reason, out);
                }
            }
            None => match tunnel.side {
                // A client may send what it has and finish before it is answered.
                Side::Server(_) => tunnel.held_fin = true,
                Side::Client(_) => self.request_failed(connection, key, Reason::MalformedResponse, out),
            },
        }
    }

    /// The peer reset its side of a request stream.
    pub(crate) fn stream_reset(&mut self, connection: &mut Connection, now: Now, stream: u64, out: &mut Outputs) {
        let Some(key) = connection.tunnels.find(stream) else { return };
        self.end_by(
            connection,
            key,
            now,
            EndReason::ClientReset,
            out,
            moretta_proto::tunnel::udp::UdpTunnel::on_peer_reset,
        );
    }

    /// The peer does not want what we send on a request stream.
    pub(crate) fn stream_stopped(
        &mut self,
        connection: &mut Connection,
        now: Now,
        stream: u64,
        code: u64,
        out: &mut Outputs,
    ) {
        let Some(key) = connection.tunnels.find(stream) else { return };
        // RFC 9114 §4.1: a server that has answered may stop the rest of the request; its answer counts all the same,
        // and may come after this.
        let awaits_answer = |tunnel: &Tunnel| tunnel.machine.is_none() && matches!(tunnel.side, Side::Client(_));
        if self.tunnels.get(key).is_some_and(awaits_answer) {
            return;
        }
        self.end_by(connection, key, now, EndReason::ClientReset, out, |machine| machine.on_peer_stop_sending(code));
    }

    /// HTTP/3 ended a request stream because the peer broke a rule on it.
    pub(crate) fn stream_aborted(
        &mut self,
        connection: &mut Connection,
        now: Now,
        stream: u64,
        _code: u64,
        out: &mut Outputs,
    ) {
        let Some(key) = connection.tunnels.find(stream) else { return };
        self.end_by(
            connection,
            key,
            now,
            EndReason::ClientReset,
            out,
            moretta_proto::tunnel::udp::UdpTunnel::on_peer_reset,
        );
    }

    fn end_by(
        &mut self,
        connection: &mut Connection,
        key: Key,
        now: Now,
        otherwise: EndReason,
        out: &mut Outputs,
        tell: impl FnOnce(&mut moretta_proto::tunnel::udp::UdpTunnel) -> Option<EndReason>,
    ) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        match &mut tunnel.machine {
            Some(machine) => {
                if let Some(reason) = tell(machine) {
                    self.end_tunnel(connection, key, now, reason, out);
                }
            }
            None => self.end_or_cancel(connection, key, now, otherwise, out),
        }
    }

    /// Ends a tunnel, or what was to become one.
    pub(crate) fn end_or_cancel(
        &mut self,
        connection: &mut Connection,
        key: Key,
        now: Now,
        reason: EndReason,
        out: &mut Outputs,
    ) {
        let Some(tunnel) = self.tunnels.get(key) else { return };
        if tunnel.machine.is_some() {
            self.end_tunnel(connection, key, now, reason, out);
            return;
        }
        let stream = tunnel.stream;
        match tunnel.side {
            Side::Server(_) => {
                self.counters.tunnels_cancelled += 1;
                self.record_cancelled(key, now, out);
                connection.http.reset(stream, h3_code::REQUEST_CANCELLED);
                connection.http_dirty = true;
                self.forget_tunnel(connection, key, out);
            }
            Side::Client(_) => {
                let reason = match reason {
                    EndReason::ConnectionLost | EndReason::ConnectionClosed => Reason::GatewayLost,
                    EndReason::InternalError => Reason::InternalError,
                    EndReason::ProxyFinished
                    | EndReason::ClientFinished
                    | EndReason::ProxyReset
                    | EndReason::ClientReset
                    | EndReason::IdleTimeout
                    | EndReason::Drained
                    | EndReason::PolicyChanged
                    | EndReason::TargetError
                    | EndReason::CapsuleTruncated
                    | EndReason::CapsuleRefused
                    | EndReason::CapsuleClosedConnection
                    | EndReason::CapsuleFlood
                    | EndReason::PayloadTooLong
                    | EndReason::ContextFlood => Reason::RequestReset,
                };
                self.request_failed(connection, key, reason, out);
            }
        }
    }

    /// Ends an open tunnel: its stream as the reason says, its flow, its record.
    pub(crate) fn end_tunnel(
        &mut self,
        connection: &mut Connection,
        key: Key,
        now: Now,
        reason: EndReason,
        out: &mut Outputs,
    ) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let stream = tunnel.stream;
        // Its counters go into the record: everything that is dropped with it is counted first.
        if let Some(mut tunnel) = self.tunnels.lend(key) {
            self.drop_queue(connection, &mut tunnel);
            self.tunnels.put_back(key, tunnel);
        }
        if let Some(machine) = self.tunnels.get_mut(key).and_then(|tunnel| tunnel.machine.as_mut()) {
            // `None`: it ended by itself, for this reason.
            let _ended_before = machine.end(reason);
        }
        self.counters.tunnels_closed += 1;
        self.record_closed(key, now, reason, out);
        match reason.row().closing {
            Closing::Finish => {
                // Fails only if our side is over, which is what is wanted.
                let _over = connection.http.finish(stream);
                connection.http.stop_receiving(stream, h3_code::NO_ERROR);
            }
            Closing::Reset(code) => connection.http.reset(stream, code),
            Closing::CloseConnection(code) => connection.http.close(code, reason.sentence()),
            Closing::Nothing => {}
        }
        connection.http_dirty = true;
        self.forget_tunnel(connection, key, out);
    }

    /// Releases everything that a tunnel or a request holds.
    pub(crate) fn forget_tunnel(&mut self, connection: &mut Connection, key: Key, out: &mut Outputs) {
        let Some(mut tunnel) = self.tunnels.remove(key) else { return };
        self.drop_queue(connection, &mut tunnel);
        connection.tunnels.remove(tunnel.stream);
        connection.unread.retain(|unread| *unread != tunnel.stream);
        self.timers.release(tunnel.timer);
        let mut opening = None;
        match &mut tunnel.side {
            Side::Server(applicant) => {
                opening = applicant.opening.take();
                if let Some(query) = applicant.query.take() {
                    self.queries.remove(&query);
                    out.actions.push(Action::CancelResolve(query));
                }
            }
            Side::Client(request) => {
                self.tunnel_names.remove(&request.token);
            }
        }
        for flow in [tunnel.flow.take(), opening].into_iter().flatten() {
            if self.flows.remove(flow).is_some() {
                connection.paused_flows.retain(|paused| *paused != flow);
                out.actions.push(Action::CloseFlow { flow: flow_id(flow) });
            }
        }
        self.gateway_tunnel_gone(connection);
    }

    /// Ends our side in good order: what waits is sent, then FIN; the tunnel ends when the peer has finished too.
    pub(crate) fn finish_tunnel(
        &mut self,
        connection: &mut Connection,
        key: Key,
        now: Now,
        reason: EndReason,
        out: &mut Outputs,
    ) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let Some(machine) = &mut tunnel.machine else {
            self.end_or_cancel(connection, key, now, reason, out);
            return;
        };
        if !machine.finish(reason, now) {
            return;
        }
        tunnel.finishing = true;
        let at = machine.poll_timeout();
        self.arm_tunnel(key, at);
        connection.finishing.push(key);
    }

    /// FIN for tunnels that are being finished and have nothing left to send.
    pub(crate) fn finish_emptied_tunnels(&mut self, connection: &mut Connection) {
        let mut at = 0;
        while let Some(&key) = connection.finishing.get(at) {
            match self.tunnels.get(key) {
                Some(tunnel) if !tunnel.queue.is_empty() => {
                    at += 1;
                    continue;
                }
                Some(tunnel) => {
                    // Fails only if our side is over, which is what is wanted.
                    let _over = connection.http.finish(tunnel.stream);
                    connection.http_dirty = true;
                }
                None => {}
            }
            connection.finishing.swap_remove(at);
        }
    }

    /// Ends every tunnel of a connection that is over.
    pub(crate) fn end_all_tunnels(
        &mut self,
        connection: &mut Connection,
        now: Now,
        reason: EndReason,
        out: &mut Outputs,
    ) {
        for key in connection.tunnels.all() {
            self.end_or_cancel(connection, key, now, reason, out);
        }
    }

    /// A datagram that was held until its request was decided.
    pub(crate) fn held_datagram(
        &mut self,
        connection: &mut Connection,
        key: Key,
        now: Now,
        datagram: &Bytes,
        out: &mut Outputs,
    ) {
        let Some(machine) = self.tunnels.get_mut(key).and_then(|tunnel| tunnel.machine.as_mut()) else {
            self.counters.up_dropped_early += 1;
            return;
        };
        match machine.from_peer_datagram(datagram) {
            Verdict::Forward { offset } => self.forward_to_flow(key, datagram.slice(offset..), out),
            Verdict::Drop(_) => self.counters.up_dropped_by_tunnel += 1,
            Verdict::End(reason) => {
                self.counters.up_dropped_by_tunnel += 1;
                self.end_tunnel(connection, key, now, reason, out);
            }
        }
    }
}
