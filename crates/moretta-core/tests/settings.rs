//! When the SETTINGS of both sides allow datagrams.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use moretta_core::{
    Action, Command, Core, CoreConfig, Event, GatewayId, Input, LinkId, Now, OpenGateway, Outputs, SlotId, Train,
    TransportOptions,
};
use moretta_wire::template::UriTemplate;
use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{Connection, DatagramEvent, Dir, Endpoint, EndpointConfig, ServerConfig};
use support::{CLIENT, SERVER, SERVER_NAME, shared, snapshot, some_instant, tls};

/// A control stream with extended CONNECT and datagrams in its SETTINGS.
const CONTROL_STREAM: &[u8] = &[0x00, 0x04, 0x04, 0x08, 0x01, 0x33, 0x01];

/// H3D-4: quic-go's server sends SETTINGS together with its part of the handshake, so that the client's core finds both
/// in one turn.
#[test]
fn settings_that_come_with_the_handshake_allow_datagrams_at_once() {
    let now = Now { instant: some_instant(), unix: Duration::from_secs(1_800_000_000) };
    let config = CoreConfig {
        slot: SlotId::new(0).unwrap(),
        seed: [7; 32],
        shared: shared(),
        transport: TransportOptions::default(),
    };
    let mut client = Core::new(config, snapshot(), now);
    let open = OpenGateway {
        gateway: GatewayId(1),
        link: LinkId(1),
        remotes: vec![SERVER.parse().unwrap()],
        server_name: SERVER_NAME.to_owned(),
        tls: Arc::clone(&tls().client),
        template: UriTemplate::for_origin("https://proxy.example").unwrap(),
        deadline: now.instant + Duration::from_secs(10),
    };
    client.handle(now, Input::Command(Command::OpenGateway(open)));

    let mut server = HastyServer::new();
    let mut outputs = Outputs::new();
    for _ in 0..20 {
        client.turn(now, &mut outputs);
        for action in &outputs.actions {
            if let Action::Event(Event::GatewayConnected { datagrams, .. }) = action {
                assert!(datagrams, "both sides allow them");
                return;
            }
        }
        for train in outputs.trains() {
            for packet in train.data.chunks(train.segment_size.unwrap_or(train.data.len()).max(1)) {
                server.handle(now, packet);
            }
        }
        outputs.clear();
        for packet in server.transmit(now) {
            let segment_size = packet.len();
            let data = BytesMut::from(&packet[..]);
            let remote = SERVER.parse().unwrap();
            client
                .handle(now, Input::Train(Train { link: LinkId(1), remote, local: None, ecn: 0, segment_size, data }));
        }
    }
    panic!("never connected");
}

/// A QUIC server that writes its SETTINGS before the handshake is over.
struct HastyServer {
    endpoint: Endpoint,
    connection: Option<Connection>,
}

impl HastyServer {
    fn new() -> Self {
        let crypto = QuicServerConfig::try_from(Arc::clone(&tls().server)).unwrap();
        let config = ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), Some(Arc::new(config)), true, None);
        Self { endpoint, connection: None }
    }

    fn handle(&mut self, now: Now, packet: &[u8]) {
        let mut answer = Vec::new();
        let from = CLIENT.parse().unwrap();
        match self.endpoint.handle(now.instant, from, None, None, BytesMut::from(packet), &mut answer) {
            Some(DatagramEvent::NewConnection(incoming)) => {
                let (_, connection) = self.endpoint.accept(incoming, now.instant, &mut answer, None).unwrap();
                self.connection = Some(connection);
            }
            Some(DatagramEvent::ConnectionEvent(_, event)) => self.connection.as_mut().unwrap().handle_event(event),
            Some(DatagramEvent::Response(_)) | None => {}
        }
        let connection = self.connection.as_mut().unwrap();
        while connection.poll().is_some() {}
        if let Some(control) = connection.streams().open(Dir::Uni) {
            // Only the first is a control stream; no more are allowed, and none is needed.
            if u64::from(control) == 3 {
                connection.send_stream(control).write(CONTROL_STREAM).unwrap();
            }
        }
    }

    fn transmit(&mut self, now: Now) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let Some(connection) = &mut self.connection else { return packets };
        let mut buffer = Vec::new();
        while let Some(transmit) = connection.poll_transmit(now.instant, 1, &mut buffer) {
            packets.push(buffer[..transmit.size].to_vec());
            buffer.clear();
        }
        packets
    }
}
