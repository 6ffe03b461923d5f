//! HTTP/3 connections driven by lists of actions: whatever a peer may put on streams and into datagrams, mixed with
//! what an application and a transport do meanwhile.
//!
//! Every list runs twice, once with stream bytes as they stand and once byte by byte: what comes out must be the same.

mod actions;
mod model;
mod run;

use moretta_h3::{Config, Role};

pub(crate) use actions::{LINES, Op, frame, line, section};
use run::Run;

/// The inputs of a server. See [`actions`](self) for their form.
pub fn server(data: &[u8]) {
    both_ways(Role::Server, data);
}

/// The inputs of a client.
pub fn client(data: &[u8]) {
    both_ways(Role::Client, data);
}

/// Longer inputs are tried in one way only.
const MAX_BYTEWISE: usize = 16 * 1024;

fn both_ways(role: Role, data: &[u8]) {
    let whole = Run::new(role, config(), usize::MAX).finish(data);
    if data.len() <= MAX_BYTEWISE {
        let bytewise = Run::new(role, config(), 1).finish(data);
        assert_eq!(whole, bytewise, "chunking made a difference");
    }
}

/// Bounds that short inputs can reach.
fn config() -> Config {
    Config {
        max_field_section_bytes: 512,
        max_open_requests: 6,
        max_unknown_frame_bytes: 640,
        max_cancelled_requests: 6,
        early_datagram_bytes: 512,
        max_request_body_bytes: 256,
        ..Config::default()
    }
}
