//! A table with stable small numbers as keys; the lowest free number is used again first, so that numbering
//! is a function of history.

use std::collections::BTreeSet;

#[derive(Clone, Debug)]
pub(crate) struct Slab<T> {
    rows: Vec<Option<T>>,
    free: BTreeSet<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { rows: Vec::new(), free: BTreeSet::new() }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if let Some(key) = self.free.pop_first()
            && let Some(row) = self.rows.get_mut(key as usize)
        {
            *row = Some(value);
            return key;
        }
        self.rows.push(Some(value));
        (self.rows.len() - 1) as u32
    }

    pub(crate) fn remove(&mut self, key: u32) -> Option<T> {
        let value = self.rows.get_mut(key as usize)?.take()?;
        self.free.insert(key);
        Some(value)
    }

    pub(crate) fn get(&self, key: u32) -> Option<&T> {
        self.rows.get(key as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.rows.get_mut(key as usize)?.as_mut()
    }

    /// Rows in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.rows.iter().enumerate().filter_map(|(key, row)| Some((key as u32, row.as_ref()?)))
    }

    /// Rows in the order of their keys, to change.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.rows.iter_mut().enumerate().filter_map(|(key, row)| Some((key as u32, row.as_mut()?)))
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }
}
