//! Questions that need no running engine: tables, documents, and what the engine would say about a value.

use crate::positions;
use moretta_wire::prefix;
use moretta_wire::template::UriTemplate;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::json;
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
    module.add_function(wrap_pyfunction!(classify_address, module)?)?;
    Ok(())
}
