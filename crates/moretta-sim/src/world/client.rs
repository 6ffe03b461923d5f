//! Clients: a core that opens tunnels for an application, which is the test.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use moretta_core::{
    Command, ConnectionCount, Core, CoreConfig, CoreSnapshot, Counters, Event, FlowKind, GatewayId, Input, Levels,
    LinkId, OpenGateway, OpenUdp, Shared, SharedTokenLog, SlotId, TokenKeys, TransportOptions, TunnelToken,
};
use moretta_proto::{ledger::LocalLedger, policy::OwnAddresses, snapshot::Snapshot};
use moretta_wire::template::UriTemplate;

use super::{Owner, World, node::Node};
use crate::{
    random::Random,
    tls::{SERVER_NAME, SetupError},
};

/// A client in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(usize);

/// A tunnel that its proxy has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenedTunnel {
    /// The largest payload that fits now.
    pub max_datagram_bytes: usize,
}

impl World {
    /// Adds a client core with one socket.
    ///
    /// # Errors
    /// Never in a healthy build; slot 0 is a valid slot.
    pub fn add_client(&mut self, address: SocketAddr, transport: TransportOptions) -> Result<ClientId, SetupError> {
        let host = self.add_host();
        let index = self.nodes.len();
        let mut random = Random::new(self.seed, &format!("client {index}"));
        let shared = Shared {
            reset_key: random.bytes(),
            token_keys: TokenKeys::new(&random.bytes(), None),
            token_log: Arc::new(SharedTokenLog::default()),
            ledger: Arc::new(LocalLedger::new(u64::MAX)),
            connections: ConnectionCount::default(),
        };
        let slot = SlotId::new(0).ok_or_else(|| SetupError("slot 0".to_owned()))?;
        let config = CoreConfig { slot, seed: random.bytes(), shared: Arc::new(shared), transport };
        let snapshot = CoreSnapshot {
            proto: Arc::new(Snapshot::default()),
            tls: Vec::new(),
            own_addresses: Arc::new(OwnAddresses::default()),
        };
        let core = Core::new(config, Arc::new(snapshot), self.core_now());
        self.nodes.push(Node::new(core, host, None));
        let client = ClientId(index);
        self.add_client_link(client, LinkId(0), address);
        Ok(client)
    }

    /// Gives a client another socket, for [`World::rebind`].
    pub fn add_client_link(&mut self, client: ClientId, link: LinkId, address: SocketAddr) {
        let Some(node) = self.nodes.get_mut(client.0) else { return };
        node.links.insert(link, address);
        let host = node.host;
        self.add_socket(address, host, Owner::Link(client.0, link));
    }

    /// Connects a client to a gateway, over its first socket.
    ///
    /// # Errors
    /// If TLS refuses its configuration.
    pub fn connect(
        &mut self,
        client: ClientId,
        gateway: GatewayId,
        remotes: Vec<SocketAddr>,
        timeout: Duration,
    ) -> Result<(), SetupError> {
        self.connect_over(client, gateway, LinkId(0), remotes, timeout)
    }

    /// The same over any of its sockets, which serves this gateway alone.
    ///
    /// # Errors
    /// If TLS refuses its configuration.
    pub fn connect_over(
        &mut self,
        client: ClientId,
        gateway: GatewayId,
        link: LinkId,
        remotes: Vec<SocketAddr>,
        timeout: Duration,
    ) -> Result<(), SetupError> {
        let template = UriTemplate::for_origin(&format!("https://{SERVER_NAME}"));
        let template = template.map_err(|error| SetupError(format!("{error:?}")))?;
        let open = OpenGateway {
            gateway,
            link,
            remotes,
            server_name: SERVER_NAME.to_owned(),
            tls: self.identity.client_with(self.secrets.clone())?,
            template,
            deadline: self.instant() + timeout,
        };
        self.feed(client.0, Input::Command(Command::OpenGateway(open)));
        Ok(())
    }

    /// Asks for a tunnel.
    pub fn open_udp(&mut self, client: ClientId, gateway: GatewayId, tunnel: TunnelToken, host: &str, port: u16) {
        let open = OpenUdp {
            gateway,
            tunnel,
            flow_kind: FlowKind::Local { tunnel },
            host: host.to_owned(),
            port,
            deadline: self.instant() + Duration::from_secs(20),
        };
        self.feed(client.0, Input::Command(Command::OpenUdp(open)));
    }

    /// Moves a client's connection to another of its sockets.
    pub fn rebind(&mut self, client: ClientId, gateway: GatewayId, link: LinkId) {
        self.feed(client.0, Input::Command(Command::Rebind { gateway, link }));
    }

    /// Gives any command to a client.
    pub fn command_client(&mut self, client: ClientId, command: Command) {
        self.feed(client.0, Input::Command(command));
    }

    /// The application sends a datagram; false if the tunnel is not open.
    pub fn send(&mut self, client: ClientId, tunnel: TunnelToken, payload: &[u8]) -> bool {
        let flow = self
            .nodes
            .get(client.0)
            .and_then(|node| node.applications.get(&tunnel).and_then(|application| application.flow))
            .filter(|flow| self.nodes.get(client.0).is_some_and(|node| node.flows.contains_key(flow)));
        let Some(flow) = flow else { return false };
        self.feed(client.0, Input::Flow { flow, data: payload, segment_size: payload.len() });
        true
    }

    /// Takes what the application of a tunnel has received.
    pub fn take_received(&mut self, client: ClientId, tunnel: TunnelToken) -> Vec<Bytes> {
        let application = self.nodes.get_mut(client.0).and_then(|node| node.applications.get_mut(&tunnel));
        application.map(|application| std::mem::take(&mut application.received)).unwrap_or_default()
    }

    /// The tunnel, if its proxy has accepted it.
    pub fn opened(&self, client: ClientId, tunnel: TunnelToken) -> Option<OpenedTunnel> {
        let application = self.nodes.get(client.0)?.applications.get(&tunnel)?;
        application.flow.map(|_| OpenedTunnel { max_datagram_bytes: application.max_datagram_bytes })
    }

    /// A client's news, in order.
    pub fn events(&self, client: ClientId) -> &[Event] {
        self.nodes.get(client.0).map_or(&[], |node| &node.events)
    }

    /// What a client's core holds; see [`Core::levels`].
    ///
    /// # Errors
    /// As there.
    pub fn client_levels(&mut self, client: ClientId) -> Result<Levels, String> {
        self.nodes.get_mut(client.0).map_or(Ok(Levels::default()), |node| node.core.levels())
    }

    /// A client's counters.
    pub fn client_counters(&self, client: ClientId) -> Counters {
        self.nodes.get(client.0).map(|node| *node.core.counters()).unwrap_or_default()
    }
}
