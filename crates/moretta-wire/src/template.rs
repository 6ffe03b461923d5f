//! URI templates that say where a proxy serves UDP tunnels (RFC 9298 §2, RFC 6570 up to level 3).
//!
//! A client expands an absolute template; a gateway matches the raw `:path` of a request against the paths it serves.
//! Matching never decodes before it has cut the path apart, and decodes each value exactly once.
//!
//! A gateway with several templates asks each in turn: the first [`PathMatch::Variables`] wins, else the first
//! [`PathMatch::Malformed`] is the answer (two templates may share a path and differ in their query), else the request
//! is for none of them.
//!
//! ```
//! use moretta_wire::template::{PathMatch, UriTemplate};
//!
//! let client = UriTemplate::for_origin("https://proxy.example:4433")?;
//! let request = client.expand("2001:db8::42", 443);
//! assert_eq!(request.path, "/.well-known/masque/udp/2001%3Adb8%3A%3A42/443/");
//!
//! let gateway = UriTemplate::parse_path(UriTemplate::DEFAULT_PATH)?;
//! let PathMatch::Variables { host, port, .. } = gateway.match_path(request.path.as_bytes()) else {
//!     return Err("not for this gateway".into());
//! };
//! assert_eq!((&*host, &*port), ("2001:db8::42", "443"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod matching;
mod parsing;

use std::fmt;

use matching::Query;
pub use matching::{PathMatch, VariableError};
pub use parsing::TemplateError;

use crate::host::Host;

/// A template that names `target_host` and `target_port`.
#[derive(Clone, PartialEq, Eq)]
pub struct UriTemplate {
    source: String,
    origin: Option<Origin>,
    /// Everything before the query.
    path: Vec<Part>,
    /// Everything from the first `?` on, which is part of the first literal or of the first expression.
    query: Vec<Part>,
    /// How a request's query is read; `None` if a request could be read in two ways, or in none.
    matcher: Option<Query>,
}

/// Whom an absolute template addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The proxy.
    pub host: Host,
    /// Its port; 443 unless the template says otherwise.
    pub port: u16,
    /// Host and port as the template writes them, lower case; what `:authority` carries.
    pub authority: String,
}

/// A template with its variables filled in: the pseudo-headers of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expanded {
    /// Always `https`.
    pub scheme: &'static str,
    /// The proxy's authority; empty for a template made by [`UriTemplate::parse_path`].
    pub authority: String,
    /// Path and query.
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Expression(Operator, Vec<Variable>),
}

/// The three kinds of expansion that RFC 9298 §2 leaves of RFC 6570.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    /// `{a,b}` (RFC 6570 §3.2.2)
    Simple,
    /// `{?a,b}` (RFC 6570 §3.2.8)
    Query,
    /// `{&a,b}` (RFC 6570 §3.2.9)
    Continuation,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Variable {
    TargetHost,
    TargetPort,
    Other(String),
}

impl Variable {
    fn name(&self) -> &str {
        match self {
            Self::TargetHost => "target_host",
            Self::TargetPort => "target_port",
            Self::Other(name) => name,
        }
    }
}

impl UriTemplate {
    /// Where a proxy serves UDP tunnels unless it says otherwise (RFC 9298 §2).
    pub const DEFAULT_PATH: &str = "/.well-known/masque/udp/{target_host}/{target_port}/";

    /// Reads the absolute template of a client's configuration.
    ///
    /// # Errors
    /// Whatever RFC 9298 §2 forbids: the client refuses the configuration and sends nothing.
    pub fn parse(template: &str) -> Result<Self, TemplateError> {
        parsing::absolute(template)
    }

    /// Reads a template without scheme and authority, as a gateway's configuration writes it: `/path{…}`.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and where a request could be read in two ways: the values in
    /// `{target_host}-{target_port}` cannot be told apart, since a host may contain `-`.
    pub fn parse_path(template: &str) -> Result<Self, TemplateError> {
        parsing::path_only(template)
    }

    /// The default template at an origin such as `https://proxy.example:4433`; a trailing `/` is accepted.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and if the origin has a path or a query of its own.
    pub fn for_origin(origin: &str) -> Result<Self, TemplateError> {
        let bare = origin.strip_suffix('/').unwrap_or(origin);
        match bare.split_once("://") {
            Some((_, authority)) if !authority.contains(['/', '?', '#', '{']) => {
                Self::parse(&format!("{bare}{}", Self::DEFAULT_PATH))
            }
            Some(_) => Err(TemplateError::NotAnOrigin),
            None => Err(TemplateError::NotAbsolute),
        }
    }

    /// A template if there is a `{` in the text, else the default template at that origin.
    ///
    /// # Errors
    /// As [`parse`](Self::parse) or [`for_origin`](Self::for_origin).
    pub fn parse_template_or_origin(text: &str) -> Result<Self, TemplateError> {
        if text.contains('{') { Self::parse(text) } else { Self::for_origin(text) }
    }

    /// The text the template was made of.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whom the template addresses; `None` if it was made by [`parse_path`](Self::parse_path).
    pub const fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// Fills in host and port; any further variable stays undefined (RFC 6570 §3.2.1).
    ///
    /// `host`: a name or an address, IPv6 without brackets. Whatever is not unreserved is percent-encoded
    /// (RFC 9298 §3), so colons become `%3A`.
    pub fn expand(&self, host: &str, port: u16) -> Expanded {
        let mut path = String::with_capacity(self.source.len() + host.len());
        for part in self.path.iter().chain(&self.query) {
            match part {
                Part::Literal(text) => path.push_str(text),
                Part::Expression(operator, variables) => expand_into(&mut path, *operator, variables, host, port),
            }
        }
        let authority = self.origin.as_ref().map_or_else(String::new, |origin| origin.authority.clone());
        Expanded { scheme: "https", authority, path }
    }

    /// Reads the variables out of a request's `:path`, raw as it came.
    ///
    /// The path must be one that the template expands to, but for two freedoms: any character of a value may be
    /// percent-encoded, and the pairs of a query may come in any order.
    pub fn match_path(&self, raw_path: &[u8]) -> PathMatch {
        self.matcher.as_ref().map_or(PathMatch::NotThisTemplate, |query| matching::run(&self.path, query, raw_path))
    }
}

impl fmt::Display for UriTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.source)
    }
}

impl fmt::Debug for UriTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UriTemplate").field(&self.source).finish()
    }
}

fn expand_into(out: &mut String, operator: Operator, variables: &[Variable], host: &str, port: u16) {
    // First character and separator: the table in RFC 6570 appendix A.
    let (mut before, separator) = match operator {
        Operator::Simple => ("", ","),
        Operator::Query => ("?", "&"),
        Operator::Continuation => ("&", "&"),
    };
    for variable in variables {
        let value = match variable {
            Variable::TargetHost => encode(host),
            Variable::TargetPort => port.to_string(),
            // RFC 6570 §3.2.1: an undefined variable leaves nothing behind.
            Variable::Other(_) => continue,
        };
        out.push_str(before);
        before = separator;
        if operator != Operator::Simple {
            out.push_str(variable.name());
            out.push('=');
        }
        out.push_str(&value);
    }
}

/// RFC 6570 §3.2.1: what is not unreserved is percent-encoded, in upper case (RFC 3986 §2.1).
fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if is_unreserved(byte) {
            out.push(byte.into());
        } else {
            out.push('%');
            for nibble in [byte >> 4, byte & 0x0f] {
                out.extend(char::from_digit(nibble.into(), 16).map(|digit| digit.to_ascii_uppercase()));
            }
        }
    }
    out
}

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ipv6_is_expanded_with_escaped_colons() {
        let template = UriTemplate::for_origin("https://Proxy.Example:4433/").unwrap();
        assert_eq!(
            template.expand("2001:db8::42", 443),
            Expanded {
                scheme: "https",
                authority: "proxy.example:4433".into(),
                path: "/.well-known/masque/udp/2001%3Adb8%3A%3A42/443/".into(),
            }
        );
        let origin = template.origin().unwrap();
        assert_eq!((&*origin.host.to_string(), origin.port), ("proxy.example", 4433));
    }

    #[test]
    fn a_text_without_braces_is_an_origin() {
        let template = UriTemplate::parse_template_or_origin("https://[2001:db8::1]").unwrap();
        assert_eq!(template.origin().unwrap().authority, "[2001:db8::1]");
        assert_eq!(template.origin().unwrap().port, 443);
        let text = "https://p.example/m{?target_host,target_port}";
        assert_eq!(UriTemplate::parse_template_or_origin(text).unwrap().as_str(), text);
        assert_eq!(UriTemplate::for_origin("https://p.example/path"), Err(TemplateError::NotAnOrigin));
        assert_eq!(UriTemplate::for_origin("p.example"), Err(TemplateError::NotAbsolute));
    }

    fn templates() -> impl Strategy<Value = UriTemplate> {
        prop::sample::select(vec![
            UriTemplate::DEFAULT_PATH,
            "/{target_host}/{target_port}/",
            "/{target_host}/{target_port}",
            "/{target_port}/{target_host}",
            "/{target_host,target_port}",
            "/{target_host}:{target_port}",
            "/v1/proxy?h={target_host}&p={target_port}",
            "/masque{?target_host,target_port}",
            "/masque{?extra,target_port,target_host}",
            "/masque?fixed=1{&target_host,target_port}",
            "/masque/{target_host}?x&p={target_port}",
            "/masque/{target_host}{?target_port}",
            "/masque/{extra}/{target_host}/{target_port}",
            "/masque?{target_host}/{target_port}",
        ])
        .prop_map(|text| UriTemplate::parse_path(text).unwrap())
    }

    proptest! {
        #[test]
        fn what_a_template_expands_to_it_matches(
            template in templates(),
            host in "[ -~&&[^%\\[\\]]]{1,30}|[0-9a-f:]{1,40}|[a-zé中.]{1,20}",
            port in any::<u16>(),
        ) {
            let path = template.expand(&host, port).path;
            let matched = template.match_path(path.as_bytes());
            let PathMatch::Variables { host: read_host, port: read_port, others } = matched else {
                return Err(TestCaseError::fail(format!("{template} gave {path} gave {matched:?}")));
            };
            prop_assert_eq!((read_host, read_port), (host, port.to_string()));
            prop_assert!(others.iter().all(|(_, value)| value.is_empty()));
        }

        #[test]
        fn any_path_is_matched_or_refused(template in templates(), path in prop::collection::vec(any::<u8>(), 0..40)) {
            template.match_path(&path);
        }

        #[test]
        fn any_text_is_a_template_or_an_error(text in "https?://[ -~]{0,40}|\\PC{0,40}|/[{}?&a-z_,=/]{0,40}") {
            if let Ok(template) = UriTemplate::parse(&text) {
                prop_assert_eq!(UriTemplate::parse(template.as_str()), Ok(template));
            }
            if let Ok(template) = UriTemplate::parse_path(&text) {
                let path = template.expand("a.example", 1).path;
                prop_assert!(matches!(template.match_path(path.as_bytes()), PathMatch::Variables { .. }), "{}", path);
            }
        }
    }
}
