//! The records of one half of a lane, one after another.

use udax_media::record::{self, Operation, RecordHeader};
use udax_media::seal::{Seed, seal};
use udax_media::{ByteOffset, FormatError, Geometry, LINE_SIZE, Place, Sequence};
use udax_sync::fault::{Fault, is_injected};

/// A record found in a chain.
#[derive(Debug)]
pub(crate) struct Entry<'b> {
    /// Its header.
    pub(crate) header: RecordHeader,
    /// What it changes.
    pub(crate) operations: Vec<Operation<'b>>,
    /// Where it begins in the pool.
    pub(crate) at: ByteOffset,
}

/// What makes bytes a record of this lane in this mount.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChainOf<'g> {
    /// The pool's seed with the mount's nonce.
    pub(crate) seed: Seed,
    /// The lane.
    pub(crate) lane: u16,
    /// What operations must stay inside of.
    pub(crate) geometry: &'g Geometry,
}

/// Reads records with strictly growing sequence numbers until the first place that holds none.
#[derive(Debug)]
pub(crate) struct Chain<'b, 'g> {
    of: ChainOf<'g>,
    bytes: &'b [u8],
    base: ByteOffset,
    position: usize,
    last: Sequence,
}

impl<'b, 'g> Chain<'b, 'g> {
    /// The chain at the start of `bytes`, which were read at `base`.
    pub(crate) fn new(of: ChainOf<'g>, bytes: &'b [u8], base: ByteOffset) -> Self {
        Self {
            of,
            bytes,
            base,
            position: 0,
            last: Sequence(0),
        }
    }

    /// Bytes up to the end of the last record read, with its padding.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// Goes on with the first record after `after` beyond the place where the chain ended; gives that place.
    ///
    /// A record is stored only after the one before it in its lane is durable, and a half is overwritten only when a
    /// checkpoint has passed its records: so where one after the checkpoint follows, no crash has ended the chain.
    pub(crate) fn skip_damage(&mut self, after: Sequence) -> Option<ByteOffset> {
        let end = self.place();
        let after = after.max(self.last);
        let mut position = self.position + LINE_SIZE;
        // Where every line claims to begin a long record, the search ends: it takes time in proportion to the half.
        let mut budget = self.bytes.len().saturating_mul(4);
        while let Some(rest) = self.bytes.get(position..).filter(|rest| !rest.is_empty()) {
            let bytes = record::claimed_len(rest).and_then(|length| rest.get(..length));
            budget = budget.checked_sub(bytes.map_or(0, <[u8]>::len))?;
            let is_later = bytes.is_some_and(|bytes| {
                let decoded = record::decode(self.of.seed, bytes, end, self.of.lane, self.of.geometry);
                decoded.is_ok_and(|(header, _)| header.sequence > after)
            });
            if is_later {
                self.position = position;
                return Some(end);
            }
            position += LINE_SIZE;
        }
        None
    }

    fn place(&self) -> ByteOffset {
        let position = u64::try_from(self.position).unwrap_or(u64::MAX);
        ByteOffset(self.base.raw().saturating_add(position))
    }

    /// The next record; `None` where the chain ends.
    ///
    /// # Errors
    /// A record with a right checksum and an impossible field: corruption.
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'b>>, FormatError> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let Some(bytes) = record::claimed_len(rest).and_then(|length| rest.get(..length)) else {
            return Ok(None);
        };
        let at = self.place();
        let decoded = record::decode(self.of.seed, bytes, at, self.of.lane, self.of.geometry);
        let (header, operations) = match decoded {
            Err(FormatError::Checksum { .. }) if is_injected(Fault::UncheckedRecord) => {
                let mut bytes = bytes.to_vec();
                seal(self.of.seed, &mut bytes);
                record::decode(self.of.seed, bytes.leak(), at, self.of.lane, self.of.geometry)?
            }
            Err(FormatError::Checksum { .. } | FormatError::Magic { .. }) => return Ok(None),
            other => other?,
        };
        if header.sequence <= self.last {
            return Ok(None);
        }
        if header.sequence > crate::head::MAX_SEQUENCE {
            return Err(FormatError::Field {
                what: "journal record",
                place: Place::Byte(at),
                field: "sequence",
                value: header.sequence.raw(),
            });
        }
        self.last = header.sequence;
        self.position += record::padded_len(bytes.len());
        Ok(Some(Entry {
            header,
            operations,
            at,
        }))
    }
}
