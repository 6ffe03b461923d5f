//! The line that is printed.
#![allow(clippy::cast_precision_loss, reason = "nobody reads more than three digits of a figure")]

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

/// What the generator itself lost in the whole run: not the gateway's doing.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[expect(clippy::struct_field_names, reason = "they stand beside others in the line that is printed")]
pub(crate) struct OwnLosses {
    /// Datagrams that the kernel dropped because a client's socket was full.
    pub(crate) client_socket_drops: u64,
    /// The same of the target's socket.
    pub(crate) target_socket_drops: u64,
    /// Datagrams that the client's core dropped in its queues, or because they did not fit the path.
    pub(crate) client_core_drops: u64,
    /// Datagrams that the kernel did not take from the target.
    pub(crate) target_send_drops: u64,
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
    #[serde(flatten)]
    own_losses: OwnLosses,
}

impl Report {
    /// From the readings at the beginning and at the end of the measured time, and after the last straggler.
    pub(crate) fn new(settings: &Settings, [from, to, end]: [&Reading; 3], own_losses: OwnLosses) -> Self {
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
            own_losses,
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
