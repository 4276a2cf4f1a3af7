//! Memory is that of the nodes which the entries need, to the byte, and all of it is given back.
#![cfg(not(loom))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use udax_sync::atomic::{AtomicU64, Ordering};
use udax_sync::thread;
use udax_xarray::{Entry, XArray};

const NODE: Layout = match Layout::from_size_align(640, 64) {
    Ok(layout) => layout,
    Err(_) => panic!("a layout"),
};

/// The system's allocator, which counts nodes of the process, and bytes of each thread.
struct Counting;

static NODES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Taken and not given back by this thread; what others give back of it is not seen.
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A thread that ends frees memory when its counter may be gone.
fn count(change: impl FnOnce(usize) -> usize) {
    let _ = BYTES.try_with(|bytes| bytes.set(change(bytes.get())));
}

// SAFETY: the system's allocator does the work; what is counted takes no memory and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout == NODE {
            NODES.fetch_add(1, Ordering::Relaxed);
        }
        count(|bytes| bytes.wrapping_add(layout.size()));
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if layout == NODE {
            NODES.fetch_sub(1, Ordering::Relaxed);
        }
        count(|bytes| bytes.wrapping_sub(layout.size()));
        // SAFETY: as the caller says.
        unsafe { System.dealloc(at, layout) }
    }
}

fn nodes() -> u64 {
    NODES.load(Ordering::Relaxed)
}

fn store(index: &XArray, start: u64, order: u8) {
    let stored = index.write().store(start, order, Entry::Value(start >> 1));
    assert_eq!(stored, Ok(None), "index {start}, order {order}");
}

/// The shapes: what they are, orders and first indices of their entries, and the nodes that these need.
fn shapes() -> Vec<(&'static str, u8, Vec<u64>, u64)> {
    vec![
        ("the first index", 0, vec![0], 1),
        (
            "the last index, below a node for each level",
            0,
            vec![u64::MAX],
            11,
        ),
        ("half of all indices, in the topmost node", 63, vec![1 << 63], 1),
        // 4096 nodes of 64 entries, 64 above them, and the root: 10.2 bytes an entry.
        ("1 GiB of pages", 0, (0..1 << 18).collect(), 4096 + 64 + 1),
        // Eight entries of eight slots in a node, 64 nodes in one above: 81 bytes an entry.
        (
            "8 GiB in entries of 2 MiB",
            9,
            (0..4096).map(|number| number << 9).collect(),
            512 + 8 + 1,
        ),
        // 64 in a node, whose slots have just this size.
        (
            "100 GiB in entries of 1 GiB",
            18,
            (0..100).map(|number| number << 18).collect(),
            2 + 1,
        ),
        // Four levels below the one where they meet, sixteen nodes there, and the root.
        (
            "1000 pages 64 GiB apart",
            0,
            (0..1000).map(|number| number << 24).collect(),
            4 * 1000 + 16 + 1,
        ),
    ]
}

fn each_shape_has_the_nodes_that_it_needs() {
    for (shape, order, starts, expected) in shapes() {
        let index: XArray = XArray::new(0);
        // What the epochs, and the ranks of locks, keep for each thread is taken now.
        drop(index.write());
        assert_eq!(index.memory_bytes(), 0, "{shape}");
        let (before, bytes) = (nodes(), BYTES.get());
        starts.iter().for_each(|start| store(&index, *start, order));
        assert_eq!(nodes() - before, expected, "{shape}");
        assert_eq!(BYTES.get() - bytes, index.memory_bytes(), "{shape}");
        assert_eq!(u64::try_from(index.memory_bytes()), Ok(expected * 640), "{shape}");
        drop(index);
        assert_eq!((nodes(), BYTES.get()), (before, bytes), "{shape}: dropped");
    }
}

fn a_split_takes_the_nodes_of_its_pieces() {
    // Pieces of a slot's size or more stay in the entry's node; smaller ones take a node for each of its eight slots.
    for (order, expected) in [(8, 1), (6, 1), (5, 1 + 8), (0, 1 + 8)] {
        let index: XArray = XArray::new(0);
        store(&index, 512, 9);
        assert_eq!(index.memory_bytes(), 640);
        assert_eq!(index.write().split(700, order, Entry::Value), Ok(()));
        assert_eq!(index.memory_bytes(), expected * 640, "pieces of order {order}");
    }
}

fn what_is_left_has_the_nodes_that_it_alone_needs() {
    // A page of the first 64 needs no node above its own; another one needs those up to where its index fits.
    for (left, expected) in [(5, 1), (700, 2), (4096, 3)] {
        let index: XArray = XArray::new(0);
        (0..=4096).for_each(|page| store(&index, page, 0));
        assert_eq!(index.memory_bytes(), (65 + 1 + 2) * 640);
        for page in (0..=4096).filter(|page| *page != left) {
            assert!(index.write().erase(page).is_some());
        }
        assert_eq!(index.memory_bytes(), expected * 640, "page {left}");
    }
}

/// Gives the number of nodes once it has come down to `expected`, or what it is after a minute.
fn nodes_after_epochs(expected: u64) -> u64 {
    let other: XArray = XArray::new(0);
    let begin = Instant::now();
    while nodes() != expected && begin.elapsed() < Duration::from_secs(60) {
        // Whoever pins may free some of what is retired.
        assert_eq!(other.load_value(0), None);
        thread::yield_now();
    }
    nodes()
}

fn what_is_erased_is_given_back() {
    for (shape, order, starts, _) in shapes() {
        let index: XArray = XArray::new(0);
        starts.iter().for_each(|start| store(&index, *start, order));
        for start in &starts {
            assert!(index.write().erase(*start).is_some(), "{shape}: {start}");
        }
        assert_eq!(index.memory_bytes(), 0, "{shape}");
    }
}

/// Does something in a thread of its own, and asserts that no node is left of it.
fn without_remains(work: impl FnOnce() + Send + 'static) {
    let before = nodes();
    // Joined: a thread hands on what it has retired last when it has ended.
    thread::spawn(work).join().expect("it has not failed");
    assert_eq!(nodes_after_epochs(before), before, "nodes are left");
}

/// One test: the counts are of the process.
#[test]
fn memory_is_that_of_the_nodes_which_entries_need() {
    each_shape_has_the_nodes_that_it_needs();
    without_remains(a_split_takes_the_nodes_of_its_pieces);
    without_remains(what_is_left_has_the_nodes_that_it_alone_needs);
    without_remains(what_is_erased_is_given_back);
}
