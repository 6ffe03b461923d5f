//! What the engine tells.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::VERSION;

/// Declares the events: one struct each, its name in the document, and the enum of all.
macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $text:literal { $($(#[$field_doc:meta])* $field:ident : $kind:ty),* $(,)? })*) => {
        $($(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[$field_doc])* pub $field: $kind,)* })*

        /// Any event.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Event { $($(#[$doc])* $name($name)),* }

        impl Event {
            /// The name in the document.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => $text),* }
            }

            /// The document.
            pub fn to_json(&self) -> Vec<u8> {
                let written = match self { $(Self::$name(event) => written($text, event)),* };
                // Plain structs of strings and numbers always serialise; an empty document is loud on the other side.
                written.unwrap_or_default()
            }

            /// Reads an event back.
            ///
            /// # Errors
            /// When it is not a document of this version, or has another shape.
            pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
                #[derive(Deserialize)]
                struct Head { event: String }
                let head: Head = serde_json::from_slice(bytes)?;
                let mut value: serde_json::Value = serde_json::from_slice(bytes)?;
                if let Some(object) = value.as_object_mut() {
                    object.remove("event");
                    object.remove("version");
                }
                match head.event.as_str() {
                    $($text => serde_json::from_value(value).map(Self::$name),)*
                    other => Err(serde::de::Error::custom(format!("no event {other:?}"))),
                }
            }

            pub(super) fn describe() -> Vec<(&'static str, Vec<&'static str>)> {
                vec![$(($text, [&["version", "event"][..], &super::describe::fields_of::<$name>()[..]].concat())),*]
            }
        }
    };
}

impl Event {
    /// The tunnel that is over with this event.
    pub(crate) fn ended_tunnel(&self) -> Option<u64> {
        if let Self::TunnelClosed(TunnelClosed { tunnel, .. }) | Self::TunnelRefused(TunnelRefused { tunnel, .. }) =
            self
        {
            Some(*tunnel)
        } else {
            None
        }
    }
}

fn written(name: &'static str, event: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Document<'a, T> {
        version: u64,
        event: &'static str,
        #[serde(flatten)]
        body: &'a T,
    }
    serde_json::to_vec(&Document { version: VERSION, event: name, body: event })
}

/// What a tunnel carried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Datagrams from the client side towards the target.
    pub datagrams_to_target: u64,
    /// Their payload bytes.
    pub bytes_to_target: u64,
    /// Datagrams from the target towards the client side.
    pub datagrams_from_target: u64,
    /// Their payload bytes.
    pub bytes_from_target: u64,
    /// Datagrams dropped, by reason; reasons that did not occur are absent.
    pub drops: BTreeMap<String, u64>,
}

events! {
    /// A listener is open.
    Listening = "listening" {
        /// Its name.
        listener: String,
        /// Its addresses with the real ports, in the order of the snapshot.
        addresses: Vec<SocketAddr>,
    }
    /// A snapshot is in force.
    SnapshotApplied = "snapshot_applied" {
        /// Its generation.
        generation: u64,
    }
    /// A snapshot was refused; the one before it stays in force.
    SnapshotRefused = "snapshot_refused" {
        /// Its generation.
        generation: u64,
        /// Path of the offending value, e.g. `listeners[0].certificate_pem`; empty if no single value is at fault.
        path: String,
        /// One sentence with the remedy.
        error: String,
        /// A stable word, e.g. `port_in_use`.
        code: String,
    }
    /// A gateway answered and its settings are known.
    GatewayConnected = "gateway_connected" {
        /// The caller's number.
        gateway: u64,
        /// Where it is.
        remote: SocketAddr,
        /// From the first packet to the gateway's settings.
        handshake_seconds: f64,
        /// Both sides allow HTTP Datagrams (RFC 9297); without, payloads travel in capsules.
        datagrams: bool,
    }
    /// A gateway could not be reached or was not trusted.
    GatewayFailed = "gateway_failed" {
        /// The caller's number.
        gateway: u64,
        /// A stable word.
        reason: String,
        /// One sentence.
        error: String,
    }
    /// The connection to a gateway ended; so did its tunnels.
    GatewayClosed = "gateway_closed" {
        /// The caller's number.
        gateway: u64,
        /// A stable word.
        reason: String,
        /// One sentence.
        error: String,
    }
    /// A tunnel carries datagrams.
    TunnelOpened = "tunnel_opened" {
        /// The caller's number.
        tunnel: u64,
        /// Of the response.
        status: u16,
        /// The gateway's Proxy-Status field, if it sent one.
        proxy_status: Option<String>,
        /// Largest UDP payload that fits in one QUIC packet now.
        max_datagram_bytes: usize,
        /// Payloads travel as HTTP Datagrams; otherwise in capsules, reliable and in order.
        datagrams: bool,
    }
    /// A tunnel was not opened.
    TunnelRefused = "tunnel_refused" {
        /// The caller's number.
        tunnel: u64,
        /// Of the response; absent when there was none.
        status: Option<u16>,
        /// The gateway's Proxy-Status field, if it sent one.
        proxy_status: Option<String>,
        /// A stable word.
        reason: String,
        /// One sentence.
        error: String,
    }
    /// A tunnel ended.
    TunnelClosed = "tunnel_closed" {
        /// The caller's number.
        tunnel: u64,
        /// A stable word.
        reason: String,
        /// What it carried.
        counters: Counters,
    }
    /// A forward is open.
    Forwarding = "forwarding" {
        /// The caller's number.
        forward: u64,
        /// With the real port.
        address: SocketAddr,
    }
    /// A forward could not be opened.
    ForwardFailed = "forward_failed" {
        /// The caller's number.
        forward: u64,
        /// A stable word.
        reason: String,
        /// One sentence with the remedy.
        error: String,
    }
    /// A forward ended.
    ForwardClosed = "forward_closed" {
        /// The caller's number.
        forward: u64,
        /// A stable word.
        reason: String,
    }
    /// The path to a gateway was measured.
    Pong = "pong" {
        /// The caller's number of the gateway.
        gateway: u64,
        /// The caller's number of the measurement.
        ping: u64,
        /// The connection's estimate (RFC 9002 section 5) once a packet sent now was acknowledged.
        round_trip_seconds: f64,
        /// Of this connection's handshake.
        handshake_seconds: f64,
    }
    /// The path to a gateway could not be measured.
    PongFailed = "pong_failed" {
        /// The caller's number of the gateway.
        gateway: u64,
        /// The caller's number of the measurement.
        ping: u64,
        /// A stable word.
        reason: String,
    }
    /// The gateway accepted a tunnel. Never lost.
    RecordOpened = "record_opened" {
        /// Unique in this engine; the same in `record_closed`.
        tunnel_id: u64,
        /// Name of the listener.
        listener: String,
        /// The client's validated address.
        client: SocketAddr,
        /// As asked for.
        target_host: String,
        /// As asked for.
        target_port: u16,
        /// The address that was checked and connected.
        target_address: IpAddr,
        /// `connect-udp`.
        protocol: String,
        /// The rule that allowed it.
        rule: Option<String>,
        /// From the request's arrival to the response.
        setup_seconds: f64,
        /// Since 1970.
        unix_seconds: f64,
    }
    /// The gateway refused a request. Sampled under load; the counters in `stats` are exact.
    RecordRefused = "record_refused" {
        /// Name of the listener.
        listener: String,
        /// The client's address.
        client: SocketAddr,
        /// As asked for, if the request could be read so far.
        target_host: Option<String>,
        /// As asked for, if the request could be read so far.
        target_port: Option<u16>,
        /// A stable word of the error table.
        reason: String,
        /// Status of the response, if there was one.
        status: Option<u16>,
        /// The rule that refused it.
        rule: Option<String>,
        /// For the operator; never sent to the client.
        detail: Option<String>,
        /// Since 1970.
        unix_seconds: f64,
    }
    /// A tunnel of the gateway ended. Never lost.
    RecordClosed = "record_closed" {
        /// As in `record_opened`.
        tunnel_id: u64,
        /// Name of the listener.
        listener: String,
        /// The client's address when it asked.
        client: SocketAddr,
        /// `connect-udp`.
        protocol: String,
        /// As asked for.
        target_host: String,
        /// As asked for.
        target_port: u16,
        /// The address that was checked and connected.
        target_address: IpAddr,
        /// A stable word of the error table.
        reason: String,
        /// From the response to the end.
        duration_seconds: f64,
        /// What it carried.
        counters: Counters,
        /// Since 1970.
        unix_seconds: f64,
    }
    /// A worker met a bug of ours and began anew. What it carried is lost, and was told as `internal_error`.
    WorkerRestarted = "worker_restarted" {
        /// Its number.
        worker: usize,
    }
    /// Nothing is left after a drain.
    Drained = "drained" {}
    /// The last event of an engine.
    Closed = "closed" {}
}
