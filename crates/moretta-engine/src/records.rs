//! The gateway's records of tunnels as events, and the words of counters.

use crate::border::lock;
use crate::document::{self, Event};
use crate::instance::Instance;
use crate::mailbox::Message;
use crate::queue::TunnelState;
use moretta_core::{Record, TunnelFacts};
use moretta_proto::tunnel::TunnelCounters;

/// Tells control code about a tunnel of the gateway. Room for opened and closed was reserved when the tunnel took its
/// slot in the ledger.
pub(crate) fn push(instance: &Instance, worker: usize, record: Record) {
    match record {
        Record::Opened(opened) => {
            let facts = opened.facts;
            instance.border.push_record(Event::RecordOpened(document::RecordOpened {
                tunnel_id: tunnel_id(worker, &facts),
                listener: facts.listener.to_string(),
                client: facts.client,
                protocol: facts.protocol.to_owned(),
                target_host: facts.target_host,
                target_port: facts.target_port,
                target_address: opened.target.ip(),
                rule: opened.rule,
                setup_seconds: opened.setup.as_secs_f64(),
                unix_seconds: facts.time.as_secs_f64(),
            }));
        }
        Record::Refused(refused) => {
            let facts = refused.facts;
            instance.border.push_refusal(Event::RecordRefused(document::RecordRefused {
                listener: facts.listener.to_string(),
                client: facts.client,
                target_host: (!facts.target_host.is_empty()).then_some(facts.target_host),
                target_port: (facts.target_port != 0).then_some(facts.target_port),
                reason: refused.reason.row().code.into(),
                status: refused.reason.row().status,
                rule: refused.rule,
                detail: refused.detail,
                unix_seconds: facts.time.as_secs_f64(),
            }));
        }
        Record::Closed(closed) => {
            let facts = closed.facts;
            instance.border.push_record(Event::RecordClosed(document::RecordClosed {
                tunnel_id: tunnel_id(worker, &facts),
                listener: facts.listener.to_string(),
                client: facts.client,
                protocol: facts.protocol.to_owned(),
                target_host: facts.target_host,
                target_port: facts.target_port,
                target_address: closed.target.ip(),
                reason: closed.reason.row().code.into(),
                duration_seconds: closed.duration.as_secs_f64(),
                counters: counters(&closed.counters),
                unix_seconds: facts.time.as_secs_f64(),
            }));
        }
    }
}

/// Unique in the engine: a core's number, and the worker in the bits above it. Below 2^53, so that JSON readers that
/// know only floating point keep it exact.
fn tunnel_id(worker: usize, facts: &TunnelFacts) -> u64 {
    (worker as u64) << 48 | (facts.tunnel.0 & ((1 << 48) - 1))
}

/// What a tunnel carried, as in documents.
pub(crate) fn counters(carried: &TunnelCounters) -> document::Counters {
    document::Counters {
        datagrams_to_target: carried.client_to_target.datagrams,
        bytes_to_target: carried.client_to_target.bytes,
        datagrams_from_target: carried.target_to_client.datagrams,
        bytes_from_target: carried.target_to_client.bytes,
        drops: carried.drops.iter().map(|(reason, count)| (reason.row().code.to_owned(), count)).collect(),
    }
}

/// Ends what waited for a gateway that never reached its worker.
pub(crate) fn refuse_waiting(instance: &Instance, message: Message, reason: &str, error: &str) {
    match message {
        Message::OpenUdp { queue, .. } => {
            queue.set_state(TunnelState::Closed);
            instance.border.push(Event::TunnelRefused(document::TunnelRefused {
                tunnel: queue.token(),
                status: None,
                proxy_status: None,
                reason: reason.to_owned(),
                error: error.to_owned(),
            }));
            instance.border.release(1);
        }
        Message::Forward(request) => {
            lock(&instance.registry).forwards.remove(&request.forward);
            instance.border.push(Event::ForwardFailed(document::ForwardFailed {
                forward: request.forward,
                reason: reason.to_owned(),
                error: error.to_owned(),
            }));
            instance.border.release(1);
        }
        Message::Ping { gateway, ping } => {
            let failed = document::PongFailed { gateway, ping, reason: reason.to_owned() };
            instance.border.push(Event::PongFailed(failed));
        }
        // Nothing of these waits for an answer.
        Message::FinishTunnel(_)
        | Message::ResetTunnel(_)
        | Message::CloseForward(_)
        | Message::CloseGateway(_)
        | Message::Rebind { .. }
        | Message::Snapshot { .. }
        | Message::CloseLink(_)
        | Message::OpenGateway(_)
        | Message::Resolved { .. }
        | Message::Drain { .. }
        | Message::Close
        | Message::Stats(_) => {}
        #[cfg(test)]
        Message::Fail { .. } => {}
    }
}
