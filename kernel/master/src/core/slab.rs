//! A slab whose snapshot costs next to nothing: chunks of 256 shared values, copied on write.
//!
//! Owns the storage of tasks and agents and their small integer keys. It knows nothing of what it stores; who may see a snapshot and
//! how it is written out is the business of `view`.

use std::sync::Arc;

/// Values per chunk. A write after a snapshot copies one table of this many pointers.
const CHUNK: usize = 256;

type Chunk<T> = Vec<Option<Arc<T>>>;

/// Values under small integer keys. A key is free for reuse once its value is removed.
#[derive(Debug)]
pub struct Slab<T> {
    chunks: Vec<Arc<Chunk<T>>>,
    free: Vec<u32>,
    len: usize,
}

/// A snapshot of a [`Slab`]: sees the values as they were when it was taken.
#[derive(Debug, Clone)]
pub struct Snapshot<T> {
    chunks: Vec<Arc<Chunk<T>>>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), len: 0 }
    }
}

fn place(key: u32) -> (usize, usize) {
    let key = key as usize;
    (key / CHUNK, key % CHUNK)
}

impl<T: Clone> Slab<T> {
    /// Stores a value and returns its key.
    pub fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        let value = Some(Arc::new(value));
        if let Some(key) = self.free.pop() {
            let (chunk, slot) = place(key);
            if let Some(chunk) = self.chunks.get_mut(chunk)
                && let Some(slot) = Arc::make_mut(chunk).get_mut(slot)
            {
                *slot = value;
            }
            return key;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Arc::new(Vec::with_capacity(CHUNK)));
        }
        let at = self.chunks.len() - 1;
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        chunk.push(value);
        u32::try_from(at * CHUNK + chunk.len() - 1).unwrap_or(u32::MAX)
    }

    /// The value under `key`.
    pub fn get(&self, key: u32) -> Option<&Arc<T>> {
        let (chunk, slot) = place(key);
        self.chunks.get(chunk)?.get(slot)?.as_ref()
    }

    /// The value under `key`, to change. What a snapshot still sees is copied first.
    pub fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        let (chunk, slot) = place(key);
        let chunk = self.chunks.get_mut(chunk)?;
        chunk.get(slot)?.as_ref()?;
        Arc::make_mut(chunk).get_mut(slot)?.as_mut().map(Arc::make_mut)
    }

    /// Takes the value out and frees its key.
    pub fn remove(&mut self, key: u32) -> Option<Arc<T>> {
        let (chunk, slot) = place(key);
        let chunk = self.chunks.get_mut(chunk)?;
        chunk.get(slot)?.as_ref()?;
        let value = Arc::make_mut(chunk).get_mut(slot)?.take()?;
        self.free.push(key);
        self.len -= 1;
        Some(value)
    }

    /// Every key and value, by key.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<T>)> {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.iter())
            .enumerate()
            .filter_map(|(key, slot)| Some((u32::try_from(key).ok()?, slot.as_ref()?)))
    }

    /// A snapshot; costs one pointer per 256 values.
    pub fn snapshot(&self) -> Snapshot<T> {
        Snapshot { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<T> Snapshot<T> {
    /// Every value, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).filter_map(Option::as_ref)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T> Default for Snapshot<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_keeps_what_it_saw() {
        let mut slab = Slab::default();
        let keys: Vec<u32> = (0..1000u32).map(|n| slab.insert(n)).collect();
        let before = slab.snapshot();
        for key in &keys {
            *slab.get_mut(*key).expect("inserted") += 1;
        }
        assert_eq!(slab.remove(keys[7]).as_deref(), Some(&8));
        assert!(
            slab.get(keys[7]).is_none() && slab.get_mut(keys[7]).is_none() && slab.remove(keys[7]).is_none()
        );
        assert_eq!(before.iter().map(|v| u64::from(**v)).sum::<u64>(), (0..1000).sum::<u64>());
        assert_eq!(slab.iter().map(|(_, v)| u64::from(**v)).sum::<u64>(), (1..=1000).sum::<u64>() - 8);
        assert_eq!((slab.snapshot().len(), before.len()), (999, 1000));
        assert_eq!(slab.insert(5), keys[7], "a freed key is used again");
        assert_eq!(slab.get(u32::MAX), None);
    }
}
