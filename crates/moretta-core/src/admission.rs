//! Server side: from a request to an open tunnel or a refusal.
//!
//! The decisions are `moretta-proto`'s; here its machine gets what it asks for: a slot of the Ledger, addresses, a flow.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use moretta_proto::Now;
use moretta_proto::admission::{Accepted, Admission, Facts, Grant, OpenError, ResolveError, Step};
use moretta_proto::error::{EndReason, Refusal};
use moretta_proto::ledger::TunnelSlot;
use moretta_proto::request::{self, TunnelRequest};
use moretta_proto::tunnel::udp::{Options, Role as TunnelRole, UdpTunnel};
use moretta_wire::head::RequestHead;

use crate::connection::{Connection, End};
use crate::core::{Core, flow_id, flow_key};
use crate::ids::{FlowId, QueryId, TunnelId};
use crate::input::{FlowKind, FlowPath};
use crate::output::{Action, Outputs};
use crate::store::Key;
use crate::timer::Owner;
use crate::tunnel::{Flow, Side, Tunnel};

/// One client's request for a tunnel, and later what is known about the tunnel it became.
#[derive(Debug)]
pub(crate) struct Applicant {
    /// There until the request is decided.
    pub(crate) admission: Option<Admission>,
    /// Held as long as the tunnel is open.
    pub(crate) slot: Option<TunnelSlot>,
    /// What was allowed.
    pub(crate) grant: Option<Grant>,
    pub(crate) query: Option<QueryId>,
    /// The flow being opened for the address that is tried.
    pub(crate) opening: Option<Key>,
    /// What the flow takes that was opened.
    pub(crate) path: FlowPath,
    pub(crate) listener: Arc<str>,
    pub(crate) client: SocketAddr,
    pub(crate) request: TunnelRequest,
    pub(crate) arrived: Now,
    pub(crate) opened: Option<Now>,
}

impl Core {
    /// A request that HTTP/3 found well-formed.
    pub(crate) fn request(
        &mut self,
        connection: &mut Connection,
        now: Now,
        stream: u64,
        head: &RequestHead,
        fin: bool,
        out: &mut Outputs,
    ) {
        let End::Server(listener) = &connection.end else { return };
        let listener = Arc::clone(listener);
        let snapshot = Arc::clone(&self.snapshot.proto);
        let id = self.new_tunnel_id();
        let request = match request::parse(head, snapshot.templates(&listener.name)) {
            Ok(request) => request,
            Err(refusal) => {
                Self::record_unparsed(connection, now, id, &listener.name, &refusal, out);
                if head.protocol.as_deref() != Some(request::CONNECT_UDP.as_bytes()) {
                    // RFC 9297 §2: a datagram that is here already aborts what has no use for it.
                    connection.http.refuse_datagrams(stream);
                }
                self.refuse_stream(connection, stream, &refusal);
                return;
            }
        };
        let facts = Facts {
            listener: Arc::clone(&listener.name),
            loopback: listener.loopback,
            // Never accepted (`endpoint`).
            early_data: false,
            draining: self.drain.is_some(),
            tunnels_on_connection: connection.tunnels.len(),
            own: Arc::clone(&self.snapshot.own_addresses),
        };
        let admission = Admission::new(request.clone(), snapshot, facts, now);
        let deadline = admission.deadline();
        let applicant = Applicant {
            admission: Some(admission),
            slot: None,
            grant: None,
            query: None,
            opening: None,
            path: FlowPath::ETHERNET,
            listener: Arc::clone(&listener.name),
            client: connection.address.known(),
            request,
            arrived: now,
            opened: None,
        };
        let timers = &mut self.timers;
        let key = self.tunnels.insert_with(|key| {
            let timer = timers.register(Owner::Tunnel(key));
            timers.set(timer, Some(deadline));
            Tunnel::new(id, connection.key, stream, Side::Server(Box::new(applicant)), timer)
        });
        connection.tunnels.insert(stream, key);
        if let Some(tunnel) = self.tunnels.get_mut(key) {
            tunnel.held_fin = fin;
        }
        self.step_admission(connection, key, now, out);
    }

    pub(crate) fn new_tunnel_id(&mut self) -> TunnelId {
        self.next_tunnel += 1;
        TunnelId(self.next_tunnel)
    }

    /// Takes an admission as far as it goes now.
    pub(crate) fn step_admission(&mut self, connection: &mut Connection, key: Key, now: Now, out: &mut Outputs) {
        loop {
            let Some(applicant) = self.applicant(key) else { return };
            let client = applicant.client;
            let Some(admission) = &mut applicant.admission else { return };
            match admission.step(now) {
                Step::AskLedger => {
                    let slot = TunnelSlot::take(&self.quic.shared().ledger);
                    if let Some(admission) = self.applicant(key).and_then(|applicant| applicant.admission.as_mut()) {
                        admission.on_ledger(slot);
                    }
                }
                Step::Resolve { name } => {
                    self.next_query += 1;
                    let query = QueryId(self.next_query);
                    self.queries.insert(query, key);
                    if let Some(applicant) = self.applicant(key) {
                        applicant.query = Some(query);
                    }
                    out.actions.push(Action::Resolve { query, name, source: client.ip() });
                    return;
                }
                Step::Open { address } => {
                    let flow = self.flows.insert(Flow { tunnel: key, paused: false });
                    if let Some(applicant) = self.applicant(key) {
                        applicant.opening = Some(flow);
                    }
                    let kind = FlowKind::Connected { target: address };
                    out.actions.push(Action::OpenFlow { flow: flow_id(flow), kind });
                    return;
                }
                Step::Wait => {
                    let deadline = admission.deadline();
                    self.arm_tunnel(key, Some(deadline));
                    return;
                }
                Step::Accepted(accepted) => {
                    self.accept_tunnel(connection, key, now, *accepted, out);
                    return;
                }
                Step::Refused(refusal) => {
                    self.refuse_tunnel(connection, key, now, &refusal, out);
                    return;
                }
            }
        }
    }

    fn applicant(&mut self, key: Key) -> Option<&mut Applicant> {
        match self.tunnels.get_mut(key).map(|tunnel| &mut tunnel.side) {
            Some(Side::Server(applicant)) => Some(applicant),
            Some(Side::Client(_)) | None => None,
        }
    }

    /// The resolver's answer.
    pub(crate) fn handle_resolved(&mut self, query: QueryId, result: Result<Vec<IpAddr>, ResolveError>) {
        let Some(key) = self.queries.remove(&query) else {
            self.counters.stale_answers += 1;
            return;
        };
        let Some(applicant) = self.applicant(key) else { return };
        applicant.query = None;
        if let Some(admission) = &mut applicant.admission {
            admission.on_resolved(result);
            self.mark_tunnel(key);
        }
    }

    /// The driver opened a flow, or could not.
    pub(crate) fn handle_flow_opened(&mut self, flow: FlowId, result: Result<FlowPath, OpenError>) {
        let flow = flow_key(flow);
        let Some(&Flow { tunnel: key, .. }) = self.flows.get(flow) else {
            self.counters.stale_flow_inputs += 1;
            return;
        };
        let Some(applicant) = self.applicant(key) else { return };
        if applicant.opening != Some(flow) {
            return;
        }
        applicant.opening = None;
        if let Some(admission) = &mut applicant.admission {
            admission.on_opened(result.map(drop));
            if let Ok(path) = result {
                applicant.path = path;
                if let Some(tunnel) = self.tunnels.get_mut(key) {
                    tunnel.flow = Some(flow);
                }
            } else {
                // The driver has nothing to close.
                self.flows.remove(flow);
            }
            self.mark_tunnel(key);
        }
    }

    /// The way to a target carries more or less than before.
    pub(crate) fn handle_flow_path(&mut self, flow: FlowId, path: FlowPath) {
        let Some(&Flow { tunnel: key, .. }) = self.flows.get(flow_key(flow)) else {
            self.counters.stale_flow_inputs += 1;
            return;
        };
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        match (&mut tunnel.machine, &mut tunnel.side) {
            (Some(machine), _) => machine.set_target_payload_bytes(path.max_payload_bytes),
            (None, Side::Server(applicant)) => applicant.path = path,
            (None, Side::Client(_)) => {}
        }
    }

    /// 2xx: the flow is open (CF-1).
    fn accept_tunnel(
        &mut self,
        connection: &mut Connection,
        key: Key,
        now: Now,
        accepted: Accepted,
        out: &mut Outputs,
    ) {
        let Accepted { response, grant, slot } = accepted;
        let snapshot = Arc::clone(&self.snapshot.proto);
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let stream = tunnel.stream;
        if connection.http.send_response(stream, &response, false).is_err() {
            // The client is gone from this stream, or its connection is about to close.
            self.end_or_cancel(connection, key, now, EndReason::ClientReset, out);
            return;
        }
        connection.http.enable_datagrams(stream);
        connection.http_dirty = true;
        let Side::Server(applicant) = &tunnel.side else { return };
        let options = Options {
            datagrams: connection.datagrams,
            target_payload_bytes: applicant.path.max_payload_bytes,
            ..Options::new(TunnelRole::Proxy, snapshot.profile, &snapshot.limits)
        };
        let machine = UdpTunnel::new(options, now);
        let deadline = machine.poll_timeout();
        tunnel.machine = Some(machine);
        if let Side::Server(applicant) = &mut tunnel.side {
            applicant.admission = None;
            applicant.opened = Some(now);
            applicant.grant = Some(grant);
            applicant.slot = Some(slot);
        }
        self.arm_tunnel(key, deadline);
        self.counters.tunnels_opened += 1;
        self.record_opened(key, now, out);
        self.deliver_held(connection, key, now, out);
        self.resume_reading(connection, now, stream, out);
    }

    /// What came before the tunnel was open: datagrams, stream bytes, the end of the stream.
    pub(crate) fn deliver_held(&mut self, connection: &mut Connection, key: Key, now: Now, out: &mut Outputs) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let stream = tunnel.stream;
        let held = std::mem::take(&mut tunnel.held);
        let fin = std::mem::take(&mut tunnel.held_fin);
        tunnel.held_bytes = 0;
        for datagram in connection.http.take_early_datagrams(stream) {
            connection.held_datagrams = connection.held_datagrams.saturating_sub(1);
            self.held_datagram(connection, key, now, &datagram, out);
        }
        for bytes in held {
            self.stream_data(connection, now, stream, &bytes, out);
        }
        if fin {
            self.stream_finished(connection, now, stream, out);
        }
    }

    /// Answers a request with a refusal and forgets it.
    pub(crate) fn refuse_tunnel(
        &mut self,
        connection: &mut Connection,
        key: Key,
        now: Now,
        refusal: &Refusal,
        out: &mut Outputs,
    ) {
        let Some(stream) = self.tunnels.get(key).map(|tunnel| tunnel.stream) else { return };
        self.record_refused(key, now, refusal, out);
        self.refuse_stream(connection, stream, refusal);
        self.forget_tunnel(connection, key, out);
    }

    /// Head and FIN; the rest of the request is not wanted.
    fn refuse_stream(&mut self, connection: &mut Connection, stream: u64, refusal: &Refusal) {
        self.counters.tunnels_refused += 1;
        let response = refusal.response_head(&self.snapshot.proto.proxy_name);
        connection.unread.retain(|unread| *unread != stream);
        let code = refusal.reason.row().h3_code;
        if connection.http.send_response(stream, &response, true).is_ok() {
            connection.http.stop_receiving(stream, code);
        } else {
            connection.http.reset(stream, code);
        }
        connection.http_dirty = true;
    }
}
