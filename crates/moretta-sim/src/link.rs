//! One direction of a path: what it does to packets.

use std::time::Duration;

use crate::random::Random;

/// How a direction behaves. The default is a perfect wire of one millisecond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkModel {
    /// Time on the way.
    pub delay: Duration,
    /// Up to this much more, drawn for each packet; packets that draw less overtake.
    pub jitter: Duration,
    /// Packets lost, of a thousand.
    pub loss_per_mille: u32,
    /// Packets that arrive twice, of a thousand.
    pub duplicate_per_mille: u32,
    /// How much later the second copy comes at most, beside a quarter of [`LinkModel::delay`].
    pub duplicate_delay: Duration,
    /// Packets that arrive with one bit flipped, of a thousand.
    pub corrupt_per_mille: u32,
    /// Packets held back by [`LinkModel::reorder_delay`], of a thousand.
    pub reorder_per_mille: u32,
    /// How long those are held back.
    pub reorder_delay: Duration,
    /// The largest UDP payload that passes; larger ones vanish, as on a path whose ICMP is filtered.
    pub mtu: usize,
    /// Bytes per second on the wire; `None`: no limit, no queue.
    pub rate: Option<u64>,
    /// Bytes that may wait for the wire; what exceeds them is lost.
    pub queue_bytes: usize,
}

impl Default for LinkModel {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(1),
            jitter: Duration::ZERO,
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            duplicate_delay: Duration::ZERO,
            corrupt_per_mille: 0,
            reorder_per_mille: 0,
            reorder_delay: Duration::from_millis(5),
            mtu: 65_507,
            rate: None,
            queue_bytes: 64 * 1024,
        }
    }
}

impl LinkModel {
    /// A line across a continent with everything that goes wrong there: 20 ms, 3 % loss, 1 % duplicates, 3 % held back,
    /// Ethernet's MTU.
    pub fn rough() -> Self {
        Self {
            delay: Duration::from_millis(20),
            jitter: Duration::from_micros(300),
            loss_per_mille: 30,
            duplicate_per_mille: 10,
            reorder_per_mille: 30,
            mtu: 1472,
            ..Self::default()
        }
    }
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives after this time.
    Arrives(Duration),
    /// It arrives twice.
    Doubled(Duration, Duration),
    /// It arrives after this time with a bit flipped, of which only the number modulo its length is meant.
    Corrupted(Duration, u64),
    /// The dice said so.
    Lost,
    /// It did not fit.
    TooLong,
    /// The queue before the wire was full.
    QueueFull,
}

/// What a direction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Packets offered.
    pub offered: u64,
    /// Whole arrivals, duplicates included.
    pub arrived: u64,
    /// Arrivals of the same packet a second time, part of `arrived`.
    pub doubled: u64,
    /// Arrivals with a bit flipped.
    pub corrupted: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Larger than the MTU.
    pub too_long: u64,
    /// Lost to a full queue.
    pub queue_full: u64,
    /// Part of `arrived` or `corrupted`: nobody was there any more.
    pub unreachable: u64,
}

/// What one packet has drawn.
struct Dice {
    lost: bool,
    doubled: bool,
    held: bool,
    corrupted: bool,
    jitter: Duration,
    second: Duration,
    bit: u64,
}

/// A direction with its dice and its queue.
#[derive(Debug)]
pub struct Link {
    model: LinkModel,
    random: Random,
    /// When the wire has sent all that waits for it.
    busy_until: Duration,
    counters: LinkCounters,
}

impl Link {
    /// A direction that draws from `random`.
    pub fn new(model: LinkModel, random: Random) -> Self {
        Self { model, random, busy_until: Duration::ZERO, counters: LinkCounters::default() }
    }

    /// The largest payload it takes now.
    pub fn mtu(&self) -> usize {
        self.model.mtu
    }

    /// Changes the behaviour for packets from now on.
    pub fn set_model(&mut self, model: LinkModel) {
        self.model = model;
    }

    /// What happened so far.
    pub fn counters(&self) -> LinkCounters {
        self.counters
    }

    /// Decides about a packet of `bytes` that enters at `now`. Each packet draws the same number of dice whatever its
    /// fate, so that one lost packet does not change the luck of all that follow.
    pub fn offer(&mut self, now: Duration, bytes: usize) -> Fate {
        let random = &mut self.random;
        let dice = Dice {
            lost: random.chance(self.model.loss_per_mille),
            doubled: random.chance(self.model.duplicate_per_mille),
            held: random.chance(self.model.reorder_per_mille),
            corrupted: random.chance(self.model.corrupt_per_mille),
            jitter: random.duration(self.model.jitter),
            second: random.duration(self.model.duplicate_delay),
            bit: random.bits(),
        };
        let fate = self.decide(now, bytes, &dice);
        self.counters.offered += 1;
        match fate {
            Fate::Arrives(_) => self.counters.arrived += 1,
            Fate::Doubled(..) => {
                self.counters.arrived += 2;
                self.counters.doubled += 1;
            }
            Fate::Corrupted(..) => self.counters.corrupted += 1,
            Fate::Lost => self.counters.lost += 1,
            Fate::TooLong => self.counters.too_long += 1,
            Fate::QueueFull => self.counters.queue_full += 1,
        }
        fate
    }

    /// A packet of this direction found nobody.
    pub(crate) fn count_unreachable(&mut self) {
        self.counters.unreachable += 1;
    }

    fn decide(&mut self, now: Duration, bytes: usize, dice: &Dice) -> Fate {
        if bytes > self.model.mtu {
            return Fate::TooLong;
        }
        let mut way = self.model.delay + dice.jitter;
        if let Some(rate) = self.model.rate {
            let waiting = self.busy_until.saturating_sub(now);
            let waiting_bytes = waiting.as_nanos() * u128::from(rate) / 1_000_000_000;
            if waiting_bytes + bytes as u128 > self.model.queue_bytes as u128 {
                return Fate::QueueFull;
            }
            let on_wire = Duration::from_nanos(bytes as u64 * 1_000_000_000 / rate.max(1));
            self.busy_until = self.busy_until.max(now) + on_wire;
            way += self.busy_until.saturating_sub(now);
        }
        if dice.lost {
            return Fate::Lost;
        }
        if dice.held {
            way += self.model.reorder_delay;
        }
        // The second copy comes a little later, so that other packets come between.
        if dice.corrupted {
            Fate::Corrupted(way, dice.bit)
        } else if dice.doubled {
            Fate::Doubled(way, way + self.model.delay / 4 + dice.second)
        } else {
            Fate::Arrives(way)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(model: LinkModel) -> Link {
        Link::new(model, Random::new(3, "test"))
    }

    #[test]
    fn a_perfect_wire_only_takes_time() {
        let mut link = link(LinkModel::default());
        for bytes in [0, 1, 65_507] {
            assert_eq!(link.offer(Duration::ZERO, bytes), Fate::Arrives(Duration::from_millis(1)));
        }
        assert_eq!(link.offer(Duration::ZERO, 65_508), Fate::TooLong);
    }

    #[test]
    fn a_slow_wire_spaces_packets_and_its_queue_overflows() {
        let model =
            LinkModel { rate: Some(1_000_000), queue_bytes: 3000, delay: Duration::ZERO, ..LinkModel::default() };
        let mut link = link(model);
        let milliseconds = |number| Fate::Arrives(Duration::from_millis(number));
        assert_eq!(link.offer(Duration::ZERO, 1000), milliseconds(1));
        assert_eq!(link.offer(Duration::ZERO, 1000), milliseconds(2));
        assert_eq!(link.offer(Duration::ZERO, 1000), milliseconds(3));
        assert_eq!(link.offer(Duration::ZERO, 1000), Fate::QueueFull);
        assert_eq!(link.offer(Duration::from_millis(3), 1000), milliseconds(1));
    }

    #[test]
    fn fates_come_as_often_as_the_model_says() {
        let mut link = link(LinkModel::rough());
        for _ in 0..100_000 {
            link.offer(Duration::ZERO, 1200);
        }
        let counters = link.counters();
        assert!((2_700..3_300).contains(&counters.lost), "{counters:?}");
        let copies = counters.arrived + counters.lost - counters.offered;
        assert!((800..1_200).contains(&copies), "{counters:?}");
        assert_eq!(copies, counters.doubled);
    }
}
