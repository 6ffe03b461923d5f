//! A gateway: one or several cores behind one listening address.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use moretta_core::{
    Command, ConnectionCount, Core, CoreConfig, CoreSnapshot, Counters, Event, Input, Levels, LinkId, Record, Shared,
    SharedTokenLog, SlotId, TokenKeys, TransportOptions,
};
use moretta_io::steering::SteeringTable;
use moretta_proto::{
    ledger::{Ledger as _, LocalLedger},
    limits::Limits,
    policy::{OwnAddresses, PolicyDocument},
    profile::Profile,
    snapshot::{Listener, Snapshot},
};
use moretta_wire::template::UriTemplate;

use super::{Owner, World, node::Node};
use crate::{random::Random, tls::SetupError};

/// The listener's link in each of its cores.
pub(super) const LISTENER: LinkId = LinkId(0);

/// What the listener is called in snapshots and records.
pub const LISTENER_NAME: &str = "main";

/// A gateway in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SiteId(pub(super) usize);

/// What a gateway is like.
#[derive(Debug, Clone)]
pub struct GatewaySpec {
    /// Where it listens.
    pub address: SocketAddr,
    /// One core for each; below 32, all different.
    pub slots: Vec<u8>,
    /// Targets that tunnels may reach: prefixes or names, as in a rule.
    pub destinations: Vec<String>,
    /// Its limits.
    pub limits: Limits,
    /// Its profile.
    pub profile: Profile,
    /// QUIC's knobs.
    pub transport: TransportOptions,
}

impl GatewaySpec {
    /// One core, slot 0, targets 9.9.9.0/24 and below `target.test`.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            slots: vec![0],
            destinations: vec!["9.9.9.0/24".to_owned(), "*.target.test".to_owned()],
            limits: Limits::default(),
            profile: Profile::hardened(),
            transport: TransportOptions::default(),
        }
    }

    /// The snapshot of such a gateway, with this for TLS.
    ///
    /// # Errors
    /// If the policy is wrong.
    pub fn snapshot(&self, tls: Arc<rustls::ServerConfig>) -> Result<Arc<CoreSnapshot>, SetupError> {
        Ok(Arc::new(CoreSnapshot {
            proto: Arc::new(self.proto_snapshot()?),
            tls: vec![(LISTENER_NAME.to_owned(), tls)],
            own_addresses: Arc::new(OwnAddresses::default()),
        }))
    }

    fn proto_snapshot(&self) -> Result<Snapshot, SetupError> {
        let destinations: Vec<_> = self.destinations.iter().map(|text| format!("{text:?}")).collect();
        let rule = format!(
            r#"{{"rules":[{{"id":"world","action":"allow","protocol":"udp","destination":[{}],"ports":"*"}}]}}"#,
            destinations.join(",")
        );
        let setup = |error: &dyn std::fmt::Debug| SetupError(format!("{error:?}"));
        let document: PolicyDocument = serde_json::from_str(&rule).map_err(|error| setup(&error))?;
        let policy = document.compile().map_err(|error| setup(&error))?;
        let template = UriTemplate::parse_path(UriTemplate::DEFAULT_PATH).map_err(|error| setup(&error))?;
        let listener = Listener { templates: vec![template], danger_allow_anonymous: true };
        Ok(Snapshot {
            generation: 1,
            profile: self.profile,
            limits: self.limits.clone(),
            policy,
            proxy_name: "gateway.test".to_owned(),
            listeners: BTreeMap::from([(LISTENER_NAME.to_owned(), listener)]),
        })
    }
}

pub(super) struct Site {
    pub(super) address: SocketAddr,
    pub(super) table: SteeringTable,
    /// Slot → node.
    pub(super) members: BTreeMap<u8, usize>,
    pub(super) misroute_per_mille: u32,
    ledger: Arc<LocalLedger>,
    shared: Arc<Shared>,
    egress: IpAddr,
    next_port: u16,
}

impl Site {
    pub(super) fn next_egress(&mut self) -> SocketAddr {
        self.next_port += 1;
        SocketAddr::new(self.egress, self.next_port)
    }
}

impl World {
    /// Adds a gateway and lets it listen.
    ///
    /// # Errors
    /// If TLS, the policy or a slot is wrong.
    pub fn add_gateway(&mut self, spec: &GatewaySpec) -> Result<SiteId, SetupError> {
        let host = self.add_host();
        let site = self.sites.len();
        let snapshot = spec.snapshot(self.identity.server()?)?;
        let mut random = Random::new(self.seed, &format!("gateway {site}"));
        let ledger = Arc::new(LocalLedger::new(spec.limits.max_tunnels));
        let shared = Arc::new(Shared {
            reset_key: random.bytes(),
            token_keys: TokenKeys::new(&random.bytes(), None),
            token_log: Arc::new(SharedTokenLog::default()),
            ledger: ledger.clone(),
            connections: ConnectionCount::default(),
        });
        let mut table = SteeringTable::new();
        let mut members = BTreeMap::new();
        for slot in &spec.slots {
            let id = SlotId::new(*slot).filter(|_| table.join(*slot));
            let slot_id = id.ok_or_else(|| SetupError(format!("slot {slot} is taken or too large")))?;
            let config = CoreConfig {
                slot: slot_id,
                seed: random.bytes(),
                shared: Arc::clone(&shared),
                transport: spec.transport.clone(),
            };
            let core = Core::new(config, Arc::clone(&snapshot), self.core_now());
            let mut node = Node::new(core, host, Some(site));
            node.links.insert(LISTENER, spec.address);
            let index = self.nodes.len();
            self.nodes.push(node);
            members.insert(*slot, index);
            self.feed(
                index,
                Input::Command(Command::AddListener {
                    link: LISTENER,
                    name: LISTENER_NAME.to_owned(),
                    loopback: false,
                }),
            );
        }
        let egress = spec.address.ip();
        self.sites.push(Site {
            address: spec.address,
            table,
            members,
            misroute_per_mille: 0,
            ledger,
            shared,
            egress,
            next_port: 32_767,
        });
        self.add_socket(spec.address, host, Owner::Listener(site));
        Ok(SiteId(site))
    }

    /// Gives a command to every core of a gateway.
    pub fn command_gateway(&mut self, site: SiteId, mut command: impl FnMut(&Self) -> Command) {
        for node in self.member_nodes(site) {
            let command = command(self);
            self.feed(node, Input::Command(command));
        }
    }

    /// Lets the kernel's steering be wrong for so many trains of a thousand, as while a socket joins or leaves.
    pub fn set_misrouting(&mut self, site: SiteId, per_mille: u32) {
        if let Some(site) = self.sites.get_mut(site.0) {
            site.misroute_per_mille = per_mille;
        }
    }

    /// Whether this slot takes new connections, as before a slot leaves or after it joined.
    pub fn set_accepting(&mut self, site: SiteId, slot: u8, accepting: bool) {
        if let Some(site) = self.sites.get_mut(site.0) {
            site.table.set_accepting(slot, accepting);
        }
    }

    /// Where a gateway listens.
    pub fn gateway_address(&self, site: SiteId) -> Option<SocketAddr> {
        self.sites.get(site.0).map(|site| site.address)
    }

    fn member_nodes(&self, site: SiteId) -> Vec<usize> {
        self.sites.get(site.0).map(|site| site.members.values().copied().collect()).unwrap_or_default()
    }

    /// Counters of all cores of a gateway together.
    pub fn gateway_counters(&self, site: SiteId) -> Counters {
        let mut total = Counters::default();
        for node in self.member_nodes(site).into_iter().filter_map(|node| self.nodes.get(node)) {
            total.add(node.core.counters());
        }
        total
    }

    /// Counters of the core with this slot.
    pub fn slot_counters(&self, site: SiteId, slot: u8) -> Option<Counters> {
        let node = *self.sites.get(site.0)?.members.get(&slot)?;
        self.nodes.get(node).map(|node| *node.core.counters())
    }

    /// Records of all cores of a gateway, in the order of slots and then of time.
    pub fn records(&self, site: SiteId) -> Vec<&Record> {
        let nodes = self.member_nodes(site).into_iter().filter_map(|node| self.nodes.get(node));
        nodes.flat_map(|node| &node.records).collect()
    }

    /// Events of all cores of a gateway.
    pub fn gateway_events(&self, site: SiteId) -> Vec<&Event> {
        let nodes = self.member_nodes(site).into_iter().filter_map(|node| self.nodes.get(node));
        nodes.flat_map(|node| &node.events).collect()
    }

    /// Tunnels that the gateway's ledger counts as open.
    pub fn counted_tunnels(&self, site: SiteId) -> u64 {
        self.sites.get(site.0).map_or(0, |site| site.ledger.tunnels())
    }

    /// Connections that all slots of a gateway count together.
    pub fn counted_connections(&self, site: SiteId) -> usize {
        self.sites.get(site.0).map_or(0, |site| site.shared.connections.get())
    }

    /// Datagrams that reached the sockets of a gateway's flows and were not read: their buffer was full, their sender was
    /// not the target, or they were there when the flow was closed.
    pub fn unread_by_flows(&self, site: SiteId) -> u64 {
        let nodes = self.member_nodes(site).into_iter().filter_map(|node| self.nodes.get(node));
        nodes
            .map(|node| node.unread_by_flows + node.flows.values().map(|flow| flow.waiting.len() as u64).sum::<u64>())
            .sum()
    }

    /// What each core of a gateway holds; see [`Core::levels`].
    ///
    /// # Errors
    /// As there.
    pub fn gateway_levels(&mut self, site: SiteId) -> Result<Vec<Levels>, String> {
        let nodes = self.member_nodes(site);
        nodes.into_iter().filter_map(|node| Some(self.nodes.get_mut(node)?.core.levels())).collect()
    }

    /// Connections, tunnels and flows that are open at a gateway.
    pub fn gateway_load(&self, site: SiteId) -> (usize, usize, usize) {
        let nodes = self.member_nodes(site).into_iter().filter_map(|node| self.nodes.get(node));
        nodes.fold((0, 0, 0), |(connections, tunnels, flows), node| {
            (connections + node.core.connections(), tunnels + node.core.tunnels(), flows + node.flows.len())
        })
    }
}
