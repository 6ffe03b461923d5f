//! Questions that need no running engine: tables, documents, and what the engine would say about a value.

use crate::{fault, positions};
use moretta_proto::policy::{OwnAddresses, Policy, PolicyDocument, Question, RuleError};
use moretta_wire::prefix;
use moretta_wire::template::UriTemplate;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::{Value, json};
use std::net::IpAddr;

/// The version of the engine, from Cargo.toml.
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Every document of the border with its fields, as JSON.
#[pyfunction]
fn documents(py: Python<'_>) -> Bound<'_, PyBytes> {
    PyBytes::new(py, &moretta_engine::document::describe())
}

/// Where each key of a TOML text stands, as JSON: `[[path, line, column], …]`.
#[pyfunction]
#[pyo3(signature = (text, /))]
fn toml_positions<'py>(py: Python<'py>, text: &str) -> Bound<'py, PyBytes> {
    PyBytes::new(py, positions::of(text).to_string().as_bytes())
}

/// The table of refusals, tunnel ends and drops, as JSON.
#[pyfunction]
fn error_table(py: Python<'_>) -> Bound<'_, PyBytes> {
    PyBytes::new(py, moretta_proto::error::table_json().as_bytes())
}

/// Every limit with its unit, default and bounds, as JSON.
#[pyfunction]
fn limits_table(py: Python<'_>) -> Bound<'_, PyBytes> {
    PyBytes::new(py, json!(moretta_proto::limits::Limits::TABLE).to_string().as_bytes())
}

/// Checks what a client is told: an origin or an absolute URI template (RFC 9298 section 2).
#[pyfunction]
#[pyo3(signature = (template, /))]
fn parse_template(template: &str) -> PyResult<()> {
    UriTemplate::parse_template_or_origin(template).map(drop).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Checks a template as a gateway's configuration writes it, without scheme and authority.
#[pyfunction]
#[pyo3(signature = (template, /))]
fn parse_template_path(template: &str) -> PyResult<()> {
    UriTemplate::parse_path(template).map(drop).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Everything that is wrong with a policy document, as JSON: `[{"path": …, "reason": …}, …]`.
#[pyfunction]
#[pyo3(signature = (policy, /))]
fn check_policy<'py>(py: Python<'py>, policy: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let errors = fault::guarded(|| py.detach(|| compile(policy)))?.err().unwrap_or_default();
    let rows: Vec<Value> = errors
        .iter()
        .map(|error| {
            let rule = error.index.map(|index| format!("rules[{index}]"));
            let field = Some(error.field.clone()).filter(|field| !field.is_empty());
            let path: Vec<String> = rule.into_iter().chain(field).collect();
            json!({"path": path.join("."), "reason": error.reason})
        })
        .collect();
    Ok(PyBytes::new(py, json!(rows).to_string().as_bytes()))
}

/// What the matcher says about a target, step by step, as JSON; nothing is resolved and no own address is known.
///
/// # Errors
/// `ValueError` for a policy that does not compile, or a question of another form.
#[pyfunction]
#[pyo3(signature = (policy, question, /))]
fn explain<'py>(py: Python<'py>, policy: &[u8], question: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let answer = fault::guarded(|| {
        py.detach(|| {
            let policy = compile(policy)
                .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
            let question: Question = serde_json::from_slice(question).map_err(|error| error.to_string())?;
            serde_json::to_vec(&policy.explain(&question, &OwnAddresses::default())).map_err(|error| error.to_string())
        })
    })?;
    answer.map(|bytes| PyBytes::new(py, &bytes)).map_err(PyValueError::new_err)
}

fn compile(policy: &[u8]) -> Result<Policy, Vec<RuleError>> {
    let document: Value = serde_json::from_slice(policy).map_err(|error| {
        vec![RuleError { index: None, id: None, field: String::new(), reason: format!("not a JSON document: {error}") }]
    })?;
    PolicyDocument::parse(&document)?.compile()
}

/// Tier and special prefix of an address, as JSON.
#[pyfunction]
#[pyo3(signature = (address, /))]
fn classify_address<'py>(py: Python<'py>, address: &str) -> PyResult<Bound<'py, PyBytes>> {
    let address: IpAddr =
        address.parse().map_err(|_| PyValueError::new_err(format!("{address:?} is no IP address")))?;
    let verdict = prefix::classify(address);
    let document = json!({
        "tier": verdict.tier.as_str(),
        "prefix": verdict.prefix.map(|prefix| prefix.to_string()),
        "name": verdict.name,
        "embedded": verdict.embedded.map(|embedded| embedded.to_string()),
    });
    Ok(PyBytes::new(py, document.to_string().as_bytes()))
}

pub(crate) fn add_functions(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(version, module)?)?;
    module.add_function(wrap_pyfunction!(documents, module)?)?;
    module.add_function(wrap_pyfunction!(toml_positions, module)?)?;
    module.add_function(wrap_pyfunction!(error_table, module)?)?;
    module.add_function(wrap_pyfunction!(limits_table, module)?)?;
    module.add_function(wrap_pyfunction!(parse_template, module)?)?;
    module.add_function(wrap_pyfunction!(parse_template_path, module)?)?;
    module.add_function(wrap_pyfunction!(check_policy, module)?)?;
    module.add_function(wrap_pyfunction!(explain, module)?)?;
    module.add_function(wrap_pyfunction!(classify_address, module)?)?;
    Ok(())
}
