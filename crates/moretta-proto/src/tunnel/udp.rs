//! One CONNECT-UDP tunnel (RFC 9298), from 2xx to its end, on either side.
//!
//! The machine is told what arrives and says what to do with it; it holds no socket, no queue and no timer. The path of
//! a QUIC datagram through it ([`UdpTunnel::from_peer_datagram`], [`UdpTunnel::to_peer`]) allocates nothing and takes
//! no lock. Once it has given an [`EndReason`], or been given one, every later call says that there is no tunnel.

use std::time::{Duration, Instant};

use bytes::Bytes;
use moretta_wire::datagram::{ContextId, MAX_UDP_PAYLOAD_BYTES, split_context_id};

use super::budget::CapsuleBudget;
use super::capsules::{CapsuleInput, Found};
pub use super::{Role, Traffic, TunnelCounters};
use crate::Now;
use crate::error::{DropReason, EndReason, h3_code};
use crate::limits::Limits;
use crate::profile::{Profile, TargetErrors, UnknownCapsule, UnknownContext};

/// What a tunnel is opened with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Which side this is.
    pub role: Role,
    /// The knobs; fixed for the life of the tunnel.
    pub profile: Profile,
    /// How long it may carry nothing.
    pub idle_timeout: Duration,
    /// Both sides allow HTTP Datagrams on this connection (RFC 9297 §2.1.1); otherwise all is sent in capsules.
    pub datagrams: bool,
    /// The largest UDP payload that can be sent on: on a gateway what the path to the target carries, as far as known.
    /// Bounds the one buffer in which a split DATAGRAM capsule is assembled. At most 65 527.
    pub target_payload_bytes: usize,
    /// What capsules of unknown types may carry before the tunnel is reset.
    pub unknown_capsule_bytes: u64,
}

impl Options {
    /// A payload of an Ethernet path: 1500 bytes less the headers of IPv4 and UDP.
    pub const DEFAULT_TARGET_PAYLOAD_BYTES: usize = 1472;

    /// With the bounds of `limits`, datagrams negotiated, and an Ethernet path to the target; a client takes any payload.
    pub const fn new(role: Role, profile: Profile, limits: &Limits) -> Self {
        Self {
            role,
            profile,
            idle_timeout: limits.idle_timeout,
            datagrams: true,
            target_payload_bytes: match role {
                Role::Proxy => Self::DEFAULT_TARGET_PAYLOAD_BYTES,
                Role::Client => MAX_UDP_PAYLOAD_BYTES,
            },
            unknown_capsule_bytes: limits.unknown_capsule_bytes,
        }
    }
}

/// What becomes of one datagram from the stream's other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send on what follows the first `offset` bytes, possibly nothing (an empty UDP payload). Counted.
    Forward {
        /// The length of the Context ID, 1 to 8.
        offset: usize,
    },
    /// Dropped and counted; nothing else happens.
    Drop(DropReason),
    /// The tunnel has ended: do what [`EndReason::closing`] says.
    End(EndReason),
}

/// How a payload travels to the stream's other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// In a QUIC DATAGRAM frame. Counted.
    Datagram,
    /// In a DATAGRAM capsule on the stream. Counted.
    Capsule,
    /// Not at all. Counted.
    Drop(DropReason),
}

/// What the system said about the socket towards the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetError {
    /// EMSGSIZE: one datagram did not fit.
    TooLarge,
    /// EAGAIN or ENOBUFS: one datagram found the buffers full.
    Full,
    /// ECONNREFUSED: an ICMP port unreachable that the kernel attributes to our connected socket.
    Refused,
    /// ENETUNREACH, EHOSTUNREACH and their kind, attributed in the same way.
    Unreachable,
    /// Anything else.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Our side has finished; what still arrives is taken until the other side finishes, or this time.
    Finishing {
        until: Instant,
        reason: EndReason,
    },
    Ended,
}

/// The machine. See the [module](self).
#[derive(Debug)]
pub struct UdpTunnel {
    options: Options,
    state: State,
    last_activity: Instant,
    /// The other side has sent a QUIC datagram.
    seen_datagram: bool,
    /// The other side has sent a DATAGRAM capsule.
    seen_capsule: bool,
    unknown_contexts: u32,
    unknown_capsule_credit: u64,
    capsules: CapsuleInput,
    counters: TunnelCounters,
}

/// What skipping one capsule costs its budget at least, so that a stream of empty ones ends too.
const MIN_UNKNOWN_CAPSULE_COST: u64 = 16;

/// How long the other side has to finish after we did; several round trips of the slowest paths.
const FINISH_TIME: Duration = Duration::from_secs(3);

impl UdpTunnel {
    /// A tunnel whose request was answered with 2xx at `now`.
    pub fn new(options: Options, now: Now) -> Self {
        let target_payload_bytes = options.target_payload_bytes.min(MAX_UDP_PAYLOAD_BYTES);
        Self {
            options: Options { target_payload_bytes, ..options },
            state: State::Open,
            last_activity: now.instant,
            seen_datagram: false,
            seen_capsule: false,
            unknown_contexts: 0,
            unknown_capsule_credit: options.unknown_capsule_bytes,
            capsules: CapsuleInput::default(),
            counters: TunnelCounters::default(),
        }
    }

    /// What an HTTP Datagram from the other side means. `payload`: what follows the Quarter Stream ID.
    #[inline]
    pub fn from_peer_datagram(&mut self, payload: &[u8]) -> Verdict {
        if self.state == State::Ended {
            return self.dropped(DropReason::TunnelFinished);
        }
        self.seen_datagram = true;
        match split_context_id(payload) {
            Ok((ContextId::UDP_PAYLOAD, offset)) => {
                let bytes = payload.len() - offset;
                if bytes > MAX_UDP_PAYLOAD_BYTES {
                    return Verdict::End(self.end_with(EndReason::PayloadTooLong));
                }
                self.count_incoming(bytes);
                Verdict::Forward { offset }
            }
            Ok(_) => match self.unknown_context() {
                Ok(()) => Verdict::Drop(DropReason::UnknownContext),
                Err(reason) => Verdict::End(reason),
            },
            Err(_) => self.dropped(DropReason::NoContextId),
        }
    }

    /// Reads what came on the data stream (RFC 9297 §3.1): all of `bytes`, of which every byte is consumed, so that
    /// flow-control credit can be returned at once. Each UDP payload found goes to `sink`, in order, and is counted.
    ///
    /// # Errors
    /// The tunnel has ended: do what [`EndReason::closing`] says. Payloads found before are with `sink`.
    pub fn from_peer_stream(
        &mut self,
        bytes: &Bytes,
        budget: &CapsuleBudget,
        sink: &mut impl FnMut(Bytes),
    ) -> Result<(), EndReason> {
        if self.state == State::Ended {
            return Ok(());
        }
        // Taken out while its findings change the rest of the machine; moving it copies some sixty bytes.
        let mut capsules = std::mem::take(&mut self.capsules);
        let read = capsules.read(bytes, self.options.target_payload_bytes, budget, |found| self.found(found, sink));
        self.capsules = capsules;
        read.map_err(|reason| self.end_with(reason))
    }

    fn found(&mut self, found: Found, sink: &mut impl FnMut(Bytes)) -> Result<(), EndReason> {
        match found {
            Found::Payload(payload) => {
                self.seen_capsule = true;
                self.count_incoming(payload.len());
                sink(payload);
                Ok(())
            }
            Found::Dropped(DropReason::UnknownContext) => self.unknown_context(),
            Found::Dropped(reason) => {
                self.seen_capsule = true;
                self.counters.drops.add(reason, 1);
                Ok(())
            }
            Found::Unknown => {
                self.counters.unknown_capsules += 1;
                match self.options.profile.unknown_capsule {
                    UnknownCapsule::Close => Err(EndReason::CapsuleClosedConnection),
                    UnknownCapsule::AbortStream => Err(EndReason::CapsuleRefused),
                    UnknownCapsule::Skip => self.spend_unknown_capsule_credit(MIN_UNKNOWN_CAPSULE_COST),
                }
            }
            Found::UnknownBytes(bytes) => {
                self.counters.unknown_capsule_bytes += bytes as u64;
                self.spend_unknown_capsule_credit(bytes as u64)
            }
            Found::TooLong => Err(EndReason::PayloadTooLong),
        }
    }

    /// CAP-35: skipping is free of memory but not of work.
    fn spend_unknown_capsule_credit(&mut self, bytes: u64) -> Result<(), EndReason> {
        let left = self.unknown_capsule_credit.checked_sub(bytes).ok_or(EndReason::CapsuleFlood)?;
        self.unknown_capsule_credit = left;
        Ok(())
    }

    fn unknown_context(&mut self) -> Result<(), EndReason> {
        self.counters.drops.add(DropReason::UnknownContext, 1);
        match self.options.profile.unknown_context {
            UnknownContext::Drop => Ok(()),
            UnknownContext::AbortAfter(most) if self.unknown_contexts >= most => {
                Err(self.end_with(EndReason::ContextFlood))
            }
            UnknownContext::AbortAfter(_) => {
                self.unknown_contexts += 1;
                Ok(())
            }
        }
    }

    /// How one payload travels to the other side, if it does. A payload that does not fit a datagram is dropped rather
    /// than put in a capsule (RFC 9298 §6.1, UDP-53).
    ///
    /// `max_datagram_payload_bytes`: the largest UDP payload that fits a QUIC datagram of the connection now.
    #[inline]
    pub fn to_peer(&mut self, payload_bytes: usize, max_datagram_payload_bytes: usize) -> Outgoing {
        if self.state != State::Open {
            return self.not_sent(DropReason::TunnelFinished);
        }
        let capsules = self.replies_in_capsules();
        let most = if capsules { MAX_UDP_PAYLOAD_BYTES } else { max_datagram_payload_bytes };
        if payload_bytes > most {
            return self.not_sent(DropReason::TooLargeForPath);
        }
        count(self.outgoing_traffic(), payload_bytes);
        if capsules { Outgoing::Capsule } else { Outgoing::Datagram }
    }

    /// Whether payloads to the other side travel in capsules: where datagrams are not to be had, and towards a side that
    /// has sent capsules and no QUIC datagram yet.
    #[inline]
    pub const fn replies_in_capsules(&self) -> bool {
        !self.options.datagrams || (self.seen_capsule && !self.seen_datagram)
    }

    /// The peer's SETTINGS came, or changed nothing: whether datagrams are negotiated from now on (H3D-4).
    pub const fn set_datagrams(&mut self, negotiated: bool) {
        self.options.datagrams = negotiated;
    }

    /// The path to the target carries payloads of at most `bytes` from now on.
    pub fn set_target_payload_bytes(&mut self, bytes: usize) {
        self.options.target_payload_bytes = bytes.min(MAX_UDP_PAYLOAD_BYTES);
    }

    /// Something was carried, in either direction. Once per batch is enough.
    #[inline]
    pub fn on_activity(&mut self, now: Now) {
        self.last_activity = self.last_activity.max(now.instant);
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called; it moves with every activity, so a timer that
    /// fires early costs one look.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let idle = self.last_activity.checked_add(self.options.idle_timeout);
        match self.state {
            State::Open => idle,
            State::Finishing { until, .. } => Some(idle.map_or(until, |idle| idle.min(until))),
            State::Ended => None,
        }
    }

    /// Ends the tunnel if it has been idle for too long (RFC 9298 §3.1), or if the other side did not finish in time
    /// after we did.
    pub fn handle_timeout(&mut self, now: Now) -> Option<EndReason> {
        if now.instant < self.poll_timeout()? {
            return None;
        }
        let reason = match self.state {
            State::Finishing { reason, .. } => reason,
            State::Open | State::Ended => EndReason::IdleTimeout,
        };
        self.end(reason)
    }

    /// The other side ended its half of the stream. A tunnel has no use for one half: it ends, and a gateway frees the
    /// socket (UDP-45, XC-22). Inside a capsule the message is incomplete (RFC 9297 §3.3, CAP-8).
    pub fn on_peer_fin(&mut self) -> Option<EndReason> {
        if !self.capsules.is_between_capsules() {
            return self.end(EndReason::CapsuleTruncated);
        }
        self.end_by_peer(EndReason::ClientFinished, EndReason::ProxyFinished)
    }

    /// The other side reset its half of the stream; the code changes nothing (XC-23).
    pub fn on_peer_reset(&mut self) -> Option<EndReason> {
        self.end_by_peer(EndReason::ClientReset, EndReason::ProxyReset)
    }

    /// The other side does not want our half of the stream any more: as good as an end (C-7). `code`: the
    /// HTTP/3 code that came with it; H3_NO_ERROR accompanies an orderly end.
    pub fn on_peer_stop_sending(&mut self, code: u64) -> Option<EndReason> {
        if code == h3_code::NO_ERROR {
            self.end_by_peer(EndReason::ClientFinished, EndReason::ProxyFinished)
        } else {
            self.on_peer_reset()
        }
    }

    fn end_by_peer(&mut self, by_client: EndReason, by_proxy: EndReason) -> Option<EndReason> {
        let by_peer = match self.options.role {
            Role::Proxy => by_client,
            Role::Client => by_proxy,
        };
        match self.state {
            // The answer to our own end.
            State::Finishing { reason, .. } if by_peer.closing() == crate::error::Closing::Finish => self.end(reason),
            State::Open | State::Finishing { .. } | State::Ended => self.end(by_peer),
        }
    }

    /// The system reported an error on the socket towards the target; `lost`: how many datagrams it cost.
    ///
    /// What concerns single datagrams ends nothing. The rest is counted, and ends the tunnel where the profile says so
    /// (RFC 9298 §3.1, C-19).
    pub fn on_target_error(&mut self, error: TargetError, lost: u64) -> Option<EndReason> {
        if self.state == State::Ended {
            return None;
        }
        let (drop_reason, may_close) = match error {
            TargetError::TooLarge => (DropReason::TooLargeForTarget, false),
            TargetError::Full => (DropReason::SocketFull, false),
            TargetError::Refused | TargetError::Unreachable | TargetError::Other => (DropReason::SocketError, true),
        };
        self.counters.drops.add(drop_reason, lost);
        self.counters.target_errors += 1;
        match self.options.profile.target_error {
            TargetErrors::Close if may_close => self.end(EndReason::TargetError),
            TargetErrors::Close | TargetErrors::Count => None,
        }
    }

    /// Finishes our half of the stream in an orderly way and takes what still arrives until the other side finishes its
    /// half; false if the tunnel was not open. The caller sends FIN. `reason` is reported once that happens.
    pub fn finish(&mut self, reason: EndReason, now: Now) -> bool {
        if self.state != State::Open {
            return false;
        }
        let until = now.instant.checked_add(FINISH_TIME).unwrap_or(now.instant);
        self.state = State::Finishing { until, reason };
        true
    }

    /// Ends the tunnel now. `None` if it had ended before: the first reason is the one that counts.
    pub fn end(&mut self, reason: EndReason) -> Option<EndReason> {
        if self.state == State::Ended {
            return None;
        }
        Some(self.end_with(reason))
    }

    fn end_with(&mut self, reason: EndReason) -> EndReason {
        self.state = State::Ended;
        self.capsules.clear();
        reason
    }

    /// Whether nothing goes through any more.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Counts datagrams of this tunnel that were dropped outside the machine, in a queue or by a socket.
    #[inline]
    pub fn count_drops(&mut self, reason: DropReason, datagrams: u64) {
        self.counters.drops.add(reason, datagrams);
    }

    /// What it carried and dropped so far.
    pub const fn counters(&self) -> &TunnelCounters {
        &self.counters
    }

    #[inline]
    fn dropped(&mut self, reason: DropReason) -> Verdict {
        self.counters.drops.add(reason, 1);
        Verdict::Drop(reason)
    }

    #[inline]
    fn not_sent(&mut self, reason: DropReason) -> Outgoing {
        self.counters.drops.add(reason, 1);
        Outgoing::Drop(reason)
    }

    #[inline]
    fn count_incoming(&mut self, bytes: usize) {
        let traffic = match self.options.role {
            Role::Proxy => &mut self.counters.client_to_target,
            Role::Client => &mut self.counters.target_to_client,
        };
        count(traffic, bytes);
    }

    #[inline]
    fn outgoing_traffic(&mut self) -> &mut Traffic {
        match self.options.role {
            Role::Proxy => &mut self.counters.target_to_client,
            Role::Client => &mut self.counters.client_to_target,
        }
    }
}

#[inline]
fn count(traffic: &mut Traffic, bytes: usize) {
    traffic.datagrams += 1;
    traffic.bytes += bytes as u64;
}

#[cfg(test)]
#[path = "udp_tests.rs"]
mod tests;
