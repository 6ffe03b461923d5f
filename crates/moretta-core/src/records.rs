//! Lines for the log of tunnels, server side.

use std::sync::Arc;

use moretta_proto::Now;
use moretta_proto::error::{EndReason, Reason, Refusal};
use moretta_wire::host::Host;

use crate::admission::Applicant;
use crate::connection::Connection;
use crate::core::Core;
use crate::ids::TunnelId;
use crate::output::{Action, ClosedRecord, OpenedRecord, Outputs, Record, RefusedRecord, TunnelFacts};
use crate::store::Key;
use crate::tunnel::{Side, Tunnel};

impl Core {
    pub(crate) fn record_opened(&mut self, key: Key, now: Now, out: &mut Outputs) {
        let Some((tunnel, applicant)) = self.applicant_of(key) else { return };
        let Some(grant) = &applicant.grant else { return };
        out.actions.push(Action::Record(Record::Opened(Box::new(OpenedRecord {
            facts: facts(tunnel.id, applicant, now),
            target: grant.address,
            rule: grant.rule.as_ref().map(ToString::to_string),
            setup: now.instant.saturating_duration_since(applicant.arrived.instant),
        }))));
    }

    pub(crate) fn record_refused(&mut self, key: Key, now: Now, refusal: &Refusal, out: &mut Outputs) {
        let Some((tunnel, applicant)) = self.applicant_of(key) else { return };
        out.actions.push(Action::Record(Record::Refused(Box::new(refused(facts(tunnel.id, applicant, now), refusal)))));
    }

    /// A request that ended before it was decided.
    pub(crate) fn record_cancelled(&mut self, key: Key, now: Now, out: &mut Outputs) {
        self.record_refused(key, now, &Refusal::new(Reason::RequestCancelled), out);
    }

    /// A request that could not be understood.
    pub(crate) fn record_unparsed(
        connection: &Connection,
        now: Now,
        tunnel: TunnelId,
        listener: &Arc<str>,
        refusal: &Refusal,
        out: &mut Outputs,
    ) {
        let facts = TunnelFacts {
            tunnel,
            listener: Arc::clone(listener),
            client: connection.address.known(),
            protocol: "",
            target_host: String::new(),
            target_port: 0,
            time: now.unix,
        };
        out.actions.push(Action::Record(Record::Refused(Box::new(refused(facts, refusal)))));
    }

    /// The end of an open tunnel, either side: a record on a server, an event on a client.
    pub(crate) fn record_closed(&mut self, key: Key, now: Now, reason: EndReason, out: &mut Outputs) {
        let Some(tunnel) = self.tunnels.get(key) else { return };
        let counters = tunnel.machine.as_ref().map(|machine| machine.counters().clone()).unwrap_or_default();
        let action = match &tunnel.side {
            Side::Client(request) => {
                Action::Event(crate::output::Event::TunnelClosed { tunnel: request.token, reason, counters })
            }
            Side::Server(applicant) => {
                let (Some(grant), Some(opened)) = (&applicant.grant, applicant.opened) else { return };
                Action::Record(Record::Closed(Box::new(ClosedRecord {
                    facts: facts(tunnel.id, applicant, now),
                    target: grant.address,
                    reason,
                    duration: now.instant.saturating_duration_since(opened.instant),
                    counters,
                })))
            }
        };
        out.actions.push(action);
    }

    fn applicant_of(&self, key: Key) -> Option<(&Tunnel, &Applicant)> {
        let tunnel = self.tunnels.get(key)?;
        match &tunnel.side {
            Side::Server(applicant) => Some((tunnel, applicant)),
            Side::Client(_) => None,
        }
    }
}

fn facts(tunnel: TunnelId, applicant: &Applicant, now: Now) -> TunnelFacts {
    TunnelFacts {
        tunnel,
        listener: Arc::clone(&applicant.listener),
        client: applicant.client,
        protocol: applicant.request.upgrade_token(),
        target_host: match applicant.request.host() {
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
            Host::Name(name) => name.as_str().to_owned(),
        },
        target_port: applicant.request.port(),
        time: now.unix,
    }
}

fn refused(facts: TunnelFacts, refusal: &Refusal) -> RefusedRecord {
    RefusedRecord {
        facts,
        reason: refusal.reason,
        rule: refusal.rule.as_ref().map(ToString::to_string),
        detail: refusal.detail.map(str::to_owned),
    }
}
