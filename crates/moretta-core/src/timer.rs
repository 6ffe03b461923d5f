//! Timers: an indexed heap, so that a deadline that moves leaves nothing behind.
//!
//! QUIC moves its deadlines with every packet. A heap of stale entries would grow by one idle timeout's worth of them
//! for every loss timer that passes; here each owner has one place, and moving it costs a few comparisons.

use std::time::Instant;

use crate::store::Key;

/// Who is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Connection(Key),
    Tunnel(Key),
    Gateway(Key),
    Drain,
}

/// One owner's place; released with its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerId(u32);

#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// Deadline and timer, the earliest first; equal deadlines in the order of their timers, so that runs repeat.
    heap: Vec<(Instant, u32)>,
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place {
    owner: Owner,
    at: Option<u32>,
}

impl Timers {
    pub(crate) fn register(&mut self, owner: Owner) -> TimerId {
        let place = Place { owner, at: None };
        if let Some(index) = self.free.pop()
            && let Some(free) = self.places.get_mut(index as usize)
        {
            *free = place;
            return TimerId(index);
        }
        self.places.push(place);
        TimerId(self.places.len() as u32 - 1)
    }

    /// How many owners have a place.
    pub(crate) fn registered(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn release(&mut self, timer: TimerId) {
        self.set(timer, None);
        self.free.push(timer.0);
    }

    /// Moves or stops a timer.
    pub(crate) fn set(&mut self, timer: TimerId, deadline: Option<Instant>) {
        let at = self.places.get(timer.0 as usize).and_then(|place| place.at);
        match (at, deadline) {
            (None, None) => {}
            (None, Some(deadline)) => {
                self.heap.push((deadline, timer.0));
                self.sift_up(self.heap.len() - 1);
            }
            (Some(at), Some(deadline)) => {
                let at = at as usize;
                let Some(entry) = self.heap.get_mut(at) else { return };
                let earlier = deadline < entry.0;
                if entry.0 == deadline {
                    return;
                }
                entry.0 = deadline;
                if earlier { self.sift_up(at) } else { self.sift_down(at) }
            }
            (Some(at), None) => self.remove(at as usize),
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|&(deadline, _)| deadline)
    }

    /// Takes one timer that is due; it is stopped then.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Owner> {
        let &(deadline, timer) = self.heap.first()?;
        if deadline > now {
            return None;
        }
        self.remove(0);
        self.places.get(timer as usize).map(|place| place.owner)
    }

    fn remove(&mut self, at: usize) {
        let last = self.heap.len().saturating_sub(1);
        if at > last {
            return;
        }
        self.heap.swap(at, last);
        if let Some((_, timer)) = self.heap.pop() {
            self.note(timer, None);
        }
        if at < self.heap.len() {
            self.sift_up(at);
            self.sift_down(at);
        }
    }

    fn sift_up(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if !self.precedes(at, parent) {
                break;
            }
            self.heap.swap(at, parent);
            self.note_at(at);
            at = parent;
        }
        self.note_at(at);
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let child = if self.precedes(right, left) { right } else { left };
            if !self.precedes(child, at) {
                break;
            }
            self.heap.swap(at, child);
            self.note_at(at);
            at = child;
        }
        self.note_at(at);
    }

    /// Whether the entry at `a` exists and comes before the one at `b`.
    fn precedes(&self, a: usize, b: usize) -> bool {
        match (self.heap.get(a), self.heap.get(b)) {
            (Some(a), Some(b)) => a < b,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    fn note_at(&mut self, at: usize) {
        if let Some(&(_, timer)) = self.heap.get(at) {
            self.note(timer, Some(at as u32));
        }
    }

    fn note(&mut self, timer: u32, at: Option<u32>) {
        if let Some(place) = self.places.get_mut(timer as usize) {
            place.at = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn owner(index: u32) -> Owner {
        Owner::Tunnel(Key { index, generation: 0 })
    }

    #[test]
    fn a_moved_timer_fires_once_at_its_last_deadline() {
        let start = crate::test_clock();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        let (a, b) = (timers.register(owner(1)), timers.register(owner(2)));
        timers.set(a, Some(at(10)));
        timers.set(b, Some(at(20)));
        timers.set(a, Some(at(30)));
        assert_eq!(timers.next(), Some(at(20)));
        assert_eq!(timers.pop_due(at(19)), None);
        assert_eq!(timers.pop_due(at(40)), Some(owner(2)));
        assert_eq!(timers.pop_due(at(40)), Some(owner(1)));
        assert_eq!((timers.pop_due(at(40)), timers.next()), (None, None));
    }

    proptest! {
        #[test]
        fn timers_fire_as_a_sorted_list_would(steps in prop::collection::vec((0..12_usize, prop::option::of(0..50_u64)), 0..200)) {
            let start = crate::test_clock();
            let mut timers = Timers::default();
            let ids: Vec<TimerId> = (0..12).map(|index| timers.register(owner(index))).collect();
            let mut model: Vec<Option<u64>> = vec![None; 12];
            for (which, deadline) in steps {
                timers.set(ids[which], deadline.map(|ms| start + Duration::from_millis(ms)));
                model[which] = deadline;
            }
            let mut expected: Vec<(u64, usize)> =
                model.iter().enumerate().filter_map(|(index, deadline)| deadline.map(|ms| (ms, index))).collect();
            expected.sort_unstable();
            let mut fired = Vec::new();
            while let Some(next) = timers.next() {
                let Some(Owner::Tunnel(key)) = timers.pop_due(next) else { panic!("due") };
                fired.push(((next - start).as_millis() as u64, key.index as usize));
            }
            prop_assert_eq!(fired, expected);
        }
    }
}
