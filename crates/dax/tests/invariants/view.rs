//! An address space in small: translations that a break takes away, and stores that fault when they have none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use udax_dax::{Access, Copies, DaxError, Fault, Faulted, Mode, PAGE, PageRange, Size, Unmap};
use udax_sync::{Mutex, Rank};

use crate::disk::File;

/// What a page is translated to: a block, or zeros.
type Translation = (Option<u64>, Access);

pub(crate) struct View {
    mapped: Mutex<BTreeMap<u64, Translation>>,
    pub(crate) copies: Mutex<BTreeSet<u64>>,
    pub(crate) unmapped: Mutex<Vec<PageRange>>,
    pub(crate) protected: Mutex<Vec<PageRange>>,
}

fn is_in(range: PageRange, page: u64) -> bool {
    range.first() <= page && page <= range.last()
}

impl Default for View {
    fn default() -> Self {
        Self {
            // Held over a store, which the disk notes under a lock of its own.
            mapped: Mutex::with_order(Rank::Index, u64::MAX, BTreeMap::new()),
            copies: Mutex::new(Rank::Leaf, BTreeSet::new()),
            unmapped: Mutex::new(Rank::Leaf, Vec::new()),
            protected: Mutex::new(Rank::Leaf, Vec::new()),
        }
    }
}

impl Unmap for View {
    fn unmap(&self, pages: PageRange, copies: Copies) {
        self.unmapped.lock().push(pages);
        self.mapped.lock().retain(|page, _| !is_in(pages, *page));
        if copies == Copies::Unmap {
            self.copies.lock().retain(|page| !is_in(pages, *page));
        }
    }

    fn write_protect(&self, pages: PageRange) {
        self.protected.lock().push(pages);
        for (page, translation) in &mut *self.mapped.lock() {
            if is_in(pages, *page) {
                translation.1 = Access::Read;
            }
        }
    }
}

impl View {
    pub(crate) fn of(file: &File) -> Arc<Self> {
        let view = Arc::new(Self::default());
        file.mapping.add_view(Arc::<Self>::clone(&view));
        view
    }

    pub(crate) fn translation(&self, page: u64) -> Option<Translation> {
        self.mapped.lock().get(&page).copied()
    }

    pub(crate) fn fault(
        &self,
        file: &File,
        page: u64,
        size: Size,
        access: Access,
    ) -> Result<Faulted, DaxError> {
        let fault = Fault { page, size, access };
        file.mapping.fault(fault, &Mode::wait(), &file.layout, |faulted| {
            let mut mapped = self.mapped.lock();
            match faulted {
                Faulted::Mapped { pages, block, access } => {
                    for page in pages.first()..=pages.last() {
                        mapped.insert(page, (Some(block + (page - pages.first())), access));
                    }
                }
                Faulted::Zero { pages } => {
                    for page in pages.first()..=pages.last() {
                        mapped.insert(page, (None, Access::Read));
                    }
                }
                Faulted::Fallback => unreachable!("not mapped"),
            }
        })
    }

    /// Loads the first byte of a page, faulting it in if need be.
    pub(crate) fn load(&self, file: &File, page: u64) -> u8 {
        loop {
            match self.translation(page) {
                Some((Some(block), _)) => {
                    let mut byte = [0];
                    file.disk.device.region().read(block * PAGE, &mut byte).unwrap();
                    return byte[0];
                }
                Some((None, _)) => return 0,
                None => drop(self.fault(file, page, Size::Page, Access::Read).unwrap()),
            }
        }
    }

    /// Stores the first byte of a page, faulting it in and filling holes if need be.
    pub(crate) fn store(&self, file: &File, page: u64, byte: u8) {
        loop {
            // With the lock held, as a store is one instruction: it happens before or after the translation goes.
            let mapped = self.mapped.lock();
            if let Some((Some(block), Access::Write)) = mapped.get(&page) {
                file.disk.device.region().store(block * PAGE, &[byte]).unwrap();
                return;
            }
            drop(mapped);
            match self.fault(file, page, Size::Page, Access::Write) {
                Ok(_) => {}
                Err(DaxError::NeedsAllocation { page }) => drop(file.allocate(page)),
                Err(error) => panic!("{error}"),
            }
        }
    }
}
