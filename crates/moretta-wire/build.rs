//! Turns `data/special-prefixes.json` into the table that `src/prefix.rs` includes, so that a look-up reads constants
//! and a mistake in the file stops the build instead of a gateway.

use std::error::Error;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::{env, fs};

use serde_json::Value;

const DATA: &str = "data/special-prefixes.json";

#[expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={DATA}");
    let root = env::var("CARGO_MANIFEST_DIR")?;
    let text = fs::read_to_string(Path::new(&root).join(DATA)).map_err(|error| format!("{DATA}: {error}"))?;
    let table = table(&text).map_err(|error| format!("{DATA}: {error}"))?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("special_prefixes.rs"), table)?;
    Ok(())
}

/// The rows as Rust source, longest prefix first: the first that contains an address is the most specific.
fn table(text: &str) -> Result<String, Box<dyn Error>> {
    let Value::Array(rows) = serde_json::from_str(text)? else {
        return Err("expected a list of rows".into());
    };
    let mut sources: Vec<(u8, IpAddr, String)> = Vec::new();
    for row in rows {
        let (address, length, source) = entry(&row).map_err(|error| format!("{row}: {error}"))?;
        if sources.iter().any(|(other_length, other, _)| (*other_length, *other) == (length, address)) {
            return Err(format!("{address}/{length} stands twice").into());
        }
        sources.push((length, address, source));
    }
    sources.sort_by_key(|(length, address, _)| (std::cmp::Reverse(*length), *address));
    let mut out = String::from("[\n");
    for (_, _, source) in sources {
        writeln!(out, "    {source},")?;
    }
    out.push_str("]\n");
    Ok(out)
}

fn entry(row: &Value) -> Result<(IpAddr, u8, String), Box<dyn Error>> {
    let row = row.as_object().ok_or("not an object")?;
    if let Some(key) = row.keys().find(|key| !["prefix", "tier", "name", "source"].contains(&key.as_str())) {
        return Err(format!("unknown key {key}").into());
    }
    let text = |key: &str| row.get(key).and_then(Value::as_str).ok_or(format!("no text under {key}"));
    let (address, length) = text("prefix")?.split_once('/').ok_or("the prefix has no length")?;
    let (address, length): (IpAddr, u8) = (address.parse()?, length.parse()?);
    let (net, host_bits) = match address {
        IpAddr::V4(v4) => {
            let host = v4.to_bits().checked_shl(length.into()).unwrap_or(0);
            (format!("IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new{}, {length}))", tuple(v4.octets())), host.into())
        }
        IpAddr::V6(v6) => {
            let host = v6.to_bits().checked_shl(length.into()).unwrap_or(0);
            (format!("IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new{}, {length}))", tuple(v6.segments())), host)
        }
    };
    if host_bits != 0 {
        return Err("bits are set behind the prefix".into());
    }
    let tier = match text("tier")? {
        "never" => "Never",
        "default-deny" => "DefaultDeny",
        "public" => "Public",
        other => return Err(format!("unknown tier {other}").into()),
    };
    let (name, source) = (text("name")?, text("source")?);
    Ok((
        address,
        length,
        format!("SpecialPrefix {{ prefix: {net}, tier: Tier::{tier}, name: {name:?}, source: {source:?} }}"),
    ))
}

/// `[10, 0, 0, 0]` as `(10, 0, 0, 0)`.
fn tuple<T: ToString>(parts: impl IntoIterator<Item = T>) -> String {
    let parts: Vec<String> = parts.into_iter().map(|part| part.to_string()).collect();
    format!("({})", parts.join(", "))
}
