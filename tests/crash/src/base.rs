//! The pools that workloads begin with: closed cleanly, the same each time but for times.

use anyhow::{Context, anyhow};
use udax::{Checksums, Filesystem, FormatOptions, MountOptions, Owner, Timestamp};
use udax_crash::Image;
use udax_pmem::Region;
use udax_test_model::compare::{Comparer, Scope, Times};
use udax_test_model::model::Model;
use udax_test_model::operation::Operation;
use udax_test_model::pool::Pool;
use udax_test_model::run::{Session, Summary, now, since};

/// What is known of a directory tree at a moment.
#[derive(Clone, Debug)]
pub struct State {
    /// What must be there.
    pub model: Model,
    /// Inode numbers and generations that are known.
    pub comparer: Comparer,
}

/// A closed pool and what it holds.
#[derive(Clone, Debug)]
pub struct Base {
    /// Its bytes.
    pub image: Image,
    /// Its tree.
    pub state: State,
    /// When it was begun.
    pub made: Timestamp,
}

impl Base {
    /// A new pool of `bytes`, whose files have checksums of data or not.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn empty(bytes: u64, checksums: Checksums) -> anyhow::Result<Self> {
        let before = now();
        let region = Region::anonymous(bytes, None)?;
        let options = FormatOptions {
            owner: Owner::default(),
            uuid: Some(uuid::Uuid::from_u128(0xc4a5)),
            data_checksums: checksums == Checksums::On,
            ..FormatOptions::default()
        };
        let mut superblock = Filesystem::format_region(&region, &options)?;
        // Nothing is hashed yet. With a key of its own each pool would be laid out differently.
        superblock.hash_key = [7; 16];
        for block in udax_media::geometry::SUPERBLOCKS {
            region.store(block.offset().raw(), superblock.encode().as_slice())?;
        }
        Ok(Self {
            image: Image::of(&region)?,
            made: before,
            state: State {
                model: Model::new(0o755, Owner::default(), since(before)),
                comparer: Comparer::new(Times::Compared, Scope::Whole),
            },
        })
    }

    /// The pool after `operations`, closed.
    ///
    /// # Errors
    /// When one of them gives something else than the model says.
    pub fn after(&self, operations: &[Operation]) -> anyhow::Result<Self> {
        let (region, trace) = self.image.recorded()?;
        let filesystem = Filesystem::open_region(region, &MountOptions::default())?;
        let mut session = session(filesystem.clone(), b"", self.state.clone());
        let mut summary = Summary::default();
        for operation in operations {
            let done = session.apply(operation, &mut summary);
            done.map_err(|error| anyhow!("{operation:?}: {error}"))?;
        }
        session.model.close_all();
        let state = State {
            model: session.model,
            comparer: session.comparer,
        };
        drop(session.target);
        filesystem.close().context("close")?;
        let mut medium = udax_crash::Medium::new(udax_crash::Domain::Flush, self.image.clone());
        for event in trace.take() {
            medium.step(&event);
        }
        let image = medium.image(&udax_crash::Cut::now(udax_crash::Pick::Most));
        let made = self.made;
        Ok(Self { image, state, made })
    }

    /// What is known of a directory that was made in it, and is empty.
    pub fn empty_directory(&self) -> State {
        State {
            model: Model::new(0o755, Owner::default(), since(self.made)),
            comparer: Comparer::new(Times::Compared, Scope::Subtree),
        }
    }
}

/// Operations and the model side by side, in the directory `prefix` of an open pool.
pub fn session(filesystem: Filesystem, prefix: &[u8], state: State) -> Session<Pool> {
    Session {
        // The path is for remounts, of which there are none.
        target: Pool::within("anonymous memory".as_ref(), filesystem, prefix),
        model: state.model,
        comparer: state.comparer,
        is_small: true,
    }
}
