//! A map that readers keep a copy of for nothing: what is changed afterwards is copied first, one value at a time.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use rpds::RedBlackTreeMapSync;

/// What a value in a [`Shared`] map forgets when it is about to be changed.
pub trait Touch {
    /// It is about to be changed.
    fn touch(&mut self) {}
}

/// An ordered map of shared values. A clone shares everything with its origin.
pub struct Shared<K: Ord, V>(RedBlackTreeMapSync<K, Arc<V>>);

impl<K: Ord + Clone, V: Clone + Touch> Shared<K, V> {
    /// The value of `key`.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).map(|value| &**value)
    }

    /// The value of `key`, to be changed. Copies that were taken before keep it as it is.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let value = self.0.get_mut(key).map(Arc::make_mut)?;
        value.touch();
        Some(value)
    }

    /// Puts a value in, in the place of the one that was there.
    pub fn insert(&mut self, key: K, value: V) {
        self.0.insert_mut(key, Arc::new(value));
    }

    /// Takes a value out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let value = self.0.get(key).cloned()?;
        self.0.remove_mut(key);
        Some(Arc::unwrap_or_clone(value))
    }

    /// The value of `key`, made if it is not there.
    pub fn entry(&mut self, key: &K, make: impl FnOnce() -> V) -> Option<&mut V> {
        if !self.0.contains_key(key) {
            self.insert(key.clone(), make());
        }
        self.get_mut(key)
    }

    /// Changes every value for which `test` holds; the others are not copied.
    pub fn change_where(&mut self, test: impl Fn(&V) -> bool, mut change: impl FnMut(&mut V)) {
        let keys: Vec<K> = self.iter().filter(|(_, value)| test(value)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            if let Some(value) = self.get_mut(&key) {
                change(value);
            }
        }
    }
}

impl<K: Ord, V> Shared<K, V> {
    /// Whether there is a value of `key`.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// Every pair, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, &**value))
    }

    /// Every pair whose key lies between two others, in order; those two are left out.
    pub fn between(&self, (from, to): (K, K)) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        let bounds = (std::ops::Bound::Excluded(from), std::ops::Bound::Excluded(to));
        self.0.range(bounds).map(|(key, value)| (key, &**value))
    }

    /// Every pair, the last one first.
    pub fn rev(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().rev().map(|(key, value)| (key, &**value))
    }

    /// Every key, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    /// Every value, in the order of the keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values().map(|value| &**value)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.size()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Ord, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self(RedBlackTreeMapSync::new_sync())
    }
}

impl<K: Ord, V> Clone for Shared<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for Shared<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Touch for String {}

    #[test]
    fn copies_stay_as_they_are() {
        let mut map: Shared<u32, String> = Shared::default();
        map.insert(2, "b".to_owned());
        map.insert(1, "a".to_owned());
        let before = map.clone();
        map.get_mut(&1).unwrap().push('!');
        map.change_where(|v| v == "b", |v| v.push('?'));
        *map.entry(&3, String::new).unwrap() = "c".to_owned();
        let values = |map: &Shared<u32, String>| map.values().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!((values(&before).as_str(), values(&map).as_str()), ("a b", "a! b? c"));
        assert_eq!(map.remove(&1).as_deref(), Some("a!"));
        assert_eq!((map.len(), before.len(), before.get(&1).map(String::as_str)), (2, 2, Some("a")));
    }
}
