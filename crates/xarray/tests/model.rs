//! Random operations on an index and on a `BTreeMap` that says what each must do.
//!
//! `PROPTEST_CASES=1000000 cargo test -p udax-xarray --test model` tries longer than CI does.

use std::collections::BTreeMap;

use proptest::prelude::*;
use udax_xarray::{Entry, Mark, XArray};

/// Order, value and marks of an entry, by its first index.
type Model = BTreeMap<u64, (u8, u64, [bool; 3])>;

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
fn covering(model: &Model, at: u64) -> Option<u64> {
    let (start, (order, ..)) = model.range(..=at).next_back()?;
    (at <= last(*start, *order)).then_some(*start)
}

fn apply(index: &XArray, model: &mut Model, operation: &Operation) -> Result<(), TestCaseError> {
    let mut writer = index.write();
    match *operation {
        Operation::Store(at, order, value) => {
            let end = last(at, order);
            let taken = covering(model, at).is_some() || model.range(at..=end).next().is_some();
            let same = model.get(&at).is_some_and(|entry| entry.0 == order);
            prop_assert_eq!(
                writer.store(at, order, Entry::Value(value)).is_ok(),
                same || !taken
            );
            if same {
                model.entry(at).and_modify(|entry| entry.1 = value);
            } else if !taken {
                model.insert(at, (order, value, [false; 3]));
            }
        }
        Operation::Exchange(at, old, new) => {
            let place = covering(model, at).and_then(|start| model.get_mut(&start));
            let right = place.filter(|entry| entry.1 == old);
            let done = writer.compare_exchange(at, &Entry::Value(old), Entry::Value(new));
            prop_assert_eq!(done.is_ok(), right.is_some());
            if let Some(entry) = right {
                entry.1 = new;
            }
        }
        Operation::Erase(at) => {
            let start = covering(model, at);
            let gone = start.and_then(|start| model.remove(&start));
            prop_assert_eq!(writer.erase(at).map(|found| found.start), start);
            prop_assert_eq!(start.is_some(), gone.is_some());
        }
        Operation::Split(at, order) => {
            let whole = covering(model, at).filter(|start| model[start].0 > order);
            let done = writer.split(at, order, |start| Entry::Value(start % 4));
            prop_assert_eq!(done.is_ok(), whole.is_some());
            if let Some(start) = whole
                && let Some((large, _, marks)) = model.remove(&start)
            {
                for number in 0..1_u64 << (large - order) {
                    let piece = start | number << order;
                    model.insert(piece, (order, piece % 4, marks));
                }
            }
        }
        Operation::SetMark(at, mark) => {
            let start = covering(model, at);
            prop_assert_eq!(writer.set_mark(at, Mark::ALL[mark]), start.is_some());
            start
                .and_then(|start| model.get_mut(&start))
                .into_iter()
                .for_each(|entry| entry.2[mark] = true);
        }
        Operation::ClearMark(at, mark) => {
            let start = covering(model, at);
            prop_assert_eq!(writer.clear_mark(at, Mark::ALL[mark]), start.is_some());
            start
                .and_then(|start| model.get_mut(&start))
                .into_iter()
                .for_each(|entry| entry.2[mark] = false);
        }
    }
    Ok(())
}

fn compare(index: &XArray, model: &Model) -> Result<(), TestCaseError> {
    let found: Vec<_> = index
        .range(0..=u64::MAX)
        .map(|found| (found.start, found.order, found.entry.value()))
        .collect();
    let expected: Vec<_> = model
        .iter()
        .map(|(start, entry)| (*start, entry.0, Some(entry.1)))
        .collect();
    prop_assert_eq!(found, expected);
    for (number, mark) in Mark::ALL.into_iter().enumerate() {
        let found: Vec<_> = index
            .range(0..=u64::MAX)
            .marked(mark)
            .map(|found| found.start)
            .collect();
        let marked = model.iter().filter(|(_, entry)| entry.2[number]);
        let expected: Vec<_> = marked.map(|(start, _)| *start).collect();
        prop_assert_eq!(index.has_mark(mark), !expected.is_empty());
        prop_assert_eq!(found, expected);
    }
    prop_assert_eq!(index.is_empty(), model.is_empty());
    // At most one node a level for each entry.
    prop_assert!(index.memory_bytes() <= model.len() * 11 * 640);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_index_does_what_its_model_does(operations in prop::collection::vec(an_operation(), 1..60)) {
        let index = XArray::new(0);
        let mut model = Model::new();
        for operation in &operations {
            apply(&index, &mut model, operation)?;
            compare(&index, &model)?;
        }
    }
}
