//! A bounded queue in which no source can crowd out the others.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Items of many sources, taken in turns. `total` bounds what is held together, `share` what one source holds; both
/// count what was taken and is not done yet.
#[derive(Debug)]
pub(super) struct FairQueue<S, T> {
    waiting: HashMap<S, VecDeque<T>>,
    /// Sources with something waiting, the next one in front.
    turns: VecDeque<S>,
    held: HashMap<S, usize>,
    held_together: usize,
    total: usize,
    share: usize,
}

impl<S: Copy + Eq + Hash, T> FairQueue<S, T> {
    pub(super) fn new(total: usize, share: usize) -> Self {
        Self { waiting: HashMap::new(), turns: VecDeque::new(), held: HashMap::new(), held_together: 0, total, share }
    }

    /// False when the queue, or this source's share of it, is full.
    pub(super) fn push(&mut self, source: S, item: T) -> bool {
        let held = self.held.entry(source).or_insert(0);
        if self.held_together >= self.total || *held >= self.share {
            if *held == 0 {
                self.held.remove(&source);
            }
            return false;
        }
        *held += 1;
        self.held_together += 1;
        let waiting = self.waiting.entry(source).or_default();
        if waiting.is_empty() {
            self.turns.push_back(source);
        }
        waiting.push_back(item);
        true
    }

    /// The oldest item of the source whose turn it is. It stays counted until [`Self::done`].
    pub(super) fn pop(&mut self) -> Option<(S, T)> {
        let source = self.turns.pop_front()?;
        let waiting = self.waiting.get_mut(&source)?;
        let item = waiting.pop_front()?;
        if waiting.is_empty() {
            self.waiting.remove(&source);
        } else {
            self.turns.push_back(source);
        }
        Some((source, item))
    }

    /// An item that was popped is finished.
    pub(super) fn done(&mut self, source: S) {
        if let Some(held) = self.held.get_mut(&source) {
            *held -= 1;
            self.held_together -= 1;
            if *held == 0 {
                self.held.remove(&source);
            }
        }
    }

    /// Forgets a waiting item.
    pub(super) fn remove(&mut self, matches: impl Fn(&T) -> bool) -> bool {
        let found = self
            .waiting
            .iter()
            .find_map(|(source, items)| items.iter().position(&matches).map(|index| (*source, index)));
        let Some((source, index)) = found else { return false };
        if let Some(items) = self.waiting.get_mut(&source) {
            items.remove(index);
            if items.is_empty() {
                self.waiting.remove(&source);
                self.turns.retain(|turn| *turn != source);
            }
        }
        self.done(source);
        true
    }

    /// How many are held.
    pub(super) fn len(&self) -> usize {
        self.held_together
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_take_turns_whatever_the_backlog_of_one() {
        let mut queue = FairQueue::new(100, 50);
        for number in 0..10 {
            assert!(queue.push("greedy", number));
        }
        assert!(queue.push("modest", 100));
        let order: Vec<i32> = std::iter::from_fn(|| queue.pop()).map(|(_, item)| item).take(3).collect();
        assert_eq!(order, [0, 100, 1]);
    }

    #[test]
    fn one_source_is_held_to_its_share_and_all_to_the_total() {
        let mut queue = FairQueue::new(5, 3);
        assert_eq!((0..10).filter(|number| queue.push('a', *number)).count(), 3);
        assert_eq!((0..10).filter(|number| queue.push('b', *number)).count(), 2);
        assert!(!queue.push('c', 0));
        let (source, _) = queue.pop().unwrap();
        assert!(!queue.push('c', 0), "what was taken still counts");
        queue.done(source);
        assert!(queue.push('c', 0));
        assert_eq!(queue.len(), 5);
    }

    #[test]
    fn a_removed_item_frees_its_place_and_its_turn() {
        let mut queue = FairQueue::new(1, 1);
        assert!(queue.push('a', 7));
        assert!(queue.remove(|item| *item == 7));
        assert!(!queue.remove(|item| *item == 7));
        assert_eq!(queue.len(), 0);
        assert!(queue.push('b', 8));
        assert_eq!(queue.pop(), Some(('b', 8)));
    }
}
