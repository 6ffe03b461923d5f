//! One measurement: connect, warm up, measure, wait for stragglers.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use moretta_core::Wake;
use moretta_io::{Events, Interest, Poller, Trigger};

use crate::Failure;
use crate::client::Client;
use crate::machine::{cpu_nanoseconds, idle};
use crate::report::{Ledger, Reading, Report, Socket};
use crate::settings::{Mode, Settings};
use crate::target::{SUBSCRIBE, Target, UP, mark};

/// How often a rate is topped up: trains of a few datagrams at 50,000/s and 8 tunnels.
const TICK: Duration = Duration::from_micros(250);
/// What is behind by more is given up rather than sent at once.
const MOST_BEHIND: Duration = Duration::from_millis(2);
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// What is on its way is waited for until so long nothing more came.
const QUIET_TIME: Duration = Duration::from_millis(300);
/// But not longer than this.
const STRAGGLERS_TIME: Duration = Duration::from_secs(5);
/// Bytes handed to a tunnel at once.
const MOST_AT_ONCE: usize = 48 * 1024;

struct Run {
    settings: Settings,
    id: u32,
    client: Client,
    target: Target,
    poller: Poller,
    events: Events,
    began: Instant,
    /// Payloads to be cut.
    payloads: Vec<u8>,
    next_flow: usize,
    offered_up: u64,
    pacer: Pacer,
    flight: Flight,
}

/// The measurement as the line to be printed.
pub(crate) fn run(settings: Settings) -> Result<String, Failure> {
    moretta_io::set_timer_slack();
    moretta_io::raise_fd_limit();
    let mut run = Run::new(settings)?;
    run.connect()?;
    run.traffic(run.settings.warm_up)?;
    let from = run.reading();
    run.traffic(run.settings.duration)?;
    let to = run.reading();
    run.let_stragglers_pass()?;
    let end = run.reading();
    let ledger = Ledger {
        client_offered: run.client.offered,
        client_received: run.client.payloads,
        client_core: run.client.counters().entries().filter(|(_, count)| *count > 0).collect(),
        client_sockets: Socket::of(run.client.links.iter_mut()),
        target_socket: Socket::of(std::iter::once(&mut run.target.socket)),
    };
    run.client.close()?;
    if to.delivered == from.delivered {
        return Err(Failure("nothing arrived".to_owned()));
    }
    Ok(Report::new(&run.settings, [&from, &to, &end], ledger).line()?)
}

impl Run {
    fn new(settings: Settings) -> Result<Self, Failure> {
        let id = std::process::id();
        let poller = Poller::new()?;
        let target = Target::new(&settings, id)?;
        poller
            .register(target.socket.as_fd(), u64::MAX, Interest::Readable, Trigger::Level)
            .map_err(|kind| Failure(format!("epoll: {kind:?}")))?;
        let client = Client::new(&settings, id, target.socket.local_address(), &poller)?;
        let mut payload = vec![0; settings.size];
        mark(&mut payload, UP, id);
        let at_once = (MOST_AT_ONCE / settings.size).max(1);
        let began = Instant::now();
        Ok(Self {
            id,
            client,
            target,
            poller,
            events: Events::with_capacity(settings.connections + 1),
            began,
            payloads: payload.repeat(at_once),
            next_flow: 0,
            offered_up: 0,
            pacer: Pacer::new(settings.rate, began),
            flight: Flight { patience: settings.write_off, progress: began, delivered: 0, written_off: 0 },
            settings,
        })
    }

    fn offered(&self) -> u64 {
        if self.settings.mode.is_sent_by_target() { self.target.sent } else { self.offered_up }
    }

    fn delivered(&self) -> u64 {
        if self.settings.mode.is_sent_by_target() { self.client.received } else { self.target.received }
    }

    fn reading(&self) -> Reading {
        let counters = self.client.counters();
        let (datagrams_in_packets, packets) = match self.settings.mode {
            Mode::Up => (counters.datagrams_to_peer, counters.packets_sent),
            Mode::Down => (counters.datagrams_from_peer, counters.packets_received),
        };
        Reading {
            time: u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX),
            offered: self.offered(),
            delivered: self.delivered(),
            gateway_cpu: self.settings.gateway_pids.iter().map(|pid| cpu_nanoseconds(*pid)).sum(),
            own_cpu: cpu_nanoseconds(std::process::id()),
            idle: idle(),
            datagrams_in_packets,
            packets,
        }
    }

    /// Until every tunnel is open, and the target has heard of each.
    fn connect(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + CONNECT_TIME;
        while self.client.flows.len() < self.settings.tunnels {
            self.round(false)?;
            check(deadline, "tunnels were not opened")?;
        }
        let mut hello = vec![0; self.settings.size];
        mark(&mut hello, SUBSCRIBE, self.id);
        while self.target.subscribers() < self.settings.tunnels {
            // Again, should one be lost.
            for flow in self.client.flows.clone() {
                self.client.send(flow, &hello, hello.len());
            }
            self.let_pass(Duration::from_millis(50))?;
            check(deadline, "the target does not hear of every tunnel")?;
        }
        Ok(())
    }

    fn traffic(&mut self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        self.pacer.restart(Instant::now());
        while Instant::now() < end {
            self.round(true)?;
        }
        Ok(())
    }

    /// Without new payloads.
    fn let_pass(&mut self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.round(false)?;
        }
        Ok(())
    }

    fn let_stragglers_pass(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + STRAGGLERS_TIME;
        loop {
            let before = self.delivered();
            self.let_pass(QUIET_TIME)?;
            if self.delivered() == before || Instant::now() >= end {
                return Ok(());
            }
        }
    }

    /// Reads, sends, and waits until there is something to do.
    fn round(&mut self, is_sending: bool) -> Result<(), Failure> {
        let mut more = self.client.drain() | self.target.drain();
        if is_sending {
            more |= match self.settings.mode {
                Mode::Up => self.send_up(),
                Mode::Down => self.send_down(),
            };
        }
        let wake = self.client.turn()?;
        let timeout = if more || wake.again_now { Duration::ZERO } else { patience(wake, is_sending) };
        self.poller.wait(&mut self.events, Some(timeout)).map_err(|kind| Failure(format!("epoll: {kind:?}")))
    }

    /// Payloads for the tunnels in turn; true if another round should follow at once.
    fn send_up(&mut self) -> bool {
        let flows = self.client.flows.len();
        let size = self.settings.size;
        let mut due = self.pacer.due(Instant::now());
        // A rate is spread over all tunnels; without one each gets what it takes.
        let each = if self.settings.rate == 0 { u64::MAX } else { due.div_ceil(flows.max(1) as u64) };
        let mut sent = 0;
        for _ in 0..flows {
            let Some(flow) = self.client.flows.get(self.next_flow % flows).copied() else { break };
            let room = (self.client.room(flow) / size) as u64;
            let count = room.min(each).min(due).min((self.payloads.len() / size) as u64);
            if count > 0 {
                let bytes = count as usize * size;
                self.client.send(flow, self.payloads.get(..bytes).unwrap_or_default(), size);
            }
            self.next_flow += 1;
            sent += count;
            due -= count;
            if due == 0 {
                break;
            }
        }
        self.pacer.sent(sent);
        self.offered_up += sent;
        sent > 0 && self.settings.rate == 0
    }

    /// The same from the target. Without a rate so many are on their way at one time: a sender that knows no bound only
    /// fills a queue that overflows.
    fn send_down(&mut self) -> bool {
        let now = Instant::now();
        let due = if self.settings.rate == 0 {
            let flying = self.flight.count(now, self.target.sent, self.client.received);
            self.settings.window.saturating_sub(flying)
        } else {
            self.pacer.due(now)
        };
        self.target.send(due);
        self.pacer.sent(due);
        due > 0 && self.settings.rate == 0
    }
}

/// How long there is nothing to do, if nothing comes.
fn patience(wake: Wake, is_sending: bool) -> Duration {
    const IDLE: Duration = Duration::from_millis(10);
    let timer = wake.at.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
    timer.min(if is_sending { TICK } else { IDLE })
}

fn check(deadline: Instant, what: &str) -> Result<(), Failure> {
    if Instant::now() < deadline { Ok(()) } else { Err(Failure(format!("{what} within {CONNECT_TIME:?}"))) }
}

/// So many per second.
struct Pacer {
    rate: u64,
    since: Instant,
    sent: u64,
}

impl Pacer {
    fn new(rate: u64, now: Instant) -> Self {
        Self { rate, since: now, sent: 0 }
    }

    fn restart(&mut self, now: Instant) {
        (self.since, self.sent) = (now, 0);
    }

    /// How many are to be sent now.
    fn due(&mut self, now: Instant) -> u64 {
        if self.rate == 0 {
            return u64::MAX;
        }
        let until_now = |time: Duration| {
            let count = time.as_nanos() * u128::from(self.rate) / 1_000_000_000;
            u64::try_from(count).unwrap_or(u64::MAX)
        };
        let wanted = until_now(now.saturating_duration_since(self.since));
        let most = until_now(MOST_BEHIND).max(1);
        let due = wanted.saturating_sub(self.sent);
        self.sent += due.saturating_sub(most);
        due.min(most)
    }

    fn sent(&mut self, count: u64) {
        self.sent += count;
    }
}

/// Datagrams on their way.
struct Flight {
    patience: Duration,
    progress: Instant,
    delivered: u64,
    written_off: u64,
}

impl Flight {
    fn count(&mut self, now: Instant, sent: u64, delivered: u64) -> u64 {
        if delivered > self.delivered {
            (self.delivered, self.progress) = (delivered, now);
        } else if now.saturating_duration_since(self.progress) > self.patience {
            (self.written_off, self.progress) = (sent.saturating_sub(delivered), now);
        }
        sent.saturating_sub(delivered).saturating_sub(self.written_off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_and_what_is_far_behind_is_given_up() {
        let start = Instant::now();
        let mut pacer = Pacer::new(10_000, start);
        let mut sent = 0;
        for millisecond in 1..=1000 {
            let due = pacer.due(start + Duration::from_millis(millisecond));
            pacer.sent(due);
            sent += due;
        }
        assert_eq!(sent, 10_000);
        let due = pacer.due(start + Duration::from_secs(2));
        assert_eq!(due, 20, "two milliseconds' worth");
        pacer.sent(due);
        assert_eq!(pacer.due(start + Duration::from_secs(2)), 0);
    }

    #[test]
    fn a_closed_loop_that_hears_nothing_writes_off_what_is_missing() {
        let start = Instant::now();
        let mut flight = Flight { patience: Duration::from_millis(5), progress: start, delivered: 0, written_off: 0 };
        assert_eq!(flight.count(start, 100, 40), 60);
        assert_eq!(flight.count(start + Duration::from_millis(4), 100, 40), 60);
        assert_eq!(flight.count(start + Duration::from_millis(6), 100, 40), 0);
        assert_eq!(flight.count(start + Duration::from_millis(7), 150, 50), 40);
    }
}
