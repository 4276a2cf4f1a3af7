//! A filesystem in small for these tests: a device, files with blocks, and a trace of what is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use udax_dax::{
    Access, Content, DaxError, Device, Extent, Extents, Fate, Label, Mapping, Mode, PAGE, PageRange, Pin,
    Request, Size,
};
use udax_pmem::{OwnedEvent, Recorder, Region, RegionOptions, TraceRecorder, Traced};
use udax_sync::{Mutex, Rank};

pub(crate) const LARGE: u64 = 512;

pub(crate) fn pages(first: u64, count: u64) -> PageRange {
    PageRange::new(first, count).unwrap()
}

/// Waits until a state is reached that another thread brings about; a bound only for what never comes.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::yield_now();
    }
}

pub(crate) struct Disk {
    pub(crate) device: Arc<Device>,
    trace: Arc<TraceRecorder>,
    volatile: Mutex<Volatile>,
    next_block: AtomicU64,
}

impl Disk {
    pub(crate) fn new() -> Arc<Self> {
        let trace = Arc::new(TraceRecorder::new());
        let recorder: Arc<dyn Recorder> = Arc::<TraceRecorder>::clone(&trace);
        let options = RegionOptions {
            recorder: Some(recorder),
            ..RegionOptions::default()
        };
        let region = Region::anonymous_with(32 << 20, options).unwrap();
        Arc::new(Self {
            device: Device::new(Arc::new(region)),
            trace,
            // Held over a look at the recorder, which has a lock of its own.
            volatile: Mutex::with_order(Rank::Index, u64::MAX, Volatile::default()),
            next_block: AtomicU64::new(LARGE),
        })
    }

    /// Fresh blocks in a row, aligned to their number.
    pub(crate) fn fresh(&self, count: u64) -> u64 {
        let align = count.next_power_of_two();
        let next = self.next_block.load(Ordering::Relaxed).next_multiple_of(align);
        self.next_block.store(next + count, Ordering::Relaxed);
        next
    }

    /// A file with `count` pages of data in a row.
    pub(crate) fn file(self: &Arc<Self>, number: u64, count: u64) -> Arc<File> {
        let file = self.sparse(number, count);
        let block = self.fresh(count);
        file.layout.set(0, count, block);
        file
    }

    /// A file of a hole.
    pub(crate) fn sparse(self: &Arc<Self>, number: u64, count: u64) -> Arc<File> {
        Arc::new(File {
            disk: Arc::clone(self),
            mapping: Mapping::new(&self.device, number),
            layout: Layout {
                state: Mutex::new(
                    Rank::Leaf,
                    State {
                        blocks: BTreeMap::new(),
                        end: count,
                    },
                ),
                stall: Mutex::new(Rank::Leaf, None),
            },
        })
    }

    /// Whether bytes of the block were stored that a power failure would take.
    pub(crate) fn is_volatile(&self, block: u64) -> bool {
        let mut volatile = self.volatile.lock();
        for traced in self.trace.take() {
            volatile.note(&traced);
        }
        let first = block * PAGE / 64;
        volatile.stored.range(first..first + 64).next().is_some()
    }
}

/// Lines that are not durable.
#[derive(Default)]
struct Volatile {
    stored: BTreeSet<u64>,
    /// Of those, which a thread has flushed and not yet fenced.
    flushed: Vec<(ThreadId, u64)>,
}

impl Volatile {
    fn note(&mut self, traced: &Traced) {
        let lines = |at: u64, len: u64| at / 64..=(at + len.max(1) - 1) / 64;
        match &traced.event {
            OwnedEvent::Store { at, bytes } | OwnedEvent::NonTemporal { at, bytes } => {
                let lines = lines(*at, u64::try_from(bytes.len()).unwrap());
                self.flushed.retain(|(_, line)| !lines.contains(line));
                self.stored.extend(lines);
            }
            OwnedEvent::Flush { at, len } => {
                let lines = self.stored.range(lines(*at, *len));
                self.flushed.extend(lines.map(|line| (traced.thread, *line)));
            }
            OwnedEvent::Fence => {
                let Self { stored, flushed } = self;
                flushed.retain(|(thread, line)| {
                    if *thread == traced.thread {
                        stored.remove(line);
                    }
                    *thread != traced.thread
                });
            }
        }
    }
}

struct State {
    blocks: BTreeMap<u64, (u64, bool)>,
    end: u64,
}

/// Where a file's pages are. A stalled lookup holds the lock of the entry that it is for.
pub(crate) struct Layout {
    state: Mutex<State>,
    stall: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

impl Layout {
    pub(crate) fn set(&self, first: u64, count: u64, block: u64) {
        let mut state = self.state.lock();
        for number in 0..count {
            state.blocks.insert(first + number, (block + number, false));
        }
    }

    pub(crate) fn share(&self, first: u64, count: u64, block: u64) {
        let mut state = self.state.lock();
        for number in 0..count {
            state.blocks.insert(first + number, (block + number, true));
        }
    }

    pub(crate) fn remove(&self, first: u64, count: u64) {
        let mut state = self.state.lock();
        for page in first..first + count {
            state.blocks.remove(&page);
        }
    }

    pub(crate) fn set_end(&self, end: u64) {
        self.state.lock().end = end;
    }

    pub(crate) fn block(&self, page: u64) -> Option<u64> {
        let state = self.state.lock();
        state.blocks.get(&page).map(|(block, _)| *block)
    }

    /// The next lookup tells that it has begun, and waits to be let go.
    pub(crate) fn stall(&self) -> (Receiver<()>, Sender<()>) {
        let (began, has_begun) = channel();
        let (go, may_go) = channel();
        *self.stall.lock() = Some((began, may_go));
        (has_begun, go)
    }
}

impl Extents for Layout {
    fn extent(&self, page: u64, size: Size, _access: Access) -> Result<Extent, DaxError> {
        let stall = self.stall.lock().take();
        if let Some((began, may_go)) = stall {
            began.send(()).unwrap();
            // An error is the test's end.
            let _ = may_go.recv();
        }
        let state = self.state.lock();
        if page >= state.end {
            return Err(DaxError::BeyondEnd { page });
        }
        let at = |page: u64| state.blocks.get(&page).copied();
        let first = at(page);
        let is_alike = |number: u64| {
            page + number < state.end
                && at(page + number) == first.map(|(block, shared)| (block + number, shared))
        };
        let pages = (1..size.pages()).take_while(|number| is_alike(*number)).count();
        let content = match first {
            Some((block, shared)) => Content::Mapped { block, shared },
            None => Content::Hole,
        };
        Ok(Extent {
            content,
            pages: u64::try_from(pages).unwrap() + 1,
        })
    }
}

pub(crate) struct File {
    pub(crate) disk: Arc<Disk>,
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) layout: Layout,
}

impl File {
    pub(crate) fn pin(&self, first: u64, count: u64, access: Access) -> Pin {
        self.try_pin(first, count, access, &Mode::wait()).unwrap()
    }

    pub(crate) fn try_pin(
        &self,
        first: u64,
        count: u64,
        access: Access,
        mode: &Mode,
    ) -> Result<Pin, DaxError> {
        let request = Request::new(access).labelled(Label::new("test"));
        self.mapping
            .pin_by(pages(first, count), request, mode, &self.layout)
    }

    /// Makes entries, as a pin that has gone left them.
    pub(crate) fn touch(&self, first: u64, count: u64, access: Access) {
        drop(self.pin(first, count, access));
    }

    /// As the filesystem fills a hole: the block first, then the entries that knew of none go.
    pub(crate) fn allocate(&self, page: u64) -> u64 {
        let block = self.disk.fresh(1);
        let region = self.disk.device.region();
        region.zero(block * PAGE, PAGE).unwrap();
        self.layout.set(page, 1, block);
        self.mapping.invalidate_clean(pages(page, 1));
        block
    }

    /// As the filesystem punches a hole.
    pub(crate) fn punch(&self, first: u64, count: u64, mode: &Mode) -> Result<(), DaxError> {
        let range = pages(first, count);
        let broken = self.mapping.break_layout(range, Fate::Discarded, mode)?;
        assert!(broken.covers(&self.mapping, range));
        self.layout.remove(first, count);
        Ok(())
    }

    /// Where entries are, by their first pages.
    pub(crate) fn entries(&self, end: u64) -> Vec<(u64, u64)> {
        let mut entries = Vec::new();
        let mut page = 0;
        while page < end {
            let Some((range, _)) = self.mapping.entry(page) else {
                page += 1;
                continue;
            };
            entries.push((range.first(), range.count()));
            page = range.last() + 1;
        }
        entries
    }

    /// That the mapping's count of pages is that of its entries, of which there are none from `end` on.
    pub(crate) fn check_count(&self, end: u64) {
        let sum: u64 = self.entries(end).iter().map(|(_, count)| count).sum();
        assert_eq!(self.mapping.pages(), sum);
    }
}
