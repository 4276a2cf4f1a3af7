//! The bytes of a pool, and the file that a case changes them in, with a data device beside it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use udax::{DataSource, Filesystem, MountOptions};
use udax_disk::{Disk, MemoryMedium};
use udax_media::{BLOCK_BYTES, BLOCK_SIZE};

/// A block's bytes.
pub type Block = [u8; BLOCK_SIZE];

/// A pool's bytes. Runs of blocks that are not zero are known, so that a copy costs no more than they do.
#[derive(Clone, Debug)]
pub struct Image {
    bytes: Vec<u8>,
    runs: Vec<(usize, usize)>,
}

impl Image {
    /// The image with these bytes, whole blocks.
    pub fn new(bytes: Vec<u8>) -> Self {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (index, block) in bytes.as_chunks::<BLOCK_SIZE>().0.iter().enumerate() {
            if block.iter().all(|byte| *byte == 0) {
                continue;
            }
            let (start, end) = (index * BLOCK_SIZE, (index + 1) * BLOCK_SIZE);
            match runs.last_mut() {
                Some((_, last)) if *last == start => *last = end,
                _ => runs.push((start, end)),
            }
        }
        Self { bytes, runs }
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What is not zero: where, in bytes, and whole blocks from there.
    pub fn written(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.runs.iter().map(|(start, end)| {
            let at = u64::try_from(*start).unwrap_or(u64::MAX);
            (at, self.bytes.get(*start..*end).unwrap_or_default())
        })
    }

    /// The block's bytes.
    ///
    /// # Panics
    /// Outside of the pool.
    pub fn block(&self, block: u64) -> &Block {
        let blocks = self.bytes.as_chunks::<BLOCK_SIZE>().0;
        &blocks[usize::try_from(block).expect("a block of the pool")]
    }

    /// Blocks of the pool.
    pub fn block_count(&self) -> u64 {
        u64::try_from(self.bytes.len() / BLOCK_SIZE).unwrap_or(0)
    }
}

/// A file in memory for one damaged pool after the other, and a disk in memory as its data device.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    file: File,
    /// Of a pool that has one.
    device: Mutex<Option<Arc<Disk>>>,
}

impl Scratch {
    /// A new file, unique to this process and `name`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let path = directory.join(format!("udax-corruption-{}-{name}.pool", std::process::id()));
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path);
        let file = file.with_context(|| path.display().to_string())?;
        Ok(Self {
            path,
            file,
            device: Mutex::default(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the pool, with its device.
    ///
    /// # Errors
    /// As [`Filesystem::open`].
    pub fn open(&self, mut options: MountOptions) -> udax::Result<Filesystem> {
        options.data = self.device().clone().map(DataSource::Disk);
        Filesystem::open(&self.path, &options)
    }

    fn device(&self) -> MutexGuard<'_, Option<Arc<Disk>>> {
        // A panic elsewhere does not make bytes wrong.
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it hold `image`, and its device, if it has one, what `device` holds durably.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn load(&self, image: &Image, device: Option<&MemoryMedium>) -> anyhow::Result<()> {
        let copy = device.map(|device| device.after_power_failure(|_| false));
        *self.device() = copy.map(|copy| Arc::new(Disk::new(Arc::new(copy))));
        self.file.set_len(0)?;
        self.file.set_len(u64::try_from(image.bytes.len())?)?;
        for (at, bytes) in image.written() {
            self.file.write_all_at(bytes, at)?;
        }
        Ok(())
    }

    /// Changes a block.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, block: u64, bytes: &Block) -> anyhow::Result<()> {
        Ok(self.file.write_all_at(bytes, block * BLOCK_BYTES)?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing depends on it.
        let _ = std::fs::remove_file(&self.path);
    }
}
