//! From a request to 2xx or a refusal.

/// Why there is no answer for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// No answer in time.
    Timeout,
    /// NXDOMAIN: there is no such name.
    NxDomain,
    /// The name exists and has neither an A nor an AAAA record.
    NoAddress,
    /// Another response code than NOERROR and NXDOMAIN, in its RFC 1035 spelling, e.g. `SERVFAIL`, `REFUSED`; also when
    /// DNSSEC validation fails.
    Failed(&'static str),
    /// The resolver's queue, or this source's share of it, is full.
    Overloaded,
}

/// Why the way to the target could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// ENETUNREACH, EHOSTUNREACH, or no address of that family.
    NoRoute,
    /// No descriptor, port or memory is left; another address would fare no better.
    Exhausted,
    /// The target refused.
    Refused,
    /// The address and port are a socket of the gateway itself.
    Own,
    /// Any other error number.
    Other(i32),
}
