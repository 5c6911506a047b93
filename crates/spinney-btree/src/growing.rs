//! A list that only grows, and can be read while it does.

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release},
};

/// The first piece has two to the power of this elements; each further one as many as all before it.
const FIRST_BITS: u32 = 3;
/// Elements behind the first so many stand in blocks of so many: memory that is small enough to be used again and again, and in the
/// processor's cache when its elements come.
const BLOCK_BITS: u32 = 8;
const BLOCK: u32 = 1 << BLOCK_BITS;

/// One thread at a time adds; any number read, without a lock. Elements never move.
///
/// Source: pieces of doubling size after Bagwell, "Fast Functional Lists, Hash-Lists, Deques and Variable Length Arrays", 2002.
pub(crate) struct Growing<T> {
    first: Pieces<T, { pieces(BLOCK_BITS) }>,
    blocks: Pieces<Block<T>, { pieces(u32::BITS - BLOCK_BITS) }>,
    len: AtomicU32,
}

type Block<T> = Box<[OnceLock<T>]>;

/// Pieces of doubling size.
struct Pieces<T, const N: usize>([OnceLock<Block<T>>; N]);

/// How many pieces have two to the power of `bits` elements together.
const fn pieces(bits: u32) -> usize {
    (bits - FIRST_BITS + 1) as usize
}

impl<T> Growing<T> {
    pub(crate) fn new() -> Self {
        Self { first: Pieces::new(), blocks: Pieces::new(), len: AtomicU32::new(0) }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Acquire) as usize
    }

    /// Adds an element, by one thread at a time; returns its place.
    pub(crate) fn push(&self, element: T) -> u32 {
        let place = self.len.load(Relaxed);
        let is_new = if place < BLOCK {
            self.first.place(place).set(element).is_ok()
        } else {
            let block = self.blocks.place((place - BLOCK) >> BLOCK_BITS).get_or_init(|| block(BLOCK as usize));
            block[(place % BLOCK) as usize].set(element).is_ok()
        };
        assert!(is_new, "one thread at a time adds");
        self.len.store(place.checked_add(1).expect("fewer than 2^32 elements"), Release);
        place
    }

    /// The element at a place that [`push`](Self::push) returned.
    #[inline]
    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        match place.checked_sub(BLOCK) {
            None => self.first.get(place),
            Some(place) => self.blocks.get(place >> BLOCK_BITS)?[(place % BLOCK) as usize].get(),
        }
    }
}

fn block<T>(size: usize) -> Block<T> {
    (0..size).map(|_| OnceLock::new()).collect()
}

impl<T, const N: usize> Pieces<T, N> {
    fn new() -> Self {
        Self([const { OnceLock::new() }; N])
    }

    fn place(&self, place: u32) -> &OnceLock<T> {
        let (piece, at, size) = locate(place);
        &self.0[piece].get_or_init(|| block(size))[at]
    }

    #[inline]
    fn get(&self, place: u32) -> Option<&T> {
        let (piece, at, _) = locate(place);
        self.0[piece].get()?.get(at)?.get()
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
        assert_eq!(locate(BLOCK - 1).0, pieces(BLOCK_BITS) - 1);
        assert_eq!(locate((u32::MAX - BLOCK) >> BLOCK_BITS).0, pieces(u32::BITS - BLOCK_BITS) - 1);
    }
}
