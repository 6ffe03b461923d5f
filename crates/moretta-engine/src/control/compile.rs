//! A snapshot document, checked and compiled. Every fault names the path of its value.

use crate::document;
use crate::error::EngineError;
use moretta_core::CoreSnapshot;
use moretta_proto::limits::Limits;
use moretta_proto::policy::{OwnAddresses, Policy, RuleError};
use moretta_proto::profile::Profile;
use moretta_proto::snapshot::{Listener, Snapshot};
use moretta_wire::template::UriTemplate;
use rustls::ServerConfig;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bounds of `resolver.timeout_seconds`.
const RESOLVER_TIMEOUT: std::ops::RangeInclusive<f64> = 0.1..=60.0;

/// The snapshot of a document. `tls` makes the configuration of one listener, given its path in the document.
pub(super) fn snapshot(
    document: &document::Snapshot,
    own_addresses: OwnAddresses,
    tls: impl Fn(&document::Listener, &str) -> Result<Arc<ServerConfig>, EngineError>,
) -> Result<CoreSnapshot, EngineError> {
    let mut listeners = BTreeMap::new();
    let mut configurations = Vec::new();
    for (index, listener) in document.listeners.iter().enumerate() {
        let path = format!("listeners[{index}]");
        let templates = templates(&path, &listener.templates)?;
        configurations.push((listener.name.clone(), tls(listener, &path)?));
        let danger_allow_anonymous = listener.danger_allow_anonymous;
        listeners.insert(listener.name.clone(), Listener { templates, danger_allow_anonymous });
    }
    let resolver_timeout = document.resolver.timeout_seconds;
    if !RESOLVER_TIMEOUT.contains(&resolver_timeout) {
        let message = format!("must be 0.1 to 60, not {resolver_timeout}");
        return Err(EngineError::document("resolver.timeout_seconds", message));
    }
    let proto = Snapshot {
        generation: document.generation,
        profile: Profile::new(document.profile, &document.overrides),
        limits: limits(&document.limits)?,
        policy: policy(&document.policy)?,
        proxy_name: proxy_name(&document.proxy_name)?,
        listeners,
    };
    Ok(CoreSnapshot { proto: Arc::new(proto), tls: configurations, own_addresses: Arc::new(own_addresses) })
}

/// What is in force before the first document: nothing is allowed.
pub(super) fn empty(own_addresses: OwnAddresses) -> CoreSnapshot {
    CoreSnapshot { proto: Arc::default(), tls: Vec::new(), own_addresses: Arc::new(own_addresses) }
}

fn templates(path: &str, texts: &[String]) -> Result<Vec<UriTemplate>, EngineError> {
    if texts.is_empty() {
        let message = "must name at least one template, or be left out for the default one";
        return Err(EngineError::document(format!("{path}.templates"), message));
    }
    let parse = |(position, text): (usize, &String)| {
        UriTemplate::parse_path(text)
            .map_err(|error| EngineError::document(format!("{path}.templates[{position}]"), error.to_string()))
    };
    texts.iter().enumerate().map(parse).collect()
}

fn limits(numbers: &BTreeMap<String, u64>) -> Result<Limits, EngineError> {
    Limits::from_numbers(numbers.iter().map(|(name, number)| (name.as_str(), *number))).map_err(|errors| {
        let (path, reason) = match errors.first() {
            Some(error) => (format!("limits.{}", error.field), error.reason.clone()),
            None => ("limits".into(), "cannot be used".into()),
        };
        EngineError::document(path, with_count(reason, errors.len()))
    })
}

fn policy(document: &moretta_proto::policy::PolicyDocument) -> Result<Policy, EngineError> {
    document.compile().map_err(|errors| {
        let (path, reason) = match errors.first() {
            Some(error) => (rule_path(error), error.reason.clone()),
            None => ("policy".into(), "cannot be used".into()),
        };
        EngineError::document(path, with_count(reason, errors.len()))
    })
}

fn rule_path(error: &RuleError) -> String {
    let mut path = error.index.map_or_else(|| "policy".to_owned(), |index| format!("policy.rules[{index}]"));
    if !error.field.is_empty() {
        path.push('.');
        path.push_str(&error.field);
    }
    path
}

fn with_count(reason: String, errors: usize) -> String {
    if errors > 1 { format!("{reason} (and {} more faults)", errors - 1) } else { reason }
}

/// It stands in a Structured Field and in logs.
fn proxy_name(name: &str) -> Result<String, EngineError> {
    if name.is_empty() || name.len() > 255 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("must be 1 to 255 visible ASCII characters, not {name:?}");
        return Err(EngineError::document("proxy_name", message));
    }
    Ok(name.to_owned())
}
