//! From a request to 2xx or a refusal, always in the same order:
//!
//! ```text
//! credentials → identity → quota → policy on the name → resolve once → policy on every address → open → 2xx
//! ```
//!
//! [`Admission::step`] says what to do next, and the `on_…` calls say how it went. The machine waits for nothing by
//! itself and may be dropped at any point: what it took from the ledger goes back. The address that was checked is the
//! address to open, and the first that opens is the one.

mod grant;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use moretta_wire::fields::{CAPSULE_PROTOCOL_TRUE, ProxyStatus};
use moretta_wire::head::ResponseHead;
use moretta_wire::host::{Host, Name};

pub use grant::Grant;

use crate::Now;
use crate::auth::{Identity, identify};
use crate::error::{Reason, Refusal};
use crate::ledger::{LedgerFull, TunnelSlot};
use crate::policy::{Decision, HostDecision, OwnAddresses, RuleId};
use crate::request::TunnelRequest;
use crate::snapshot::Snapshot;

/// Why there is no answer for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// No answer in time.
    Timeout,
    /// NXDOMAIN: there is no such name.
    NxDomain,
    /// The name exists and has neither an A nor an AAAA record.
    NoAddress,
    /// Another response code than NOERROR and NXDOMAIN, in its registered spelling, e.g. `SERVFAIL`, `REFUSED`;
    /// `SERVFAIL` also where DNSSEC validation fails.
    Failed(&'static str),
    /// The resolver's queue, or this source's share of it, is full.
    Overloaded,
}

/// Why the way to the target could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// ENETUNREACH, EHOSTUNREACH, or no address of that family here.
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

/// What is known about a request besides its head.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The name of the listener that it came to.
    pub listener: Arc<str>,
    /// Whether the address that it came to is a loopback address.
    pub loopback: bool,
    /// Whether it came in early data, which can be replayed (C-17).
    pub early_data: bool,
    /// Whether the gateway is going away.
    pub draining: bool,
    /// How many tunnels its connection has already, pending ones included and this one not.
    pub tunnels_on_connection: usize,
    /// The gateway's addresses now.
    pub own: Arc<OwnAddresses>,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Take a [`TunnelSlot`], then call [`Admission::on_ledger`].
    AskLedger,
    /// Resolve this name, once, then call [`Admission::on_resolved`].
    Resolve {
        /// What to look up; no search list.
        name: Name,
    },
    /// Open a flow to exactly this address, then call [`Admission::on_opened`]. After a failure another may follow.
    Open {
        /// Checked, and hence the one to connect.
        address: SocketAddr,
    },
    /// An answer is awaited; nothing to do before [`Admission::deadline`].
    Wait,
    /// Send this response; the flow that was opened last is the tunnel's.
    Accepted(Box<Accepted>),
    /// Send [`Refusal::response_head`]; if a flow is open, close it. If a name is being resolved or a flow opened, what
    /// comes of that is no longer wanted.
    Refused(Box<Refusal>),
}

/// A tunnel that may begin.
#[derive(Debug)]
pub struct Accepted {
    /// 200, without content.
    pub response: ResponseHead,
    /// What was allowed, to be rechecked when policy changes.
    pub grant: Grant,
    /// To be kept as long as the tunnel is open.
    pub slot: TunnelSlot,
}

/// Of a name's addresses so many are tried; all are checked.
const MAX_ATTEMPTS: usize = 8;

#[derive(Debug)]
enum State {
    /// Nothing done yet.
    New,
    /// `AskLedger` was given.
    Ledger,
    /// A slot is there.
    Counted,
    /// `Resolve` was given.
    Resolving,
    /// Addresses that are allowed, in the order in which to try them.
    Allowed,
    /// `Open` was given for the attempt that stands first.
    Opening,
    /// The first attempt is open.
    Opened,
    /// A refusal is due.
    Refused(Box<Refusal>),
    /// `Accepted` or `Refused` was given, or the client went away.
    Done,
}

/// The machine. See the [module](self).
#[derive(Debug)]
pub struct Admission {
    request: TunnelRequest,
    facts: Facts,
    /// Which version of everything decides.
    snapshot: Arc<Snapshot>,
    /// A newer version, which must not refuse what is about to be accepted.
    newer: Option<Arc<Snapshot>>,
    deadline: Instant,
    state: State,
    identity: Option<Identity>,
    slot: Option<TunnelSlot>,
    attempts: VecDeque<Attempt>,
}

/// An address that may be opened.
#[derive(Debug)]
struct Attempt {
    address: IpAddr,
    rule: Option<RuleId>,
}

impl Admission {
    /// A request that arrived at `now`. `snapshot` decides, and keeps deciding if another takes its place.
    pub fn new(request: TunnelRequest, snapshot: Arc<Snapshot>, facts: Facts, now: Now) -> Self {
        let deadline = now.instant.checked_add(snapshot.limits.admission_deadline).unwrap_or(now.instant);
        Self {
            request,
            facts,
            snapshot,
            newer: None,
            deadline,
            state: State::New,
            identity: None,
            slot: None,
            attempts: VecDeque::new(),
        }
    }

    /// What to do next. Call after creation, after each `on_…`, after [`recheck`](Self::recheck) and at the deadline.
    pub fn step(&mut self, now: Now) -> Step {
        if now.instant >= self.deadline {
            self.expire();
        }
        loop {
            match std::mem::replace(&mut self.state, State::Done) {
                State::New => match self.identify_and_count() {
                    Ok(()) => {
                        self.state = State::Ledger;
                        return Step::AskLedger;
                    }
                    Err(refusal) => self.refuse(refusal),
                },
                State::Counted => match self.check_host() {
                    Ok(Some(name)) => {
                        self.state = State::Resolving;
                        return Step::Resolve { name };
                    }
                    Ok(None) => self.state = State::Allowed,
                    Err(refusal) => self.refuse(refusal),
                },
                State::Allowed => match self.attempts.front() {
                    Some(attempt) => {
                        let address = SocketAddr::new(attempt.address, self.request.port());
                        self.state = State::Opening;
                        return Step::Open { address };
                    }
                    // Not reachable: there is an attempt, or the state is another.
                    None => self.refuse(Refusal::new(Reason::InternalError)),
                },
                State::Opened => match self.accept() {
                    Ok(accepted) => return Step::Accepted(Box::new(accepted)),
                    Err(refusal) => self.refuse(refusal),
                },
                State::Refused(refusal) => {
                    self.slot = None;
                    return Step::Refused(refusal);
                }
                waiting @ (State::Ledger | State::Resolving | State::Opening | State::Done) => {
                    self.state = waiting;
                    return Step::Wait;
                }
            }
        }
    }

    /// The answer to [`Step::AskLedger`].
    pub fn on_ledger(&mut self, answer: Result<TunnelSlot, LedgerFull>) {
        if !matches!(self.state, State::Ledger) {
            return;
        }
        match answer {
            Ok(slot) => {
                self.slot = Some(slot);
                self.state = State::Counted;
            }
            Err(LedgerFull) => self.refuse(Refusal::new(Reason::TunnelLimit)),
        }
    }

    /// The answer to [`Step::Resolve`]: every address of the name, in the order in which to try them (RFC 6724).
    pub fn on_resolved(&mut self, answer: Result<Vec<IpAddr>, ResolveError>) {
        if !matches!(self.state, State::Resolving) {
            return;
        }
        let checked = match answer {
            Ok(addresses) if addresses.is_empty() => Err(resolve_refusal(ResolveError::NoAddress)),
            Ok(addresses) => self.check_addresses(&addresses),
            Err(error) => Err(resolve_refusal(error)),
        };
        match checked {
            Ok(()) => self.state = State::Allowed,
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// The answer to [`Step::Open`].
    pub fn on_opened(&mut self, answer: Result<(), OpenError>) {
        if !matches!(self.state, State::Opening) {
            return;
        }
        let error = match answer {
            Ok(()) => {
                self.state = State::Opened;
                return;
            }
            Err(error) => error,
        };
        let reason = match error {
            OpenError::NoRoute => Reason::NoRoute,
            OpenError::Refused => Reason::ConnectionRefused,
            OpenError::Other(_) => Reason::OpenFailed,
            // Neither becomes better with another address of the same name.
            OpenError::Exhausted => return self.refuse(Refusal::new(Reason::Exhausted)),
            OpenError::Own => return self.refuse(Refusal::new(Reason::TargetProhibited)),
        };
        self.attempts.pop_front();
        if self.attempts.is_empty() {
            self.refuse(Refusal::new(reason));
        } else {
            self.state = State::Allowed;
        }
    }

    /// There is a newer snapshot, or the gateway's addresses have changed. What was decided stays decided, but nothing
    /// is accepted that they would refuse.
    pub fn recheck(&mut self, snapshot: Arc<Snapshot>, own: Arc<OwnAddresses>) {
        self.facts.own = own;
        self.newer = Some(snapshot);
    }

    /// The client reset the request. The slot goes back; every later step is [`Step::Wait`].
    pub fn cancel(&mut self) {
        self.state = State::Done;
        self.slot = None;
    }

    /// When [`step`](Self::step) is to be called at the latest.
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What was asked for.
    pub const fn request(&self) -> &TunnelRequest {
        &self.request
    }

    /// Whether the answer was given, or the client went away.
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    fn refuse(&mut self, refusal: Refusal) {
        // At once, so that the slot is free before the answer is sent.
        self.slot = None;
        self.state = State::Refused(Box::new(refusal));
    }

    /// The time is over: whoever is waited for is at fault.
    fn expire(&mut self) {
        let reason = match self.state {
            State::New | State::Ledger | State::Counted => Reason::Overloaded,
            State::Resolving => Reason::DnsTimeout,
            State::Allowed | State::Opening | State::Opened => Reason::OpenTimeout,
            State::Refused(_) | State::Done => return,
        };
        self.refuse(Refusal::new(reason));
    }

    /// Credentials, identity, and the part of the quota that needs no ledger.
    fn identify_and_count(&mut self) -> Result<(), Refusal> {
        if self.facts.early_data {
            return Err(Refusal::new(Reason::EarlyData));
        }
        self.identity = Some(identify(self.snapshot.listener(&self.facts.listener), self.facts.loopback)?);
        if self.facts.draining {
            return Err(Refusal::new(Reason::Draining));
        }
        if self.facts.tunnels_on_connection >= self.snapshot.limits.max_tunnels_per_connection {
            return Err(Refusal::new(Reason::ConnectionTunnelLimit));
        }
        Ok(())
    }

    /// Policy on the name, or on the address if that is what was asked for. The name, if there is one to resolve.
    fn check_host(&mut self) -> Result<Option<Name>, Refusal> {
        let TunnelRequest::ConnectUdp { host, port } = &self.request;
        match self.snapshot.policy.check_host(self.request.protocol(), host, *port) {
            HostDecision::Refused(decision) => Err(refusal_of(&decision)),
            HostDecision::Address(address) => self.check_addresses(&[address]).map(|()| None),
            HostDecision::Resolve => match host {
                Host::Name(name) => Ok(Some(name.clone())),
                Host::Ipv4(_) | Host::Ipv6(_) => Err(Refusal::new(Reason::InternalError)),
            },
        }
    }

    /// Policy on every address; one that is refused refuses all (D-2, D-3).
    fn check_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), Refusal> {
        let name = name_of(&self.request);
        for address in addresses {
            let (protocol, port) = (self.request.protocol(), self.request.port());
            let decision = self.snapshot.policy.check_address(protocol, name, *address, port, &self.facts.own);
            if !decision.allowed {
                return Err(refusal_of(&decision));
            }
            // A list with repetitions must not use up the attempts.
            let tried = self.attempts.iter().any(|attempt| attempt.address == *address);
            if !tried && self.attempts.len() < MAX_ATTEMPTS {
                self.attempts.push_back(Attempt { address: *address, rule: decision.rule });
            }
        }
        Ok(())
    }

    /// The flow is open. A newer snapshot has the last word.
    fn accept(&mut self) -> Result<Accepted, Refusal> {
        let internal = || Refusal::new(Reason::InternalError);
        let attempt = self.attempts.pop_front().ok_or_else(internal)?;
        let address = SocketAddr::new(attempt.address, self.request.port());
        let mut grant = Grant {
            protocol: self.request.protocol(),
            name: name_of(&self.request).cloned(),
            address,
            rule: attempt.rule,
            listener: Arc::clone(&self.facts.listener),
            loopback: self.facts.loopback,
            identity: self.identity.ok_or_else(internal)?,
            generation: self.snapshot.generation,
        };
        if let Some(newer) = self.newer.take() {
            grant.recheck(&newer, &self.facts.own)?;
        }
        let slot = self.slot.take().ok_or_else(internal)?;
        Ok(Accepted { response: success(&self.snapshot, address), grant, slot })
    }
}

fn name_of(request: &TunnelRequest) -> Option<&Name> {
    match request.host() {
        Host::Name(name) => Some(name),
        Host::Ipv4(_) | Host::Ipv6(_) => None,
    }
}

fn refusal_of(decision: &Decision) -> Refusal {
    decision.refusal().unwrap_or(Refusal::new(Reason::InternalError))
}

fn resolve_refusal(error: ResolveError) -> Refusal {
    match error {
        ResolveError::Timeout => Refusal::new(Reason::DnsTimeout),
        ResolveError::NxDomain => Refusal::new(Reason::NameNotFound).rcode("NXDOMAIN"),
        ResolveError::NoAddress => Refusal::new(Reason::NameHasNoAddress).rcode("NOERROR"),
        ResolveError::Failed(rcode) => Refusal::new(Reason::DnsFailed).rcode(rcode),
        ResolveError::Overloaded => Refusal::new(Reason::Overloaded),
    }
}

/// 200 with `capsule-protocol: ?1` and without any field that describes content (RFC 9297 §3.2, RFC 9298 §3.5).
fn success(snapshot: &Snapshot, address: SocketAddr) -> ResponseHead {
    let mut response = ResponseHead::new(200);
    response.fields.push("capsule-protocol", CAPSULE_PROTOCOL_TRUE);
    if snapshot.profile.proxy_status_next_hop {
        let member = ProxyStatus { next_hop: Some(address.to_string()), ..ProxyStatus::new(&*snapshot.proxy_name) };
        response.fields.push("proxy-status", member.to_field_value());
    }
    response
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
