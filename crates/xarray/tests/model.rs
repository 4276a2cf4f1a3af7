//! Random operations on an index and on a `BTreeMap` that says what each must do.
//!
//! `PROPTEST_CASES=1000000 cargo test -p udax-xarray --test model` tries longer than CI does.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use udax_xarray::{Entry, Mark, XArray};

/// Order, value and marks of an entry, by its first index.
type Entries = BTreeMap<u64, (u8, u64, [bool; 3])>;

/// What the index must hold, and what the last operation must have said.
#[derive(Clone, Debug, Default)]
struct Model {
    entries: Entries,
    /// Whether it was done.
    is_done: bool,
    /// The first index of the entry that it erased.
    erased: Option<u64>,
}

#[derive(Clone, Debug)]
enum Operation {
    Store(u64, u8, u64),
    Exchange(u64, u64, u64),
    Erase(u64),
    Split(u64, u8),
    SetMark(u64, usize),
    ClearMark(u64, usize),
}

fn an_index() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..600_u64, 2 => 0..20_000_u64, 1 => (u64::MAX - 5000)..=u64::MAX]
}

fn an_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (an_index(), 0..14_u8, 0..4_u64).prop_map(|(at, order, value)| {
            Operation::Store(at >> order << order, order, value)
        }),
        1 => (an_index(), 0..4_u64, 0..4_u64).prop_map(|(at, old, new)| Operation::Exchange(at, old, new)),
        2 => an_index().prop_map(Operation::Erase),
        1 => (an_index(), 0..13_u8).prop_map(|(at, order)| Operation::Split(at, order)),
        2 => (an_index(), 0..3_usize).prop_map(|(at, mark)| Operation::SetMark(at, mark)),
        1 => (an_index(), 0..3_usize).prop_map(|(at, mark)| Operation::ClearMark(at, mark)),
    ]
}

fn last(start: u64, order: u8) -> u64 {
    start | ((1 << order) - 1)
}

/// The first index of the entry that covers `at`.
fn covering(entries: &Entries, at: u64) -> Option<u64> {
    let (start, (order, ..)) = entries.range(..=at).next_back()?;
    (at <= last(*start, *order)).then_some(*start)
}

/// Changes the entry that covers `at`, if there is one that is right; whether there was.
fn change(
    entries: &mut Entries,
    at: u64,
    is_right: impl FnOnce(&(u8, u64, [bool; 3])) -> bool,
    change: impl FnOnce(&mut (u8, u64, [bool; 3])),
) -> bool {
    let place = covering(entries, at).and_then(|start| entries.get_mut(&start));
    match place.filter(|entry| is_right(entry)) {
        Some(entry) => {
            change(entry);
            true
        }
        None => false,
    }
}

fn store(entries: &mut Entries, at: u64, order: u8, value: u64) -> bool {
    let end = last(at, order);
    let is_taken = covering(entries, at).is_some() || entries.range(at..=end).next().is_some();
    if entries.get(&at).is_some_and(|entry| entry.0 == order) {
        return change(entries, at, |_| true, |entry| entry.1 = value);
    }
    if !is_taken {
        entries.insert(at, (order, value, [false; 3]));
    }
    !is_taken
}

fn split(entries: &mut Entries, at: u64, order: u8) -> bool {
    let whole = covering(entries, at).filter(|start| entries[start].0 > order);
    let Some((start, (large, _, marks))) = whole.and_then(|start| Some((start, entries.remove(&start)?)))
    else {
        return false;
    };
    for number in 0..1_u64 << (large - order) {
        let piece = start | number << order;
        entries.insert(piece, (order, piece % 4, marks));
    }
    true
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Operation;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::default()).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Operation> {
        an_operation().boxed()
    }

    fn apply(mut state: Self, operation: &Operation) -> Self {
        let entries = &mut state.entries;
        state.erased = None;
        state.is_done = match *operation {
            Operation::Store(at, order, value) => store(entries, at, order, value),
            Operation::Exchange(at, old, new) => {
                change(entries, at, |entry| entry.1 == old, |entry| entry.1 = new)
            }
            Operation::Erase(at) => {
                state.erased = covering(entries, at);
                state.erased.is_some_and(|start| entries.remove(&start).is_some())
            }
            Operation::Split(at, order) => split(entries, at, order),
            Operation::SetMark(at, mark) => change(entries, at, |_| true, |entry| entry.2[mark] = true),
            Operation::ClearMark(at, mark) => change(entries, at, |_| true, |entry| entry.2[mark] = false),
        };
        state
    }
}

/// The index under test.
struct Index(XArray);

impl StateMachineTest for Index {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        Self(XArray::new(0))
    }

    fn apply(index: Self, model: &Model, operation: Operation) -> Self {
        let mut writer = index.0.write();
        let is_done = match operation {
            Operation::Store(at, order, value) => writer.store(at, order, Entry::Value(value)).is_ok(),
            Operation::Exchange(at, old, new) => writer
                .compare_exchange(at, &Entry::Value(old), Entry::Value(new))
                .is_ok(),
            Operation::Erase(at) => {
                let erased = writer.erase(at).map(|found| found.start);
                assert_eq!(erased, model.erased);
                erased.is_some()
            }
            Operation::Split(at, order) => writer.split(at, order, |start| Entry::Value(start % 4)).is_ok(),
            Operation::SetMark(at, mark) => writer.set_mark(at, Mark::ALL[mark]),
            Operation::ClearMark(at, mark) => writer.clear_mark(at, Mark::ALL[mark]),
        };
        drop(writer);
        assert_eq!(is_done, model.is_done);
        index
    }

    fn check_invariants(index: &Self, model: &Model) {
        let (index, entries) = (&index.0, &model.entries);
        let found: Vec<_> = index
            .range(0..=u64::MAX)
            .map(|found| (found.start, found.order, found.entry.value()))
            .collect();
        let expected: Vec<_> = entries
            .iter()
            .map(|(start, entry)| (*start, entry.0, Some(entry.1)))
            .collect();
        assert_eq!(found, expected);
        for (number, mark) in Mark::ALL.into_iter().enumerate() {
            let found: Vec<_> = index
                .range(0..=u64::MAX)
                .marked(mark)
                .map(|found| found.start)
                .collect();
            let marked = entries.iter().filter(|(_, entry)| entry.2[number]);
            let expected: Vec<_> = marked.map(|(start, _)| *start).collect();
            assert_eq!(index.has_mark(mark), !expected.is_empty());
            assert_eq!(found, expected);
        }
        assert_eq!(index.is_empty(), entries.is_empty());
        // At most one node a level for each entry.
        assert!(index.memory_bytes() <= entries.len() * 11 * 640);
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_index_does_what_its_model_does(sequential 1..60 => Index);
}
