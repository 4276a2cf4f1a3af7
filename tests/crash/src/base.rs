//! The pools that workloads begin with: closed cleanly, the same each time but for times.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use udax::{Checksums, DataSource, Disk, Filesystem, FormatOptions, MountOptions, Owner, Timestamp};
use udax_crash::{Image, Trace};
use udax_test_model::compare::{Comparer, Scope, Times};
use udax_test_model::model::Model;
use udax_test_model::operation::Operation;
use udax_test_model::pool::{Files, Pool};
use udax_test_model::run::{Session, Summary, now, since};

use crate::record::Share;

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
        let options = FormatOptions {
            data_checksums: checksums == Checksums::On,
            ..FormatOptions::default()
        };
        Self::formatted(&Image::zeros(bytes), options)
    }

    /// A new pool of `bytes` with a data device of `device_bytes`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn tiered(bytes: u64, device_bytes: u64) -> anyhow::Result<Self> {
        Self::formatted(
            &Image::zeros(bytes).with_device(device_bytes),
            FormatOptions::default(),
        )
    }

    fn formatted(blank: &Image, options: FormatOptions) -> anyhow::Result<Self> {
        let before = now();
        let (region, trace) = blank.recorded_with_device()?;
        let options = FormatOptions {
            owner: Owner::default(),
            uuid: Some(uuid::Uuid::from_u128(0xc4a5)),
            data: data_source(blank, &trace),
            ..options
        };
        let mut superblock = Filesystem::format_region(&region, &options)?;
        // Nothing is hashed yet. With a key of its own each pool would be laid out differently.
        superblock.hash_key = [7; 16];
        for block in udax_media::geometry::SUPERBLOCKS {
            region.store(block.offset().raw(), superblock.encode().as_slice())?;
        }
        Ok(Self {
            image: all_of(blank, &trace),
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
        let (region, trace) = self.image.recorded_with_device()?;
        let options = MountOptions {
            data: data_source(&self.image, &trace),
            ..MountOptions::default()
        };
        let filesystem = Filesystem::open_region(region, &options)?;
        let mut session = session(filesystem.clone(), &Share::default(), self.state.clone());
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
        let image = all_of(&self.image, &trace);
        let made = self.made;
        Ok(Self { image, state, made })
    }

    /// What is known of a directory that was made in it, where nothing is that is this share.
    pub fn nothing_of(&self, share: &Share) -> State {
        let scope = match share.names.is_empty() {
            true => Scope::Subtree,
            false => Scope::Names,
        };
        State {
            model: Model::new(0o755, Owner::default(), since(self.made)),
            comparer: Comparer::new(Times::Compared, scope),
        }
    }
}

/// What is there when all that has happened to `image` is.
fn all_of(image: &Image, trace: &Trace) -> Image {
    let mut medium = udax_crash::Medium::new(udax_crash::Domain::Flush, image.clone());
    for event in trace.take() {
        medium.happen(&event);
    }
    medium.image(&udax_crash::Cut::now(udax_crash::Pick::Most))
}

/// The data device of a pool with the bytes of `image`, if it has one: `trace` is both recorder and device.
pub fn data_source(image: &Image, trace: &Arc<Trace>) -> Option<DataSource> {
    (image.device_len() > 0).then(|| DataSource::Disk(Arc::new(Disk::new(trace.clone()))))
}

/// Operations and the model side by side, of a share of an open pool.
pub fn session(filesystem: Filesystem, share: &Share, state: State) -> Session<Pool> {
    let files = match filesystem.superblock().device {
        Some(_) => Files::Tiered,
        None => Files::Plain,
    };
    // The path is for remounts, of which there are none.
    let pool = Pool::within(
        "anonymous memory".as_ref(),
        filesystem,
        share.directory.as_bytes(),
    );
    Session {
        target: pool.naming(share.names.as_bytes()).keeping(files),
        model: state.model,
        comparer: state.comparer,
        is_small: true,
    }
}
