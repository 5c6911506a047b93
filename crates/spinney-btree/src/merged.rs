//! Pages and what stands above them, as one range from both ends.

use crate::{
    error::TreeError,
    memtable::Known,
    range::{Entry, PageRange, Value},
    tree::own,
};
use bytes::Bytes;
use spinney_file::Pages;
use std::{cmp::Ordering, collections::VecDeque, fmt, ops::Bound};

/// See the module. Each of the two sources gives every entry once, to one of the ends.
pub(crate) struct Merged<P> {
    pages: PageRange<P>,
    /// Taken from the pages, and their turn has not come.
    front: Option<Entry<P>>,
    back: Option<Entry<P>>,
    over: Waiting,
    finished: bool,
}

/// What is known in the range beside the pages, and not given out yet.
struct Waiting {
    /// The part of the range that nobody has asked for.
    start: Bound<Bytes>,
    end: Bound<Bytes>,
    front: VecDeque<(Bytes, Known)>,
    /// Ordered from the back.
    back: VecDeque<(Bytes, Known)>,
}

impl<P: Pages + Clone> Merged<P> {
    pub(crate) fn new(pages: PageRange<P>) -> Self {
        let own = |bound: &Bound<Vec<u8>>| bound.as_ref().map(|key| Bytes::copy_from_slice(key));
        let (start, end) = (own(&pages.bounds().0), own(&pages.bounds().1));
        let over = Waiting { start, end, front: VecDeque::new(), back: VecDeque::new() };
        Self { pages, front: None, back: None, over, finished: false }
    }

    /// The next entry in pages from one end; it stays.
    fn peek_pages(&mut self, from_back: bool) -> Result<Option<&Entry<P>>, TreeError> {
        let (here, other) =
            if from_back { (&mut self.back, &mut self.front) } else { (&mut self.front, &mut self.back) };
        if here.is_none() {
            let next = if from_back { self.pages.next_back() } else { self.pages.next() };
            // The last one may wait at the other end.
            *here = next.transpose()?.or_else(|| other.take());
        }
        Ok(here.as_ref())
    }

    fn take_pages(&mut self, from_back: bool) -> Option<Entry<P>> {
        if from_back { self.back.take() } else { self.front.take() }
    }

    /// The next that is known beside the pages; it stays.
    fn peek_over(&mut self, from_back: bool) -> Option<&(Bytes, Known)> {
        let Waiting { start, end, front, back } = &mut self.over;
        if from_back && back.is_empty() {
            back.extend(self.pages.over().last_in((slice(start), slice(end))));
            if let Some((first, _)) = back.back() {
                *end = Bound::Excluded(first.clone());
            }
            if back.is_empty() {
                back.extend(front.pop_back());
            }
        } else if !from_back && front.is_empty() {
            front.extend(self.pages.over().first_in((slice(start), slice(end))));
            if let Some((last, _)) = front.back() {
                *start = Bound::Excluded(last.clone());
            }
            if front.is_empty() {
                front.extend(back.pop_back());
            }
        }
        if from_back { back.front() } else { front.front() }
    }

    fn take_over(&mut self, from_back: bool) -> Option<(Bytes, Known)> {
        if from_back { self.over.back.pop_front() } else { self.over.front.pop_front() }
    }

    fn step(&mut self, from_back: bool) -> Result<Option<Entry<P>>, TreeError> {
        loop {
            let in_pages = self.peek_pages(from_back)?.map(|(key, _)| key.clone());
            let over = self.peek_over(from_back).map(|(key, _)| key);
            // Which of the two comes first.
            let order = match (&in_pages, over) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(in_pages), Some(over)) if from_back => over.cmp(in_pages),
                (Some(in_pages), Some(over)) => in_pages.cmp(over),
            };
            if order.is_lt() {
                return Ok(self.take_pages(from_back));
            }
            if order.is_eq() {
                self.take_pages(from_back);
            }
            if let Some((key, Some(value))) = self.take_over(from_back) {
                return Ok(Some((own(key), Value::inline(own(value)))));
            }
        }
    }

    fn step_or_stop(&mut self, from_back: bool) -> Option<Result<Entry<P>, TreeError>> {
        if self.finished {
            return None;
        }
        let step = self.step(from_back).transpose();
        self.finished = !matches!(step, Some(Ok(_)));
        step
    }
}

fn slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| &key[..])
}

impl<P: Pages + Clone> Iterator for Merged<P> {
    type Item = Result<Entry<P>, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step_or_stop(false)
    }
}

impl<P: Pages + Clone> DoubleEndedIterator for Merged<P> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step_or_stop(true)
    }
}

impl<P> fmt::Debug for Merged<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pages.fmt(f)
    }
}
