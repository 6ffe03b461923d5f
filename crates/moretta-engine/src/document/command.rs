//! What control code asks for.

use crate::error::EngineError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

use super::from_value;

/// Declares the commands: one struct each, its name in the document, and the enum of all.
macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $text:literal { $($(#[$field_doc:meta])* $field:ident : $kind:ty),* $(,)? })*) => {
        $($(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// Always 1.
            pub version: u64,
            /// The name of the command.
            pub command: String,
            $($(#[$field_doc])* pub $field: $kind,)*
        })*

        /// Any command.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Command { $($(#[$doc])* $name($name)),* }

        impl Command {
            /// The names of all commands.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            /// Reads a command from a document that was found to be one.
            pub(super) fn from_object(value: Value) -> Result<Self, EngineError> {
                match value.get("command").and_then(Value::as_str) {
                    $(Some($text) => from_value(value).map(Self::$name),)*
                    Some(other) => Err(EngineError::document(
                        "command", format!("no command {other:?}; there are {}", Self::NAMES.join(", ")))),
                    None => Err(EngineError::document("command", "expected the name of a command")),
                }
            }

            pub(super) fn describe() -> Vec<(&'static str, Vec<&'static str>)> {
                vec![$(($text, super::describe::fields_of::<$name>())),*]
            }
        }
    };
}

commands! {
    /// Opens a connection to a gateway; answered by `gateway_connected` or `gateway_failed`.
    OpenGateway = "open_gateway" {
        /// Chosen by the caller; unique among the open gateways.
        gateway: u64,
        /// `https://host[:port]`, or a whole URI template.
        origin_or_template: String,
        /// Trust only these authorities (PEM text) instead of the system's.
        #[serde(default)]
        ca_pem: Option<String>,
        /// Trust only a leaf certificate whose public key (SPKI) has this SHA-256, as base64.
        #[serde(default)]
        pin_sha256: Option<String>,
        /// Name to verify and to send in SNI instead of the origin's host.
        #[serde(default)]
        server_name: Option<String>,
        /// Bound of name lookup and handshake together.
        #[serde(default = "open_timeout")]
        timeout_seconds: f64,
        /// Local address to send from.
        #[serde(default)]
        bind: Option<SocketAddr>,
    }
    /// Opens a UDP tunnel (RFC 9298) whose datagrams pass through [`crate::TunnelQueue`]; answered by `tunnel_opened`
    /// or `tunnel_refused`.
    OpenUdp = "open_udp" {
        /// An open gateway.
        gateway: u64,
        /// Chosen by the caller; unique among the open tunnels and below 2^63.
        tunnel: u64,
        /// Name or address, resolved by the gateway; IPv6 without brackets.
        host: String,
        /// 1 to 65535.
        port: u16,
        /// Bound of the whole opening.
        #[serde(default = "open_timeout")]
        timeout_seconds: f64,
    }
    /// Binds a local UDP port, each peer of which gets a tunnel to `host`:`port`; answered by `forwarding` or
    /// `forward_failed`.
    Forward = "forward" {
        /// Chosen by the caller; unique among the open forwards.
        forward: u64,
        /// An open gateway.
        gateway: u64,
        /// Local address; port 0 takes a free one.
        bind: SocketAddr,
        /// Name or address of the target.
        host: String,
        /// 1 to 65535.
        port: u16,
        /// Peers at once; a further one is refused and counted.
        #[serde(default = "forward_max_peers")]
        max_peers: usize,
        /// A peer that is silent both ways for this long loses its tunnel.
        #[serde(default = "forward_idle")]
        idle_timeout_seconds: f64,
    }
    /// Ends a forward and the tunnels of its peers; answered by `forward_closed`.
    CloseForward = "close_forward" {
        /// An open forward.
        forward: u64,
    }
    /// Ends a tunnel with FIN; answered by `tunnel_closed`.
    FinishTunnel = "finish_tunnel" {
        /// An open tunnel, or one that is being opened.
        tunnel: u64,
    }
    /// Ends a tunnel by resetting its stream; answered by `tunnel_closed`.
    ResetTunnel = "reset_tunnel" {
        /// An open tunnel, or one that is being opened.
        tunnel: u64,
    }
    /// Closes the connection to a gateway with all its tunnels; answered by `gateway_closed`.
    CloseGateway = "close_gateway" {
        /// An open gateway, or one that is being opened.
        gateway: u64,
    }
    /// Moves a connection to a new local socket, as after a change of network.
    RebindGateway = "rebind_gateway" {
        /// An open gateway.
        gateway: u64,
        /// Local address of the new socket.
        #[serde(default)]
        bind: Option<IpAddr>,
    }
    /// Stops taking tunnels, waits for those there are, then closes; answered by `drained`.
    Drain = "drain" {
        /// What is left after this time is closed.
        deadline_seconds: f64,
    }
    /// Measures the path to a gateway; answered by `pong` or `pong_failed`.
    Ping = "ping" {
        /// An open gateway.
        gateway: u64,
        /// Returned in the answer.
        ping: u64,
    }
}

fn open_timeout() -> f64 {
    10.0
}

fn forward_max_peers() -> usize {
    1024
}

fn forward_idle() -> f64 {
    120.0
}
