//! When a loaded worker waits so that its batches deepen.
//!
//! The cost of a datagram at partial load is the number of rounds a worker makes. With λ the
//! datagrams per second of the last four milliseconds, rounds are `min(16/λ, 150 µs)` apart while λ is above 20,000; an idle
//! or lightly loaded worker never waits (RFC 9298 §6).

use std::time::{Duration, Instant};

/// Datagrams that a round should gather.
const WANTED_PER_ROUND: u64 = 16;
/// The longest wait that a datagram is asked to bear.
const LONGEST_GAP: Duration = Duration::from_micros(150);
/// Waiting begins above this many datagrams per second and ends below the lower bound: between them nothing flutters.
const BEGIN_ABOVE: u64 = 20_000;
const END_BELOW: u64 = 15_000;

/// The last four milliseconds, in eighths. A sender that paces by a timer of a millisecond brings its datagrams in
/// bursts: over a window of one millisecond the load falls to nothing before each burst, and its first datagrams are
/// handled one by one (bench "up 1200 B, 50,000/s", 2026-11-20).
const WINDOW: Duration = Duration::from_millis(4);
const WINDOWS_PER_SECOND: u64 = 250;
const PARTS: u32 = 8;

/// Measures the load and says how far apart rounds should be.
#[derive(Debug)]
pub(crate) struct Coalescer {
    parts: [u64; PARTS as usize],
    /// Where the current part began and which one it is.
    began: Instant,
    current: usize,
    waiting: bool,
}

impl Coalescer {
    pub(crate) fn new(now: Instant) -> Self {
        Self { parts: [0; PARTS as usize], began: now, current: 0, waiting: false }
    }

    /// Notes datagrams that were handled in the round at `now` and returns the gap to keep before the next one.
    pub(crate) fn note(&mut self, now: Instant, datagrams: u64) -> Option<Duration> {
        self.advance(now);
        if let Some(part) = self.parts.get_mut(self.current) {
            *part += datagrams;
        }
        let in_window: u64 = self.parts.iter().sum();
        let per_second = in_window * WINDOWS_PER_SECOND;
        self.waiting = if self.waiting { per_second >= END_BELOW } else { per_second > BEGIN_ABOVE };
        self.waiting.then(|| {
            let gap = Duration::from_nanos(WANTED_PER_ROUND * 1_000_000_000 / per_second.max(1));
            gap.min(LONGEST_GAP)
        })
    }

    fn advance(&mut self, now: Instant) {
        let part = WINDOW / PARTS;
        let passed = now.saturating_duration_since(self.began);
        if passed >= WINDOW {
            self.parts = [0; PARTS as usize];
            self.began = now;
            return;
        }
        let mut left = passed;
        while left >= part {
            left -= part;
            self.began += part;
            self.current = (self.current + 1) % PARTS as usize;
            if let Some(part) = self.parts.get_mut(self.current) {
                *part = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Handles `rate` datagrams per second for a while in rounds of `step`, and returns the last gap.
    fn load(coalescer: &mut Coalescer, now: &mut Instant, rate: u64, step: Duration) -> Option<Duration> {
        let mut gap = None;
        let mut owed = 0;
        for _ in 0..400 {
            *now += step;
            owed += rate * step.as_nanos() as u64;
            gap = coalescer.note(*now, owed / 1_000_000_000);
            owed %= 1_000_000_000;
        }
        gap
    }

    #[test]
    fn a_lightly_loaded_worker_never_waits() {
        let mut now = crate::test_clock();
        let mut coalescer = Coalescer::new(now);
        for rate in [10, 2_000, 14_000] {
            assert_eq!(load(&mut coalescer, &mut now, rate, Duration::from_micros(50)), None, "{rate}/s");
        }
    }

    #[test]
    fn a_loaded_worker_waits_for_sixteen_datagrams_but_at_most_150_microseconds() {
        let mut now = crate::test_clock();
        let mut coalescer = Coalescer::new(now);
        assert_eq!(load(&mut coalescer, &mut now, 50_000, LONGEST_GAP), Some(LONGEST_GAP));
        let gap = load(&mut coalescer, &mut now, 400_000, Duration::from_micros(50)).unwrap();
        assert!((30..=50).contains(&gap.as_micros()), "16 datagrams at 400,000/s last 40 µs, not {gap:?}");
    }

    #[test]
    fn between_the_bounds_it_stays_as_it_was() {
        let mut now = crate::test_clock();
        let mut coalescer = Coalescer::new(now);
        let step = Duration::from_micros(125);
        assert_eq!(load(&mut coalescer, &mut now, 17_600, step), None, "not yet waiting");
        assert!(load(&mut coalescer, &mut now, 40_000, step).is_some());
        assert!(load(&mut coalescer, &mut now, 17_600, step).is_some(), "still waiting");
        assert_eq!(load(&mut coalescer, &mut now, 8_000, step), None);
    }

    #[test]
    fn a_sender_that_paces_by_the_millisecond_is_one_load() {
        let mut now = crate::test_clock();
        let mut coalescer = Coalescer::new(now);
        for burst in 0..20 {
            for step in 0..10 {
                let gap = coalescer.note(now, if step == 0 { 50 } else { 0 });
                assert!(gap.is_some() || burst < 2, "50,000/s in bursts, {burst}.{step}");
                now += Duration::from_micros(100);
            }
        }
    }

    #[test]
    fn it_forgets_a_burst_within_its_window() {
        let mut now = crate::test_clock();
        let mut coalescer = Coalescer::new(now);
        assert!(coalescer.note(now, 1000).is_some());
        now += WINDOW;
        assert_eq!(coalescer.note(now, 1), None);
    }
}
