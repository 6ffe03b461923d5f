//! Tunnel requests: heads to values on a gateway, values to heads on a client, and the judgement of the answer.

use moretta_wire::fields::{CAPSULE_PROTOCOL_TRUE, ProxyStatus};
use moretta_wire::head::{Fields, RequestHead, ResponseHead};
use moretta_wire::host::{Host, parse_port};
use moretta_wire::template::{PathMatch, UriTemplate};

use crate::Protocol;
use crate::error::{Reason, Refusal};

/// The `:protocol` of CONNECT-UDP (RFC 9298 §3.4).
pub const CONNECT_UDP: &str = "connect-udp";

/// What a client asks for. Other protocols are further variants.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TunnelRequest {
    /// UDP to one target (RFC 9298).
    ConnectUdp {
        /// Address or name of the target.
        host: Host,
        /// Its port, never 0.
        port: u16,
    },
}

impl TunnelRequest {
    /// The protocol that rules are looked up for.
    pub const fn protocol(&self) -> Protocol {
        match self {
            Self::ConnectUdp { .. } => Protocol::Udp,
        }
    }

    /// The word in records: the `:protocol` of the request.
    pub const fn upgrade_token(&self) -> &'static str {
        match self {
            Self::ConnectUdp { .. } => CONNECT_UDP,
        }
    }

    /// The target.
    pub const fn host(&self) -> &Host {
        match self {
            Self::ConnectUdp { host, .. } => host,
        }
    }

    /// The target's port, never 0.
    pub const fn port(&self) -> u16 {
        match self {
            Self::ConnectUdp { port, .. } => *port,
        }
    }
}

/// Fields that describe content. A message that uses the Capsule Protocol has none, so each makes it malformed
/// (RFC 9297 §3.2).
const CONTENT_FIELDS: [&str; 3] = ["content-length", "content-type", "transfer-encoding"];

/// Reads the head of a request at a listener that serves `templates`.
///
/// The HTTP layer has checked pseudo-headers and field names; what it lets through is judged again here where a
/// decision depends on it, so that no HTTP version can differ in its verdict.
///
/// # Errors
/// The refusal to answer with. What is not a tunnel request at all is [`Reason::NotATunnel`].
pub fn parse(head: &RequestHead, templates: &[UriTemplate]) -> Result<TunnelRequest, Refusal> {
    if head.method != "CONNECT" {
        let reason = if head.protocol.is_some() { Reason::MalformedRequest } else { Reason::NotATunnel };
        return Err(Refusal::new(reason));
    }
    match head.protocol.as_deref() {
        Some(protocol) if protocol == CONNECT_UDP.as_bytes() => {}
        // RFC 9220 §3. Classic CONNECT has no `:protocol` and is not served either.
        Some(_) | None => return Err(Refusal::new(Reason::UnsupportedProtocol)),
    }
    if !head.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https")) {
        return Err(Refusal::new(Reason::UnsupportedScheme));
    }
    let Some(path) = head.path.as_deref().filter(|path| !path.is_empty()) else {
        return Err(Refusal::new(Reason::MalformedRequest).detail("empty_path"));
    };
    if head.authority.as_deref().is_none_or(<[u8]>::is_empty) {
        return Err(Refusal::new(Reason::MalformedRequest).detail("empty_authority"));
    }
    if has_content_fields(&head.fields) {
        return Err(Refusal::new(Reason::ContentOnTunnel));
    }
    check_credentials(&head.fields)?;
    let (host, port) = match_templates(path, templates)?;
    let host = Host::parse(&host).map_err(|error| Refusal::new(Reason::BadTargetHost).detail(error.code()))?;
    let port = parse_port(&port).map_err(|_| Refusal::new(Reason::BadTargetPort))?;
    Ok(TunnelRequest::ConnectUdp { host, port })
}

fn has_content_fields(fields: &Fields) -> bool {
    CONTENT_FIELDS.iter().any(|name| fields.contains(name))
}

/// C-9: credentials in either field, but never in both and never twice.
fn check_credentials(fields: &Fields) -> Result<(), Refusal> {
    let lines = fields.get_all("authorization").chain(fields.get_all("proxy-authorization")).count();
    if lines > 1 { Err(Refusal::new(Reason::AmbiguousCredentials)) } else { Ok(()) }
}

/// The variables of the first template that has the path. A path that one template finds malformed may be another's.
fn match_templates(path: &[u8], templates: &[UriTemplate]) -> Result<(String, String), Refusal> {
    let mut refusal = Refusal::new(Reason::UnknownPath);
    for template in templates {
        match template.match_path(path) {
            PathMatch::Variables { host, port, .. } => return Ok((host, port)),
            PathMatch::Malformed(error) if refusal.reason == Reason::UnknownPath => {
                refusal = Refusal::new(Reason::BadTargetVariables).detail(error.code());
            }
            PathMatch::Malformed(_) | PathMatch::NotThisTemplate => {}
        }
    }
    Err(refusal)
}

/// The head that asks the gateway of `template` for a UDP tunnel (RFC 9298 §3.4).
///
/// `host`: a name or an address, IPv6 without brackets.
pub fn connect_udp(template: &UriTemplate, host: &str, port: u16) -> RequestHead {
    let expanded = template.expand(host, port);
    let mut fields = Fields::new();
    fields.push("capsule-protocol", CAPSULE_PROTOCOL_TRUE);
    RequestHead {
        method: "CONNECT".into(),
        scheme: Some(expanded.scheme.into()),
        authority: Some(expanded.authority.into()),
        path: Some(expanded.path.into()),
        protocol: Some(CONNECT_UDP.into()),
        fields,
    }
}

/// A gateway's answer that opened no tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// What it means, in our words. [`Reason::MalformedResponse`] and [`Reason::UnexpectedStatus`]: the request is reset
    /// with the row's HTTP/3 code.
    pub reason: Reason,
    /// The status, as it came.
    pub status: u16,
    /// The Proxy-Status field, as it came, if it is text; untrusted.
    pub proxy_status: Option<String>,
}

/// A gateway's answer that opened the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// 200 to 299.
    pub status: u16,
    /// The Proxy-Status field, as it came, if it is text; untrusted.
    pub proxy_status: Option<String>,
}

/// Judges the final response to [`connect_udp`] (RFC 9298 §3.5, RFC 9297 §3.2). Redirects are not followed (UDP-29).
///
/// # Errors
/// [`Rejected`], for every status but 2xx, and for a 2xx that no Capsule Protocol message has.
pub fn judge_response(head: &ResponseHead) -> Result<Opened, Rejected> {
    let proxy_status = proxy_status_text(&head.fields);
    let status = head.status;
    if !head.is_success() {
        let members = ProxyStatus::parse_lines(head.fields.get_all("proxy-status"));
        // The last member is the gateway that we asked; those before it are beyond it.
        let (error, rcode) =
            members.last().map_or((None, None), |member| (member.error.as_deref(), member.rcode.as_deref()));
        return Err(Rejected { reason: Reason::from_response(status, error, rcode), status, proxy_status });
    }
    // CAP-18: these three say that there is no content, or part of it, which a tunnel cannot be.
    if matches!(status, 204..=206) || has_content_fields(&head.fields) {
        return Err(Rejected { reason: Reason::MalformedResponse, status, proxy_status });
    }
    Ok(Opened { status, proxy_status })
}

fn proxy_status_text(fields: &Fields) -> Option<String> {
    let lines: Vec<&str> = fields.get_all("proxy-status").filter_map(|line| std::str::from_utf8(line).ok()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
