//! The one table: why a tunnel is refused, why it ends, why a datagram is dropped.
//!
//! A [`Reason`] is a refused request, an [`EndReason`] the end of an accepted one, a [`DropReason`] a datagram that
//! went no further. Each has a stable code, which is its metric label and its word in records; a reason's row also
//! gives HTTP status, Proxy-Status token (RFC 9209 §2.3), HTTP/3 code, retry advice and Python class. Nothing else in
//! the product maps one of these to another.

mod drops;
mod end;
mod export;
mod reason;
mod refusal;

pub use drops::{DropReason, DropRow};
pub use end::{Closing, EndReason, EndRow};
pub use export::{ErrorTable, table_json};
pub use reason::{Reason, Row, table};
pub use refusal::Refusal;

use serde::Serialize;

/// HTTP/3 error codes that decisions of this crate lead to (RFC 9114 §8.1).
pub mod h3_code {
    /// Nothing is wrong; the rest of the request is not needed.
    pub const NO_ERROR: u64 = 0x100;
    /// The peer broke a rule for which there is no better code.
    pub const GENERAL_PROTOCOL_ERROR: u64 = 0x101;
    /// The fault is ours.
    pub const INTERNAL_ERROR: u64 = 0x102;
    /// The peer behaves in a way that costs too much.
    pub const EXCESSIVE_LOAD: u64 = 0x107;
    /// Refused before any processing; safe to send again (RFC 9114 §4.1.1).
    pub const REQUEST_REJECTED: u64 = 0x10b;
    /// The request or its response is no longer wanted.
    pub const REQUEST_CANCELLED: u64 = 0x10c;
    /// The message is malformed or incomplete, capsules included (RFC 9297 §3.3).
    pub const MESSAGE_ERROR: u64 = 0x10e;
    /// What a CONNECT request was connected to failed (RFC 9114 §4.4).
    pub const CONNECT_ERROR: u64 = 0x10f;
}

/// Whether the same client should try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The answer will not change.
    Never,
    /// The same request may succeed later.
    Later,
    /// This target cannot be had; another one may.
    OtherTarget,
    /// The request is wrong as it stands.
    FixRequest,
}

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The client broke a rule, or ended the tunnel.
    Client,
    /// The operator's policy says so.
    Policy,
    /// The target, its name or the way to it.
    Target,
    /// The gateway: its capacity, its configuration or a bug.
    Gateway,
    /// Nobody: a tunnel that was no longer needed.
    Nobody,
}

/// Writes an enum and its table from one list, so that neither can have an entry the other lacks.
macro_rules! coded {
    (
        $(#[$meta:meta])*
        pub enum $name:ident : $row:ident {
            $( $variant:ident = $code:literal, $sentence:literal, { $($field:ident : $value:expr),* $(,)? } )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $( #[doc = $sentence] $variant, )+
        }

        impl $name {
            /// Every value, in the order of the table.
            pub const ALL: &'static [Self] = &[$( Self::$variant ),+];

            /// Its row.
            pub const fn row(self) -> &'static $row {
                match self {
                    $( Self::$variant => {
                        const ROW: $row = $row { code: $code, sentence: $sentence, $($field: $value),* };
                        &ROW
                    } )+
                }
            }

            /// Stable for ever: metric label and word in records.
            pub const fn code(self) -> &'static str {
                self.row().code
            }

            /// One English sentence without a full stop; never an address, a name or a credential.
            pub const fn sentence(self) -> &'static str {
                self.row().sentence
            }

            /// The value with this code.
            pub fn from_code(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.code() == code)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.sentence())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.code())
            }
        }
    };
}
use coded;
