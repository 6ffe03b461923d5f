//! Counters and gauges of all workers as one document.

use crate::border::BorderCounts;
use crate::document::VERSION;
use crate::frontend::ForwardCounters;
use moretta_core::Counters;
use moretta_io::{ErrorCounts, SocketCounters};
use moretta_proto::error::{EndReason, Reason};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What a worker's shell counted beside its core and its sockets.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ShellCounters {
    /// Times the poller was asked.
    pub(crate) polls: u64,
    /// Trains for a link that was closed meanwhile.
    pub(crate) trains_without_link: u64,
    /// Datagrams for a flow that was closed meanwhile.
    pub(crate) datagrams_without_flow: u64,
    /// Packets of a foreign slot for which there is no worker.
    pub(crate) packets_of_no_slot: u64,
    /// Packets of this slot that other workers' sockets received.
    pub(crate) trains_from_ring: u64,
    /// Targets refused because they are this gateway's own sockets.
    pub(crate) own_socket_targets: u64,
}

/// Tunnels by why they were refused and why they ended, under the words of the error table. A word that never occurred
/// is absent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reasons {
    pub(crate) refused: BTreeMap<&'static str, u64>,
    pub(crate) ended: BTreeMap<&'static str, u64>,
}

impl Reasons {
    pub(crate) fn refused(&mut self, reason: Reason) {
        *self.refused.entry(reason.row().code).or_insert(0) += 1;
    }

    pub(crate) fn ended(&mut self, reason: EndReason) {
        *self.ended.entry(reason.row().code).or_insert(0) += 1;
    }

    fn add(&mut self, other: &Self) {
        for (total, counts) in [(&mut self.refused, &other.refused), (&mut self.ended, &other.ended)] {
            for (word, count) in counts {
                *total.entry(word).or_insert(0) += count;
            }
        }
    }

    fn to_json(&self) -> Value {
        json!({"refused": self.refused, "ended": self.ended})
    }
}

/// Everything one worker counted, as of one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorkerStats {
    pub(crate) core: Counters,
    pub(crate) shell: ShellCounters,
    /// Tunnels that this gateway was asked for.
    pub(crate) gateway_tunnels: Reasons,
    /// Tunnels that this client asked for.
    pub(crate) client_tunnels: Reasons,
    pub(crate) connections: usize,
    pub(crate) tunnels: usize,
    pub(crate) links: SocketCounters,
    pub(crate) flows: SocketCounters,
    pub(crate) forwards: ForwardCounters,
    pub(crate) forward_sockets: SocketCounters,
    pub(crate) ring_dropped: u64,
    pub(crate) open_target_sockets: usize,
    pub(crate) open_links: usize,
    pub(crate) open_gateways: usize,
    pub(crate) open_forwards: usize,
    pub(crate) forward_peers: usize,
    pub(crate) ready_flows: usize,
}

/// What the instance knows beside its workers.
#[derive(Debug, Clone)]
pub(crate) struct InstanceStats {
    pub(crate) border: BorderCounts,
    pub(crate) tunnels: u64,
    pub(crate) max_tunnels: u64,
    pub(crate) dns_questions: u64,
    pub(crate) dns_answers: BTreeMap<&'static str, u64>,
    pub(crate) closed: bool,
    pub(crate) workers_lost: usize,
}

/// The document: totals over all workers, then each worker's own totals.
pub(crate) fn document(workers: &[WorkerStats], instance: &InstanceStats) -> Vec<u8> {
    let mut total = WorkerStats::default();
    for worker in workers {
        total.add(worker);
    }
    let mut document = total.to_json();
    document.insert("version".into(), json!(VERSION));
    document.insert("closed".into(), json!(instance.closed));
    document.insert("workers_lost".into(), json!(instance.workers_lost));
    document.insert("tunnels".into(), json!({"open": instance.tunnels, "max": instance.max_tunnels}));
    document.insert("dns".into(), json!({"questions_held": instance.dns_questions, "answers": instance.dns_answers}));
    document.insert(
        "border".into(),
        json!({
            "events_reserved": instance.border.promised,
            "refusal_records_shed": instance.border.shed,
            "wakes": instance.border.wakes,
        }),
    );
    let each: Vec<Value> = workers.iter().map(|worker| Value::Object(worker.to_json())).collect();
    document.insert("workers".into(), Value::Array(each));
    Value::Object(document).to_string().into_bytes()
}

impl WorkerStats {
    fn add(&mut self, other: &Self) {
        self.core.add(&other.core);
        self.shell.add(&other.shell);
        self.gateway_tunnels.add(&other.gateway_tunnels);
        self.client_tunnels.add(&other.client_tunnels);
        self.connections += other.connections;
        self.tunnels += other.tunnels;
        self.links.add(&other.links);
        self.flows.add(&other.flows);
        self.forwards.add(&other.forwards);
        self.forward_sockets.add(&other.forward_sockets);
        self.ring_dropped += other.ring_dropped;
        self.open_target_sockets += other.open_target_sockets;
        self.open_links += other.open_links;
        self.open_gateways += other.open_gateways;
        self.open_forwards += other.open_forwards;
        self.forward_peers += other.forward_peers;
        self.ready_flows += other.ready_flows;
    }

    fn to_json(&self) -> Map<String, Value> {
        let core: Map<String, Value> =
            self.core.entries().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        let value = json!({
            "core": core,
            "gateway_tunnels": self.gateway_tunnels.to_json(),
            "client_tunnels": self.client_tunnels.to_json(),
            "shell": {
                "polls": self.shell.polls,
                "trains_without_link": self.shell.trains_without_link,
                "datagrams_without_flow": self.shell.datagrams_without_flow,
                "packets_of_no_slot": self.shell.packets_of_no_slot,
                "trains_from_ring": self.shell.trains_from_ring,
                "ring_dropped": self.ring_dropped,
                "own_socket_targets": self.shell.own_socket_targets,
            },
            "sockets": {
                "links": sockets(&self.links),
                "targets": sockets(&self.flows),
                "forwards": sockets(&self.forward_sockets),
            },
            "forwards": {
                "dropped_too_many_peers": self.forwards.dropped_too_many_peers,
                "dropped_opening": self.forwards.dropped_opening,
                "dropped_refused": self.forwards.dropped_refused,
                "expired_peers": self.forwards.expired_peers,
            },
            "gauges": {
                "connections": self.connections,
                "tunnels": self.tunnels,
                "target_sockets": self.open_target_sockets,
                "links": self.open_links,
                "gateways": self.open_gateways,
                "forwards": self.open_forwards,
                "forward_peers": self.forward_peers,
                "ready_flows": self.ready_flows,
            },
        });
        if let Value::Object(map) = value { map } else { Map::new() }
    }
}

impl ShellCounters {
    fn add(&mut self, other: &Self) {
        self.polls += other.polls;
        self.trains_without_link += other.trains_without_link;
        self.datagrams_without_flow += other.datagrams_without_flow;
        self.packets_of_no_slot += other.packets_of_no_slot;
        self.trains_from_ring += other.trains_from_ring;
        self.own_socket_targets += other.own_socket_targets;
    }
}

fn sockets(counters: &SocketCounters) -> Value {
    json!({
        "datagrams_received": counters.datagrams_received,
        "bytes_received": counters.bytes_received,
        "receive_calls": counters.receive_calls,
        "datagrams_sent": counters.datagrams_sent,
        "bytes_sent": counters.bytes_sent,
        "send_calls": counters.send_calls,
        "dropped_by_kernel": counters.dropped_by_kernel,
        "discarded_before_connect": counters.discarded_before_connect,
        "dropped_truncated": counters.dropped_truncated,
        "send_dropped": errors(&counters.send_dropped),
        "reported": errors(&counters.reported),
        "receive_failed": errors(&counters.receive_failed),
        "fallback_gso": counters.fallback_gso,
        "fallback_gro": counters.fallback_gro,
        "fallback_recvmmsg": counters.fallback_recvmmsg,
        "fallback_sendmmsg": counters.fallback_sendmmsg,
    })
}

fn errors(counts: &ErrorCounts) -> Value {
    json!({
        "would_block": counts.would_block,
        "message_too_long": counts.message_too_long,
        "connection_refused": counts.connection_refused,
        "host_unreachable": counts.host_unreachable,
        "network_unreachable": counts.network_unreachable,
        "no_buffers": counts.no_buffers,
        "permission_denied": counts.permission_denied,
        "other": counts.other,
    })
}
