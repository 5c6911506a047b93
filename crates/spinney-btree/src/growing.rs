//! A list that only grows, and can be read while it does.

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release},
};

/// The first piece has two to the power of this elements; each further one as many as all before it.
const FIRST_BITS: u32 = 3;
const PIECES: usize = (u32::BITS - FIRST_BITS + 1) as usize;

/// One thread at a time adds; any number read, without a lock. Elements never move.
///
/// Source: pieces of doubling size after Bagwell, "Fast Functional Lists, Hash-Lists, Deques and Variable Length Arrays", 2002.
pub(crate) struct Growing<T> {
    pieces: [OnceLock<Box<[OnceLock<T>]>>; PIECES],
    len: AtomicU32,
}

impl<T> Growing<T> {
    pub(crate) fn new() -> Self {
        Self { pieces: [const { OnceLock::new() }; PIECES], len: AtomicU32::new(0) }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Acquire) as usize
    }

    /// Adds an element, by one thread at a time; returns its place.
    pub(crate) fn push(&self, element: T) -> u32 {
        let place = self.len.load(Relaxed);
        let (piece, at, size) = locate(place);
        let piece = self.pieces[piece].get_or_init(|| (0..size).map(|_| OnceLock::new()).collect());
        assert!(piece[at].set(element).is_ok(), "one thread at a time adds");
        self.len.store(place.checked_add(1).expect("fewer than 2^32 elements"), Release);
        place
    }

    /// The element at a place that [`push`](Self::push) returned.
    #[inline]
    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        let (piece, at, _) = locate(place);
        self.pieces[piece].get()?.get(at)?.get()
    }
}

/// Which piece has a place, where in it, and how large that piece is.
#[inline]
fn locate(place: u32) -> (usize, usize, usize) {
    let bits = u32::BITS - (place >> FIRST_BITS).leading_zeros();
    if bits == 0 {
        return (0, place as usize, 1 << FIRST_BITS);
    }
    let first = 1 << (FIRST_BITS + bits - 1);
    (bits as usize, (place - first) as usize, first as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_its_element() {
        let list = Growing::new();
        for n in 0..5000_u32 {
            assert_eq!(list.get(n), None);
            assert_eq!(list.push(n), n);
        }
        assert!((0..5000).all(|n| list.get(n) == Some(&n)));
        assert_eq!((list.len(), list.get(5000), list.get(u32::MAX)), (5000, None, None));
    }

    #[test]
    fn pieces_lie_one_behind_the_other() {
        let mut next = (0, 0);
        for place in 0..100_000 {
            let (piece, at, size) = locate(place);
            assert_eq!((piece, at), next, "{place}");
            next = if at + 1 == size { (piece + 1, 0) } else { (piece, at + 1) };
        }
        assert_eq!(locate(u32::MAX).0, PIECES - 1);
    }
}
