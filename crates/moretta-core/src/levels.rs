//! How full a core is: everything that waits in it, found by walking, so that a bound or a total that drifted is seen.

use crate::connection::Stage;
use crate::core::{CORE_QUEUE_BYTES, Core};
use crate::demux::{ALL_INBOX_PACKETS, INBOX_PACKETS};
use crate::tunnel::{CAPSULE_HIGH_WATER, HELD_BYTES};
use crate::turn::STRAYS_PER_TURN;

/// What a core holds at one moment. A simulated world looks at it after every turn; nothing on the packet path does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Connections that the core has not forgotten.
    pub connections: usize,
    /// Tunnels, open or being decided.
    pub tunnels: usize,
    /// Flows of tunnels.
    pub flows: usize,
    /// Gateways of clients.
    pub gateways: usize,
    /// Names that an application has given to tunnels.
    pub names: usize,
    /// Questions to the resolver.
    pub queries: usize,
    /// Timers that something owns, the core's own included.
    pub timers: usize,
    /// Handshakes under way, and first packets that wait for theirs.
    pub half_open: usize,
    /// Packets that are not decrypted yet.
    pub inbox_packets: usize,
    /// Bytes in the queues of all tunnels, with overhead.
    pub queued_bytes: usize,
    /// Datagrams that wait for a request.
    pub early_datagrams: usize,
    /// Bytes of capsules that are not complete.
    pub capsule_bytes: usize,
    /// Bytes of streams that wait for a decision.
    pub held_bytes: usize,
}

impl Core {
    /// Looks through everything that the core holds.
    ///
    /// # Errors
    /// A sentence about the first bound that does not hold, or the first total that is not the sum of its parts.
    pub fn levels(&mut self) -> Result<Levels, String> {
        let limits = self.snapshot.proto.limits.clone();
        let mut levels = Levels {
            connections: self.connections.len(),
            tunnels: self.tunnels.len(),
            flows: self.flows.len(),
            gateways: self.gateways.len(),
            names: self.tunnel_names.len(),
            queries: self.queries.len(),
            timers: self.timers.registered(),
            half_open: self.half_open + self.waiting.len(),
            ..Levels::default()
        };
        for key in self.connections.keys() {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            let mut queued = 0;
            for tunnel in connection.tunnels.all().into_iter().filter_map(|key| self.tunnels.get(key)) {
                let bytes = tunnel.queue.bytes();
                bound("a tunnel's queue", bytes, limits.tunnel_queue_bytes)?;
                // One piece of a stream may be taken before the bound is looked at.
                bound("bytes held for a decision", tunnel.held_bytes, 2 * HELD_BYTES)?;
                // The last capsule may begin below the mark.
                let capsules = connection.http.queued_bytes(tunnel.stream);
                bound("capsules that wait for credit", capsules, CAPSULE_HIGH_WATER + 2 * 65_536)?;
                queued += bytes;
                levels.held_bytes += tunnel.held_bytes;
            }
            same("bytes queued on a connection", connection.queued_bytes, queued)?;
            levels.queued_bytes += queued;
            bound("a connection's inbox", connection.inbox.len(), INBOX_PACKETS)?;
            levels.inbox_packets += connection.inbox.len();
            bound("datagrams without a tunnel", connection.strays.len(), STRAYS_PER_TURN)?;
            bound("unfinished capsules", connection.capsule_budget.held_bytes(), limits.capsule_assembly_bytes)?;
            levels.capsule_bytes += connection.capsule_budget.held_bytes();
            if connection.stage != Stage::Closed {
                let early = connection.http.early_datagrams();
                // Each costs a byte at least.
                bound("early datagrams", early, limits.early_datagram_bytes)?;
                // What HTTP/3 has dropped is counted when the connection is served next.
                bound("early datagrams", early, connection.held_datagrams as usize)?;
                levels.early_datagrams += early;
            }
        }
        same("bytes queued in the core", self.queued_bytes, levels.queued_bytes)?;
        // A run of datagrams is looked at one by one, so that one may begin below the bound.
        bound("all queues together", self.queued_bytes, CORE_QUEUE_BYTES + 2 * 65_536)?;
        same("packets in all inboxes", self.inbox_packets, levels.inbox_packets)?;
        bound("all inboxes together", self.inbox_packets, ALL_INBOX_PACKETS)?;
        same("connections that live", self.live_connections, self.count_live())?;
        Ok(levels)
    }

    fn count_live(&self) -> usize {
        let connections = self.connections.keys().into_iter().filter_map(|key| self.connections.get(key));
        connections.filter(|connection| connection.stage != Stage::Closed).count()
    }
}

fn bound(what: &str, found: usize, most: usize) -> Result<(), String> {
    if found <= most { Ok(()) } else { Err(format!("{what}: {found} where {most} is the bound")) }
}

fn same(what: &str, counted: usize, found: usize) -> Result<(), String> {
    if counted == found { Ok(()) } else { Err(format!("{what}: counted {counted}, found {found}")) }
}
