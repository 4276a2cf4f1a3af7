//! The protocols of pins, breaks, write-back and leases under loom. See the crate's head for how to run these.
#![cfg(loom)]

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use udax_dax::{
    Access, Content, Copies, DaxError, Device, Extent, Extents, Fate, Fault, Faulted, Label, Mapping, Mode,
    PAGE, PageRange, Pin, Request, Size, Target, Term, Unmap, break_two,
};
use udax_pmem::{Event, Recorder, Region, RegionOptions};
use udax_sync::{Mutex, Rank, thread};

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 20_000;
    let schedules = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = Arc::clone(&schedules);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        test();
    });
    let schedules = schedules.load(Ordering::Relaxed);
    println!("{schedules} schedules");
    assert!(schedules > 5, "threads that never meet test nothing");
}

fn device(recorder: Option<Arc<dyn Recorder>>) -> Arc<Device> {
    let options = RegionOptions {
        recorder,
        reserve: 64 * PAGE,
        ..RegionOptions::default()
    };
    Device::new(Arc::new(Region::anonymous_with(64 * PAGE, options).unwrap()))
}

fn page(number: u64) -> PageRange {
    PageRange::new(number, 1).unwrap()
}

/// A file of four pages whose first may be cut off, and what is in that page's block: loom finds an access that is not
/// ordered with another.
struct File {
    mapping: Arc<Mapping>,
    is_cut: AtomicBool,
    block: UnsafeCell<u64>,
    first: u64,
}

impl Extents for File {
    fn extent(&self, page: u64, size: Size, _access: Access) -> Result<Extent, DaxError> {
        // Relaxed: that it is seen is the invalidate lock's doing.
        if page == 0 && self.is_cut.load(Ordering::Relaxed) {
            return Err(DaxError::BeyondEnd { page });
        }
        Ok(Extent {
            content: Content::Mapped {
                block: self.first + page,
                shared: false,
            },
            pages: size.pages(),
        })
    }
}

impl File {
    fn new(device: &Arc<Device>, number: u64) -> Arc<Self> {
        Arc::new(Self {
            mapping: Mapping::new(device, number),
            is_cut: AtomicBool::new(false),
            block: UnsafeCell::new(0),
            first: number * 4,
        })
    }

    fn pin(&self, pages: PageRange, access: Access) -> Result<Pin, DaxError> {
        self.mapping.pin(pages, Request::new(access), self)
    }

    fn read(&self) -> u64 {
        self.block.with(|at| {
            // SAFETY: loom finds it if somebody else writes.
            unsafe { *at }
        })
    }

    fn write(&self, value: u64) {
        self.block.with_mut(|at| {
            // SAFETY: loom finds it if somebody else reads or writes.
            unsafe { *at = value }
        });
    }

    /// Pins the first page, and looks at its block if it is there.
    fn use_first(&self) {
        match self.pin(page(0), Access::Read) {
            Ok(pin) => {
                assert_eq!(self.read(), 0, "the block is another's");
                drop(pin);
            }
            Err(error) => assert!(matches!(error, DaxError::BeyondEnd { page: 0 })),
        }
    }

    /// Cuts the first page off and gives its block to somebody else.
    fn cut_first(&self, pages: PageRange) {
        let broken = self
            .mapping
            .break_layout(pages, Fate::Discarded, &Mode::wait())
            .unwrap();
        self.is_cut.store(true, Ordering::Relaxed);
        self.write(1);
        drop(broken);
    }
}

#[test]
fn a_break_waits_for_a_pin_and_no_pin_comes_after_it() {
    model(|| {
        let file = File::new(&device(None), 1);
        drop(file.pin(page(0), Access::Read).unwrap());
        let other = Arc::clone(&file);
        let pinner = thread::spawn(move || other.use_first());
        file.cut_first(page(0));
        pinner.join().unwrap();
        assert_eq!(file.mapping.pages(), 0);
    });
}

#[test]
fn a_break_finds_the_pins_of_faults_that_come_while_it_waits() {
    model(|| {
        let file = File::new(&device(None), 1);
        let held = file.pin(page(0), Access::Read).unwrap();
        let other = Arc::clone(&file);
        let breaker = thread::spawn(move || other.cut_first(page(0)));
        let other = Arc::clone(&file);
        let pinner = thread::spawn(move || other.use_first());
        assert_eq!(file.read(), 0);
        drop(held);
        breaker.join().unwrap();
        pinner.join().unwrap();
    });
}

#[test]
fn a_large_pin_and_a_break_of_a_part_of_it() {
    model(|| {
        let file = File::new(&device(None), 1);
        let large = PageRange::new(0, Size::Pmd.pages()).unwrap();
        drop(file.pin(large, Access::Read).unwrap());
        let other = Arc::clone(&file);
        let pinner = thread::spawn(move || match other.pin(large, Access::Read) {
            Ok(pin) => {
                assert_eq!(other.read(), 0);
                drop(pin);
            }
            Err(error) => assert!(matches!(error, DaxError::BeyondEnd { page: 0 })),
        });
        file.cut_first(page(0));
        pinner.join().unwrap();
        assert_eq!(file.mapping.entry(0), None);
    });
}

#[test]
fn an_entry_is_handed_over_from_fault_to_fault() {
    model(|| {
        let file = File::new(&device(None), 1);
        let fault = |file: &File| {
            let fault = Fault {
                page: 0,
                size: Size::Page,
                access: Access::Read,
            };
            // One at a time, and none waits for ever.
            let result = file
                .mapping
                .fault(fault, &Mode::wait(), file, |_| file.write(file.read() + 1));
            assert!(matches!(result, Ok(Faulted::Mapped { .. })));
        };
        let others: Vec<_> = (0..2)
            .map(|_| {
                let file = Arc::clone(&file);
                thread::spawn(move || fault(&file))
            })
            .collect();
        fault(&file);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(file.read(), 3);
    });
}

#[test]
fn an_entry_that_a_failed_fault_takes_out_leaves_nobody_waiting() {
    model(|| {
        let file = File::new(&device(None), 1);
        file.is_cut.store(true, Ordering::Relaxed);
        let others: Vec<_> = (0..2)
            .map(|_| {
                let file = Arc::clone(&file);
                thread::spawn(move || file.use_first())
            })
            .collect();
        file.use_first();
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(file.mapping.pages(), 0);
    });
}

/// Notes what a flush saw of a store.
#[derive(Debug)]
struct Flushes {
    stored: AtomicU64,
    flushed: AtomicU64,
}

impl Recorder for Flushes {
    fn record(&self, event: Event<'_>) {
        if matches!(event, Event::Flush { .. }) {
            let stored = self.stored.load(Ordering::Relaxed);
            self.flushed.fetch_max(stored, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_store_through_a_pin_is_flushed_or_its_page_stays_dirty() {
    model(|| {
        let flushes = Arc::new(Flushes {
            stored: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
        });
        let recorder: Arc<dyn Recorder> = Arc::<Flushes>::clone(&flushes);
        let file = File::new(&device(Some(recorder)), 1);
        drop(file.pin(page(0), Access::Write).unwrap());
        let (other, stores) = (Arc::clone(&file), Arc::clone(&flushes));
        let pinner = thread::spawn(move || {
            let pin = other.pin(page(0), Access::Write).unwrap();
            stores.stored.store(1, Ordering::Relaxed);
            drop(pin);
        });
        file.mapping.write_back_range(page(0)).unwrap();
        pinner.join().unwrap();
        let is_flushed = flushes.flushed.load(Ordering::Relaxed) == 1;
        assert!(is_flushed || file.mapping.is_dirty(0), "the store is lost");
    });
}

#[test]
fn breaks_of_two_files_both_ways_round_beside_a_pin() {
    model(|| {
        let device = device(None);
        let files = [File::new(&device, 1), File::new(&device, 2)];
        drop(files[1].pin(page(0), Access::Read).unwrap());
        let both = |one: &File, other: &File| {
            let target =
                |file: &'_ File| -> (Arc<Mapping>, PageRange) { (Arc::clone(&file.mapping), page(0)) };
            let ((one_mapping, pages), (other_mapping, _)) = (target(one), target(other));
            let fate = Fate::Kept;
            let one_target = Target {
                mapping: &one_mapping,
                pages,
                fate,
            };
            let other_target = Target {
                mapping: &other_mapping,
                pages,
                fate,
            };
            let pair = break_two(one_target, other_target, &Mode::wait()).unwrap();
            one.write(0);
            other.write(0);
            drop(pair);
        };
        let (one, other) = (Arc::clone(&files[0]), Arc::clone(&files[1]));
        let reversed = thread::spawn(move || both(&other, &one));
        let pinned = Arc::clone(&files[1]);
        let pinner = thread::spawn(move || pinned.use_first());
        both(&files[0], &files[1]);
        reversed.join().unwrap();
        pinner.join().unwrap();
    });
}

/// A view that has one page mapped or not, and looks at its block as long as it has.
struct View {
    is_mapped: Mutex<bool>,
}

impl Unmap for View {
    fn unmap(&self, _pages: PageRange, _copies: Copies) {
        *self.is_mapped.lock() = false;
    }

    fn write_protect(&self, _pages: PageRange) {}
}

#[test]
fn a_view_lets_go_before_the_block_is_anothers() {
    model(|| {
        let file = File::new(&device(None), 1);
        let view = Arc::new(View {
            is_mapped: Mutex::with_order(Rank::Index, u64::MAX, false),
        });
        file.mapping.add_view(Arc::<View>::clone(&view));
        let other = Arc::clone(&file);
        let reader = thread::spawn(move || {
            let fault = Fault {
                page: 0,
                size: Size::Page,
                access: Access::Read,
            };
            let map = |_| *view.is_mapped.lock() = true;
            let _ = other.mapping.fault(fault, &Mode::wait(), &*other, map);
            let is_mapped = view.is_mapped.lock();
            if *is_mapped {
                assert_eq!(other.read(), 0, "the block is another's");
            }
        });
        file.cut_first(page(0));
        reader.join().unwrap();
    });
}

fn lease_against(write: impl Fn(&File) + Sync + Send + Copy + 'static) {
    model(move || {
        let file = File::new(&device(None), 1);
        drop(file.pin(page(0), Access::Write).unwrap());
        let other = Arc::clone(&file);
        let writer = thread::spawn(move || write(&other));
        let holder = (Label::default(), Term::Short);
        let lease = file
            .mapping
            .lease(page(0), holder, &Mode::wait(), &*file)
            .unwrap();
        file.read();
        drop(lease);
        writer.join().unwrap();
    });
}

#[test]
fn a_lease_excludes_a_write_pin() {
    lease_against(|file| {
        let pin = file.pin(page(0), Access::Write).unwrap();
        file.write(1);
        drop(pin);
    });
}

#[test]
fn a_lease_excludes_a_write_of_the_library() {
    lease_against(|file| {
        let ticket = file.mapping.begin_write(page(0), &Mode::wait()).unwrap();
        file.write(1);
        drop(ticket);
    });
}
