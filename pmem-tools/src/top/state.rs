//! What is shown: the last snapshot, what happened since the one before, and what keys have changed.

use std::collections::VecDeque;

use clap::ValueEnum;

use crate::live::{OperationTimes, Snapshot};
use crate::size::float;

/// Rates that the small chart remembers.
const HISTORY: usize = 120;

/// What requests are sorted by, the most first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Order {
    /// Requests a second
    Rate,
    /// The median of their times
    P50,
    /// The time that one in a hundred exceeds
    P99,
    /// The longest time
    Max,
    /// Bytes a second
    Bytes,
    /// Their name, the first first
    Name,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Rate => Self::P50,
            Self::P50 => Self::P99,
            Self::P99 => Self::Max,
            Self::Max => Self::Bytes,
            Self::Bytes => Self::Name,
            Self::Name => Self::Rate,
        }
    }
}

/// What a key asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    Quit,
    /// Away with the help, or quit.
    Back,
    Pause,
    Sort,
    Help,
}

/// Whether the view goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    GoOn,
    Quit,
}

/// What is shown.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) now: Snapshot,
    /// What happened in the last interval, sorted; requests of which there were none are left out.
    pub(super) recent: Vec<OperationTimes>,
    /// How long that interval was.
    pub(super) seconds: f64,
    pub(super) order: Order,
    pub(super) is_paused: bool,
    pub(super) is_helping: bool,
    /// Requests a second, the newest last.
    pub(super) rates: VecDeque<u64>,
}

impl State {
    /// From a first snapshot on. Until the second one, what is shown is since the pool was opened.
    pub(super) fn new(first: Snapshot, order: Order) -> Self {
        let mut state = Self {
            recent: first.operations.clone(),
            seconds: float(first.open_nanoseconds) / 1e9,
            now: first,
            order,
            is_paused: false,
            is_helping: false,
            rates: VecDeque::new(),
        };
        state.sort();
        state
    }

    /// The next snapshot. While it is paused nothing changes, and what happened meanwhile is in the first interval
    /// after that.
    pub(super) fn update(&mut self, next: Snapshot) {
        if self.is_paused {
            return;
        }
        let before = std::mem::replace(&mut self.now, next);
        let nanoseconds = self.now.open_nanoseconds.saturating_sub(before.open_nanoseconds);
        self.seconds = float(nanoseconds.max(1)) / 1e9;
        let known = |name: &str| {
            before
                .operations
                .iter()
                .find(|operation| operation.operation == name)
        };
        let since = self
            .now
            .operations
            .iter()
            .map(|operation| operation.since(known(&operation.operation)));
        self.recent = since.filter(|operation| operation.count > 0).collect();
        self.sort();
        let count: u64 = self.recent.iter().map(|operation| operation.count).sum();
        let rate = u128::from(count) * 1_000_000_000 / u128::from(nanoseconds.max(1));
        self.rates.push_back(u64::try_from(rate).unwrap_or(u64::MAX));
        if self.rates.len() > HISTORY {
            self.rates.pop_front();
        }
    }

    /// Does what a key asks for.
    pub(super) fn obey(&mut self, wish: Wish) -> Next {
        match wish {
            Wish::Back if self.is_helping => self.is_helping = false,
            Wish::Back | Wish::Quit => return Next::Quit,
            Wish::Pause => self.is_paused = !self.is_paused,
            Wish::Help => self.is_helping = !self.is_helping,
            Wish::Sort => {
                self.order = self.order.next();
                self.sort();
            }
        }
        Next::GoOn
    }

    fn sort(&mut self) {
        let order = self.order;
        self.recent.sort_by(|one, other| {
            let key = |operation: &OperationTimes| match order {
                Order::Rate => operation.count,
                Order::P50 => operation.p50_nanoseconds,
                Order::P99 => operation.p99_nanoseconds,
                Order::Max => operation.longest_nanoseconds,
                Order::Bytes => operation.bytes,
                Order::Name => 0,
            };
            key(other)
                .cmp(&key(one))
                .then_with(|| one.operation.cmp(&other.operation))
        });
    }

    /// A count of the last interval, each second.
    pub(super) fn rate(&self, count: u64) -> f64 {
        float(count) / self.seconds.max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::snapshot_example;

    fn names(state: &State) -> Vec<&str> {
        state
            .recent
            .iter()
            .map(|operation| operation.operation.as_str())
            .collect()
    }

    /// The example, `seconds` later, with `more` reads of up to `nanoseconds`.
    fn later(seconds: u64, (nanoseconds, more): (u64, u64)) -> Snapshot {
        let mut next = snapshot_example();
        next.open_nanoseconds += seconds * 1_000_000_000;
        let read = &mut next.operations[1];
        read.times.push((nanoseconds, more));
        read.longest_nanoseconds = nanoseconds;
        *read = read.clone().summarized();
        next
    }

    #[test]
    fn what_is_shown_happened_in_the_last_interval() {
        let mut state = State::new(snapshot_example(), Order::Rate);
        assert_eq!(names(&state), ["read", "write", "lookup"]);
        state.update(later(2, (2_000_000, 10)));
        assert_eq!(names(&state), ["read"]);
        assert_eq!(
            (state.recent[0].count, state.recent[0].p50_nanoseconds),
            (10, 2_000_000)
        );
        assert_eq!((state.rate(10).round(), state.rates.back()), (5.0, Some(&5)));
    }

    #[test]
    fn a_pause_keeps_the_picture() {
        let mut state = State::new(snapshot_example(), Order::Rate);
        assert_eq!(state.obey(Wish::Pause), Next::GoOn);
        state.update(later(2, (2_000_000, 10)));
        assert_eq!(names(&state), ["read", "write", "lookup"]);
        state.obey(Wish::Pause);
        state.update(later(4, (2_000_000, 12)));
        assert_eq!((state.recent[0].count, state.seconds.round()), (12, 4.0));
        assert_eq!(state.obey(Wish::Quit), Next::Quit);
    }

    #[test]
    fn keys_sort_by_each_column_and_come_back() {
        let mut state = State::new(snapshot_example(), Order::Rate);
        let mut firsts = Vec::new();
        for _ in 0..6 {
            firsts.push(state.recent[0].operation.clone());
            state.obey(Wish::Sort);
        }
        assert_eq!(firsts, ["read", "write", "read", "write", "write", "lookup"]);
        assert_eq!(state.order, Order::Rate);
    }

    #[test]
    fn the_way_back_from_the_help_does_not_quit() {
        let mut state = State::new(snapshot_example(), Order::Rate);
        state.obey(Wish::Help);
        assert!(state.is_helping);
        assert_eq!(state.obey(Wish::Back), Next::GoOn);
        assert!(!state.is_helping);
        assert_eq!(state.obey(Wish::Back), Next::Quit);
    }
}
