//! Random operations of one thread against a vector of bytes. A failure names its world, seed and step.

use std::ops::Range;
use std::sync::Arc;

use nix::errno::Errno;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax_pagecache::{
    Access, Advice, CacheError, Control, Flush, Integrity, PAGE, ReadAhead, ReadFlags, Span, Stability,
    WriteFlags, WriteRun,
};

use crate::disk::{File, World, len, size};

/// Says on failure where it was.
struct Place {
    pages: u64,
    stability: Stability,
    seed: u64,
    step: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self {
                pages,
                stability,
                seed,
                step,
            } = self;
            eprintln!("run(World::with_pages({pages}), {stability:?}, seed {seed}) at step {step}");
        }
    }
}

struct Run<'w> {
    world: &'w World,
    file: Arc<File>,
    model: Vec<u8>,
    most: u64,
    rng: SmallRng,
    ahead: ReadAhead,
    held: Vec<WriteRun>,
    is_dead: bool,
}

impl Run<'_> {
    fn range(&mut self) -> Range<u64> {
        let start = self.rng.random_range(0..self.most);
        let longest = match self.rng.random_range(0..10) {
            0..5 => 300,
            5..9 => 6 * PAGE,
            _ => self.most / 2,
        };
        let end = start + self.rng.random_range(1..=longest);
        let range = start..end.min(self.most);
        match self.rng.random_range(0..3) {
            0 => range.start / PAGE * PAGE..range.end.next_multiple_of(PAGE),
            _ => range,
        }
    }

    fn complete_held(&mut self) {
        for run in self.held.drain(..) {
            match self.rng.random_range(0..4) {
                0 => run.complete(Err(Errno::EIO)),
                1 => run.redirty(),
                2 => drop(run),
                _ => {
                    let result = self.file.disk.take(&run);
                    run.complete(result);
                }
            }
        }
    }

    fn write(&mut self) {
        let range = self.range();
        let byte: u8 = self.rng.random();
        let bytes: Vec<u8> = (range.clone())
            .map(|at| byte.wrapping_add(byte_of(at % 7)))
            .collect();
        let mut flags = WriteFlags::empty();
        // What is being written would be waited for, by who completes it.
        flags.set(
            WriteFlags::NOWAIT,
            !self.held.is_empty() || self.rng.random_bool(0.1),
        );
        flags.set(WriteFlags::DONTCACHE, self.rng.random_bool(0.2));
        let mode = if flags.contains(WriteFlags::NOWAIT) {
            udax_pagecache::Mode::NoWait
        } else {
            udax_pagecache::Mode::wait()
        };
        let throttled = self
            .world
            .cache
            .throttle(&self.file.mapping, size(bytes.len()), &mode);
        let written = throttled.and_then(|()| self.file.write_with(range.start, &bytes, flags));
        match written {
            Ok(written) => {
                let at = len(range.start);
                let end = at + written;
                self.model.resize(self.model.len().max(end), 0);
                self.model[at..end].copy_from_slice(&bytes[..written]);
                assert!(written == bytes.len() || flags.contains(WriteFlags::NOWAIT));
                if flags.contains(WriteFlags::DONTCACHE) && self.held.is_empty() {
                    let behind = self
                        .file
                        .mapping
                        .write_behind(&mut self.file.disk.lend(), range.start..size(end));
                    assert!(behind.is_ok() || self.is_dead);
                }
            }
            Err(error) => {
                let expected = error.errno() == Errno::EAGAIN && flags.contains(WriteFlags::NOWAIT);
                assert!(expected || self.is_dead, "{error}");
            }
        }
    }

    fn read(&mut self) {
        let range = self.range();
        let mut flags = ReadFlags::empty();
        flags.set(ReadFlags::NOWAIT, self.rng.random_bool(0.2));
        flags.set(ReadFlags::DONTCACHE, self.rng.random_bool(0.2));
        let count = len(range.end - range.start);
        let at = len(range.start).min(self.model.len());
        let expected = &self.model[at..(at + count).min(self.model.len())];
        let read = self.file.read_with(range.start, count, &mut self.ahead, flags);
        match read {
            Ok(bytes) if flags.contains(ReadFlags::NOWAIT) => assert!(expected.starts_with(&bytes)),
            Ok(bytes) => assert!(bytes == expected, "{range:?}"),
            Err(error) => {
                assert!(flags.contains(ReadFlags::NOWAIT) && matches!(error, CacheError::WouldBlock { .. }));
            }
        }
    }

    fn resize(&mut self) {
        let size = self.range().start;
        self.file.truncate(size);
        self.model.resize(len(size), 0);
    }

    fn punch(&mut self) {
        let range = self.range();
        self.file.punch(range.clone());
        let end = self.model.len();
        self.model[len(range.start).min(end)..len(range.end).min(end)].fill(0);
    }

    fn pin(&mut self) {
        let pages = size(self.model.len()) / PAGE;
        if pages == 0 {
            return;
        }
        let page = self.rng.random_range(0..pages);
        let at = len(page * PAGE);
        let mut lent = self.file.disk.lend();
        let pin = self.file.mapping.pin(&mut lent, page, Access::Write).unwrap();
        let mut bytes = [0; 4096];
        pin.read(0, &mut bytes).unwrap();
        assert!(bytes == self.model[at..at + 4096], "pinned page {page}");
        pin.store(100, &[byte_of(page); 50]).unwrap();
        self.model[at + 100..at + 150].fill(byte_of(page));
        let synced = self.file.sync();
        assert!(synced.is_ok() || self.is_dead);
        pin.store(200, &[byte_of(page); 50]).unwrap();
        self.model[at + 200..at + 250].fill(byte_of(page));
    }

    fn write_some(&mut self) {
        let control = match self.rng.random_range(0..2) {
            0 => Control::background(self.rng.random_range(1..100)),
            _ => Control {
                integrity: Integrity::Background,
                span: Span::Pages(self.range().start / PAGE..u64::MAX),
                most: u64::MAX,
            },
        };
        if self.rng.random_bool(0.3) {
            // Under way while other things happen.
            let mut pass = self.file.mapping.pass(control, self.file.disk.size());
            self.held.extend(pass.next());
        } else {
            assert!(self.file.pass(control).is_ok() || self.is_dead);
        }
    }

    fn step(&mut self) {
        let what = self.rng.random_range(0..100);
        match what {
            0..30 => return self.write(),
            30..60 => return self.read(),
            60..68 => return self.write_some(),
            _ => {}
        }
        // All others wait for what is being written.
        self.complete_held();
        let mapping = &self.file.mapping;
        match what {
            68..72 => self.resize(),
            72..78 => self.punch(),
            78..82 => self.pin(),
            82..84 => assert!(self.file.sync().is_ok() || self.is_dead),
            84..86 => {
                self.is_dead = self.rng.random_bool(0.3);
                let errno = self.is_dead.then_some(Errno::EIO);
                self.file.disk.with_faults(|faults| faults.is_dead = errno);
            }
            86..89 => {
                let flush = [Flush::Keep, Flush::Write][usize::from(what == 88)];
                let range = self.range();
                let mapping = &self.file.mapping;
                // Errors of before are told here.
                let _ = mapping.invalidate_inode(&mut self.file.disk.lend(), flush, range);
            }
            89..91 => _ = mapping.drop_unused(0..u64::MAX),
            91..93 => _ = self.world.cache.drop_clean(),
            93..98 => {
                let order = self.rng.random_range(0..=9);
                let at = self.range().start;
                self.file.mapping.collapse(at, order);
            }
            _ => self
                .ahead
                .advise([Advice::Normal, Advice::Sequential, Advice::Random][usize::from(what == 98)]),
        }
    }
}

fn byte_of(page: u64) -> u8 {
    u8::try_from(page % 200).unwrap()
}

fn run(pages: u64, stability: Stability, most: u64, seed: u64, steps: u32) {
    let world = World::with_pages(pages);
    let mut place = Place {
        pages,
        stability,
        seed,
        step: 0,
    };
    let mut run = Run {
        world: &world,
        file: world.file_with(stability),
        model: Vec::new(),
        most,
        rng: SmallRng::seed_from_u64(seed),
        ahead: ReadAhead::new(),
        held: Vec::new(),
        is_dead: false,
    };
    for step in 0..steps {
        place.step = step;
        run.step();
        let now = world.cache.statistics();
        assert_eq!(run.file.disk.size(), size(run.model.len()));
        assert_eq!(now.cached, run.file.mapping.pages());
        assert_eq!(now.dirty, run.file.mapping.dirty_pages());
        // With folios of one page, what is neither dirty nor being written can go.
        let needed = now.dirty + now.under_write;
        assert!(pages >= 128 || now.cached <= pages.max(needed), "{now:?}");
        assert!(now.dirty + now.under_write <= pages / 2 + most / PAGE, "{now:?}");
    }
    run.complete_held();
    run.file.disk.with_faults(|faults| faults.is_dead = None);
    run.file.sync().unwrap();
    assert_eq!(world.cache.reservations().blocks(), 0);
    assert!(run.file.disk.durable() == run.model, "what is durable differs");
    world.cache.drop_clean();
    assert!(
        run.file.read(0, run.model.len() + 1) == run.model,
        "what is read differs"
    );
}

#[test]
fn with_sixteen_pages_everything_is_reclaimed_all_the_time() {
    for seed in 0..12 {
        run(16, Stability::Loose, 100 * PAGE, seed, 3000);
        run(16, Stability::Stable, 100 * PAGE, seed, 3000);
    }
}

#[test]
fn with_folios_of_some_pages() {
    for seed in 0..8 {
        run(512, Stability::Loose, 300 * PAGE, seed, 2000);
        run(4096, Stability::Stable, 400 * PAGE, seed, 1500);
    }
}

#[test]
fn with_the_largest_folios() {
    for seed in 0..4 {
        run(1 << 15, Stability::Loose, 3000 * PAGE, seed, 600);
        run(1 << 15, Stability::Stable, 3000 * PAGE, seed, 600);
    }
}
