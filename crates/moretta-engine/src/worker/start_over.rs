//! After a panic that the core could not blame on a connection or an endpoint: the worker goes on with a new core.
//!
//! What it carried is lost, and everybody who waits for something of it is told. Its listeners' sockets stay open, so that
//! packets go on arriving here: those of lost connections are answered by stateless resets, new ones are served.

use super::{LocalEnd, Worker, now};
use crate::document::{self, Event};
use crate::queue::TunnelState;
use moretta_core::{Command, Now, TunnelToken};
use moretta_proto::error::EndReason;
use moretta_proto::tunnel::TunnelCounters;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Between beginnings: a bug that comes back at once must not take a processor and fill the log.
const PAUSE: Duration = Duration::from_millis(100);
const REASON: &str = "internal_error";
const SENTENCE: &str = "our own code failed; this is a bug";

impl Worker {
    /// False when that fails too, or there is nothing to begin for: the thread ends.
    pub(super) fn start_over(&mut self) -> bool {
        if self.shell.closing.is_some() {
            return false;
        }
        let done = catch_unwind(AssertUnwindSafe(|| self.begin_anew())).unwrap_or(false);
        if done {
            pause();
        }
        done
    }

    fn begin_anew(&mut self) -> bool {
        #[cfg(test)]
        if self.shell.fails_for_good {
            return false;
        }
        let Ok(seed) = crate::engine::random() else { return false };
        let now = now();
        self.core.start_over(now, seed, &mut self.outputs);
        self.act(now);
        self.end_what_is_left(now);
        self.shell.flows.clear();
        for (link, name, loopback) in self.shell.listeners.clone() {
            self.command(Command::AddListener { link, name, loopback }, now);
        }
        if let Some(deadline) = self.shell.drain {
            self.command(Command::Drain { deadline }, now);
        }
        let border = &self.shell.instance.border;
        // When there is no room for news, the records and the counters say it.
        if border.promise(1) {
            border.push(Event::WorkerRestarted(document::WorkerRestarted { worker: self.shell.index }));
        }
        true
    }

    /// What the core knew no more, or never heard of.
    fn end_what_is_left(&mut self, now: Now) {
        let tunnels: Vec<TunnelToken> = self.shell.locals.keys().copied().collect();
        for tunnel in tunnels {
            let is_open = self.shell.locals.get(&tunnel).is_some_and(|local| match &local.end {
                LocalEnd::Application(queue) => queue.state() == TunnelState::Open,
                LocalEnd::Peer { .. } => true,
            });
            if is_open {
                self.tunnel_closed(tunnel, EndReason::InternalError, &TunnelCounters::default());
            } else {
                self.refuse_tunnel(tunnel, REASON, SENTENCE, now);
            }
        }
        let gateways: Vec<u64> = self.shell.gateways.keys().copied().collect();
        for gateway in gateways {
            let was_connected = self.shell.gateways.get(&gateway).is_some_and(|known| known.handshake.is_some());
            if was_connected {
                self.gateway_gone(gateway, now);
                let (reason, error) = (REASON.to_owned(), SENTENCE.to_owned());
                let closed = document::GatewayClosed { gateway, reason, error };
                self.shell.instance.border.push(Event::GatewayClosed(closed));
            } else {
                self.gateway_failed(gateway, REASON, SENTENCE);
                self.close_forwards_of(gateway, now);
            }
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "nothing is lost by waiting: everything was")]
fn pause() {
    std::thread::sleep(PAUSE);
}
