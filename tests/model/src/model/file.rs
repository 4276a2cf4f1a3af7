//! Open files: open(2), read(2), write(2), ftruncate(2), fallocate(2), lseek(2), copy_file_range(2).

use nix::errno::Errno;
use udax::{AllocateMode, FileKind, NewInode, OpenFlags, WriteFlags};

use super::content::{BLOCK, MAX_SIZE};
use super::path::{Last, Place};
use super::{Body, Content, Expected, Fault, Handle, Id, Model, Prediction, ROOT, Stamp};
use crate::operation::{Data, FileOperation, can_be_atomic};

impl Model {
    pub(super) fn open(&mut self, slot: usize, path: &[u8], flags: OpenFlags, new: NewInode) -> Prediction {
        self.close(slot);
        let id = if flags.contains(OpenFlags::TEMPORARY) {
            self.open_temporary(path, flags, new)?
        } else {
            if flags.contains(OpenFlags::CREATE | OpenFlags::DIRECTORY) {
                return Err(Errno::EINVAL.into());
            }
            let id = self.open_existing_or_new(path, flags, new)?;
            self.admit_open(id, flags)?;
            id
        };
        let now = self.now;
        let inode = self.inode_mut(id);
        inode.open_count += 1;
        // The access time may be renewed when a file is opened for reading, in place of at each read.
        inode.atime = Stamp::Unknown;
        if flags.contains(OpenFlags::TRUNCATE)
            && let Body::File(content) = &mut inode.body
        {
            if content.size() > 0 {
                content.truncate(0);
                inode.modify(now);
            } else {
                // Space beyond the end of an empty file is given back too.
                inode.perhaps_modify(now);
            }
        }
        if let Some(place) = self.handles.get_mut(slot) {
            *place = Some(Handle {
                id,
                flags,
                stream: None,
            });
        }
        Ok(Expected::Done)
    }

    fn open_temporary(&mut self, path: &[u8], flags: OpenFlags, new: NewInode) -> Result<Id, Fault> {
        if flags.contains(OpenFlags::CREATE) || !flags.contains(OpenFlags::WRITE) {
            return Err(Errno::EINVAL.into());
        }
        let follow = follow_of(flags);
        let directory = self.lookup(path, follow)?;
        if !self.inode(directory).is_directory() {
            return Err(if self.is_kind(directory, FileKind::Symlink) {
                [Errno::ENOTDIR, Errno::ELOOP].into()
            } else {
                Errno::ENOTDIR.into()
            });
        }
        let mut inode = self.make(directory, Body::File(Content::default()), new);
        inode.nlink = 0;
        inode.is_linkable = !flags.contains(OpenFlags::EXCLUSIVE);
        Ok(self.insert_inode(inode))
    }

    fn open_existing_or_new(&mut self, path: &[u8], flags: OpenFlags, new: NewInode) -> Result<Id, Fault> {
        if !flags.contains(OpenFlags::CREATE) {
            return self.lookup(path, follow_of(flags));
        }
        let mut path = path.to_vec();
        let (mut start, mut links) = (ROOT, 0);
        loop {
            let place = self.place_from(start, &path, &mut links)?;
            let found = match &place.last {
                Last::Name(_) if place.has_slash => return Err([Errno::EISDIR, Errno::ENOTDIR].into()),
                _ => self.at(&place)?,
            };
            let Some(id) = found else {
                return Ok(self.create_file(&place, new));
            };
            if flags.contains(OpenFlags::EXCLUSIVE) {
                return Err(Errno::EEXIST.into());
            }
            if flags.contains(OpenFlags::NO_FOLLOW) {
                return self.refuse_directory(id);
            }
            match self.follow_once(id, &mut links)? {
                None => return self.refuse_directory(id),
                // A link to nothing: the file is made where the link leads.
                Some(target) => (start, path) = (place.directory, target),
            }
        }
    }

    fn create_file(&mut self, place: &Place, new: NewInode) -> Id {
        match &place.last {
            Last::Name(name) => self.create(place.directory, name, Body::File(Content::default()), new),
            _ => place.directory,
        }
    }

    fn refuse_directory(&self, id: Id) -> Result<Id, Fault> {
        if self.inode(id).is_directory() {
            Err(Errno::EISDIR.into())
        } else {
            Ok(id)
        }
    }

    fn admit_open(&self, id: Id, flags: OpenFlags) -> Result<(), Fault> {
        let kind = self.inode(id).body.kind();
        if flags.contains(OpenFlags::DIRECTORY) && kind != FileKind::Directory {
            return Err(if kind == FileKind::Symlink {
                [Errno::ENOTDIR, Errno::ELOOP].into()
            } else {
                Errno::ENOTDIR.into()
            });
        }
        match kind {
            FileKind::Regular => Ok(()),
            FileKind::Directory if flags.intersects(OpenFlags::WRITE | OpenFlags::TRUNCATE) => {
                Err(Errno::EISDIR.into())
            }
            FileKind::Directory => Ok(()),
            FileKind::Symlink => Err(Errno::ELOOP.into()),
            // A library gives no pipes, sockets or devices; how it says so is its own choice.
            _ => Err(Fault(Vec::new())),
        }
    }

    pub(super) fn file_operation(&mut self, slot: usize, what: &FileOperation) -> Prediction {
        let (id, flags) = {
            let handle = self.open_handle(slot)?;
            (handle.id, handle.flags)
        };
        match what {
            FileOperation::Read { offset, len } => self.read(id, flags, *offset, *len),
            FileOperation::ReadVectored { offset, lens } => self.read(id, flags, *offset, lens.iter().sum()),
            FileOperation::Write { offset, data }
            | FileOperation::StorePinned { offset, data }
            | FileOperation::OverwritePinned { offset, data } => {
                self.write(id, flags, *offset, &data.bytes())
            }
            FileOperation::WriteWith {
                offset,
                data,
                flags: asked,
            } => self.write_with((id, flags), *offset, *data, *asked),
            FileOperation::SyncPinned { offset, data } => self.sync_pinned(id, flags, *offset, *data),
            FileOperation::WriteVectored { offset, parts } => {
                let bytes: Vec<u8> = parts.iter().flat_map(|part| part.bytes()).collect();
                self.write(id, flags, *offset, &bytes)
            }
            FileOperation::Append { data } => self.append(id, flags, &data.bytes()),
            FileOperation::Truncate { size } => {
                if !flags.contains(OpenFlags::WRITE) {
                    return Err([Errno::EINVAL, Errno::EBADF].into());
                }
                self.truncate(id, *size)
            }
            FileOperation::Allocate { mode, offset, len } => self.allocate((id, flags), *mode, *offset, *len),
            FileOperation::SeekData { offset } => self.seek(id, Expected::SeekData(id, *offset)),
            FileOperation::SeekHole { offset } => self.seek(id, Expected::SeekHole(id, *offset)),
            FileOperation::Stat => Ok(Expected::Inode(id)),
            FileOperation::SetAttributes(set) => self.set_attributes(id, *set),
            FileOperation::ReadDirectory { .. } => self.list(id),
            FileOperation::StreamDirectory { .. } => {
                self.list(id)?;
                self.start_stream(slot, id);
                Ok(Expected::Stream(slot))
            }
            FileOperation::Xattr { name } => self.xattr(id, &name.0),
            FileOperation::Sync => Ok(Expected::Done),
            FileOperation::SetDax { .. } | FileOperation::RenewChecksums => self.set_flag(id, flags),
            FileOperation::Link { path } => self.link(id, &path.0),
        }
    }

    fn set_flag(&mut self, id: Id, flags: OpenFlags) -> Prediction {
        let is_file = matches!(self.inode(id).body, Body::File(_));
        if is_file && !flags.contains(OpenFlags::WRITE) {
            return Err(Errno::EBADF.into());
        }
        if !is_file && !self.inode(id).is_directory() {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let now = self.now;
        self.inode_mut(id).perhaps_change(now);
        Ok(Expected::Done)
    }

    fn content(&self, id: Id) -> Result<&Content, Fault> {
        match &self.inode(id).body {
            Body::File(content) => Ok(content),
            Body::Directory { .. } => Err(Errno::EISDIR.into()),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    fn seek(&self, id: Id, expected: Expected) -> Prediction {
        match self.inode(id).body {
            Body::File(_) => Ok(expected),
            // Linux file systems differ in what a directory's offsets are.
            _ => Err(Fault(Vec::new())),
        }
    }

    fn read(&mut self, id: Id, flags: OpenFlags, offset: u64, len: usize) -> Prediction {
        if !flags.contains(OpenFlags::READ) {
            return Err(Errno::EBADF.into());
        }
        let bytes = self.content(id)?.read(offset, len);
        self.inode_mut(id).atime = Stamp::Unknown;
        Ok(Expected::Bytes(bytes))
    }

    fn write(&mut self, id: Id, flags: OpenFlags, offset: u64, bytes: &[u8]) -> Prediction {
        if !flags.contains(OpenFlags::WRITE) {
            return Err(Errno::EBADF.into());
        }
        let size = self.content(id)?.size();
        let at = if flags.contains(OpenFlags::APPEND) {
            size
        } else {
            offset
        };
        Ok(Expected::Count(self.store(id, at, bytes)?))
    }

    fn write_with(
        &mut self,
        (id, mut flags): (Id, OpenFlags),
        offset: u64,
        data: Data,
        asked: WriteFlags,
    ) -> Prediction {
        flags.set(
            OpenFlags::APPEND,
            flags.contains(OpenFlags::APPEND) || asked.contains(WriteFlags::APPEND),
        );
        if !asked.contains(WriteFlags::ATOMIC) || !flags.contains(OpenFlags::WRITE) {
            return self.write(id, flags, offset, &data.bytes());
        }
        let start = match flags.contains(OpenFlags::APPEND) {
            true => self.content(id)?.size(),
            false => offset,
        };
        let end = start.checked_add(u64::try_from(data.len).unwrap_or(u64::MAX));
        let is_too_far = end.is_none_or(|end| end > MAX_SIZE);
        match (can_be_atomic(start, data.len), is_too_far) {
            (_, true) => return Err([Errno::EFBIG, Errno::EINVAL].into()),
            (false, false) => return Err(Errno::EINVAL.into()),
            (true, false) => {}
        }
        let written = self.write(id, flags, offset, &data.bytes())?;
        // One record has its times, too.
        let now = self.now;
        self.inode_mut(id).modify(now);
        Ok(written)
    }

    /// As a write, but that stores through a pin stamp nothing, and what is written instead of them does.
    fn sync_pinned(&mut self, id: Id, flags: OpenFlags, offset: u64, data: Data) -> Prediction {
        let stamps = self.inodes.get(&id).map(|inode| (inode.mtime, inode.ctime));
        let written = self.write(id, flags, offset, &data.bytes())?;
        let now = self.now;
        let inode = self.inode_mut(id);
        if let Some((mtime, ctime)) = stamps {
            (inode.mtime, inode.ctime) = (mtime, ctime);
            inode.perhaps_modify(now);
        }
        Ok(written)
    }

    fn append(&mut self, id: Id, flags: OpenFlags, bytes: &[u8]) -> Prediction {
        if !flags.contains(OpenFlags::WRITE) {
            return Err(Errno::EBADF.into());
        }
        let at = self.content(id)?.size();
        self.store(id, at, bytes)?;
        Ok(Expected::Count(at))
    }

    /// Stores what fits below the largest size; how much that is.
    fn store(&mut self, id: Id, at: u64, bytes: &[u8]) -> Result<u64, Fault> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if at >= MAX_SIZE {
            return Err([Errno::EFBIG, Errno::EINVAL].into());
        }
        let room = usize::try_from(MAX_SIZE - at).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        let now = self.now;
        let inode = self.inode_mut(id);
        inode.are_set_id_bits_uncertain |= inode.permissions & 0o6000 != 0;
        inode.overwrite(now);
        if let Body::File(content) = &mut inode.body {
            content.write(at, bytes);
        }
        Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
    }

    pub(super) fn truncate(&mut self, id: Id, size: u64) -> Prediction {
        if size > MAX_SIZE {
            return Err([Errno::EINVAL, Errno::EFBIG].into());
        }
        let now = self.now;
        let inode = self.inode_mut(id);
        let Body::File(content) = &mut inode.body else {
            return Err(Errno::EINVAL.into());
        };
        let before = content.size();
        content.truncate(size);
        inode.are_set_id_bits_uncertain |= inode.permissions & 0o6000 != 0;
        if before == size {
            inode.perhaps_modify(now);
        } else {
            inode.modify(now);
        }
        Ok(Expected::Done)
    }

    fn allocate(
        &mut self,
        (id, flags): (Id, OpenFlags),
        mode: AllocateMode,
        offset: u64,
        len: u64,
    ) -> Prediction {
        let mut errnos = Vec::new();
        if len == 0 || offset > MAX_SIZE || len > MAX_SIZE {
            errnos.push(Errno::EINVAL);
        }
        if !flags.contains(OpenFlags::WRITE) {
            errnos.push(Errno::EBADF);
        }
        if offset.checked_add(len).is_none_or(|end| end > MAX_SIZE) {
            errnos.push(Errno::EFBIG);
        }
        let shifts = matches!(mode, AllocateMode::Collapse | AllocateMode::Insert);
        if shifts && !(offset.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK)) {
            errnos.push(Errno::EINVAL);
        }
        if self.inode(id).is_directory() {
            errnos.extend([Errno::EISDIR, Errno::ENODEV]);
        }
        if !errnos.is_empty() {
            return Err(Fault(errnos));
        }
        let end = offset + len;
        let now = self.now;
        let inode = self.inode_mut(id);
        let Body::File(content) = &mut inode.body else {
            return Err([Errno::EISDIR, Errno::EBADF].into());
        };
        match mode {
            AllocateMode::Allocate => content.extend(end),
            AllocateMode::KeepSize | AllocateMode::Unshare => {}
            AllocateMode::PunchHole | AllocateMode::ZeroRangeKeepSize => content.punch(offset, len),
            AllocateMode::ZeroRange => {
                content.punch(offset, len);
                content.extend(end);
            }
            AllocateMode::Collapse => {
                if end >= content.size() {
                    return Err(Errno::EINVAL.into());
                }
                content.collapse(offset, len);
            }
            AllocateMode::Insert => {
                // Linux checks the limit first; fallocate(2) gives no order.
                let is_too_large = content.size() > MAX_SIZE - len;
                match (offset >= content.size(), is_too_large) {
                    (true, true) => return Err([Errno::EFBIG, Errno::EINVAL].into()),
                    (true, false) => return Err(Errno::EINVAL.into()),
                    (false, true) => return Err(Errno::EFBIG.into()),
                    (false, false) => content.insert(offset, len),
                }
            }
        }
        inode.are_set_id_bits_uncertain |= inode.permissions & 0o6000 != 0;
        inode.perhaps_modify(now);
        Ok(Expected::Done)
    }

    /// Two open files, if one can be copied to the other.
    fn copied(&self, from_slot: usize, to_slot: usize) -> Result<(Id, Id), Fault> {
        let (from, from_flags) = self
            .open_handle(from_slot)
            .map(|handle| (handle.id, handle.flags))?;
        let (to, to_flags) = self
            .open_handle(to_slot)
            .map(|handle| (handle.id, handle.flags))?;
        let is_readable = from_flags.contains(OpenFlags::READ);
        let is_writable = to_flags.contains(OpenFlags::WRITE) && !to_flags.contains(OpenFlags::APPEND);
        let faults = [self.content(from).err(), self.content(to).err()];
        let bad = (!is_readable || !is_writable).then(|| Fault::from(Errno::EBADF));
        let faults: Fault = faults.into_iter().flatten().chain(bad).collect();
        if faults.0.is_empty() {
            Ok((from, to))
        } else {
            Err(faults)
        }
    }

    pub(super) fn share(
        &mut self,
        (from_slot, offset): (usize, u64),
        (to_slot, to_offset): (usize, u64),
        len: u64,
        is_dedupe: bool,
    ) -> Prediction {
        let (from, to) = self.copied(from_slot, to_slot)?;
        let source = self.content(from)?.clone();
        let target = self.content(to)?;
        let mut errnos = Vec::new();
        let end = offset.saturating_add(len);
        let to_end = to_offset.saturating_add(len);
        let ends_both = end == source.size() && to_end >= target.size();
        let is_whole = |at: u64| at.is_multiple_of(BLOCK);
        if !is_whole(offset) || !is_whole(to_offset) || (!is_whole(len) && !ends_both) || end > source.size()
        {
            errnos.push(Errno::EINVAL);
        }
        if to_end > MAX_SIZE {
            errnos.push(Errno::EFBIG);
        }
        let blocks = |at: u64, end: u64| (at / BLOCK, end.div_ceil(BLOCK));
        let ((first, last), (to_first, to_last)) = (blocks(offset, end), blocks(to_offset, to_end));
        if from == to && first < to_last && to_first < last {
            errnos.push(Errno::EINVAL);
        }
        if is_dedupe && to_end > target.size() {
            errnos.push(Errno::EINVAL);
        }
        if !errnos.is_empty() {
            return Err(Fault(errnos));
        }
        let is_same = is_dedupe && {
            let count = usize::try_from(len).unwrap_or(usize::MAX);
            source.read(offset, count) == target.read(to_offset, count)
        };
        if is_dedupe && !is_same {
            return Ok(Expected::Count(0));
        }
        let now = self.now;
        self.inode_mut(from).atime = Stamp::Unknown;
        let inode = self.inode_mut(to);
        if let Body::File(content) = &mut inode.body {
            // Whole blocks are replaced, the last one too: by a hole if the source has one there.
            content.punch(to_offset, len.next_multiple_of(BLOCK));
            content.copy_from(&source, offset, to_offset, len);
        }
        if is_dedupe {
            inode.atime = Stamp::Unknown;
            return Ok(Expected::Count(1));
        }
        inode.are_set_id_bits_uncertain |= inode.permissions & 0o6000 != 0;
        inode.overwrite(now);
        Ok(Expected::Done)
    }

    pub(super) fn exchange(
        &mut self,
        (from_slot, offset): (usize, u64),
        (to_slot, to_offset): (usize, u64),
        len: u64,
    ) -> Prediction {
        let (from, to) = match (self.copied(from_slot, to_slot), self.copied(to_slot, from_slot)) {
            (Ok(ids), Ok(_)) => ids,
            (Err(fault), Err(other)) => return Err([fault, other].into_iter().collect()),
            (Err(fault), _) | (_, Err(fault)) => return Err(fault),
        };
        let (mut one, mut other) = (self.content(from)?.clone(), self.content(to)?.clone());
        let (end, to_end) = (offset.saturating_add(len), to_offset.saturating_add(len));
        let is_whole = |at: u64| at.is_multiple_of(BLOCK);
        let ends_both = end == one.size() && to_end == other.size();
        let is_inside = if len == 0 {
            offset <= one.size() && to_offset <= other.size()
        } else {
            end <= one.size() && to_end <= other.size()
        };
        let is_aligned = is_whole(offset) && is_whole(to_offset) && (is_whole(len) || ends_both);
        let blocks = |at: u64, end: u64| {
            let last = if len == 0 { u64::MAX } else { end.div_ceil(BLOCK) };
            (at / BLOCK, last)
        };
        let (ours, theirs) = (blocks(offset, end), blocks(to_offset, to_end));
        let is_overlap = from == to && ours.0 < theirs.1 && theirs.0 < ours.1;
        if !is_inside || !is_aligned || is_overlap {
            return Err(Errno::EINVAL.into());
        }
        let rests = (
            one.size().saturating_sub(offset),
            other.size().saturating_sub(to_offset),
        );
        if len == 0 && (offset + rests.1 > MAX_SIZE || to_offset + rests.0 > MAX_SIZE) {
            return Err(Errno::EFBIG.into());
        }
        let now = self.now;
        if from == to {
            one.exchange_within(ours, theirs);
        } else {
            one.exchange(ours, &mut other, theirs);
        }
        let mut changed = vec![(from, one)];
        if from != to {
            changed.push((to, other));
        }
        for (id, content) in changed {
            let inode = self.inode_mut(id);
            inode.body = Body::File(content);
            inode.are_set_id_bits_uncertain |= inode.permissions & 0o6000 != 0;
            inode.perhaps_modify(now);
        }
        Ok(Expected::Done)
    }

    pub(super) fn copy_range(
        &mut self,
        (from_slot, offset): (usize, u64),
        (to_slot, to_offset): (usize, u64),
        len: u64,
    ) -> Prediction {
        let (from, to) = self.copied(from_slot, to_slot)?;
        let source = self.content(from)?.clone();
        let overflows = |at: u64| at.checked_add(len).is_none_or(|end| end > MAX_SIZE);
        if offset > MAX_SIZE || to_offset > MAX_SIZE || overflows(offset) || overflows(to_offset) {
            return Err([Errno::EOVERFLOW, Errno::EFBIG, Errno::EINVAL].into());
        }
        let count = len.min(source.size().saturating_sub(offset));
        if from == to && count > 0 && offset < to_offset + count && to_offset < offset + count {
            return Err(Errno::EINVAL.into());
        }
        if count == 0 {
            return Ok(Expected::Count(0));
        }
        let now = self.now;
        self.inode_mut(from).atime = Stamp::Unknown;
        let inode = self.inode_mut(to);
        if let Body::File(content) = &mut inode.body {
            content.copy_from(&source, offset, to_offset, count);
        }
        inode.are_set_id_bits_uncertain |= inode.permissions & 0o6000 != 0;
        inode.overwrite(now);
        Ok(Expected::Count(count))
    }
}

fn follow_of(flags: OpenFlags) -> super::path::Follow {
    if flags.contains(OpenFlags::NO_FOLLOW) {
        super::path::Follow::No
    } else {
        super::path::Follow::Yes
    }
}
