//! Sets of small numbers as machine words: which subscriptions may be offered something. Knows nothing of
//! what the numbers mean.

/// A set of small numbers, one bit each. Grows on demand; equality ignores trailing zeros nowhere (compare
/// members instead).
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits {
    words: Vec<u64>,
}

fn split(bit: u32) -> (usize, u64) {
    ((bit / 64) as usize, 1u64 << (bit % 64))
}

impl Bits {
    pub(crate) fn insert(&mut self, bit: u32) {
        let (word, mask) = split(bit);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        if let Some(w) = self.words.get_mut(word) {
            *w |= mask;
        }
    }

    pub(crate) fn remove(&mut self, bit: u32) {
        let (word, mask) = split(bit);
        if let Some(w) = self.words.get_mut(word) {
            *w &= !mask;
        }
    }

    pub(crate) fn set(&mut self, bit: u32, on: bool) {
        if on { self.insert(bit) } else { self.remove(bit) }
    }

    pub(crate) fn contains(&self, bit: u32) -> bool {
        let (word, mask) = split(bit);
        self.words.get(word).is_some_and(|w| w & mask != 0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    pub(crate) fn clear(&mut self) {
        self.words.clear();
    }

    pub(crate) fn count(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    pub(crate) fn copy_from(&mut self, other: &Bits) {
        self.words.clear();
        self.words.extend_from_slice(&other.words);
    }

    pub(crate) fn union(&mut self, other: &Bits) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine |= theirs;
        }
    }

    pub(crate) fn intersect(&mut self, other: &Bits) {
        self.words.truncate(other.words.len());
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine &= theirs;
        }
    }

    pub(crate) fn subtract(&mut self, other: &Bits) {
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine &= !theirs;
        }
    }

    pub(crate) fn subtract_span(&mut self, other: &Span) {
        let start = other.start as usize;
        if start < self.words.len() {
            for (mine, theirs) in self.words.iter_mut().skip(start).zip(&other.words) {
                *mine &= !theirs;
            }
        }
    }

    pub(crate) fn intersects(&self, other: &Bits) -> bool {
        self.words.iter().zip(&other.words).any(|(a, b)| a & b != 0)
    }

    /// Members in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| Ones { word: *word, base: index as u32 * 64 })
    }
}

struct Ones {
    word: u64,
    base: u32,
}

impl Iterator for Ones {
    type Item = u32;
    fn next(&mut self) -> Option<u32> {
        if self.word == 0 {
            return None;
        }
        let bit = self.word.trailing_zeros();
        self.word &= self.word - 1;
        Some(self.base + bit)
    }
}

/// A set whose members lie close together: words from `start` on. A group of one member costs one word
/// wherever it lies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Span {
    start: u32,
    words: Vec<u64>,
}

impl Span {
    pub(crate) fn insert(&mut self, bit: u32) {
        let (word, mask) = (bit / 64, 1u64 << (bit % 64));
        if self.words.is_empty() {
            self.start = word;
        }
        if word < self.start {
            let missing = (self.start - word) as usize;
            self.words.splice(0..0, std::iter::repeat_n(0, missing));
            self.start = word;
        }
        let index = (word - self.start) as usize;
        if index >= self.words.len() {
            self.words.resize(index + 1, 0);
        }
        if let Some(w) = self.words.get_mut(index) {
            *w |= mask;
        }
    }

    pub(crate) fn remove(&mut self, bit: u32) {
        let (word, mask) = (bit / 64, 1u64 << (bit % 64));
        if word >= self.start
            && let Some(w) = self.words.get_mut((word - self.start) as usize)
        {
            *w &= !mask;
        }
    }

    pub(crate) fn contains(&self, bit: u32) -> bool {
        let (word, mask) = (bit / 64, 1u64 << (bit % 64));
        word >= self.start && self.words.get((word - self.start) as usize).is_some_and(|w| w & mask != 0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn span_grows_both_ways() {
        let mut span = Span::default();
        for bit in [700, 3, 1999, 64] {
            span.insert(bit);
        }
        let mut bits = Bits::default();
        (0..2100).for_each(|b| bits.insert(b));
        bits.subtract_span(&span);
        assert_eq!(bits.count(), 2100 - 4);
        assert!(!bits.contains(64) && bits.contains(65) && span.contains(1999) && !span.contains(2000));
        span.remove(3);
        assert!(!span.contains(3) && !span.is_empty());
    }

    #[test]
    fn iterates_in_order() {
        let mut bits = Bits::default();
        for bit in [130, 5, 63, 64] {
            bits.insert(bit);
        }
        assert_eq!(bits.iter().collect::<Vec<_>>(), [5, 63, 64, 130]);
    }
}
