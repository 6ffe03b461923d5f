//! Stands in for what `moretta-proto` and `moretta-wire` are about to provide; gone when they do.
#![allow(missing_docs, reason = "replaced by the real types at once")]

use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub instant: Instant,
    pub unix: Duration,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    NoRoute,
    Exhausted,
    Refused,
    Own,
    Other(i32),
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolveError {
    Timeout,
    NxDomain,
    ServFail(u16),
    NoAddress,
    Overloaded,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Internal,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    ClientFinished,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelCounters {
    pub datagrams: u64,
}
#[derive(Debug)]
pub struct Snapshot;
#[derive(Debug)]
pub struct OwnAddresses;
pub trait Ledger: Send + Sync {}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub String);
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UriTemplate(pub String);
