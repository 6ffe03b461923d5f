//! Going away in good order, and rechecking live tunnels against a new snapshot.

use std::sync::Arc;
use std::time::Instant;

use moretta_h3::code;
use moretta_proto::Now;
use moretta_proto::error::EndReason;

use crate::Http3;
use crate::connection::{Connection, DrainStage, End, Stage};
use crate::core::Core;
use crate::output::{Action, Event, Outputs};
use crate::store::Key;
use crate::tunnel::Side;

/// Live tunnels rechecked in one turn.
const RECHECKS_PER_TURN: usize = 256;
/// Between the two GOAWAYs: a round trip, so that requests on their way are still served (RFC 9114 §5.2), but not less
/// than this.
const LEAST_GOAWAY_GAP: std::time::Duration = std::time::Duration::from_millis(20);

/// The core is going away.
#[derive(Debug)]
pub(crate) struct Drain {
    deadline: Instant,
    announced: bool,
    /// The deadline has passed: every connection was closed.
    closed: bool,
    reported: bool,
}

/// A walk over all tunnels, a part in each turn.
#[derive(Debug)]
pub(crate) struct Recheck {
    next: usize,
}

impl Core {
    /// A second drain may only bring the deadline forward.
    pub(crate) fn begin_drain(&mut self, deadline: Instant) {
        match &mut self.drain {
            Some(drain) => drain.deadline = drain.deadline.min(deadline),
            None => self.drain = Some(Drain { deadline, announced: false, closed: false, reported: false }),
        }
        let deadline = self.drain.as_ref().map(|drain| drain.deadline);
        self.timers.set(self.drain_timer, deadline);
    }

    /// GOAWAY with the largest id: nothing is rejected yet.
    pub(crate) fn announce_drain(connection: &mut Connection, now: Now) {
        if connection.drain == DrainStage::Not && matches!(connection.end, End::Server(_)) {
            // Refused only once the connection is closing.
            let _closing = connection.http.goaway(Http3::GOAWAY_ALL);
            connection.http_dirty = true;
            connection.drain = DrainStage::Announced;
            let gap = connection.quic.rtt().max(LEAST_GOAWAY_GAP);
            connection.second_goaway_at = Some(now.instant + gap);
        }
    }

    /// The second GOAWAY, one round trip later: what comes now is rejected. A connection without tunnels is closed.
    pub(crate) fn continue_drain(&mut self, connection: &mut Connection, now: Now, out: &mut Outputs) {
        if connection.stage != Stage::Open {
            return;
        }
        if connection.second_goaway_at.is_some_and(|at| at <= now.instant) {
            connection.second_goaway_at = None;
            connection.drain = DrainStage::Final;
            let _closing = connection.http.goaway(connection.http.next_request_id());
            // It leaves in the next pass; a close now would overtake it.
            connection.http_dirty = true;
        } else if connection.drain == DrainStage::Final && connection.tunnels.is_empty() && !connection.http_dirty {
            self.close_connection(connection, now, code::H3_NO_ERROR, "", out);
        }
    }

    pub(crate) fn advance_drain(&mut self, now: Now, out: &mut Outputs) {
        let Some(drain) = &mut self.drain else { return };
        let announce = !std::mem::replace(&mut drain.announced, true);
        let close = now.instant >= drain.deadline && !std::mem::replace(&mut drain.closed, true);
        if !announce && !close {
            return;
        }
        if announce {
            for gateway in self.gateways.keys() {
                self.drain_gateway(gateway);
            }
            self.refuse_waiting();
        }
        for key in self.connections.keys() {
            self.guarded(key, now, out, |core, connection, out| {
                if close {
                    core.drain_deadline(connection, now, out);
                } else if connection.stage == Stage::Open {
                    Self::announce_drain(connection, now);
                }
            });
            self.mark(key);
            // What says goodbye leaves in this turn: the driver may stop after the one that reports the end.
            self.mark_sending(key);
        }
    }

    fn drain_deadline(&mut self, connection: &mut Connection, now: Now, out: &mut Outputs) {
        self.end_all_tunnels(connection, now, EndReason::Drained, out);
        self.close_connection(connection, now, code::H3_NO_ERROR, "", out);
    }

    fn refuse_waiting(&mut self) {
        while let Some((key, incoming)) = self.waiting.pop() {
            let mut buffer = self.answer_buffer();
            let Some(endpoint) = self.endpoints.get_mut(key) else { continue };
            let link = endpoint.link;
            let transmit = endpoint.quic.refuse(incoming, &mut buffer);
            self.counters.refused_draining += 1;
            self.return_answer_buffer(buffer);
            self.answer(link, &transmit);
        }
    }

    /// Says once that nothing is left that carries anything.
    pub(crate) fn finish_drain(&mut self, out: &mut Outputs) {
        if self.drain.as_ref().is_none_or(|drain| drain.reported) {
            return;
        }
        if self.live_connections > 0 || !self.sending.is_empty() || !self.gateways.is_empty() {
            return;
        }
        if let Some(drain) = &mut self.drain {
            drain.reported = true;
        }
        self.timers.set(self.drain_timer, None);
        out.actions.push(Action::Event(Event::Drained));
    }

    /// Begins the walk over live tunnels.
    pub(crate) fn begin_recheck(&mut self) {
        self.recheck = Some(Recheck { next: 0 });
    }

    /// Rechecks some tunnels. True if some are left.
    pub(crate) fn recheck_tunnels(&mut self, now: Now, out: &mut Outputs) -> bool {
        let Some(recheck) = &mut self.recheck else { return false };
        let from = recheck.next;
        let end = (from + RECHECKS_PER_TURN).min(self.tunnels.places());
        recheck.next = end;
        for place in from..end {
            let Some(key) = self.tunnels.key_at(place) else { continue };
            let Some(connection) = self.tunnels.get(key).map(|tunnel| tunnel.connection) else { continue };
            self.guarded(connection, now, out, |core, connection, out| core.recheck_tunnel(connection, key, now, out));
            self.mark_sending(connection);
        }
        if end >= self.tunnels.places() {
            self.recheck = None;
        }
        self.recheck.is_some()
    }

    fn recheck_tunnel(&mut self, connection: &mut Connection, key: Key, now: Now, out: &mut Outputs) {
        let snapshot = Arc::clone(&self.snapshot.proto);
        let own = Arc::clone(&self.snapshot.own_addresses);
        let Some(Side::Server(applicant)) = self.tunnels.get_mut(key).map(|tunnel| &mut tunnel.side) else { return };
        self.counters.tunnels_rechecked += 1;
        match (&mut applicant.admission, &mut applicant.grant) {
            (Some(admission), _) => {
                admission.recheck(snapshot, own);
                self.step_admission(connection, key, now, out);
            }
            (None, Some(grant)) => {
                if grant.recheck(&snapshot, &own).is_err() {
                    self.end_tunnel(connection, key, now, EndReason::PolicyChanged, out);
                }
            }
            (None, None) => {}
        }
    }
}
