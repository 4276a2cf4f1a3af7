//! Users and groups of the pool, and those that the mount shows.
//!
//! Without ranges they are the same. With ranges only what lies in one can be shown and given: another owner in the
//! pool is nobody on the mount, and nobody can give a file to one who has no number in the pool (`EOVERFLOW`, as the
//! kernel's idmapped mounts do).

/// What the kernel is told of an owner who has no number on the mount: no id (`INVALID_UID`). It shows that as the
/// `overflowuid`, takes no user for it, and lets nobody write there.
pub(crate) const NO_OWNER: u32 = u32::MAX;
/// The same in an access list, where the kernel refuses what is no id: the last one, which nobody has. A list with it
/// cannot be set.
pub(crate) const NOBODY: u32 = u32::MAX - 1;
/// Ranges of one map (the kernel's own limit for a user namespace).
const MAX_RANGES: usize = 340;

/// Consecutive numbers: those of the pool from `pool` on are those of the mount from `mount` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdRange {
    /// The first number in the pool.
    pub pool: u32,
    /// What it is on the mount.
    pub mount: u32,
    /// How many; at least 1.
    pub count: u32,
}

impl IdRange {
    /// Reads `POOL:MOUNT:COUNT`; `None` when it is none, empty, or beyond the last number.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(':').map(|number| number.parse::<u32>().ok());
        let range = Self {
            pool: numbers.next()??,
            mount: numbers.next()??,
            count: numbers.next()??,
        };
        if numbers.next().is_some() || range.count == 0 {
            return None;
        }
        // The very last number is no id.
        range.pool.checked_add(range.count)?;
        range.mount.checked_add(range.count)?;
        Some(range)
    }
}

/// The owners of a pool as a mount shows them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IdMap {
    ranges: Vec<IdRange>,
}

/// A range overlaps another one, or there is no room for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadRange;

impl IdMap {
    /// Adds a range that shares no number with those there are.
    ///
    /// # Errors
    /// When it does, or there are 340 already.
    pub fn add(&mut self, range: IdRange) -> Result<(), BadRange> {
        let meets = |a: u32, b: u32, count: u32| (a <= b && b - a < range.count) || (b <= a && a - b < count);
        let overlaps = self.ranges.iter().any(|other| {
            meets(range.pool, other.pool, other.count) || meets(range.mount, other.mount, other.count)
        });
        if overlaps || self.ranges.len() >= MAX_RANGES {
            return Err(BadRange);
        }
        self.ranges.push(range);
        Ok(())
    }

    /// What an owner in the pool is shown as; `None` when nobody on the mount is meant.
    pub fn to_mount(&self, id: u32) -> Option<u32> {
        if self.ranges.is_empty() {
            return Some(id);
        }
        self.translate(id, |range| (range.pool, range.mount))
    }

    /// Who in the pool is shown as `id`; `None` when nobody is.
    pub fn to_pool(&self, id: u32) -> Option<u32> {
        if self.ranges.is_empty() {
            return Some(id);
        }
        self.translate(id, |range| (range.mount, range.pool))
    }

    fn translate(&self, id: u32, ends: impl Fn(&IdRange) -> (u32, u32)) -> Option<u32> {
        self.ranges.iter().find_map(|range| {
            let (from, to) = ends(range);
            let within = id.checked_sub(from).filter(|within| *within < range.count)?;
            to.checked_add(within)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> IdRange {
        IdRange::parse(text).expect(text)
    }

    #[test]
    fn both_ways_agree_within_ranges_and_nothing_is_known_outside() {
        let mut map = IdMap::default();
        map.add(range("0:100000:10")).expect("the first");
        map.add(range("1000:5:2")).expect("apart");
        for (pool, mount) in [(0, 100_000), (9, 100_009), (1000, 5), (1001, 6)] {
            assert_eq!(map.to_mount(pool), Some(mount));
            assert_eq!(map.to_pool(mount), Some(pool));
        }
        assert_eq!(map.to_mount(10), None);
        assert_eq!(map.to_pool(0), None);
        assert_eq!(map.to_pool(100_010), None);
    }

    #[test]
    fn ranges_that_meet_are_refused() {
        let mut map = IdMap::default();
        map.add(range("10:100:10")).expect("the first");
        for meets in ["19:500:1", "5:500:6", "500:109:1", "500:95:6", "12:500:2"] {
            assert_eq!(map.add(range(meets)), Err(BadRange), "{meets}");
        }
        for apart in ["20:110:1", "9:99:1"] {
            map.add(range(apart)).expect(apart);
        }
    }

    #[test]
    fn a_range_that_cannot_be_is_none() {
        for text in [
            "",
            "1:2",
            "1:2:0",
            "1:2:3:4",
            "4294967295:0:1",
            "0:4294967290:6",
            "a:b:c",
        ] {
            assert_eq!(IdRange::parse(text), None, "{text}");
        }
        assert!(IdRange::parse("4294967294:0:1").is_some());
    }
}
