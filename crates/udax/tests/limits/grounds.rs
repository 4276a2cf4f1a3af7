//! Pools that keep the data of their files in different ways, and what is full of them: for tests of full pools.

use std::sync::Arc;

use udax::{AllocateMode, DataSource, Dax, DaxMode, Disk, Error, Filesystem, FormatOptions, MountOptions};
use udax_check::Report;
use udax_disk::{Medium, MemoryMedium};

use crate::pool::{TestPool, open};

/// How a pool keeps the data of its files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ground {
    /// Reached by memory access.
    Plain,
    /// Reached by memory access, with checksums.
    Summed,
    /// Through the page cache.
    Cached,
    /// Through the page cache unless a file has the DAX flag, with checksums.
    CachedSummed,
    /// Through the page cache on a data device, unless a file has the DAX flag.
    Tiered,
}

/// What has few blocks left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scarce {
    Pool,
    Device,
    Both,
}

impl Ground {
    /// Whether files that nothing else was said of are in the page cache.
    pub(crate) fn is_cached(self) -> bool {
        matches!(self, Self::Cached | Self::CachedSummed | Self::Tiered)
    }

    pub(crate) fn is_summed(self) -> bool {
        matches!(self, Self::Summed | Self::CachedSummed)
    }

    pub(crate) fn scarcities(self) -> &'static [Scarce] {
        match self {
            Self::Tiered => &[Scarce::Device, Scarce::Pool, Scarce::Both],
            _ => &[Scarce::Pool],
        }
    }
}

/// A pool of such a kind. Nobody writes back but who syncs, or needs it.
pub(crate) struct Grounds {
    pub(crate) ground: Ground,
    pub(crate) pool: TestPool,
    bytes: u64,
    medium: Option<Arc<MemoryMedium>>,
}

impl Grounds {
    /// One of `bytes`; a data device has as many.
    pub(crate) fn new(ground: Ground, bytes: u64) -> Self {
        let medium = (ground == Ground::Tiered).then(|| Arc::new(MemoryMedium::new(bytes)));
        let options = FormatOptions {
            size: Some(bytes),
            data_checksums: ground.is_summed(),
            data: medium.as_ref().map(source),
            ..FormatOptions::default()
        };
        Self {
            ground,
            pool: TestPool::formatted(&options),
            bytes,
            medium,
        }
    }

    fn options(&self) -> MountOptions {
        MountOptions {
            dax: match self.ground {
                Ground::Plain | Ground::Summed => DaxMode::Always,
                Ground::Cached => DaxMode::Never,
                Ground::CachedSummed | Ground::Tiered => DaxMode::Inode,
            },
            no_flusher: true,
            data: self.medium.as_ref().map(source),
            ..MountOptions::default()
        }
    }

    pub(crate) fn open(&self) -> Filesystem {
        Filesystem::open(&self.pool.path, &self.options()).unwrap()
    }

    /// The check finds nothing, and blocks that are free are there to be taken: none is held by an operation that
    /// failed, on media or in memory, in the pool or on its device.
    #[track_caller]
    pub(crate) fn assert_sound(&self, fs: &Filesystem, what: &str) -> Report {
        // What is written back takes blocks ahead.
        fs.sync().unwrap();
        self.refuse_too_much(fs, what);
        fs.sync().unwrap();
        let told = fs.stat_filesystem();
        let report = self.pool.check();
        let free = report.total_blocks - report.used_blocks;
        let of_device = match &self.medium {
            Some(_) => told.device_free_blocks + reserve(told.device_blocks),
            None => 0,
        };
        assert_eq!(free, told.free_blocks + of_device, "{what}");
        assert_eq!(report.inodes, told.inodes, "{what}");
        assert_eq!(report.orphans, 0, "{what}");
        assert_eq!(fs.cache_statistics().reserved, 0, "{what}");
        let available = told.free_blocks.saturating_sub(reserve(told.total_blocks));
        assert_eq!(told.available_blocks, available, "{what}: some are held");
        report
    }

    /// What cannot be met makes the pool give back what it keeps for appends and in quarantine.
    #[track_caller]
    fn refuse_too_much(&self, fs: &Filesystem, what: &str) {
        let file = open(fs, "/too much");
        for dax in [Dax::On, Dax::Off] {
            if self.medium.is_some() {
                file.set_dax(dax).unwrap();
            }
            let refused = file.allocate(AllocateMode::KeepSize, 0, self.bytes);
            assert!(
                matches!(refused, Err(Error::NoSpace { .. })),
                "{what}: {refused:?}"
            );
        }
        drop(file);
        fs.unlink("/too much").unwrap();
    }

    /// Leaves `available` blocks of what is to be scarce for ordinary requests.
    pub(crate) fn leave(&self, fs: &Filesystem, scarce: Scarce, available: u64) {
        for (path, tier) in [("/ballast", Dax::Off), ("/ballast of DAX", Dax::On)] {
            let is_of_pool = tier == Dax::On || self.medium.is_none();
            if self.medium.is_none() && tier == Dax::On {
                continue;
            }
            let is_scarce = match scarce {
                Scarce::Both => true,
                Scarce::Pool => is_of_pool,
                Scarce::Device => !is_of_pool,
            };
            let ballast = open(fs, path);
            if self.medium.is_some() && ballast.stat().unwrap().dax != tier {
                ballast.set_dax(tier).unwrap();
            }
            ballast.truncate(0).unwrap();
            fs.sync().unwrap();
            let told = fs.stat_filesystem();
            let now = match is_of_pool {
                true => told.available_blocks,
                false => told.device_free_blocks,
            };
            let blocks = now.saturating_sub(available);
            if is_scarce && blocks > 0 {
                ballast
                    .allocate(AllocateMode::KeepSize, 0, blocks * 4096)
                    .unwrap();
            }
        }
    }

    /// Takes all blocks that anybody may have, for others.
    pub(crate) fn take_all(&self, fs: &Filesystem) {
        for path in ["/ballast", "/ballast of DAX"] {
            let Ok(ballast) = fs.open_file(path, crate::pool::READ_WRITE, crate::pool::new_inode()) else {
                continue;
            };
            // Behind what it has.
            let mut at = 1 << 20;
            for count in [1024, 64, 8, 1] {
                while ballast
                    .allocate(AllocateMode::KeepSize, at * 4096, count * 4096)
                    .is_ok()
                {
                    at += count;
                }
            }
        }
    }
}

/// Of so many blocks, those that only what frees space, or was reserved, may take.
fn reserve(blocks: u64) -> u64 {
    (blocks / 64).min(256)
}

fn source(medium: &Arc<MemoryMedium>) -> DataSource {
    let medium: Arc<dyn Medium> = medium.clone();
    DataSource::Disk(Arc::new(Disk::new(medium)))
}
