//! Dense storage whose names do not outlive what they name.

/// Names an entry of a [`Store`]. The index is reused, the generation is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// A vector with free places, generation by generation.
#[derive(Debug)]
pub(crate) struct Store<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    taken: usize,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), taken: 0 }
    }
}

impl<T> Store<T> {
    pub(crate) fn insert(&mut self, value: T) -> Key {
        self.insert_with(|_| value)
    }

    /// Inserts what `make` builds knowing its own name.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Key) -> T) -> Key {
        self.taken += 1;
        if let Some(index) = self.free.pop()
            && let Some(entry) = self.entries.get_mut(index as usize)
        {
            let key = Key { index, generation: entry.generation };
            entry.value = Some(make(key));
            return key;
        }
        let key = Key { index: self.entries.len() as u32, generation: 0 };
        self.entries.push(Entry { generation: 0, value: Some(make(key)) });
        key
    }

    fn entry(&self, key: Key) -> Option<&Entry<T>> {
        self.entries.get(key.index as usize).filter(|entry| entry.generation == key.generation)
    }

    fn entry_mut(&mut self, key: Key) -> Option<&mut Entry<T>> {
        self.entries.get_mut(key.index as usize).filter(|entry| entry.generation == key.generation)
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        self.entry(key).and_then(|entry| entry.value.as_ref())
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.entry_mut(key).and_then(|entry| entry.value.as_mut())
    }

    /// Removes the entry; its name is stale from now on.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entry_mut(key)?;
        let value = entry.value.take()?;
        self.retire(key);
        Some(value)
    }

    /// Lends the entry out: its name stays valid but finds nothing until [`put_back`](Self::put_back).
    pub(crate) fn lend(&mut self, key: Key) -> Option<T> {
        self.entry_mut(key)?.value.take()
    }

    /// Ends a loan.
    pub(crate) fn put_back(&mut self, key: Key, value: T) {
        if let Some(entry) = self.entry_mut(key) {
            entry.value = Some(value);
        }
    }

    /// Ends a loan by giving the entry up.
    pub(crate) fn forget_lent(&mut self, key: Key) {
        if self.entry(key).is_some_and(|entry| entry.value.is_none()) {
            self.retire(key);
        }
    }

    fn retire(&mut self, key: Key) {
        if let Some(entry) = self.entry_mut(key) {
            entry.generation = entry.generation.wrapping_add(1);
            self.taken -= 1;
            self.free.push(key.index);
        }
    }

    /// Entries, lent ones included.
    pub(crate) fn len(&self) -> usize {
        self.taken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// Places ever used: the end of a cursor's walk.
    pub(crate) fn places(&self) -> usize {
        self.entries.len()
    }

    /// The name of what is at a place now.
    pub(crate) fn key_at(&self, index: usize) -> Option<Key> {
        let entry = self.entries.get(index)?;
        entry.value.as_ref()?;
        Some(Key { index: index as u32, generation: entry.generation })
    }

    /// Every name, in order of place. For rare occasions only.
    pub(crate) fn keys(&self) -> Vec<Key> {
        (0..self.places()).filter_map(|index| self.key_at(index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_name_finds_nothing_although_its_place_is_taken_again() {
        let mut store = Store::default();
        let first = store.insert("a");
        assert_eq!(store.remove(first), Some("a"));
        let second = store.insert("b");
        assert_eq!((first.index, store.get(first)), (second.index, None));
        assert_eq!(store.get(second), Some(&"b"));
        assert_eq!(store.remove(first), None);
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn what_is_lent_keeps_its_name_until_it_is_given_up() {
        let mut store = Store::default();
        let key = store.insert(1);
        assert_eq!(store.lend(key), Some(1));
        assert_eq!((store.get(key), store.len()), (None, 1));
        assert_eq!(store.lend(key), None);
        store.put_back(key, 2);
        assert_eq!(store.get(key), Some(&2));
        store.lend(key);
        store.forget_lent(key);
        assert_eq!((store.len(), store.key_at(0)), (0, None));
        assert_ne!(store.insert(3), key);
    }
}
