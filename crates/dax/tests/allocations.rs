//! A pin of a mapped page, and of mapped 2 MiB, allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use udax_dax::{Access, Content, DaxError, Device, Extent, Extents, Mapping, PageRange, Request, Size};
use udax_pmem::Region;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: all is System's; counting touches no memory of the allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller says.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Contiguous;

impl Extents for Contiguous {
    fn extent(&self, page: u64, size: Size, _access: Access) -> Result<Extent, DaxError> {
        let content = Content::Mapped {
            block: 512 + page,
            shared: false,
        };
        Ok(Extent {
            content,
            pages: size.pages(),
        })
    }
}

#[test]
fn a_pin_of_what_is_mapped_allocates_nothing() {
    let region = Arc::new(Region::anonymous(8 << 20, None).unwrap());
    let mapping = Mapping::new(&Device::new(region), 1);
    for (count, access) in [
        (1, Access::Read),
        (1, Access::Write),
        (512, Access::Read),
        (512, Access::Write),
    ] {
        let pages = PageRange::new(if count == 1 { 600 } else { 0 }, count).unwrap();
        let pin = || mapping.pin(pages, Request::new(access), &Contiguous).unwrap();
        // Makes the entry, the frames, and the list's slots.
        drop((pin(), pin()));
        // In debug builds the stack of held ranks and the epochs of the index may grow once.
        drop(pin());
        let before = COUNT.get();
        assert!(before > 0, "nothing is counted");
        for _ in 0..100 {
            drop(pin());
        }
        assert_eq!(COUNT.get() - before, 0, "{count} pages, {access:?}");
    }
}
