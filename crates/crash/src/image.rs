//! A sparse copy of a region's bytes, and of its data device's.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip128::{Hasher128, SipHasher13};
use udax_pmem::{LINE, Recorder, Region, RegionError, RegionOptions, TraceRecorder};

use crate::Trace;

/// Bytes that are kept, or not, together.
pub const PAGE: u64 = 4096;

/// Where the data device begins among the bytes of an image, as in a pool's space of blocks.
pub const DEVICE: u64 = 1 << 52;

const PAGE_BYTES: usize = 4096;
const LINE_BYTES: usize = 64;

/// The bytes of a region of which most are zero, and from [`DEVICE`] on those of a data device, if there is one. Clones
/// share what they do not change.
///
/// # Invariants
/// `fingerprint` is the exclusive or of the hashes of all lines that are not zero.
#[derive(Clone, Debug)]
pub struct Image {
    len: u64,
    device_len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE_BYTES]>>,
    fingerprint: u128,
}

impl Image {
    /// `len` zero bytes.
    pub fn zeros(len: u64) -> Self {
        Self {
            len,
            device_len: 0,
            pages: BTreeMap::new(),
            fingerprint: 0,
        }
    }

    /// The same, with a data device of `len` bytes, which are zeros.
    #[must_use]
    pub fn with_device(self, len: u64) -> Self {
        let device_len = len;
        Self { device_len, ..self }
    }

    /// Bytes of the data device; 0 if there is none.
    pub fn device_len(&self) -> u64 {
        self.device_len
    }

    /// A copy of `region`.
    ///
    /// # Errors
    /// [`RegionError::Media`]: it cannot be read.
    pub fn of(region: &Region) -> Result<Self, RegionError> {
        let mut image = Self::zeros(region.len());
        let mut bytes = [0; PAGE_BYTES];
        let mut at = 0;
        while at < region.len() {
            let len = PAGE.min(region.len() - at);
            let part = &mut bytes[..usize::try_from(len).unwrap_or(PAGE_BYTES)];
            region.read(at, part)?;
            image.write(at, part);
            at += PAGE;
        }
        Ok(image)
    }

    /// Bytes of the region.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The image is at least `len` bytes long, as a file or device that was grown.
    pub fn grow(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What tells images apart: two images of the same length with the same fingerprint have the same bytes, but for
    /// one chance in 2^64 among 2^32 of them.
    pub fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// Copies bytes out; what is behind the end is zeros.
    pub fn read(&self, mut at: u64, mut to: &mut [u8]) {
        while !to.is_empty() {
            let from = usize::try_from(at % PAGE).unwrap_or(0);
            let count = to.len().min(PAGE_BYTES - from);
            let (now, rest) = to.split_at_mut(count);
            match self.pages.get(&(at / PAGE)) {
                Some(page) => now.copy_from_slice(&page[from..from + count]),
                None => now.fill(0),
            }
            at += u64::try_from(count).unwrap_or(0);
            to = rest;
        }
    }

    /// Stores bytes; the image becomes longer when they reach beyond its end, but for those of the device.
    pub fn write(&mut self, mut at: u64, mut bytes: &[u8]) {
        let is_memory = at < DEVICE;
        while !bytes.is_empty() {
            let from = usize::try_from(at % LINE).unwrap_or(0);
            let count = bytes.len().min(LINE_BYTES - from);
            let (now, rest) = bytes.split_at(count);
            self.write_in_line(at, now);
            at += u64::try_from(count).unwrap_or(0);
            bytes = rest;
        }
        if is_memory {
            self.len = self.len.max(at);
        }
    }

    fn write_in_line(&mut self, at: u64, bytes: &[u8]) {
        let number = at / PAGE;
        if !self.pages.contains_key(&number) && bytes.iter().all(|byte| *byte == 0) {
            return;
        }
        let page = self
            .pages
            .entry(number)
            .or_insert_with(|| Arc::new([0; PAGE_BYTES]));
        let from = usize::try_from(at % PAGE).unwrap_or(0);
        let to = from + bytes.len();
        if page[from..to] == *bytes {
            return;
        }
        let line = from / LINE_BYTES * LINE_BYTES..(from / LINE_BYTES + 1) * LINE_BYTES;
        let page = Arc::make_mut(page);
        self.fingerprint ^= hash(at / LINE, &page[line.clone()]);
        page[from..to].copy_from_slice(bytes);
        self.fingerprint ^= hash(at / LINE, &page[line]);
    }

    /// Anonymous memory with these bytes.
    ///
    /// # Errors
    /// [`RegionError::Io`]: no memory.
    pub fn region(&self) -> Result<Region, RegionError> {
        self.region_with(None)
    }

    /// As [`Image::region`], and what will be stored in it.
    ///
    /// # Errors
    /// As [`Image::region`].
    pub fn recorded(&self) -> Result<(Region, Arc<TraceRecorder>), RegionError> {
        let trace = Arc::new(TraceRecorder::new());
        let recorder: Arc<dyn Recorder> = trace.clone();
        let region = self.region_with(Some(recorder))?;
        // The image itself is where the trace begins.
        drop(trace.take());
        Ok((region, trace))
    }

    /// As [`Image::recorded`], with the data device: the trace is what has happened to both, and the device.
    ///
    /// # Errors
    /// As [`Image::region`].
    pub fn recorded_with_device(&self) -> Result<(Region, Arc<Trace>), RegionError> {
        let trace = Arc::new(Trace::new(self.clone()));
        let recorder: Arc<dyn Recorder> = trace.clone();
        let region = self.region_with(Some(recorder))?;
        // The image itself is where the trace begins.
        drop(trace.take());
        Ok((region, trace))
    }

    /// As [`Image::region`]; a recorder sees the image being stored, too.
    ///
    /// # Errors
    /// As [`Image::region`].
    pub fn region_with(&self, recorder: Option<Arc<dyn Recorder>>) -> Result<Region, RegionError> {
        let options = RegionOptions {
            // Nothing survives a power failure here anyway.
            emulate_flush: false,
            recorder,
            ..RegionOptions::default()
        };
        let region = Region::anonymous_with(self.len, options)?;
        for (number, page) in self.pages.range(..DEVICE / PAGE) {
            let at = number * PAGE;
            let len = usize::try_from(self.len - at).map_or(PAGE_BYTES, |rest| rest.min(PAGE_BYTES));
            region.store(at, &page[..len])?;
        }
        Ok(region)
    }
}

/// By lengths and fingerprint.
impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        (self.len, self.device_len, self.fingerprint) == (other.len, other.device_len, other.fingerprint)
    }
}

impl Eq for Image {}

/// 0 for a line of zeros, so that images need not be hashed where they are empty.
fn hash(line: u64, bytes: &[u8]) -> u128 {
    if bytes.iter().all(|byte| *byte == 0) {
        return 0;
    }
    let mut hasher = SipHasher13::new();
    hasher.write_u64(line);
    hasher.write(bytes);
    hasher.finish128().as_u128()
}
