//! A snapshot in Prometheus' text format, version 0.0.4.
//!
//! Written by hand: `prometheus-client` writes OpenMetrics, in which a counter's name and that of its samples
//! differ, so that the parser of node_exporter's text files takes all counters for untyped; and its metrics are
//! counted by itself, not read from elsewhere.
//!
//! Each sample has the label `pool`, so that files of several mounts can be collected together.

use std::fmt::{self, Write as _};

use super::snapshot::{OperationTimes, Snapshot};

/// Bounds of the buckets of times are powers of two nanoseconds, from 4 µs to 1 s: the mount's own ranges end there
/// too, so that no bucket has to be guessed.
const FIRST_BOUND: u32 = 12;
const LAST_BOUND: u32 = 30;

/// The content type of the text.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `snapshot` as text.
pub(crate) fn text(snapshot: &Snapshot) -> String {
    let mut page = Page {
        text: String::new(),
        pool: quoted(&snapshot.pool.path),
    };
    page.pool(snapshot);
    page.journal(snapshot);
    page.cache(snapshot);
    page.pins(snapshot);
    page.operations(&snapshot.operations);
    page.text
}

#[derive(Debug)]
struct Page {
    text: String,
    pool: String,
}

/// Nanoseconds as seconds, exactly.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// The value of a label.
fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("\"{escaped}\"")
}

impl Page {
    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Strings take what they are given.
        let _ = self.text.write_fmt(line);
        self.text.push('\n');
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn one(&mut self, kind: &str, name: &str, help: &str, value: impl fmt::Display) {
        self.head(name, kind, help);
        let pool = self.pool.clone();
        self.line(format_args!("{name}{{pool={pool}}} {value}"));
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl fmt::Display) {
        self.one("gauge", name, help, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl fmt::Display) {
        self.one("counter", name, help, value);
    }

    fn pool(&mut self, snapshot: &Snapshot) {
        let pool = &snapshot.pool;
        let directory = snapshot.mount.as_ref().map_or("", |mount| &mount.directory);
        self.head("udax_pool_info", "gauge", "What the pool is; always 1.");
        let (uuid, label, directory) = (quoted(&pool.uuid), quoted(&pool.label), quoted(directory));
        let path = self.pool.clone();
        self.line(format_args!(
            "udax_pool_info{{pool={path},uuid={uuid},label={label},directory={directory}}} 1"
        ));
        let open = Seconds(snapshot.open_nanoseconds);
        self.gauge("udax_pool_open_seconds", "How long the pool has been open.", open);
        let space = snapshot.space;
        self.gauge("udax_pool_size_bytes", "Size of the pool.", space.total_bytes);
        self.gauge("udax_pool_free_bytes", "Free space.", space.free_bytes);
        let help = "Free space that is not promised to anybody.";
        self.gauge("udax_pool_available_bytes", help, space.available_bytes);
        self.gauge("udax_pool_inodes", "Inodes in use.", space.inodes);
        if let Some(device) = space.device {
            let help = "Size of the data device.";
            self.gauge("udax_device_size_bytes", help, device.total_bytes);
            let help = "Free space on the data device.";
            self.gauge("udax_device_free_bytes", help, device.free_bytes);
        }
        let help = "Whether metadata was lost, so that the pool takes no more changes.";
        let is_damaged = u8::from(snapshot.damage.is_some());
        self.gauge("udax_pool_damaged", help, is_damaged);
    }

    fn journal(&mut self, snapshot: &Snapshot) {
        let journal = snapshot.journal;
        self.gauge(
            "udax_journal_capacity_bytes",
            "Room for records.",
            journal.capacity_bytes,
        );
        let help = "Bytes of records that wait for a checkpoint.";
        self.gauge("udax_journal_used_bytes", help, journal.used_bytes);
        let help = "Bytes of records that wait for a checkpoint in the fullest lane.";
        self.gauge(
            "udax_journal_fullest_lane_bytes",
            help,
            journal.fullest_lane_bytes,
        );
        self.gauge(
            "udax_journal_records",
            "Records since the last checkpoint.",
            journal.records,
        );
        let help = "Records since the pool was made.";
        self.counter(
            "udax_journal_committed_records_total",
            help,
            journal.committed_records,
        );
        let help = "Checkpoints since the pool was opened.";
        self.counter("udax_journal_checkpoints_total", help, journal.checkpoints);
    }

    fn cache(&mut self, snapshot: &Snapshot) {
        let cache = snapshot.cache;
        self.gauge(
            "udax_cache_budget_bytes",
            "Size of the page cache.",
            cache.budget_bytes,
        );
        self.gauge(
            "udax_cache_cached_bytes",
            "Bytes in the page cache.",
            cache.cached_bytes,
        );
        self.gauge(
            "udax_cache_dirty_bytes",
            "Of these, dirty ones.",
            cache.dirty_bytes,
        );
        let help = "Dirty bytes at which writers wait.";
        self.gauge("udax_cache_dirty_limit_bytes", help, cache.dirty_limit_bytes);
        self.gauge(
            "udax_cache_under_write_bytes",
            "Bytes being written.",
            cache.under_write_bytes,
        );
        self.counter(
            "udax_cache_hits_total",
            "Reads that found their folio.",
            cache.hits,
        );
        self.counter("udax_cache_misses_total", "Reads that did not.", cache.misses);
        self.counter(
            "udax_cache_evictions_total",
            "Folios gone for lack of memory.",
            cache.evictions,
        );
        let help = "Writes that had to wait.";
        self.counter("udax_cache_throttled_writes_total", help, cache.throttled_writes);
    }

    fn pins(&mut self, snapshot: &Snapshot) {
        let pins = &snapshot.pins;
        self.gauge("udax_pins_held", "Pins held.", pins.held);
        self.gauge("udax_pins_held_bytes", "Bytes that they hold.", pins.held_bytes);
        let oldest = pins.oldest.first().map_or(0, |pin| pin.age_nanoseconds);
        self.gauge(
            "udax_pins_oldest_age_seconds",
            "Age of the oldest pin.",
            Seconds(oldest),
        );
        self.counter("udax_pins_made_total", "Pins made.", pins.made);
        self.counter(
            "udax_pins_waits_total",
            "Waits for pages to be unpinned.",
            pins.waits,
        );
        let help = "Operations that wait for pins and leases.";
        self.gauge("udax_pins_waiters", help, snapshot.waiters.len());
    }

    fn operations(&mut self, operations: &[OperationTimes]) {
        if operations.is_empty() {
            return;
        }
        let pool = self.pool.clone();
        const TIMES: &str = "udax_request_duration_seconds";
        self.head(TIMES, "histogram", "Time to answer requests of the kernel.");
        for operation in operations {
            let labels = format!("pool={pool},operation={}", quoted(&operation.operation));
            for bound in (FIRST_BOUND..=LAST_BOUND).map(|bits| 1_u64 << bits) {
                let within = operation.times.iter().filter(|(longest, _)| *longest < bound);
                let count: u64 = within.map(|(_, count)| count).sum();
                let le = Seconds(bound);
                self.line(format_args!("{TIMES}_bucket{{{labels},le=\"{le}\"}} {count}"));
            }
            let count = operation.count;
            self.line(format_args!("{TIMES}_bucket{{{labels},le=\"+Inf\"}} {count}"));
            let sum = Seconds(operation.total_nanoseconds);
            self.line(format_args!("{TIMES}_sum{{{labels}}} {sum}"));
            self.line(format_args!("{TIMES}_count{{{labels}}} {count}"));
        }
        type Count = fn(&OperationTimes) -> u64;
        let counters: [(&str, &str, Count); 2] = [
            ("udax_request_errors_total", "Requests refused.", |operation| {
                operation.errors
            }),
            (
                "udax_request_bytes_total",
                "Bytes of content moved.",
                |operation| operation.bytes,
            ),
        ];
        for (name, help, count) in counters {
            self.head(name, "counter", help);
            for operation in operations {
                let (kind, count) = (quoted(&operation.operation), count(operation));
                self.line(format_args!("{name}{{pool={pool},operation={kind}}} {count}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::example;
    use super::*;

    #[test]
    fn a_snapshot_as_text() {
        insta::assert_snapshot!(text(&example()));
    }

    #[test]
    fn labels_cannot_end_early() {
        assert_eq!(quoted("a\"b\\c\nd"), "\"a\\\"b\\\\c\\nd\"");
    }

    #[test]
    fn seconds_are_exact() {
        assert_eq!(Seconds(1 << 30).to_string(), "1.073741824");
        assert_eq!(Seconds(u64::MAX).to_string(), "18446744073.709551615");
    }
}
