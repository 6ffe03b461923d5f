//! What must add up: flows, records, datagrams, and how much is sent to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use moretta_core::{Counters, FlowId, Record};

use crate::known;

#[derive(Debug, Default)]
pub(super) struct Books {
    /// Faults of libraries that were seen before this run.
    faults_before: u64,
    /// Flows that the core has asked for and not closed, with their target, and whether they are open.
    pub(super) flows: BTreeMap<FlowId, (SocketAddr, bool)>,
    closed_flows: BTreeSet<FlowId>,
    /// Tunnels that were opened and are not closed, by their number in records.
    tunnels: BTreeSet<u64>,
    seen_tunnels: BTreeSet<u64>,
    refused: u64,
    /// Payloads that left by flows.
    delivered: u64,
    delivered_bytes: u64,
    /// Bytes from, and to, each address.
    traffic: BTreeMap<SocketAddr, (u64, u64)>,
    pub(super) is_drained: bool,
}

impl Books {
    pub(super) fn new() -> Self {
        known::watch();
        Self { faults_before: known::seen(), ..Self::default() }
    }

    pub(super) fn open_flow(&mut self, flow: FlowId, target: SocketAddr) {
        assert!(!self.closed_flows.contains(&flow), "{flow:?} was closed before");
        assert!(self.flows.insert(flow, (target, false)).is_none(), "{flow:?} opened twice");
        let SocketAddr::V4(address) = target else { panic!("{target} is not allowed") };
        assert_eq!(address.ip().octets()[..3], [9, 9, 9], "{target} is not allowed");
    }

    /// What could not be opened needs no closing.
    pub(super) fn flow_opened(&mut self, flow: FlowId, is_open: bool) {
        if is_open {
            self.flows.get_mut(&flow).unwrap().1 = true;
        } else {
            self.close_flow(flow);
        }
    }

    pub(super) fn close_flow(&mut self, flow: FlowId) {
        assert!(self.flows.remove(&flow).is_some(), "{flow:?} was not open");
        self.closed_flows.insert(flow);
    }

    pub(super) fn deliver(&mut self, flow: FlowId, payloads: &[impl AsRef<[u8]>]) {
        assert!(self.flows.get(&flow).is_some_and(|(_, is_open)| *is_open), "{flow:?} is not open");
        assert!(!payloads.is_empty());
        for payload in payloads {
            assert!(payload.as_ref().len() <= 65_527);
            self.delivered += 1;
            self.delivered_bytes += payload.as_ref().len() as u64;
        }
    }

    pub(super) fn record(&mut self, record: &Record) {
        match record {
            Record::Opened(opened) => {
                let number = opened.facts.tunnel.0;
                assert!(self.seen_tunnels.insert(number), "tunnel {number} opened twice");
                self.tunnels.insert(number);
                assert!(opened.rule.is_some());
            }
            Record::Closed(closed) => {
                let number = closed.facts.tunnel.0;
                assert!(self.tunnels.remove(&number), "tunnel {number} closed, but it is not open");
            }
            Record::Refused(refused) => {
                let number = refused.facts.tunnel.0;
                assert!(!self.seen_tunnels.contains(&number), "tunnel {number} was opened and refused");
                self.refused += 1;
            }
        }
    }

    pub(super) fn received(&mut self, from: SocketAddr, bytes: usize) {
        self.traffic.entry(from).or_default().0 += bytes as u64;
    }

    pub(super) fn sent(&mut self, to: SocketAddr, bytes: usize) {
        self.traffic.entry(to).or_default().1 += bytes as u64;
    }

    /// RFC 9000 §8: an address that has proved nothing gets at most three times what came from it.
    pub(super) fn check_amplification(&self, address: SocketAddr) {
        let (received, sent) = self.traffic.get(&address).copied().unwrap_or_default();
        assert!(sent <= 3 * received, "{sent} bytes to {address} for {received}");
    }

    pub(super) fn check_datagrams(&self, counters: &Counters) {
        let survived = known::seen() - self.faults_before;
        assert_eq!((counters.panicked_connections, counters.panicked_endpoints), (survived, 0));
        assert_eq!((counters.datagrams_to_flows, counters.bytes_to_flows), (self.delivered, self.delivered_bytes));
    }

    /// Nothing is left, and everything is accounted for.
    pub(super) fn check_end(&self, counters: &Counters) {
        assert!(self.flows.is_empty(), "{:?} are still open", self.flows);
        assert!(self.tunnels.is_empty(), "{:?} were not closed", self.tunnels);
        let sum = |prefix: &str| -> u64 {
            counters.entries().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum()
        };
        assert_eq!(counters.datagrams_from_peer, counters.datagrams_to_flows + sum("up_dropped_"), "{counters:?}");
        let handed_on = counters.datagrams_to_peer + counters.datagrams_to_peer_in_capsules;
        assert_eq!(counters.datagrams_from_flows, handed_on + sum("down_dropped_"), "{counters:?}");
        assert_eq!(counters.tunnels_opened, counters.tunnels_closed);
        assert_eq!(counters.tunnels_opened, self.seen_tunnels.len() as u64);
        assert_eq!(counters.tunnels_refused + counters.tunnels_cancelled, self.refused, "every request has its record");
    }
}
