//! What pins and breaks cost: the budgets are 100 ns for a page, 150 ns for 2 MiB, and 20 µs for an idle range of 1
//! GiB.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use udax_dax::{
    Access, Content, DaxError, Device, Extent, Extents, Fate, Mapping, Mode, PageRange, Request, Size,
};
use udax_pmem::Region;

/// A file whose page 0 is block 512, and so on.
struct Contiguous;

impl Extents for Contiguous {
    fn extent(&self, page: u64, size: Size, _access: Access) -> Result<Extent, DaxError> {
        Ok(Extent {
            content: Content::Mapped {
                block: 512 + page,
                shared: false,
            },
            pages: size.pages(),
        })
    }
}

fn mapping() -> Arc<Mapping> {
    let region = Region::anonymous(64 << 20, None).expect("memory for a region");
    Mapping::new(&Device::new(Arc::new(region)), 1)
}

fn pages(first: u64, count: u64) -> PageRange {
    PageRange::new(first, count).expect("a range")
}

fn pin_and_unpin(c: &mut Criterion) {
    let cases = [
        ("page, read", 1, Access::Read),
        ("page, write", 1, Access::Write),
        ("2 MiB, read", 512, Access::Read),
        ("2 MiB, write", 512, Access::Write),
    ];
    for (name, count, access) in cases {
        let mapping = mapping();
        let range = pages(0, count);
        let request = Request::new(access);
        drop(mapping.pin(range, request, &Contiguous).expect("the first pin"));
        c.bench_function(&format!("pin and unpin, {name}"), |b| {
            b.iter(|| black_box(mapping.pin(range, request, &Contiguous)));
        });
    }
}

fn ticket(c: &mut Criterion) {
    let mapping = mapping();
    c.bench_function("write ticket without leases", |b| {
        b.iter(|| black_box(mapping.begin_write(pages(0, 1), &Mode::wait())).is_ok());
    });
}

fn break_idle(c: &mut Criterion) {
    let mapping = mapping();
    let request = Request::new(Access::Read);
    drop(
        mapping
            .pin(pages(0, 1), request, &Contiguous)
            .expect("a pin outside"),
    );
    c.bench_function("break an idle 1 GiB without entries", |b| {
        b.iter(|| {
            let range = pages(512, 1 << 18);
            black_box(mapping.break_layout(range, Fate::Discarded, &Mode::wait())).is_ok()
        });
    });
}

fn scan_mapped(c: &mut Criterion) {
    let mapping = mapping();
    let request = Request::new(Access::Read);
    let all = pages(0, 14 * 512);
    drop(mapping.pin(all, request, &Contiguous).expect("the first pin"));
    c.bench_function("look for pins in 28 MiB of large entries", |b| {
        b.iter(|| black_box(mapping.busy_page_range(all)));
    });
}

criterion_group!(benches, pin_and_unpin, ticket, break_idle, scan_mapped);
criterion_main!(benches);
