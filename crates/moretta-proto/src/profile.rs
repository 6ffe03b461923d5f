//! Two profiles share every line of code: **hardened** (default) and **interop** (the text of the RFCs). Where hardening
//! and an RFC disagree there is one knob, and a profile is a value for each.

use serde::{Deserialize, Serialize};

/// The two starting points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileName {
    /// Strict where the RFCs are lenient.
    #[default]
    Hardened,
    /// The RFCs to the letter.
    Interop,
}

/// What a capsule of an unknown type does (C-1, C-2). Known for CONNECT-UDP is DATAGRAM alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownCapsule {
    /// It closes the connection, reserved types included. Deviates from RFC 9297 §3.2.
    Close,
    /// It aborts its request stream. Deviates from RFC 9297 §3.2.
    AbortStream,
    /// It is skipped without being held, within a byte budget (RFC 9297 §3.2).
    Skip,
}

/// What a datagram with an unregistered Context ID does (RFC 9298 §4, C-6). It is always counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownContext {
    /// It is dropped (RFC 9298 §5).
    Drop,
    /// It is dropped, and the one after this many aborts the request stream.
    AbortAfter(u32),
}

/// What an error of the socket towards the target does (C-19). Errors that concern one datagram
/// (too large, buffer full) end nothing in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetErrors {
    /// It is counted and the tunnel lives.
    Count,
    /// It resets the request stream with H3_CONNECT_ERROR (RFC 9298 §3.1).
    Close,
}

/// A value for every knob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// C-1, C-2. Hardened: close; interop: skip.
    pub unknown_capsule: UnknownCapsule,
    /// C-6. Drop in both: dropping costs less than the request that would follow an abort.
    pub unknown_context: UnknownContext,
    /// C-19. Hardened: count; interop: close.
    pub target_error: TargetErrors,
    /// C-13: whether 2xx names the address that was connected (RFC 9209 §2.1.2). Hardened: no; interop: yes.
    pub proxy_status_next_hop: bool,
}

/// Single knobs that differ from the profile; what is absent stays as the profile has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {
    /// [`Profile::unknown_capsule`]: `"close"`, `"abort_stream"` or `"skip"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_capsule: Option<UnknownCapsule>,
    /// [`Profile::unknown_context`]: `"drop"` or `{"abort_after": 100}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_context: Option<UnknownContext>,
    /// [`Profile::target_error`]: `"count"` or `"close"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_error: Option<TargetErrors>,
    /// [`Profile::proxy_status_next_hop`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_status_next_hop: Option<bool>,
}

impl Profile {
    /// Deny unless granted, strict capsules.
    pub const fn hardened() -> Self {
        Self {
            unknown_capsule: UnknownCapsule::Close,
            unknown_context: UnknownContext::Drop,
            target_error: TargetErrors::Count,
            proxy_status_next_hop: false,
        }
    }

    /// The RFCs to the letter.
    pub const fn interop() -> Self {
        Self {
            unknown_capsule: UnknownCapsule::Skip,
            unknown_context: UnknownContext::Drop,
            target_error: TargetErrors::Close,
            proxy_status_next_hop: true,
        }
    }

    /// The profile of this name with single knobs replaced.
    pub fn new(name: ProfileName, overrides: &Overrides) -> Self {
        let base = match name {
            ProfileName::Hardened => Self::hardened(),
            ProfileName::Interop => Self::interop(),
        };
        Self {
            unknown_capsule: overrides.unknown_capsule.unwrap_or(base.unknown_capsule),
            unknown_context: overrides.unknown_context.unwrap_or(base.unknown_context),
            target_error: overrides.target_error.unwrap_or(base.target_error),
            proxy_status_next_hop: overrides.proxy_status_next_hop.unwrap_or(base.proxy_status_next_hop),
        }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::hardened()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C-1, C-13, C-19: the two profiles differ in these knobs and in no other.
    #[test]
    fn the_profiles_differ_in_three_knobs() {
        let (hardened, interop) = (Profile::hardened(), Profile::interop());
        assert_eq!((hardened.unknown_capsule, interop.unknown_capsule), (UnknownCapsule::Close, UnknownCapsule::Skip));
        assert_eq!((hardened.target_error, interop.target_error), (TargetErrors::Count, TargetErrors::Close));
        assert!(!hardened.proxy_status_next_hop && interop.proxy_status_next_hop);
        assert_eq!(hardened.unknown_context, interop.unknown_context);
        assert_eq!(Profile::default(), hardened);
        assert_eq!(ProfileName::default(), ProfileName::Hardened);
    }

    #[test]
    fn an_override_replaces_its_knob_and_nothing_else() {
        let overrides: Overrides =
            serde_json::from_str(r#"{"unknown_context": {"abort_after": 7}, "proxy_status_next_hop": true}"#).unwrap();
        let profile = Profile::new(ProfileName::Hardened, &overrides);
        let expected = Profile {
            unknown_context: UnknownContext::AbortAfter(7),
            proxy_status_next_hop: true,
            ..Profile::hardened()
        };
        assert_eq!(profile, expected);
        assert_eq!(Profile::new(ProfileName::Interop, &Overrides::default()), Profile::interop());
    }

    #[test]
    fn an_unknown_knob_or_value_is_refused() {
        for document in
            [r#"{"unknown_capsules": "skip"}"#, r#"{"unknown_capsule": "ignore"}"#, r#"{"client_cid": "strict"}"#]
        {
            assert!(serde_json::from_str::<Overrides>(document).is_err(), "{document}");
        }
        assert!(serde_json::from_str::<ProfileName>("\"lenient\"").is_err());
    }
}
