//! stat, and the changing of permissions, owners and times.

use nix::time::{ClockId, clock_gettime};
use udax_media::inode::{FileKind, InodeFlags, PERMISSION_MASK, offset};
use udax_media::{BLOCK_BYTES, Timestamp};

use crate::error::{Error, Result};
use crate::inode::fields::{Line, high, low, pair};
use crate::inode::{Inode, InodeState};
use crate::options::{Checksums, Dax, SetAttributes, SetTime, Stat};
use crate::pool::Pool;
use crate::update::Update;

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// The present, as precise as the kernel's own file times.
pub(crate) fn now() -> Timestamp {
    // The coarse clock costs a tenth of the precise one and is what the kernel stamps files with.
    clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map_or_else(
        |_| Timestamp::default(),
        |time| Timestamp {
            seconds: time.tv_sec(),
            nanoseconds: u32::try_from(time.tv_nsec()).unwrap_or(0),
        },
    )
}

impl Pool {
    /// What `stat` tells of an inode whose lock the caller has.
    pub(crate) fn stat_inode(&self, inode: &Inode, state: &InodeState) -> Result<Stat> {
        // Line 0, from the generation on.
        let mut words = [0; 6];
        self.region
            .read_words(inode.field(offset::MODE).raw(), &mut words[..5])?;
        let line = Line::read(self, inode)?;
        let lazy = &state.lazy;
        let unmapped = inode.unmapped_blocks() + state.lent.unwrap_or(0);
        let size = match inode.kind {
            FileKind::Directory => line.blocks().saturating_mul(BLOCK_BYTES),
            _ => state.size(line.size()),
        };
        let flags = InodeFlags::from_bits_retain(high(words[0]));
        Ok(Stat {
            ino: inode.ino,
            generation: inode.generation,
            kind: inode.kind,
            permissions: low(words[0]) & PERMISSION_MASK,
            nlink: line.nlink(),
            uid: low(words[1]),
            gid: high(words[1]),
            rdev: words[2],
            size,
            blocks: line.blocks().saturating_add(unmapped),
            atime: lazy.accessed().unwrap_or(line.atime()),
            mtime: lazy.modified.unwrap_or(line.mtime()),
            ctime: line.ctime().max(lazy.modified.unwrap_or(line.ctime())),
            btime: Timestamp {
                seconds: words[3].cast_signed(),
                nanoseconds: low(words[4]),
            },
            change: line.change().wrapping_add(lazy.changes),
            checksums: match flags.contains(InodeFlags::SUMMED) {
                true => Checksums::On,
                false => Checksums::Off,
            },
            dax: match flags.contains(InodeFlags::DAX) {
                true => Dax::On,
                false => Dax::Off,
            },
        })
    }

    /// Changes attributes; gives the new ones.
    pub(crate) fn set_attributes(&self, inode: &Inode, set: SetAttributes) -> Result<Stat> {
        self.check_writable()?;
        for time in [set.atime, set.mtime] {
            if let Some(SetTime::To(time)) = time
                && time.nanoseconds >= 1_000_000_000
            {
                return Err(Error::Invalid("nanoseconds of a time must be below 1000000000"));
            }
        }
        if set.permissions.is_some() && inode.kind == FileKind::Symlink {
            return Err(Error::NotSupported("a symbolic link has no permissions"));
        }
        let mut state = inode.write()?;
        self.set_attributes_locked(inode, &mut state, set)
    }

    /// Takes from a regular file what lends the rights of its owner to who runs it; whether it lent any. Its content
    /// changes, by somebody who may not do that.
    pub(crate) fn clear_set_id(&self, inode: &Inode) -> Result<bool> {
        self.check_writable()?;
        let lent = |mode: u32| {
            let permissions = mode & PERMISSION_MASK;
            let kept = without_set_id(permissions);
            (inode.kind == FileKind::Regular && kept != permissions).then_some(kept)
        };
        {
            // Hardly a file lends any: looking lets others read beside it.
            let _state = inode.read()?;
            if lent(self.inode_mode_and_flags(inode)?.0).is_none() {
                return Ok(false);
            }
        }
        let mut state = inode.write()?;
        let Some(kept) = lent(self.inode_mode_and_flags(inode)?.0) else {
            return Ok(false);
        };
        let set = SetAttributes {
            permissions: Some(kept),
            ..SetAttributes::default()
        };
        self.set_attributes_locked(inode, &mut state, set)?;
        Ok(true)
    }

    fn set_attributes_locked(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        set: SetAttributes,
    ) -> Result<Stat> {
        let mut update = Update::freeing(self);
        let mut line = Line::read(self, inode)?;
        state.settle_times(&mut line);
        let now = now();
        let at = |time| match time {
            SetTime::Now => now,
            SetTime::To(time) => time,
        };
        if let Some(time) = set.atime {
            line.set_atime(at(time));
        }
        if let Some(time) = set.mtime {
            line.set_mtime(at(time));
        }
        self.set_mode_and_owner(&mut update, inode, set)?;
        line.touch_changed(now);
        line.store(&mut update, inode);
        update.commit()?;
        state.lazy = Default::default();
        if set.mtime.is_some() {
            // What was stored before does not count against a time that is set (`utimensat`, then `fsync`).
            inode.take_stored();
        }
        self.stat_inode(inode, state)
    }

    fn set_mode_and_owner(&self, update: &mut Update<'_>, inode: &Inode, set: SetAttributes) -> Result<()> {
        let (mode, flags) = self.inode_mode_and_flags(inode)?;
        let (uid, gid) = self.inode_owner(inode)?;
        let mut permissions = mode & PERMISSION_MASK;
        if let Some(new) = set.permissions {
            if new & !PERMISSION_MASK != 0 {
                return Err(Error::Invalid("permission bits beyond 07777"));
            }
            permissions = new;
        } else if (set.uid.is_some() || set.gid.is_some()) && inode.kind != FileKind::Directory {
            // chown(2): a change of owner drops what would lend the new owner's rights.
            permissions = without_set_id(permissions);
        }
        if permissions != mode & PERMISSION_MASK {
            let mode = inode.kind.with_permissions(permissions);
            update.write_u64(inode.field(offset::MODE), pair(mode, flags));
        }
        let owner = (set.uid.unwrap_or(uid), set.gid.unwrap_or(gid));
        if owner != (uid, gid) {
            update.write_u64(inode.field(offset::OWNER), pair(owner.0, owner.1));
        }
        Ok(())
    }

    /// Stores an inode's flags, if they are others than before.
    pub(crate) fn store_flags(&self, inode: &Inode, state: &mut InodeState, flags: InodeFlags) -> Result<()> {
        let (mode, before) = self.inode_mode_and_flags(inode)?;
        if flags.bits() == before {
            return Ok(());
        }
        let mut update = Update::freeing(self);
        update.write_u64(inode.field(offset::MODE), pair(mode, flags.bits()));
        let mut line = Line::read(self, inode)?;
        state.settle_times(&mut line);
        line.touch_changed(now());
        line.store(&mut update, inode);
        update.commit()?;
        state.lazy = Default::default();
        Ok(())
    }

    /// Writes lazy times, if there are any. When stores through pins came is not known: they count as a modification
    /// now (POSIX `mmap`: at some time between the store and the next sync). The caller has the inode's lock.
    pub(crate) fn flush_times(&self, inode: &Inode, state: &mut InodeState) -> Result<()> {
        if inode.take_stored() {
            state.lazy.modified = Some(now());
        }
        if state.lazy.is_empty() {
            return Ok(());
        }
        let mut update = Update::freeing(self);
        let mut line = Line::read(self, inode)?;
        state.settle_times(&mut line);
        line.store(&mut update, inode);
        update.commit()?;
        state.lazy = Default::default();
        Ok(())
    }
}

impl InodeState {
    /// Puts lazy times into `line`. They stay lazy until the line's update has committed. The status may have changed
    /// since (a link, a rename): its time does not go back.
    pub(crate) fn settle_times(&self, line: &mut Line) {
        if let Some(time) = self.lazy.modified {
            let changed = line.ctime();
            line.touch_modified(time);
            // One of them is counted.
            line.count_changes(self.lazy.changes.saturating_sub(1));
            line.set_ctime(changed.max(time));
        }
        if let Some(time) = self.lazy.accessed() {
            line.set_atime(time);
        }
    }
}

/// The permissions without set-user-id, and without set-group-id where that means the right of a group.
const fn without_set_id(permissions: u32) -> u32 {
    let mut kept = permissions & !SET_USER_ID;
    if permissions & GROUP_EXECUTE != 0 {
        kept &= !SET_GROUP_ID;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_bit_of_mandatory_locking_stays() {
        assert_eq!(without_set_id(0o6755), 0o0755);
        assert_eq!(without_set_id(0o6745), 0o2745);
        assert_eq!(without_set_id(0o1777), 0o1777);
    }
}
