//! The costs at each size, and how they grow.

use std::fmt;

use nix::time::{ClockId, clock_gettime};

/// A row for each operation, a column for each size.
#[derive(Debug)]
pub(super) struct Table {
    sizes: Vec<u64>,
    column: usize,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    operation: &'static str,
    /// Nanoseconds of one operation, a cell for each size.
    costs: Vec<Option<f64>>,
}

impl Table {
    pub(super) fn new(sizes: &[u64]) -> Self {
        Self {
            sizes: sizes.to_vec(),
            column: 0,
            rows: Vec::new(),
        }
    }

    /// From now on, costs are those at `size`.
    pub(super) fn begin(&mut self, size: u64) {
        self.column = self.sizes.iter().position(|known| *known == size).unwrap_or(0);
    }

    /// Runs `work`, which does the operation `count` times.
    ///
    /// # Errors
    /// Those of `work`.
    pub(super) fn time<T>(
        &mut self,
        operation: &'static str,
        count: u64,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let before = processor_time()?;
        let result = work()?;
        self.enter(operation, nanoseconds_each(processor_time()? - before, count));
        Ok(result)
    }

    fn enter(&mut self, operation: &'static str, cost: f64) {
        let at = match self.rows.iter().position(|row| row.operation == operation) {
            Some(at) => at,
            None => {
                self.rows.push(Row {
                    operation,
                    costs: vec![None; self.sizes.len()],
                });
                self.rows.len() - 1
            }
        };
        let row = self.rows.get_mut(at);
        if let Some(cell) = row.and_then(|row| row.costs.get_mut(self.column)) {
            *cell = Some(cost);
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:<34}", "ns of processor time, at size")?;
        for size in &self.sizes {
            write!(to, " {size:>12}")?;
        }
        writeln!(to, "  last : first")?;
        for row in &self.rows {
            write!(to, "{:<34}", row.operation)?;
            for cost in &row.costs {
                match cost {
                    Some(cost) => write!(to, " {cost:>12.0}")?,
                    None => write!(to, " {:>12}", "")?,
                }
            }
            match (row.costs.first(), row.costs.last()) {
                (Some(Some(first)), Some(Some(last))) => writeln!(to, " {:>13.2}", last / first.max(1.0))?,
                _ => writeln!(to)?,
            }
        }
        Ok(())
    }
}

/// What this process has used of the processors, in nanoseconds.
fn processor_time() -> anyhow::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(u64::try_from(time.tv_sec())? * 1_000_000_000 + u64::try_from(time.tv_nsec())?)
}

fn nanoseconds_each(elapsed: u64, count: u64) -> f64 {
    // Through u32 pieces, as no larger integer becomes an f64 without loss; seconds and the rest are exact enough.
    let part = |value: u64| f64::from(u32::try_from(value).unwrap_or(u32::MAX));
    let total = part(elapsed / 1_000_000_000) * 1e9 + part(elapsed % 1_000_000_000);
    total / part(count.max(1))
}
