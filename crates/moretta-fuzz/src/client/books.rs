//! What must add up: what the application is told of gateways and tunnels, and where its datagrams went.

use std::collections::{BTreeMap, BTreeSet};

use moretta_core::{Counters, Event, FlowId, GatewayId, TunnelToken};

use crate::known;

/// What the application was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Asked,
    Open,
    Over,
}

#[derive(Debug, Default)]
pub(super) struct Books {
    /// Faults of libraries that were seen before this run.
    faults_before: u64,
    gateways: BTreeMap<GatewayId, Stage>,
    /// Through which gateway, and how far.
    tunnels: BTreeMap<TunnelToken, (GatewayId, Stage)>,
    /// Flows that were opened and not closed, and whose they are.
    pub(super) flows: BTreeMap<FlowId, TunnelToken>,
    closed_flows: BTreeSet<FlowId>,
    opened: u64,
    refused: u64,
    /// Payloads that reached the application.
    delivered: u64,
    delivered_bytes: u64,
    /// Bytes from, and to, addresses that are none of a server's.
    elsewhere: (u64, u64),
    pub(super) is_drained: bool,
}

impl Books {
    pub(super) fn new() -> Self {
        known::watch();
        Self { faults_before: known::seen(), ..Self::default() }
    }

    pub(super) fn connect(&mut self, gateway: GatewayId) {
        assert!(self.gateways.insert(gateway, Stage::Asked).is_none());
    }

    pub(super) fn ask(&mut self, tunnel: TunnelToken, gateway: GatewayId) {
        assert!(self.tunnels.insert(tunnel, (gateway, Stage::Asked)).is_none());
    }

    pub(super) fn open_flow(&mut self, flow: FlowId, tunnel: TunnelToken) {
        assert!(!self.closed_flows.contains(&flow), "{flow:?} was closed before");
        assert!(self.flows.insert(flow, tunnel).is_none(), "{flow:?} opened twice");
        assert_eq!(self.tunnels.get(&tunnel).map(|(_, stage)| *stage), Some(Stage::Asked), "{tunnel:?}");
    }

    pub(super) fn close_flow(&mut self, flow: FlowId) {
        assert!(self.flows.remove(&flow).is_some(), "{flow:?} was not open");
        self.closed_flows.insert(flow);
    }

    pub(super) fn deliver(&mut self, flow: FlowId, payloads: &[impl AsRef<[u8]>]) {
        assert!(self.flows.contains_key(&flow), "{flow:?} is not open");
        assert!(!payloads.is_empty());
        for payload in payloads {
            assert!(payload.as_ref().len() <= 65_527);
            self.delivered += 1;
            self.delivered_bytes += payload.as_ref().len() as u64;
        }
    }

    pub(super) fn received_from_elsewhere(&mut self, bytes: usize) {
        self.elsewhere.0 += bytes as u64;
    }

    pub(super) fn sent_elsewhere(&mut self, bytes: usize) {
        self.elsewhere.1 += bytes as u64;
        assert!(self.elsewhere.1 < self.elsewhere.0, "{} bytes for {}", self.elsewhere.1, self.elsewhere.0);
    }

    pub(super) fn note(&mut self, event: &Event) {
        match event {
            Event::GatewayConnected { gateway, .. } => {
                assert!(!self.is_drained, "{event:?} after the end");
                assert_eq!(self.gateways.insert(*gateway, Stage::Open), Some(Stage::Asked));
            }
            Event::GatewayFailed { gateway, .. } => {
                assert_eq!(self.gateways.insert(*gateway, Stage::Over), Some(Stage::Asked), "{event:?}");
                self.check_no_tunnels(*gateway);
            }
            Event::GatewayClosed { gateway, .. } => {
                let before = self.gateways.insert(*gateway, Stage::Over);
                assert_eq!(before, Some(Stage::Open), "{event:?}");
                self.check_no_tunnels(*gateway);
            }
            Event::TunnelOpened { tunnel, flow, max_datagram_bytes, status, .. } => {
                assert_eq!(self.flows.get(flow), Some(tunnel), "{event:?}");
                assert!((200..300).contains(status), "{event:?}");
                assert!(*max_datagram_bytes <= 65_527, "{event:?}");
                self.opened += 1;
                assert_eq!(self.step(*tunnel, Stage::Open), Stage::Asked, "{event:?}");
            }
            Event::TunnelRefused { tunnel, status, .. } => {
                // 1xx is no answer, and 2xx opens.
                assert!(status.is_none_or(|status| status == 101 || status >= 200), "{event:?}");
                self.refused += 1;
                assert_eq!(self.step(*tunnel, Stage::Over), Stage::Asked, "{event:?}");
            }
            Event::TunnelClosed { tunnel, .. } => {
                assert_eq!(self.step(*tunnel, Stage::Over), Stage::Open, "{event:?}");
            }
            Event::Drained => assert!(!std::mem::replace(&mut self.is_drained, true), "drained twice"),
        }
    }

    fn step(&mut self, tunnel: TunnelToken, stage: Stage) -> Stage {
        let (_, before) = self.tunnels.get_mut(&tunnel).unwrap_or_else(|| panic!("{tunnel:?} was never asked for"));
        std::mem::replace(before, stage)
    }

    fn check_no_tunnels(&self, gateway: GatewayId) {
        let left: Vec<_> =
            self.tunnels.iter().filter(|(_, (of, stage))| *of == gateway && *stage != Stage::Over).collect();
        assert!(left.is_empty(), "{gateway:?} is over before {left:?}");
    }

    pub(super) fn check(&self, counters: &Counters) {
        let survived = known::seen() - self.faults_before;
        assert_eq!((counters.panicked_connections, counters.panicked_endpoints), (survived, 0));
        assert_eq!((counters.datagrams_to_flows, counters.bytes_to_flows), (self.delivered, self.delivered_bytes));
    }

    /// Nothing is left, and everything is accounted for.
    pub(super) fn check_end(&self, counters: &Counters) {
        assert!(self.flows.is_empty(), "{:?} are still open", self.flows);
        assert!(self.gateways.values().all(|stage| *stage == Stage::Over), "{:?}", self.gateways);
        assert!(self.tunnels.values().all(|(_, stage)| *stage == Stage::Over), "{:?}", self.tunnels);
        let sum = |prefix: &str| -> u64 {
            counters.entries().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum()
        };
        // From the server to the application, and back.
        assert_eq!(counters.datagrams_from_peer, counters.datagrams_to_flows + sum("up_dropped_"), "{counters:?}");
        let handed_on = counters.datagrams_to_peer + counters.datagrams_to_peer_in_capsules;
        assert_eq!(counters.datagrams_from_flows, handed_on + sum("down_dropped_"), "{counters:?}");
        assert_eq!((counters.tunnels_opened, counters.tunnels_closed), (self.opened, self.opened), "{counters:?}");
        assert_eq!(counters.tunnels_refused, self.refused, "{counters:?}");
        assert_eq!(counters.connections_opened, counters.connections_closed, "{counters:?}");
    }
}
