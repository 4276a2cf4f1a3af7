//! Giving pages of a file other folios, without a change to anybody's bytes: what [`crate::Mapping::collapse`] and
//! splitting have in common. The kernel's `replace_page_cache_folio`.

use std::ops::Range;

use crate::Mapping;
use crate::bits::{Bits, IsSet};
use crate::folio::{Folio, flag};
use crate::locked::LockedFolio;
use crate::page::{PAGE, in_memory};
use crate::removal::freed;

impl Mapping {
    /// The index has no such folio any more: others have its pages, which are dirty and reserved for as before.
    pub(crate) fn replaced(&self, folio: &LockedFolio) {
        folio.clear(flag::DIRTY);
        self.cache().dismiss(folio);
        freed(self.rules.free_folio, self.cache(), self.number(), folio);
    }
}

/// Copies the bytes of pages, and makes their states those of another folio. Both folios are locked, nobody writes them
/// back or has them pinned.
pub(crate) fn take_over(new: &LockedFolio, old: &LockedFolio, pages: &Range<u64>) {
    let from = old.offset(pages.start * PAGE);
    let len = in_memory((pages.end - pages.start) * PAGE);
    new.bytes
        .copy_from(new.offset(pages.start * PAGE), &old.bytes, from, len);
    move_bits(
        (new, &new.pages.uptodate),
        (old, &old.pages.uptodate),
        pages,
        Old::Kept,
    );
    move_bits(
        (new, &new.pages.dirty),
        (old, &old.pages.dirty),
        pages,
        Old::Cleared,
    );
    move_bits(
        (new, &new.pages.reserved),
        (old, &old.pages.reserved),
        pages,
        Old::Cleared,
    );
    if new.pages.dirty.any(0..new.len()) {
        new.raise(flag::DIRTY);
    }
}

/// What becomes of the bits that were copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Old {
    /// Who has found the folio before goes on reading it.
    Kept,
    Cleared,
}

fn move_bits(new: (&Folio, &Bits), old: (&Folio, &Bits), pages: &Range<u64>, fate: Old) {
    let inner = old.0.inner(pages);
    let mut from = inner.start;
    while let Some(run) = old.1.next_run(from..inner.end, IsSet::Yes) {
        from = run.end;
        let there = run.start + old.0.first..run.end + old.0.first;
        new.1.set(new.0.inner(&there));
    }
    if fate == Old::Cleared {
        old.1.clear(inner);
    }
}
