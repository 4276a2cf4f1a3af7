//! The modes of persistent memory.

use clap::ValueEnum;

/// How the machine's persistent memory is used.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// As a device, `/dev/dax0.0`.
    Devdax,
    /// Under ext4.
    FsdaxExt4,
    /// Under XFS.
    FsdaxXfs,
}

/// What a device is mapped by at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Alignment {
    /// 2 MiB, as is usual.
    Huge,
    /// 4 KiB: then the kernel says which page has lost its bytes.
    Page,
}

impl Alignment {
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::Huge => 2 * MIB,
            Self::Page => 4096,
        }
    }
}

const MIB: u64 = 1 << 20;

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::Devdax, Self::FsdaxExt4, Self::FsdaxXfs];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Devdax => "devdax",
            Self::FsdaxExt4 => "fsdax-ext4",
            Self::FsdaxXfs => "fsdax-xfs",
        }
    }

    /// What makes the filesystem; of a device, nothing.
    pub(crate) fn mkfs(self) -> &'static str {
        match self {
            Self::Devdax => "",
            // So that files get extents of whole 2 MiB, which are mapped by huge pages.
            Self::FsdaxExt4 => "mkfs.ext4 -q -F -b 4096 -E nodiscard,stride=512,stripe_width=512",
            Self::FsdaxXfs => "mkfs.xfs -q -f -K -m reflink=0 -d su=2m,sw=1,agcount=2 -l size=64m",
        }
    }

    /// Bytes of the memory: XFS is not made smaller than 300 MiB.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::Devdax => 256 * MIB,
            Self::FsdaxExt4 | Self::FsdaxXfs => 448 * MIB,
        }
    }

    /// Where the memory is, for programs inside; the tests of regions read these too.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Devdax => "PMEM_DEV=/dev/dax0.0",
            Self::FsdaxExt4 | Self::FsdaxXfs => "PMEM_DIR=/run/pmem",
        }
    }

    /// A pool inside.
    pub(crate) fn pool(self) -> &'static str {
        match self {
            Self::Devdax => "/dev/dax0.0",
            Self::FsdaxExt4 | Self::FsdaxXfs => "/run/pmem/pool",
        }
    }
}
