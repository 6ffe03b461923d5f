//! After a panic that is no connection's and no endpoint's: a new core in the place of the old one.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use moretta_proto::Now;

use crate::config::CoreConfig;
use crate::core::Core;
use crate::output::Outputs;

impl Core {
    /// Begins anew, as [`Core::new`] does, for a driver that has seen this core panic; `seed` is a fresh one.
    ///
    /// Every tunnel and gateway ends, and is recorded or told in `out` as far as the state still allows it. Peers are not
    /// told: they learn it from stateless resets. Counters go on, and no number of a tunnel or a question is given twice.
    /// Links, and a drain that was asked for, are the driver's to give again; flows that it still knows are void.
    pub fn start_over(&mut self, now: Now, seed: [u8; 32], out: &mut Outputs) {
        // What panicked once may do so again; then the rest of the goodbyes is lost.
        drop(catch_unwind(AssertUnwindSafe(|| self.end_everything(now, out))));
        let config = CoreConfig { seed, ..self.quic.config().clone() };
        let mut old = mem::replace(self, Self::new(config, Arc::clone(&self.snapshot), now));
        out.actions.append(&mut old.pending);
        self.counters = old.counters;
        self.counters.panicked_cores += 1;
        self.datagrams_before = old.datagrams_before;
        self.turn = old.turn;
        self.next_query = old.next_query;
        self.next_tunnel = old.next_tunnel;
        drop(catch_unwind(AssertUnwindSafe(|| drop(old))));
    }

    fn end_everything(&mut self, now: Now, out: &mut Outputs) {
        self.quic.set_time(now);
        out.actions.append(&mut self.pending);
        self.fail_gateways();
        for key in self.connections.keys() {
            self.guarded(key, now, out, |core, connection, out| core.lose_orphan(connection, now, out));
        }
        self.serve_gateways(now, out);
    }
}
