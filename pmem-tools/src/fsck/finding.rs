//! What is told of something that is not as it should be.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use udax_check::{Problem, Report};
use udax_media::InodeNo;

use crate::name::JsonName;

/// Something that is not as it should be, in a pool or on its data device.
#[derive(Serialize, Default)]
pub(super) struct Finding {
    place: String,
    inode: Option<u64>,
    path: Option<JsonName>,
    what: String,
    pub(super) has_remedy: bool,
    pub(super) repair: Option<String>,
    lost: Option<String>,
}

impl Finding {
    pub(super) fn of_pool(problem: &Problem) -> Self {
        Self {
            place: problem.place.to_string(),
            inode: problem.inode.map(InodeNo::raw),
            path: problem.path.as_deref().map(JsonName::new),
            what: problem.what.clone(),
            has_remedy: problem.has_remedy,
            repair: problem.repair.clone(),
            lost: problem.lost.clone(),
        }
    }

    /// One that no repair mends.
    pub(super) fn of_device(place: String, what: String) -> Self {
        Self {
            place,
            what,
            ..Self::default()
        }
    }

    /// The same, mended if `repair` says how.
    pub(super) fn mended(self, repair: Option<String>) -> Self {
        Self {
            has_remedy: true,
            repair,
            ..self
        }
    }

    /// Whether it is in the data of a file, which no repair mends.
    pub(super) fn is_of_data(&self) -> bool {
        !self.has_remedy && self.inode.is_some()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        if let Some(repair) = &self.repair {
            write!(f, "; mended: {repair}")?;
        }
        match &self.lost {
            Some(lost) => write!(f, "; lost: {lost}"),
            None => Ok(()),
        }
    }
}

/// The damaged inodes, and where they are: an inode that lost its name in one step of a repair had it before.
pub(super) fn paths(report: &Report) -> BTreeMap<InodeNo, Option<&[u8]>> {
    let mut paths = BTreeMap::new();
    for problem in &report.problems {
        if let Some(ino) = problem.inode {
            let path: &mut Option<&[u8]> = paths.entry(ino).or_default();
            *path = path.or(problem.path.as_deref());
        }
    }
    paths
}
