//! `cargo bench -p udax-test-bench`: operations of the library, each group with the primitive that bounds it.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use udax::{
    Access, AllocateMode, Checksums, File, Filesystem, Label, MountOptions, OpenFlags, RenameMode, Request,
    Term,
};
use udax_test_bench::{Bench, CREATE, NEW, Ratios, make_pool, memory_path};

const PAGE: usize = 4096;
/// Pages that reads and overwrites walk over: more than the caches hold.
const PAGES: u64 = 32_768;
const PAGE_BYTES: u64 = 4096;

/// A page in an order that prefetching does not follow.
fn page(index: u64) -> u64 {
    index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & (PAGES - 1)
}

struct Suite {
    bench: Bench,
    ratios: RefCell<Ratios>,
}

impl Suite {
    fn time(
        &self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        name: &'static str,
        mut operation: impl FnMut(u64),
    ) {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| self.ratios.borrow_mut().time(name, count, &mut operation));
        });
    }

    fn compare(&self, operation: &'static str, reference: &'static str, budget: f64) {
        self.ratios.borrow_mut().compare(operation, reference, budget);
    }

    fn file(&self, path: &str) -> File {
        self.bench.filesystem.open_file(path, CREATE, NEW).expect("open")
    }

    fn data(&self, criterion: &mut Criterion) {
        let (region, bytes) = (&self.bench.region, [7_u8; PAGE]);
        let file = self.file("data");
        file.allocate(AllocateMode::Allocate, 0, PAGES * PAGE_BYTES)
            .expect("allocate");
        for index in 0..PAGES {
            file.write_at(&bytes, index * PAGE_BYTES).expect("write");
        }
        let mut group = criterion.benchmark_group("data");
        let mut to = [0_u8; PAGE];
        self.time(&mut group, "copy out 4 KiB", |index| {
            region
                .read(page(index) * PAGE_BYTES, black_box(&mut to))
                .expect("read");
        });
        self.time(&mut group, "read 4 KiB", |index| {
            file.read_at(black_box(&mut to), page(index) * PAGE_BYTES)
                .expect("read");
        });
        self.time(&mut group, "persist 4 KiB", |index| {
            region
                .store_nontemporal(page(index) * PAGE_BYTES, black_box(&bytes))
                .expect("store");
            region.fence().expect("fence");
        });
        self.time(&mut group, "overwrite 4 KiB", |index| {
            file.write_at(black_box(&bytes), page(index) * PAGE_BYTES)
                .expect("write");
        });
        let log = self.file("log");
        self.time(&mut group, "append 4 KiB", |index| {
            // So that the pool does not fill; once in 16384, which costs nothing on average.
            if index % 16_384 == 0 {
                log.truncate(0).expect("truncate");
            }
            log.append(black_box(&bytes)).expect("append");
        });
        group.finish();
        self.compare("read 4 KiB", "copy out 4 KiB", 1.15);
        self.compare("overwrite 4 KiB", "persist 4 KiB", 1.15);
        self.compare("append 4 KiB", "persist 4 KiB", 2.0);
    }

    /// What checksums of data cost.
    fn checksums(&self, criterion: &mut Criterion) {
        let bytes = [7_u8; PAGE];
        let file = self.file("summed");
        file.set_checksums(Checksums::On).expect("checksums");
        for index in 0..PAGES {
            file.write_at(&bytes, index * PAGE_BYTES).expect("write");
        }
        let mut group = criterion.benchmark_group("checksums");
        let mut to = [0_u8; PAGE];
        self.time(&mut group, "read 4 KiB, verified", |index| {
            file.read_at(black_box(&mut to), page(index) * PAGE_BYTES)
                .expect("read");
        });
        self.time(&mut group, "append 4 KiB, summed", |index| {
            if index % 16_384 == 0 {
                file.truncate(PAGES * PAGE_BYTES).expect("truncate");
            }
            file.append(black_box(&bytes)).expect("append");
        });
        // Last, as it leaves many extents.
        self.time(&mut group, "overwrite 4 KiB, summed", |index| {
            file.write_at(black_box(&bytes), page(index) * PAGE_BYTES)
                .expect("write");
        });
        group.finish();
        self.compare("read 4 KiB, verified", "read 4 KiB", 2.0);
        self.compare("append 4 KiB, summed", "append 4 KiB", 1.5);
        self.compare("overwrite 4 KiB, summed", "overwrite 4 KiB", 10.0);
    }

    fn pins(&self, criterion: &mut Criterion) {
        const HUGE: u64 = 2 << 20;
        let file = self.file("pinned");
        file.allocate(AllocateMode::Allocate, 0, 4 * HUGE)
            .expect("allocate");
        file.pin(0, 4 * HUGE, Request::new(Access::Write)).expect("pin");
        let mut group = criterion.benchmark_group("pins");
        for (name, len, access) in [
            ("pin + unpin 4 KiB, to read", PAGE_BYTES, Access::Read),
            ("pin + unpin 4 KiB, to write", PAGE_BYTES, Access::Write),
            ("pin + unpin 2 MiB, to read", HUGE, Access::Read),
        ] {
            self.time(&mut group, name, |index| {
                let at = index % 4 * HUGE;
                drop(black_box(file.pin(at, len, Request::new(access)).expect("pin")));
            });
        }
        self.time(&mut group, "lease + end 4 KiB", |_| {
            drop(black_box(
                file.lease(0, PAGE_BYTES, Label::default(), Term::Short)
                    .expect("lease"),
            ));
        });
        let bytes = [7_u8; PAGE];
        self.time(&mut group, "overwrite 4 KiB of a pinned file", |index| {
            file.write_at(black_box(&bytes), index % 2048 * PAGE_BYTES)
                .expect("write");
        });
        group.finish();
    }

    fn names(&self, criterion: &mut Criterion) {
        let (filesystem, region) = (&self.bench.filesystem, &self.bench.region);
        filesystem.create_dir("names", NEW).expect("mkdir");
        let mut group = criterion.benchmark_group("names");
        self.time(&mut group, "persist a line", |index| {
            let at = page(index) * PAGE_BYTES;
            region.store(at, black_box(&[7; 64])).expect("store");
            region.flush(at, 64).expect("flush");
            region.fence().expect("fence");
        });
        self.made_and_removed(&mut group, ("create", "unlink"), |path| {
            drop(filesystem.open_file(path, CREATE, NEW).expect("create"));
            move || filesystem.unlink(path).expect("unlink")
        });
        self.made_and_removed(&mut group, ("mkdir", "rmdir"), |path| {
            filesystem.create_dir(path, NEW).expect("mkdir");
            move || filesystem.remove_dir(path).expect("rmdir")
        });
        drop(self.file("names/here"));
        self.time(&mut group, "rename", |index| {
            let (from, to) = if index % 2 == 0 {
                ("names/here", "names/there")
            } else {
                ("names/there", "names/here")
            };
            // Rounds may end on either name.
            if filesystem.rename(from, to, RenameMode::Replace).is_err() {
                filesystem.rename(to, from, RenameMode::Replace).expect("rename");
            }
        });
        drop(self.file("names/cached"));
        self.time(&mut group, "open + close", |_| {
            drop(black_box(
                filesystem
                    .open_file("names/cached", OpenFlags::READ, NEW)
                    .expect("open"),
            ));
        });
        self.time(&mut group, "create + close + unlink", |_| {
            drop(filesystem.open_file("names/short", CREATE, NEW).expect("create"));
            filesystem.unlink("names/short").expect("unlink");
        });
        group.finish();
        for operation in [
            "create",
            "unlink",
            "mkdir",
            "rmdir",
            "rename",
            "create + close + unlink",
        ] {
            self.compare(operation, "persist a line", 4.0);
        }
        self.compare("open + close", "persist a line", 0.5);
    }

    /// Times making many names and removing them, each as an operation of its own.
    fn made_and_removed<'p, R: FnOnce()>(
        &self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        (made, removed): (&'static str, &'static str),
        make: impl Fn(&'p str) -> R,
    ) {
        // A thousand names at a time, made before the clock starts.
        let paths: &'static [String] = (0..1000)
            .map(|index| format!("names/{index}"))
            .collect::<Vec<_>>()
            .leak();
        group.bench_function(format!("{made}, {removed}"), |bencher| {
            bencher.iter_custom(|count| {
                let mut total = Duration::ZERO;
                let mut left = count;
                while left > 0 {
                    let batch = usize::try_from(left.min(1000)).expect("at most 1000");
                    let mut removals = Vec::with_capacity(batch);
                    let mut ratios = self.ratios.borrow_mut();
                    let mut batch_paths = paths.iter().take(batch);
                    let size = left.min(1000);
                    total += ratios.time(made, size, |_| {
                        if let Some(path) = batch_paths.next() {
                            removals.push(make(path));
                        }
                    });
                    total += ratios.time(removed, size, |_| {
                        if let Some(remove) = removals.pop() {
                            remove();
                        }
                    });
                    left -= size;
                }
                total
            });
        });
    }

    fn mount(&self, criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("mount");
        group.sample_size(10);
        for (name, files) in [("mount, 100 files", 100_u32), ("mount, 20000 files", 20_000)] {
            let path = memory_path("mount");
            make_pool(&path).expect("format");
            let filesystem = Filesystem::open(&path, &MountOptions::default()).expect("open");
            for file in 0..files {
                drop(
                    filesystem
                        .open_file(format!("{file}"), CREATE, NEW)
                        .expect("create"),
                );
            }
            filesystem.close().expect("close");
            self.time(&mut group, name, |_| {
                let filesystem = Filesystem::open(&path, &MountOptions::default()).expect("open");
                filesystem.close().expect("close");
            });
            std::fs::remove_file(&path).expect("remove");
        }
        group.finish();
        // The number of files must not matter.
        self.compare("mount, 20000 files", "mount, 100 files", 1.5);
    }
}

fn main() {
    let suite = Suite {
        bench: Bench::new().expect("a pool in memory"),
        ratios: RefCell::new(Ratios::default()),
    };
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .configure_from_args();
    suite.data(&mut criterion);
    suite.checksums(&mut criterion);
    suite.pins(&mut criterion);
    suite.names(&mut criterion);
    suite.mount(&mut criterion);
    criterion.final_summary();
    println!("\n{}", suite.ratios.borrow().table());
}
