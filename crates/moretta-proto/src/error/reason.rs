//! Why a request gets no tunnel.

use serde::Serialize;

use super::{Fault, Retry, coded, h3_code};

/// One row of the table of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Stable; metric label and word in records.
    pub code: &'static str,
    /// One sentence without a full stop.
    pub sentence: &'static str,
    /// The status of the answer; `None`: a client of ours gave up, nothing is sent.
    pub status: Option<u16>,
    /// The RFC 9209 §2.3 error type; `None` where the gateway speaks as an origin (RFC 9209 §2).
    pub proxy_status: Option<&'static str>,
    /// With what the rest of the request is stopped once the answer is sent, or reset if it cannot be.
    pub h3_code: u64,
    /// What the client should do.
    pub retry: Retry,
    /// Who has to act.
    pub fault: Fault,
    /// The exception of the Python package.
    pub python: &'static str,
}

/// The table of refusals.
pub fn table() -> impl ExactSizeIterator<Item = &'static Row> {
    Reason::ALL.iter().map(|reason| reason.row())
}

coded! {
    /// Why a request gets no tunnel. Each is one [`Row`].
    pub enum Reason: Row {
        MalformedRequest = "malformed_request", "the request breaks the rules of its protocol", {
            status: Some(400), proxy_status: Some("http_request_error"), h3_code: h3_code::MESSAGE_ERROR,
            retry: Retry::FixRequest, fault: Fault::Client, python: "RequestRejected",
        }
        ContentOnTunnel = "content_on_tunnel", "a tunnel request has no content, and so no field that describes it", {
            status: Some(400), proxy_status: Some("http_request_error"), h3_code: h3_code::MESSAGE_ERROR,
            retry: Retry::FixRequest, fault: Fault::Client, python: "RequestRejected",
        }
        UnsupportedScheme = "unsupported_scheme", "the scheme of a tunnel request is https", {
            status: Some(400), proxy_status: Some("http_request_error"), h3_code: h3_code::NO_ERROR,
            retry: Retry::FixRequest, fault: Fault::Client, python: "RequestRejected",
        }
        BadTargetVariables = "bad_target_variables", "the path fits the template but its variables are not usable", {
            status: Some(400), proxy_status: Some("http_request_error"), h3_code: h3_code::NO_ERROR,
            retry: Retry::FixRequest, fault: Fault::Client, python: "RequestRejected",
        }
        BadTargetHost = "bad_target_host", "the target host is neither an address nor a name", {
            status: Some(400), proxy_status: Some("http_request_error"), h3_code: h3_code::NO_ERROR,
            retry: Retry::FixRequest, fault: Fault::Client, python: "RequestRejected",
        }
        BadTargetPort = "bad_target_port", "the target port is not a decimal number from 1 to 65535", {
            status: Some(400), proxy_status: Some("http_request_error"), h3_code: h3_code::NO_ERROR,
            retry: Retry::FixRequest, fault: Fault::Client, python: "RequestRejected",
        }
        AmbiguousCredentials = "ambiguous_credentials", "credentials came more than once", {
            status: Some(400), proxy_status: Some("http_request_error"), h3_code: h3_code::NO_ERROR,
            retry: Retry::FixRequest, fault: Fault::Client, python: "RequestRejected",
        }
        UnsupportedProtocol = "unsupported_protocol", "this kind of tunnel is not served", {
            status: Some(501), proxy_status: Some("proxy_internal_response"), h3_code: h3_code::NO_ERROR,
            retry: Retry::Never, fault: Fault::Client, python: "RequestRejected",
        }
        UnknownPath = "unknown_path", "no template of this listener has this path", {
            status: Some(404), proxy_status: Some("http_request_error"), h3_code: h3_code::NO_ERROR,
            retry: Retry::FixRequest, fault: Fault::Client, python: "RequestRejected",
        }
        // RFC 9209 §2: an origin does not generate Proxy-Status.
        NotATunnel = "not_a_tunnel", "there is no such resource; the gateway serves tunnels", {
            status: Some(404), proxy_status: None, h3_code: h3_code::NO_ERROR,
            retry: Retry::FixRequest, fault: Fault::Client, python: "RequestRejected",
        }
        EarlyData = "early_data", "a tunnel is not opened by early data, which can be replayed", {
            status: Some(425), proxy_status: Some("http_request_error"), h3_code: h3_code::NO_ERROR,
            retry: Retry::Later, fault: Fault::Client, python: "RequestRejected",
        }
        FieldSectionTooLarge = "field_section_too_large", "the request's fields are larger than the gateway accepts", {
            status: Some(431), proxy_status: Some("http_request_error"), h3_code: h3_code::NO_ERROR,
            retry: Retry::FixRequest, fault: Fault::Client, python: "RequestRejected",
        }
        CredentialsRequired = "credentials_required", "the listener serves identified clients only", {
            status: Some(401), proxy_status: Some("http_request_error"), h3_code: h3_code::NO_ERROR,
            retry: Retry::FixRequest, fault: Fault::Client, python: "CredentialsRefused",
        }
        PolicyRefused = "policy_refused", "no rule allows this target, or one denies it", {
            status: Some(403), proxy_status: Some("http_request_denied"), h3_code: h3_code::NO_ERROR,
            retry: Retry::OtherTarget, fault: Fault::Policy, python: "PolicyRefused",
        }
        TargetProhibited = "target_prohibited", "the target's address is one that tunnels do not reach", {
            status: Some(403), proxy_status: Some("destination_ip_prohibited"), h3_code: h3_code::NO_ERROR,
            retry: Retry::OtherTarget, fault: Fault::Policy, python: "PolicyRefused",
        }
        ConnectionTunnelLimit = "connection_tunnel_limit", "this connection already has as many tunnels as it may", {
            status: Some(429), proxy_status: Some("http_request_error"), h3_code: h3_code::NO_ERROR,
            retry: Retry::Later, fault: Fault::Policy, python: "LimitReached",
        }
        Overloaded = "overloaded", "the gateway sheds load", {
            status: Some(503), proxy_status: Some("proxy_internal_response"), h3_code: h3_code::NO_ERROR,
            retry: Retry::Later, fault: Fault::Gateway, python: "GatewayOverloaded",
        }
        TunnelLimit = "tunnel_limit", "the gateway already has as many tunnels as it may", {
            status: Some(503), proxy_status: Some("proxy_internal_response"), h3_code: h3_code::NO_ERROR,
            retry: Retry::Later, fault: Fault::Gateway, python: "GatewayOverloaded",
        }
        Draining = "draining", "the gateway is going away and opens no more tunnels", {
            status: Some(503), proxy_status: Some("proxy_internal_response"), h3_code: h3_code::NO_ERROR,
            retry: Retry::Later, fault: Fault::Gateway, python: "GatewayOverloaded",
        }
        NameNotFound = "name_not_found", "the target's name does not exist", {
            status: Some(502), proxy_status: Some("dns_error"), h3_code: h3_code::NO_ERROR,
            retry: Retry::OtherTarget, fault: Fault::Target, python: "TargetUnresolvable",
        }
        NameHasNoAddress = "name_has_no_address", "the target's name exists but has no address", {
            status: Some(502), proxy_status: Some("dns_error"), h3_code: h3_code::NO_ERROR,
            retry: Retry::OtherTarget, fault: Fault::Target, python: "TargetUnresolvable",
        }
        DnsFailed = "dns_failed", "the resolver could not answer for the target's name", {
            status: Some(502), proxy_status: Some("dns_error"), h3_code: h3_code::NO_ERROR,
            retry: Retry::Later, fault: Fault::Target, python: "TargetUnresolvable",
        }
        DnsTimeout = "dns_timeout", "the resolver did not answer in time", {
            status: Some(504), proxy_status: Some("dns_timeout"), h3_code: h3_code::NO_ERROR,
            retry: Retry::Later, fault: Fault::Target, python: "TargetUnresolvable",
        }
        NoRoute = "no_route", "there is no route to the target", {
            status: Some(502), proxy_status: Some("destination_ip_unroutable"), h3_code: h3_code::NO_ERROR,
            retry: Retry::OtherTarget, fault: Fault::Target, python: "TargetUnreachable",
        }
        ConnectionRefused = "connection_refused", "the target refused", {
            status: Some(502), proxy_status: Some("connection_refused"), h3_code: h3_code::NO_ERROR,
            retry: Retry::OtherTarget, fault: Fault::Target, python: "TargetUnreachable",
        }
        OpenTimeout = "open_timeout", "the way to the target was not open in time", {
            status: Some(504), proxy_status: Some("connection_timeout"), h3_code: h3_code::NO_ERROR,
            retry: Retry::Later, fault: Fault::Target, python: "TargetUnreachable",
        }
        OpenFailed = "open_failed", "the system would not open a way to the target", {
            status: Some(503), proxy_status: Some("destination_unavailable"), h3_code: h3_code::NO_ERROR,
            retry: Retry::OtherTarget, fault: Fault::Target, python: "TargetUnreachable",
        }
        Exhausted = "exhausted", "the gateway has no socket, port or descriptor left", {
            status: Some(503), proxy_status: Some("connection_limit_reached"), h3_code: h3_code::NO_ERROR,
            retry: Retry::Later, fault: Fault::Gateway, python: "GatewayOverloaded",
        }
        InternalError = "internal_error", "the gateway failed; this is a bug", {
            status: Some(500), proxy_status: Some("proxy_internal_error"), h3_code: h3_code::INTERNAL_ERROR,
            retry: Retry::Later, fault: Fault::Gateway, python: "TunnelRefused",
        }
        // What follows is found by a client of ours and never sent.
        UnexpectedStatus = "unexpected_status", "the gateway answered with a status that opens no tunnel", {
            status: None, proxy_status: None, h3_code: h3_code::REQUEST_CANCELLED,
            retry: Retry::Never, fault: Fault::Gateway, python: "TunnelRefused",
        }
        MalformedResponse = "malformed_response", "the gateway's answer breaks the rules of its protocol", {
            status: None, proxy_status: None, h3_code: h3_code::MESSAGE_ERROR,
            retry: Retry::Never, fault: Fault::Gateway, python: "TunnelRefused",
        }
        RequestReset = "request_reset", "the gateway reset the request without an answer", {
            status: None, proxy_status: None, h3_code: h3_code::REQUEST_CANCELLED,
            retry: Retry::Later, fault: Fault::Gateway, python: "TunnelRefused",
        }
        RequestTimeout = "request_timeout", "the gateway did not answer in time", {
            status: None, proxy_status: None, h3_code: h3_code::REQUEST_CANCELLED,
            retry: Retry::Later, fault: Fault::Gateway, python: "TunnelRefused",
        }
        RequestCancelled = "request_cancelled", "the client gave the request up", {
            status: None, proxy_status: None, h3_code: h3_code::REQUEST_CANCELLED,
            retry: Retry::Never, fault: Fault::Client, python: "TunnelRefused",
        }
        GatewayLost = "gateway_lost", "the connection to the gateway ended before its answer", {
            status: None, proxy_status: None, h3_code: h3_code::REQUEST_CANCELLED,
            retry: Retry::Later, fault: Fault::Gateway, python: "TunnelRefused",
        }
    }
}

impl Reason {
    /// What a gateway's refusal means, ours or not: by Proxy-Status error type and status, else by status alone.
    ///
    /// `error`: the `error` parameter of the last Proxy-Status member, if there is one. `rcode`: its `rcode`. Several
    /// rows may share both; the first of them stands for all.
    pub fn from_response(status: u16, error: Option<&str>, rcode: Option<&str>) -> Self {
        if error == Some("dns_error") {
            return match rcode {
                Some("NXDOMAIN") => Self::NameNotFound,
                Some("NOERROR") => Self::NameHasNoAddress,
                Some(_) | None => Self::DnsFailed,
            };
        }
        let fits = |reason: &Self, by_error: bool| {
            let row = reason.row();
            row.status == Some(status) && (!by_error || (error.is_some() && row.proxy_status == error))
        };
        let by = |by_error| Self::ALL.iter().copied().find(|reason| fits(reason, by_error));
        by(true).or_else(|| Self::of_status(status)).unwrap_or(Self::UnexpectedStatus)
    }

    /// The plainest reason for a status when nothing else is known.
    fn of_status(status: u16) -> Option<Self> {
        match status {
            400 => Some(Self::MalformedRequest),
            401 | 407 => Some(Self::CredentialsRequired),
            403 => Some(Self::PolicyRefused),
            404 => Some(Self::UnknownPath),
            425 => Some(Self::EarlyData),
            429 => Some(Self::ConnectionTunnelLimit),
            431 => Some(Self::FieldSectionTooLarge),
            500 => Some(Self::InternalError),
            501 => Some(Self::UnsupportedProtocol),
            502 => Some(Self::NoRoute),
            503 => Some(Self::Overloaded),
            504 => Some(Self::OpenTimeout),
            _ => None,
        }
    }
}
