//! The line that is printed.
#![allow(clippy::cast_precision_loss, reason = "nobody reads more than three digits of a figure")]

use std::collections::BTreeMap;

use moretta_io::{SocketCounters, UdpSocket};
use serde::Serialize;

use crate::machine::Idle;
use crate::settings::Settings;

/// What stood on all clocks and counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading {
    /// Nanoseconds since the run began.
    pub(crate) time: u64,
    pub(crate) offered: u64,
    pub(crate) delivered: u64,
    pub(crate) gateway_cpu: u64,
    pub(crate) own_cpu: u64,
    pub(crate) idle: Idle,
    pub(crate) datagrams_in_packets: u64,
    pub(crate) packets: u64,
}

/// Every datagram of the whole run, from its first byte to its last, where it can be counted on this side. With the
/// gateway's own counters it has to add up: `benches/ledger.py` does.
#[derive(Debug, Serialize)]
pub(crate) struct Ledger {
    /// Payloads handed to the client's core, greetings included.
    pub(crate) client_offered: u64,
    /// Payloads that came out of it, of whatever kind.
    pub(crate) client_received: u64,
    /// The core's counters that are not 0.
    pub(crate) client_core: BTreeMap<&'static str, u64>,
    pub(crate) client_sockets: Socket,
    pub(crate) target_socket: Socket,
}

/// What the sockets of one side did. The kernel counts a merged train that it drops as one.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Socket {
    pub(crate) datagrams_sent: u64,
    pub(crate) send_dropped: u64,
    pub(crate) datagrams_received: u64,
    pub(crate) dropped_by_kernel: u64,
    pub(crate) dropped_truncated: u64,
}

impl Socket {
    pub(crate) fn of<'a>(sockets: impl Iterator<Item = &'a mut UdpSocket>) -> Self {
        let mut total = SocketCounters::default();
        for socket in sockets {
            socket.refresh_drops();
            total.add(socket.counters());
        }
        Self {
            datagrams_sent: total.datagrams_sent,
            send_dropped: total.send_dropped.total(),
            datagrams_received: total.datagrams_received,
            dropped_by_kernel: total.dropped_by_kernel,
            dropped_truncated: total.dropped_truncated,
        }
    }
}

/// One measurement. Names as in `benches/driver`; CPU in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    label: String,
    generator: &'static str,
    mode: &'static str,
    size: usize,
    rate: u64,
    tunnels: usize,
    conns: usize,
    offered: u64,
    delivered: u64,
    offered_ps: f64,
    delivered_ps: f64,
    loss_pct: f64,
    seconds: f64,
    proxy_us_per_dgram: f64,
    vm_us_per_dgram: f64,
    driver_us_per_dgram: f64,
    target_us_per_dgram: f64,
    proxy_cpu_pct: f64,
    core0_busy_pct: f64,
    core1_busy_pct: f64,
    steal_pct: f64,
    gbps: f64,
    /// Of the client's connections, in the direction of the payloads.
    datagrams_per_packet: f64,
    ledger: Ledger,
}

impl Report {
    /// From the readings at the beginning and at the end of the measured time, and after the last straggler.
    pub(crate) fn new(settings: &Settings, [from, to, end]: [&Reading; 3], ledger: Ledger) -> Self {
        let wall = (to.time - from.time) as f64;
        let (offered, delivered) = (to.offered - from.offered, to.delivered - from.delivered);
        let per_datagram = |nanoseconds: f64| round(nanoseconds / delivered.max(1) as f64 / 1000.0);
        let percent = |part: f64| round(100.0 * part / wall);
        let idle = |pick: fn(&Idle) -> u64| pick(&to.idle).saturating_sub(pick(&from.idle)) as f64;
        let seconds = wall / 1e9;
        let gateway = to.gateway_cpu.saturating_sub(from.gateway_cpu) as f64;
        // Two cores, as everywhere in benches: the one of the gateway and the one of the load.
        let busy = 2.0 * wall - idle(|idle| idle.all) - idle(|idle| idle.stolen);
        Self {
            label: settings.label.clone(),
            generator: "moretta-load",
            mode: settings.mode.as_str(),
            size: settings.size,
            rate: settings.rate,
            tunnels: settings.tunnels,
            conns: settings.connections,
            offered,
            delivered,
            offered_ps: round(offered as f64 / seconds),
            delivered_ps: round(delivered as f64 / seconds),
            // Of the whole run: what is on its way at either end of the measured time is not lost.
            loss_pct: round(100.0 * end.offered.saturating_sub(end.delivered) as f64 / end.offered.max(1) as f64),
            seconds: round(seconds),
            proxy_us_per_dgram: per_datagram(gateway),
            vm_us_per_dgram: per_datagram(busy),
            driver_us_per_dgram: per_datagram((to.own_cpu - from.own_cpu) as f64),
            target_us_per_dgram: 0.0,
            proxy_cpu_pct: percent(gateway),
            core0_busy_pct: round(100.0 - 100.0 * idle(|idle| idle.core0) / wall),
            core1_busy_pct: round(100.0 - 100.0 * idle(|idle| idle.core1) / wall),
            steal_pct: percent(idle(|idle| idle.stolen) / 2.0),
            gbps: round(delivered as f64 * settings.size as f64 * 8.0 / wall),
            datagrams_per_packet: round(
                (to.datagrams_in_packets - from.datagrams_in_packets) as f64
                    / (to.packets - from.packets).max(1) as f64,
            ),
            ledger,
        }
    }

    /// As one line.
    pub(crate) fn line(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

/// To thousandths.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
