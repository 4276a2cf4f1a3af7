//! What is told of a pool at one moment: [`Snapshot`], a line on the socket and what `udax stats --json` prints.
//!
//! Names carry their units. Counts grow from the moment the pool was opened, so that who subtracts two snapshots has
//! what happened between them.

use serde::{Deserialize, Serialize};

/// A pool at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) pool: PoolFacts,
    /// The process that has it open; none if it was opened only for this.
    pub(crate) process: Option<u32>,
    pub(crate) mount: Option<MountedAt>,
    pub(crate) open_nanoseconds: u64,
    pub(crate) space: Space,
    pub(crate) journal: JournalFill,
    pub(crate) cache: CacheFill,
    pub(crate) pins: Pins,
    /// Who waits for pins and leases, the longest first.
    pub(crate) waiters: Vec<Waiting>,
    pub(crate) operations: Vec<OperationTimes>,
    /// Why the pool takes no more changes, if it does not.
    pub(crate) damage: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PoolFacts {
    pub(crate) path: String,
    pub(crate) uuid: String,
    pub(crate) label: String,
    /// By which it is found: of a file its filesystem and inode, of a device its number.
    pub(crate) identity: Identity,
}

/// What a file or device is, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    /// 0 for a device.
    pub(crate) inode: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MountedAt {
    pub(crate) directory: String,
    /// What `stat` gives for files there.
    pub(crate) device: u64,
    pub(crate) is_read_only: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Space {
    pub(crate) total_bytes: u64,
    pub(crate) free_bytes: u64,
    /// Free, and not promised to anybody.
    pub(crate) available_bytes: u64,
    pub(crate) inodes: u64,
    /// Of the data device, if there is one.
    pub(crate) device: Option<DeviceSpace>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct DeviceSpace {
    pub(crate) total_bytes: u64,
    pub(crate) free_bytes: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct JournalFill {
    pub(crate) lanes: u64,
    pub(crate) capacity_bytes: u64,
    /// What waits for a checkpoint.
    pub(crate) used_bytes: u64,
    pub(crate) fullest_lane_bytes: u64,
    /// Records since the last checkpoint.
    pub(crate) records: u64,
    /// Records since the pool was made.
    pub(crate) committed_records: u64,
    pub(crate) checkpoints: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct CacheFill {
    pub(crate) budget_bytes: u64,
    pub(crate) cached_bytes: u64,
    pub(crate) dirty_bytes: u64,
    /// As much may be dirty before writers wait.
    pub(crate) dirty_limit_bytes: u64,
    pub(crate) under_write_bytes: u64,
    /// Space that is promised to what is dirty.
    pub(crate) reserved_bytes: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) evictions: u64,
    pub(crate) throttled_writes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pins {
    pub(crate) held: u64,
    pub(crate) held_bytes: u64,
    pub(crate) made: u64,
    pub(crate) waits: u64,
    pub(crate) longest_wait_nanoseconds: u64,
    /// The oldest ones.
    pub(crate) oldest: Vec<PinHeld>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct PinHeld {
    pub(crate) inode: u64,
    pub(crate) offset_bytes: u64,
    pub(crate) length_bytes: u64,
    pub(crate) access: String,
    pub(crate) holder: String,
    pub(crate) is_long_term: bool,
    pub(crate) age_nanoseconds: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Waiting {
    pub(crate) operation: String,
    pub(crate) inode: u64,
    pub(crate) offset_bytes: u64,
    /// What it waits for.
    pub(crate) obstacle: String,
    pub(crate) age_nanoseconds: u64,
}

/// Requests of one kind to a mount.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct OperationTimes {
    pub(crate) operation: String,
    pub(crate) count: u64,
    pub(crate) errors: u64,
    pub(crate) bytes: u64,
    pub(crate) total_nanoseconds: u64,
    pub(crate) p50_nanoseconds: u64,
    pub(crate) p99_nanoseconds: u64,
    pub(crate) p999_nanoseconds: u64,
    pub(crate) longest_nanoseconds: u64,
    /// The longest time of a range, and how many took one of it; ranges are a sixteenth of their times wide.
    pub(crate) times: Vec<(u64, u64)>,
}

impl OperationTimes {
    /// Sets count and percentiles by the times.
    pub(crate) fn summarized(mut self) -> Self {
        self.count = self.times.iter().map(|(_, count)| count).sum();
        self.p50_nanoseconds = self.quantile(500);
        self.p99_nanoseconds = self.quantile(990);
        self.p999_nanoseconds = self.quantile(999);
        self
    }

    /// A time that `thousandths` of the requests did not exceed.
    fn quantile(&self, thousandths: u64) -> u64 {
        let wanted = (u128::from(self.count) * u128::from(thousandths)).div_ceil(1000);
        let mut seen = 0;
        for (longest, count) in &self.times {
            seen += u128::from(*count);
            if seen >= wanted {
                return (*longest).min(self.longest_nanoseconds);
            }
        }
        self.longest_nanoseconds
    }

    /// What happened since `before`, an earlier reading. The longest time is then that of its range.
    pub(crate) fn since(&self, before: Option<&Self>) -> Self {
        let Some(before) = before else {
            return self.clone();
        };
        let mut times = self.times.clone();
        for (longest, count) in &mut times {
            let known = before.times.iter().find(|(range, _)| range == longest);
            *count = count.saturating_sub(known.map_or(0, |(_, count)| *count));
        }
        times.retain(|(_, count)| *count > 0);
        let longest = times.last().map_or(0, |(longest, _)| *longest);
        Self {
            operation: self.operation.clone(),
            errors: self.errors.saturating_sub(before.errors),
            bytes: self.bytes.saturating_sub(before.bytes),
            total_nanoseconds: self.total_nanoseconds.saturating_sub(before.total_nanoseconds),
            longest_nanoseconds: longest.min(self.longest_nanoseconds),
            times,
            ..Self::default()
        }
        .summarized()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A mounted pool in use.
    pub(crate) fn example() -> Snapshot {
        Snapshot {
            pool: PoolFacts {
                path: "/dev/dax0.0".to_owned(),
                uuid: "6f1e7a52-2f0b-4c53-9d5e-0c1a7b3e9f10".to_owned(),
                label: "scratch".to_owned(),
                identity: Identity {
                    device: 64_768,
                    inode: 0,
                },
            },
            process: Some(4711),
            mount: Some(MountedAt {
                directory: "/srv/data".to_owned(),
                device: 52,
                is_read_only: false,
            }),
            open_nanoseconds: 5_025_000_000_000,
            space: Space {
                total_bytes: 64 << 30,
                free_bytes: 40 << 30,
                available_bytes: 39 << 30,
                inodes: 123_456,
                device: Some(DeviceSpace {
                    total_bytes: 2 << 40,
                    free_bytes: 1 << 40,
                }),
            },
            journal: JournalFill {
                lanes: 16,
                capacity_bytes: 16 << 20,
                used_bytes: 3 << 20,
                fullest_lane_bytes: 512 << 10,
                records: 9321,
                committed_records: 777_000,
                checkpoints: 81,
            },
            cache: example_cache(),
            pins: example_pins(),
            waiters: vec![Waiting {
                operation: "truncate".to_owned(),
                inode: 4099,
                offset_bytes: 4096,
                obstacle: "a pin".to_owned(),
                age_nanoseconds: 2_250_000_000,
            }],
            operations: example_operations(),
            damage: None,
        }
    }

    fn example_operations() -> Vec<OperationTimes> {
        let operation = |name: &str, times: &[(u64, u64)], bytes: u64| OperationTimes {
            operation: name.to_owned(),
            bytes,
            errors: u64::from(name == "lookup"),
            total_nanoseconds: times.iter().map(|(time, count)| time * count).sum(),
            longest_nanoseconds: times.last().map_or(0, |(time, _)| time - 1),
            times: times.to_vec(),
            ..OperationTimes::default()
        };
        let operations = [
            operation("lookup", &[(4351, 900), (8703, 100)], 0),
            operation("read", &[(12_287, 5000), (98_303, 60)], 20_643_840),
            operation("write", &[(20_479, 2500), (1_114_111, 3)], 2_623_537_152),
        ];
        operations.into_iter().map(OperationTimes::summarized).collect()
    }

    fn example_cache() -> CacheFill {
        CacheFill {
            budget_bytes: 256 << 20,
            cached_bytes: 192 << 20,
            dirty_bytes: 12 << 20,
            dirty_limit_bytes: 51 << 20,
            under_write_bytes: 1 << 20,
            reserved_bytes: 8 << 20,
            hits: 99_000,
            misses: 1000,
            evictions: 7,
            throttled_writes: 2,
        }
    }

    fn example_pins() -> Pins {
        Pins {
            held: 2,
            held_bytes: 2_101_248,
            made: 31_000,
            waits: 12,
            longest_wait_nanoseconds: 8_000_000,
            oldest: vec![
                PinHeld {
                    inode: 4099,
                    offset_bytes: 0,
                    length_bytes: 2 << 20,
                    access: "write".to_owned(),
                    holder: "engine 3".to_owned(),
                    is_long_term: true,
                    age_nanoseconds: 12_500_000_000,
                },
                PinHeld {
                    inode: 17,
                    offset_bytes: 81_920,
                    length_bytes: 4096,
                    access: "read".to_owned(),
                    holder: "somebody".to_owned(),
                    is_long_term: false,
                    age_nanoseconds: 4_000_000,
                },
            ],
        }
    }

    #[test]
    fn a_snapshot_survives_its_line() {
        let line = serde_json::to_string(&example()).unwrap();
        let back: Snapshot = serde_json::from_str(&line).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), line);
        assert!(!line.contains('\n'));
    }

    fn times(times: &[(u64, u64)], longest: u64) -> OperationTimes {
        OperationTimes {
            operation: "write".to_owned(),
            longest_nanoseconds: longest,
            times: times.to_vec(),
            ..OperationTimes::default()
        }
        .summarized()
    }

    #[test]
    fn percentiles_are_those_of_the_requests() {
        let read = times(&[(100, 900), (1000, 98), (u64::MAX, 2)], 5_000_000);
        assert_eq!(read.count, 1000);
        let percentiles = (read.p50_nanoseconds, read.p99_nanoseconds, read.p999_nanoseconds);
        assert_eq!(percentiles, (100, 1000, 5_000_000));
        assert_eq!(times(&[], 0).p99_nanoseconds, 0);
    }

    #[test]
    fn what_happened_between_two_readings_has_its_own_percentiles() {
        let before = times(&[(100, 1000), (5000, 10)], 4900);
        let after = times(&[(100, 1001), (2000, 3), (5000, 10)], 4900);
        let between = after.since(Some(&before));
        assert_eq!(between.times, [(100, 1), (2000, 3)]);
        assert_eq!((between.count, between.p50_nanoseconds), (4, 2000));
        assert_eq!(between.longest_nanoseconds, 2000);
        assert_eq!(after.since(None), after);
        assert_eq!(before.since(Some(&before)).count, 0);
    }
}
