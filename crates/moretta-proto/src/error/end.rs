//! Why an accepted tunnel ends.

use serde::Serialize;

use super::{Fault, coded, h3_code};

/// What the request stream gets when its tunnel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Closing {
    /// An orderly end: FIN after what is queued, and, unless the other side has finished as well, STOP_SENDING with
    /// H3_NO_ERROR.
    Finish,
    /// RESET_STREAM and STOP_SENDING with this HTTP/3 code.
    Reset(u64),
    /// The whole connection closes with this HTTP/3 code; other tunnels of it end with
    /// [`EndReason::ConnectionClosed`].
    CloseConnection(u64),
    /// There is no stream any more.
    Nothing,
}

/// One row of the table of tunnel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EndRow {
    /// Stable; metric label and word in records.
    pub code: &'static str,
    /// One sentence without a full stop.
    pub sentence: &'static str,
    /// What the stream gets.
    pub closing: Closing,
    /// Who ended it.
    pub fault: Fault,
}

coded! {
    /// Why an accepted tunnel ended. Each is one [`EndRow`]; all raise `TunnelClosed` in Python.
    pub enum EndReason: EndRow {
        ClientFinished = "client_finished", "the client ended the tunnel", {
            closing: Closing::Finish, fault: Fault::Nobody,
        }
        ClientReset = "client_reset", "the client reset the request", {
            closing: Closing::Reset(h3_code::REQUEST_CANCELLED), fault: Fault::Client,
        }
        ProxyFinished = "proxy_finished", "the gateway ended the tunnel", {
            closing: Closing::Finish, fault: Fault::Gateway,
        }
        ProxyReset = "proxy_reset", "the gateway reset the request", {
            closing: Closing::Reset(h3_code::REQUEST_CANCELLED), fault: Fault::Gateway,
        }
        IdleTimeout = "idle_timeout", "nothing was carried for the idle timeout", {
            closing: Closing::Finish, fault: Fault::Nobody,
        }
        Drained = "drained", "the gateway went away", {
            closing: Closing::Finish, fault: Fault::Gateway,
        }
        PolicyChanged = "policy_changed", "a new policy does not allow the tunnel", {
            closing: Closing::Reset(h3_code::CONNECT_ERROR), fault: Fault::Policy,
        }
        TargetError = "target_error", "the system reported an error on the way to the target", {
            closing: Closing::Reset(h3_code::CONNECT_ERROR), fault: Fault::Target,
        }
        CapsuleTruncated = "capsule_truncated", "the stream ended inside a capsule", {
            closing: Closing::Reset(h3_code::MESSAGE_ERROR), fault: Fault::Client,
        }
        CapsuleRefused = "capsule_refused", "a capsule of an unknown type came and the profile refuses it", {
            closing: Closing::Reset(h3_code::MESSAGE_ERROR), fault: Fault::Client,
        }
        CapsuleClosedConnection = "capsule_closed_connection",
            "a capsule of an unknown type came and the profile closes the connection for it", {
            closing: Closing::CloseConnection(h3_code::GENERAL_PROTOCOL_ERROR), fault: Fault::Client,
        }
        CapsuleFlood = "capsule_flood", "capsules of unknown types used up their budget", {
            closing: Closing::Reset(h3_code::EXCESSIVE_LOAD), fault: Fault::Client,
        }
        PayloadTooLong = "payload_too_long", "a UDP payload of more than 65527 bytes came", {
            closing: Closing::Reset(h3_code::MESSAGE_ERROR), fault: Fault::Client,
        }
        ContextFlood = "context_flood", "too many datagrams came for contexts that nobody registered", {
            closing: Closing::Reset(h3_code::EXCESSIVE_LOAD), fault: Fault::Client,
        }
        ConnectionClosed = "connection_closed", "the connection that carried the tunnel was closed", {
            closing: Closing::Nothing, fault: Fault::Nobody,
        }
        ConnectionLost = "connection_lost", "the connection that carried the tunnel was lost", {
            closing: Closing::Nothing, fault: Fault::Nobody,
        }
        InternalError = "internal_error", "our own code failed; this is a bug", {
            closing: Closing::Reset(h3_code::INTERNAL_ERROR), fault: Fault::Gateway,
        }
    }
}

impl EndReason {
    /// What the stream gets.
    pub const fn closing(self) -> Closing {
        self.row().closing
    }
}
