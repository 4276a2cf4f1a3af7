//! A pin of a mapped page, and of mapped 2 MiB, allocates nothing.

use std::sync::Arc;

use udax_dax::{Access, Content, DaxError, Device, Extent, Extents, Mapping, PageRange, Request, Size};
use udax_pmem::Region;
use udax_sync::allocation::{CountedAllocator, plan};

#[global_allocator]
static ALLOCATOR: CountedAllocator = CountedAllocator;

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
    assert!(plan(None) > 0, "nothing is counted");
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
        plan(None);
        for _ in 0..100 {
            drop(pin());
        }
        assert_eq!(plan(None), 0, "{count} pages, {access:?}");
    }
}
