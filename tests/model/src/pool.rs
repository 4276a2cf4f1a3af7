//! Carries operations out on a udax pool.

use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use nix::errno::Errno;
use udax::{
    Access, Checksums, DataSource, DaxMode, DirEntry, File, Filesystem, FormatOptions, MountOptions, Owner,
    Request, Stat, WriteFlags,
};
use udax_check::{CheckOptions, Report, Silent};
use udax_pmem::{Region, RegionOptions};

use crate::operation::{
    Entry, FileOperation, NameOperation, NodeOperation, Operation, Outcome, Remap, Reply, SLOTS, Text, View,
};

/// How a pool keeps the data of its files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Files {
    /// Reached by memory access, without checksums.
    #[default]
    Plain,
    /// Reached by memory access, with checksums.
    Summed,
    /// Through the page cache. Before a crash all is synced: else nothing is promised.
    Cached,
    /// Through the page cache, with checksums, unless a file has the DAX flag.
    Switched,
    /// As `Cached`, with their data on a data device: a file beside the pool.
    Tiered,
}

impl Files {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Plain,
        Self::Summed,
        Self::Cached,
        Self::Switched,
        Self::Tiered,
    ];

    /// As on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Summed => "summed",
            Self::Cached => "cached",
            Self::Switched => "switched",
            Self::Tiered => "tiered",
        }
    }

    /// The kind with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|files| files.name() == name)
    }

    /// Whether files are in the page cache, unless they have the DAX flag.
    pub fn are_cached(self) -> bool {
        matches!(self, Self::Cached | Self::Switched | Self::Tiered)
    }

    /// How a pool of such files is opened.
    pub fn mount(self) -> MountOptions {
        match self {
            Self::Plain | Self::Summed => MountOptions::default(),
            Self::Tiered | Self::Switched => MountOptions {
                dax: DaxMode::Inode,
                cache_bytes: 1 << 20,
                ..MountOptions::default()
            },
            // So little that folios go all the time.
            Self::Cached => MountOptions {
                dax: DaxMode::Never,
                cache_bytes: 1 << 20,
                ..MountOptions::default()
            },
        }
    }
}

/// The data device of the pool in `path`: a file beside it.
pub fn data_device(path: &Path) -> PathBuf {
    path.with_extension("device")
}

/// What operations are carried out on.
pub trait Target {
    /// Does one operation.
    ///
    /// # Errors
    /// The number of its error.
    fn apply(&mut self, operation: &Operation) -> Outcome;

    /// Whether two files may be refused to share or exchange blocks, as theirs are in different places.
    fn has_two_places(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct Open {
    file: File,
    cookie: u64,
}

/// An open pool with its open files. One slot more than a sequence uses is for comparing.
#[derive(Debug)]
pub struct Pool {
    path: PathBuf,
    files: Files,
    filesystem: Option<Filesystem>,
    slots: Vec<Option<Open>>,
    prefix: Vec<u8>,
    /// What all names in that directory begin with.
    names: Vec<u8>,
}

impl Pool {
    /// Makes a pool of `bytes` in the file `path` and opens it.
    ///
    /// # Errors
    /// What formatting or opening says.
    pub fn create(path: &Path, bytes: u64) -> anyhow::Result<Self> {
        Self::create_with(path, bytes, Files::Plain)
    }

    /// As [`Pool::create`], for data that is kept so.
    ///
    /// # Errors
    /// As [`Pool::create`].
    pub fn create_with(path: &Path, bytes: u64, files: Files) -> anyhow::Result<Self> {
        let device = data_device(path);
        if files == Files::Tiered {
            let file = fs::File::create(&device).context("data device")?;
            file.set_len(bytes).context("size of the data device")?;
        }
        let options = FormatOptions {
            size: Some(bytes),
            force: true,
            owner: Owner::default(),
            data_checksums: matches!(files, Files::Summed | Files::Switched),
            data: (files == Files::Tiered).then(|| DataSource::Path(device.clone())),
            ..FormatOptions::default()
        };
        Filesystem::format(path, &options).context("format")?;
        let filesystem = Filesystem::open(path, &files.mount()).context("open")?;
        Ok(Self {
            files,
            ..Self::within(path, filesystem, b"")
        })
    }

    /// Opens the pool in `path`.
    ///
    /// # Errors
    /// What opening says.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let filesystem = Filesystem::open(path, &MountOptions::default()).context("open")?;
        Ok(Self::within(path, filesystem, b""))
    }

    /// All of `filesystem` below the directory `prefix`; it lies in the file `path`.
    pub fn within(path: &Path, filesystem: Filesystem, prefix: &[u8]) -> Self {
        Self {
            path: path.to_owned(),
            files: Files::Plain,
            filesystem: Some(filesystem),
            slots: (0..=SLOTS).map(|_| None).collect(),
            prefix: prefix.to_vec(),
            names: Vec::new(),
        }
    }

    /// The same, of the names in that directory that begin so, which the model knows without that.
    #[must_use]
    pub fn naming(self, names: &[u8]) -> Self {
        Self {
            names: names.to_vec(),
            ..self
        }
    }

    /// The same, for data that is kept so.
    #[must_use]
    pub fn keeping(self, files: Files) -> Self {
        Self { files, ..self }
    }

    /// The open pool.
    ///
    /// # Panics
    /// After a remount that failed.
    pub fn filesystem(&self) -> &Filesystem {
        self.filesystem
            .as_ref()
            .expect("only a failed remount leaves it closed")
    }

    fn close_files(&mut self) {
        for slot in &mut self.slots {
            *slot = None;
        }
    }

    /// Closes everything, checks the pool and opens it again.
    ///
    /// # Errors
    /// When closing or opening fails, the check finds a problem, or the pool was not clean.
    pub fn remount(&mut self) -> anyhow::Result<()> {
        self.close()?;
        let filesystem = Filesystem::open(&self.path, &self.files.mount()).context("open")?;
        ensure!(
            filesystem.recovery().was_clean,
            "closed cleanly, but opens as not clean"
        );
        self.filesystem = Some(filesystem);
        Ok(())
    }

    /// Closes everything and checks the pool.
    ///
    /// # Errors
    /// When closing fails or the check finds a problem.
    pub fn close(&mut self) -> anyhow::Result<()> {
        self.close_files();
        if let Some(filesystem) = self.filesystem.take() {
            filesystem.close().context("close")?;
        }
        check(&self.path)
    }

    /// Goes on with a copy of the pool's file as it is now, without what the process still knows.
    ///
    /// # Errors
    /// When the copy cannot be made, opened, or the check finds a problem before or after the recovery.
    pub fn crash(&mut self) -> anyhow::Result<()> {
        if self.files.are_cached() {
            self.filesystem().sync().context("sync")?;
        }
        let copy = self.path.with_extension("crashed");
        fs::copy(&self.path, &copy).context("copy of the pool")?;
        self.close_files();
        self.filesystem = None;
        fs::rename(&copy, &self.path).context("rename of the copy")?;
        check(&self.path).context("before recovery")?;
        let filesystem = Filesystem::open(&self.path, &self.files.mount()).context("recovery")?;
        ensure!(!filesystem.recovery().was_clean, "crashed, but opens as clean");
        filesystem.close().context("close after recovery")?;
        check(&self.path).context("after recovery")?;
        self.filesystem = Some(Filesystem::open(&self.path, &self.files.mount()).context("open")?);
        Ok(())
    }

    /// Whether what is open in `slot` is a file that is reached by memory access.
    pub fn is_dax(&self, slot: usize) -> bool {
        self.file(slot).is_ok_and(File::is_dax)
    }

    fn file(&self, slot: usize) -> Result<&File, Errno> {
        let open = self
            .slots
            .get(slot)
            .and_then(Option::as_ref)
            .ok_or(Errno::EBADF)?;
        Ok(&open.file)
    }

    fn full(&self, path: &Text) -> Text {
        if self.prefix.is_empty() || path.0.is_empty() {
            return path.clone();
        }
        let mut full = self.prefix.clone();
        full.push(b'/');
        full.extend(&self.names);
        let slashes = match self.names.is_empty() {
            true => 0,
            false => path.0.iter().take_while(|byte| **byte == b'/').count(),
        };
        full.extend(&path.0[slashes..]);
        Text(full)
    }

    fn file_operation(&mut self, slot: usize, what: &FileOperation) -> Result<Reply, udax::Error> {
        if let FileOperation::StreamDirectory { limit } = what {
            return self.stream(slot, *limit);
        }
        let Ok(file) = self.file(slot) else {
            return Err(udax::Error::BadHandle("anything"));
        };
        Ok(match what {
            FileOperation::Read { offset, len } => {
                let mut bytes = vec![0; *len];
                let count = file.read_at(&mut bytes, *offset)?;
                bytes.truncate(count);
                Reply::Bytes(bytes)
            }
            FileOperation::ReadVectored { offset, lens } => Reply::Bytes(read_vectored(file, *offset, lens)?),
            FileOperation::Write { offset, data } => count(file.write_at(&data.bytes(), *offset)?),
            FileOperation::OverwritePinned { offset, data } => {
                count(overwrite_pinned(file, *offset, &data.bytes())?)
            }
            FileOperation::SyncPinned { offset, data } => count(sync_pinned(file, *offset, &data.bytes())?),
            FileOperation::StorePinned { offset, data } => count(store_pinned(file, *offset, &data.bytes())?),
            FileOperation::WriteVectored { offset, parts } => {
                let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.bytes()).collect();
                let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
                count(file.write_vectored_at(&slices, *offset)?)
            }
            FileOperation::WriteWith { offset, data, flags } => {
                let flags = match file.is_dax() {
                    true => flags.difference(WriteFlags::DONTCACHE),
                    false => *flags,
                };
                count(file.write_with(&data.bytes(), *offset, flags)?.1)
            }
            FileOperation::Append { data } => Reply::Count(file.append(&data.bytes())?),
            FileOperation::Truncate { size } => done(file.truncate(*size)?),
            FileOperation::Allocate { mode, offset, len } => done(file.allocate(*mode, *offset, *len)?),
            FileOperation::SeekData { offset } => Reply::Count(file.seek_data(*offset)?),
            FileOperation::SeekHole { offset } => Reply::Count(file.seek_hole(*offset)?),
            FileOperation::Stat => view(&file.stat()?),
            FileOperation::SetAttributes(set) => view(&file.set_attributes(*set)?),
            FileOperation::ReadDirectory { limit } => list(|cookie| file.read_dir(cookie, *limit))?,
            FileOperation::StreamDirectory { .. } => Reply::Done,
            FileOperation::Xattr { name } => Reply::Bytes(file.xattr(&name.0)?),
            FileOperation::Sync => done(file.sync()?),
            FileOperation::SetDax { dax } => done(file.set_dax(*dax)?),
            FileOperation::RenewChecksums => done(renew_checksums(file)?),
            FileOperation::Link { path } => done(self.filesystem().link_file(file, self.full(path).path())?),
        })
    }

    fn stream(&mut self, slot: usize, limit: usize) -> Result<Reply, udax::Error> {
        let Some(open) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return Err(udax::Error::BadHandle("anything"));
        };
        let found = open.file.read_dir(open.cookie, limit)?;
        open.cookie = found.last().map_or(0, |last| last.cookie);
        Ok(Reply::Entries(found.into_iter().map(entry).collect()))
    }

    fn name_operation(&self, what: &NameOperation) -> Result<Reply, udax::Error> {
        let filesystem = self.filesystem();
        let full = |path: &Text| self.full(path);
        Ok(match what {
            NameOperation::CreateDir { path, new } => view(&filesystem.create_dir(full(path).path(), *new)?),
            NameOperation::RemoveDir { path } => done(filesystem.remove_dir(full(path).path())?),
            NameOperation::Unlink { path } => done(filesystem.unlink(full(path).path())?),
            NameOperation::Rename { from, to, mode } => {
                done(filesystem.rename(full(from).path(), full(to).path(), *mode)?)
            }
            NameOperation::Link { existing, new } => {
                done(filesystem.link(full(existing).path(), full(new).path())?)
            }
            NameOperation::Symlink { target, path, new } => {
                view(&filesystem.symlink(&target.0, full(path).path(), *new)?)
            }
            NameOperation::MakeNode {
                path,
                kind,
                rdev,
                new,
            } => view(&filesystem.make_node(full(path).path(), *kind, *rdev, *new)?),
        })
    }

    fn node_operation(&self, path: &Text, what: &NodeOperation) -> Result<Reply, udax::Error> {
        let filesystem = self.filesystem();
        let full = self.full(path);
        let path = full.path();
        Ok(match what {
            NodeOperation::Stat => view(&filesystem.stat(path)?),
            NodeOperation::StatLink => view(&filesystem.stat_link(path)?),
            NodeOperation::ReadLink => Reply::Bytes(filesystem.read_link(path)?),
            NodeOperation::SetAttributes(set) => view(&filesystem.set_attributes(path, *set)?),
            NodeOperation::Truncate { size } => done(filesystem.truncate(path, *size)?),
            NodeOperation::ReadDirectory { limit } => {
                list(|cookie| filesystem.read_dir(path, cookie, *limit))?
            }
            NodeOperation::Xattr { name } => Reply::Bytes(filesystem.xattr(path, &name.0)?),
            NodeOperation::SetXattr { name, value, mode } => {
                done(filesystem.set_xattr(path, &name.0, &value.bytes(), *mode)?)
            }
            NodeOperation::RemoveXattr { name } => done(filesystem.remove_xattr(path, &name.0)?),
            NodeOperation::ListXattrs => {
                Reply::Names(filesystem.list_xattrs(path)?.into_iter().map(Text).collect())
            }
        })
    }

    fn try_apply(&mut self, operation: &Operation) -> Result<Reply, udax::Error> {
        match operation {
            Operation::Open {
                slot,
                path,
                flags,
                new,
            } => {
                let path = self.full(path);
                let file = {
                    self.slots[*slot] = None;
                    self.filesystem().open_file(path.path(), *flags, *new)?
                };
                self.slots[*slot] = Some(Open { file, cookie: 0 });
                Ok(Reply::Done)
            }
            Operation::Close { slot } => {
                self.slots[*slot] = None;
                Ok(Reply::Done)
            }
            Operation::File { slot, what } => self.file_operation(*slot, what),
            Operation::CopyRange {
                from,
                offset,
                to,
                to_offset,
                len,
            } => {
                let (Ok(source), Ok(target)) = (self.file(*from), self.file(*to)) else {
                    return Err(udax::Error::BadHandle("anything"));
                };
                Ok(Reply::Count(
                    source.copy_range(*offset, target, *to_offset, *len)?,
                ))
            }
            Operation::Remap {
                how,
                from,
                offset,
                to,
                to_offset,
                len,
            } => {
                let (Ok(source), Ok(target)) = (self.file(*from), self.file(*to)) else {
                    return Err(udax::Error::BadHandle("anything"));
                };
                match how {
                    Remap::Clone => source.clone_range(*offset, target, *to_offset, *len)?,
                    Remap::Exchange => source.exchange_range(*offset, target, *to_offset, *len)?,
                    Remap::Dedupe => {
                        let is_same = source.dedupe_range(*offset, target, *to_offset, *len)?;
                        return Ok(Reply::Count(u64::from(is_same)));
                    }
                }
                Ok(Reply::Done)
            }
            Operation::Name(what) => self.name_operation(what),
            Operation::Node { path, what } => self.node_operation(path, what),
            Operation::Sync => Ok(done(self.filesystem().sync()?)),
            Operation::Remount | Operation::Crash => {
                self.close_files();
                Ok(Reply::Done)
            }
        }
    }
}

impl Target for Pool {
    fn apply(&mut self, operation: &Operation) -> Outcome {
        self.try_apply(operation).map_err(|error| error.errno())
    }

    fn has_two_places(&self) -> bool {
        self.files == Files::Tiered
    }
}

/// Checks the closed pool in the file `path`.
///
/// # Errors
/// When the check cannot be done or finds a problem.
pub fn check(path: &Path) -> anyhow::Result<()> {
    check_report(path).map(drop)
}

/// As [`check`], and what else the check says.
///
/// # Errors
/// As [`check`].
pub fn check_report(path: &Path) -> anyhow::Result<Report> {
    let options = RegionOptions {
        read_only: true,
        ..RegionOptions::default()
    };
    let region = Region::open(path, options).context("open for the check")?;
    let options = CheckOptions {
        data: true,
        ..CheckOptions::default()
    };
    let report = udax_check::check(&region, &options, &Silent).context("check")?;
    ensure!(
        report.problems.is_empty(),
        "the check finds {:#?}",
        report.problems
    );
    Ok(report)
}

fn done((): ()) -> Reply {
    Reply::Done
}

/// What has none stays without. However it fails, it has new ones if it can.
fn renew_checksums(file: &File) -> Result<(), udax::Error> {
    let were = file.stat()?.checksums;
    let taken = file.set_checksums(Checksums::Off);
    if were == Checksums::On {
        file.set_checksums(were)?;
    }
    taken
}

fn count(bytes: usize) -> Reply {
    Reply::Count(u64::try_from(bytes).unwrap_or(u64::MAX))
}

fn read_vectored(file: &File, offset: u64, lens: &[usize]) -> Result<Vec<u8>, udax::Error> {
    let mut parts: Vec<Vec<u8>> = lens.iter().map(|len| vec![0; *len]).collect();
    let mut slices: Vec<IoSliceMut<'_>> = parts.iter_mut().map(|part| IoSliceMut::new(part)).collect();
    let count = file.read_vectored_at(&mut slices, offset)?;
    let mut bytes = parts.concat();
    bytes.truncate(count);
    Ok(bytes)
}

fn list(read: impl Fn(u64) -> Result<Vec<DirEntry>, udax::Error>) -> Result<Reply, udax::Error> {
    let mut entries = Vec::new();
    let mut cookie = 0;
    loop {
        let found = read(cookie)?;
        let Some(last) = found.last() else {
            return Ok(Reply::Entries(entries));
        };
        cookie = last.cookie;
        entries.extend(found.into_iter().map(entry));
    }
}

fn entry(entry: DirEntry) -> Entry {
    Entry {
        name: Text(entry.name),
        ino: entry.ino.raw(),
        kind: entry.kind,
    }
}

fn view(stat: &Stat) -> Reply {
    Reply::Stat(Box::new(View {
        ino: stat.ino.raw(),
        generation: stat.generation,
        kind: stat.kind,
        permissions: stat.permissions,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.rdev,
        size: stat.size,
        blocks: stat.blocks,
        atime: stat.atime,
        mtime: stat.mtime,
        ctime: stat.ctime,
        btime: Some(stat.btime),
        change: Some(stat.change),
    }))
}

/// Stores `bytes` through a pin only, and persists them; what is behind the file's end is written.
fn overwrite_pinned(file: &udax::File, offset: u64, bytes: &[u8]) -> udax::Result<usize> {
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if !file.is_dax() || offset.saturating_add(len) > file.stat()?.size {
        return file.write_at(bytes, offset);
    }
    let pin = file.pin(offset, len, Request::new(Access::Write))?;
    pin.write(offset % 4096, bytes)?;
    pin.persist(offset % 4096, len)?;
    Ok(bytes.len())
}

/// Stores `bytes` through a pin only, drops it, and syncs the file. They are written where no pin can be had, and where
/// the file has holes, which a pin would fill first.
fn sync_pinned(file: &udax::File, offset: u64, bytes: &[u8]) -> udax::Result<usize> {
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let is_data = || {
        file.seek_hole(offset)
            .is_ok_and(|hole| hole >= offset.saturating_add(len))
    };
    let pinned = match file.is_dax() && len > 0 && is_data() {
        true => file.pin(offset, len, Request::new(Access::Write)).map(Some),
        false => Ok(None),
    };
    let count = match pinned {
        Ok(Some(pin)) => {
            pin.write(offset % 4096, bytes)?;
            bytes.len()
        }
        // Pins read too. To copy shared blocks, or to take checksums away, it needs blocks that a full pool has not.
        Ok(None) | Err(udax::Error::BadHandle(_) | udax::Error::NoSpace { .. }) => {
            file.write_at(bytes, offset)?
        }
        Err(error) => return Err(error),
    };
    file.sync()?;
    Ok(count)
}

/// Writes `bytes`, so that a full pool is met there, and stores them again through a pin, which must have found them.
/// The same ones, as a writer that is killed in between has written old bytes or new ones.
fn store_pinned(file: &udax::File, offset: u64, bytes: &[u8]) -> udax::Result<usize> {
    let count = file.write_at(bytes, offset)?;
    let bytes = &bytes[..count];
    if count == 0 || !file.is_dax() {
        return Ok(count);
    }
    let len = u64::try_from(count).unwrap_or(u64::MAX);
    match file.pin(offset, len, Request::new(Access::Write)) {
        Ok(pin) => {
            let mut found = vec![0; count];
            pin.read(offset % 4096, &mut found)?;
            if found != bytes {
                return Err(udax::Error::Invalid("a pin has other bytes than its file"));
            }
            pin.write(offset % 4096, bytes)?;
            drop(pin);
            file.sync()?;
            Ok(count)
        }
        // Pins read too. With checksums it takes new blocks again, which a full pool has not; the bytes are written.
        Err(udax::Error::BadHandle(_)) => match file.write_at(bytes, offset) {
            Err(udax::Error::NoSpace { .. }) => Ok(count),
            other => other,
        },
        // To take checksums away a pin may need a node of a tree, for which there is no block.
        Err(udax::Error::NoSpace { .. }) => Ok(count),
        Err(error) => Err(error),
    }
}
