//! What the index promises, one thing a test.

use udax_xarray::{Entry, ExchangeError, Found, MAX_ORDER, MAX_VALUE, Mark, SplitError, StoreError, XArray};

fn values(index: &XArray) -> Vec<(u64, u8, u64)> {
    index
        .range(0..=u64::MAX)
        .map(|found| (found.start, found.order, found.entry.value().unwrap_or(u64::MAX)))
        .collect()
}

#[test]
fn an_entry_is_found_from_each_index_that_it_covers() {
    let index: XArray = XArray::new(0);
    for order in 0..=18 {
        let start = 3 << order;
        assert_eq!(index.write().store(start, order, Entry::Value(5)), Ok(None));
        for at in [start, start + ((1 << order) / 2), start + ((1 << order) - 1)] {
            let found = Some(Found {
                start,
                order,
                entry: 5,
            });
            assert_eq!(index.load_value(at), found, "order {order}, index {at}");
        }
        assert_eq!(index.load_value(start - 1), None);
        assert_eq!(index.load_value(start + (1 << order)), None);
        assert!(index.write().erase(start + (1 << order) / 2).is_some());
        assert!(index.is_empty());
        assert_eq!(index.memory_bytes(), 0);
    }
}

#[test]
fn the_first_and_the_last_index_can_be_used() {
    let index: XArray = XArray::new(0);
    let mut writer = index.write();
    writer.store(u64::MAX, 0, Entry::Value(MAX_VALUE)).unwrap();
    writer.store(0, 0, Entry::Value(0)).unwrap();
    writer.store(1 << 63, 62, Entry::Value(1)).unwrap();
    drop(writer);
    assert_eq!(
        values(&index),
        [(0, 0, 0), (1 << 63, 62, 1), (u64::MAX, 0, MAX_VALUE)]
    );
    index.write().erase(u64::MAX - (1 << 62)).unwrap();
    assert_eq!(index.range(1..=u64::MAX).count(), 1);
    index.write().erase(u64::MAX).unwrap();
    assert_eq!(index.memory_bytes(), 640);
}

#[test]
fn an_entry_of_half_of_all_indices() {
    let index: XArray = XArray::new(0);
    index.write().store(7, 0, Entry::Value(1)).unwrap();
    let large = index.write().store(0, MAX_ORDER, Entry::Value(2));
    assert_eq!(large, Err(StoreError::Conflict { start: 7, order: 0 }));
    index.write().store(1 << 63, MAX_ORDER, Entry::Value(2)).unwrap();
    assert_eq!(index.load_value(u64::MAX).unwrap().entry, 2);
    assert_eq!(index.range(u64::MAX..=u64::MAX).count(), 1);
}

#[test]
fn what_cannot_be_stored_is_refused_and_changes_nothing() {
    let index: XArray = XArray::new(0);
    let mut writer = index.write();
    writer.store(512, 9, Entry::Value(1)).unwrap();
    let conflict = Err(StoreError::Conflict { start: 512, order: 9 });
    assert_eq!(writer.store(600, 0, Entry::Value(2)), conflict);
    assert_eq!(writer.store(0, 10, Entry::Value(2)), conflict);
    let misaligned = StoreError::Misaligned { index: 1, order: 1 };
    assert_eq!(writer.store(1, 1, Entry::Value(2)), Err(misaligned));
    let large = StoreError::OrderTooLarge { order: 64 };
    assert_eq!(writer.store(0, 64, Entry::Value(2)), Err(large));
    let value = MAX_VALUE + 1;
    assert_eq!(
        writer.store(0, 0, Entry::Value(value)),
        Err(StoreError::ValueTooLarge { value })
    );
    let exchange = writer.compare_exchange(512, &Entry::Value(1), Entry::Value(value));
    assert_eq!(exchange, Err(ExchangeError::ValueTooLarge { value }));
    let split = writer.split(512, 8, |_| Entry::Value(value));
    assert_eq!(split, Err(SplitError::ValueTooLarge { value }));
    assert_eq!(
        writer.split(0, 8, |_| Entry::Value(0)),
        Err(SplitError::Absent { index: 0 })
    );
    let same = SplitError::NotLarger { order: 9, pieces: 9 };
    assert_eq!(writer.split(512, 9, |_| Entry::Value(0)), Err(same));
    writer.store(1 << 40, 40, Entry::Value(3)).unwrap();
    let many = SplitError::TooManyPieces { order: 40, pieces: 0 };
    assert_eq!(writer.split(1 << 40, 0, |_| Entry::Value(0)), Err(many));
    drop(writer);
    assert_eq!(values(&index), [(512, 9, 1), (1 << 40, 40, 3)]);
}

#[test]
fn a_replaced_or_exchanged_entry_keeps_its_marks_and_an_erased_one_takes_them_along() {
    let index: XArray = XArray::new(0);
    let mut writer = index.write();
    writer.store(512, 9, Entry::Value(1)).unwrap();
    assert!(writer.set_mark(700, Mark::One));
    assert_eq!(writer.store(512, 9, Entry::Value(2)), Ok(Some(Entry::Value(1))));
    let differs = writer.compare_exchange(600, &Entry::Value(1), Entry::Value(3));
    let found = Some(Entry::Value(2));
    assert_eq!(differs, Err(ExchangeError::Differs { found }));
    assert_eq!(
        writer.compare_exchange(600, &Entry::Value(2), Entry::Value(3)),
        Ok(())
    );
    assert!(index.is_marked(1023, Mark::One) && !index.is_marked(1023, Mark::Two));
    assert!(index.has_mark(Mark::One));
    writer.erase(512).unwrap();
    assert!(!index.has_mark(Mark::One));
    writer.store(512, 9, Entry::Value(4)).unwrap();
    assert!(!index.is_marked(512, Mark::One));
    assert!(!writer.set_mark(0, Mark::One) && !writer.clear_mark(0, Mark::One));
}

#[test]
fn a_split_gives_each_piece_its_value_and_the_marks() {
    for order in [0, 3, 6, 7, 8] {
        let index: XArray = XArray::new(0);
        let mut writer = index.write();
        writer.store(512, 9, Entry::Value(1)).unwrap();
        writer.store(1024, 9, Entry::Value(2)).unwrap();
        writer.set_mark(512, Mark::Two);
        writer.split(800, order, Entry::Value).unwrap();
        let pieces: Vec<_> = index.range(0..=1023).collect();
        assert_eq!(pieces.len(), 512 >> order);
        for (number, piece) in (0..).zip(pieces) {
            let start = 512 + (number << order);
            let entry = Entry::Value(start);
            assert_eq!(piece, Found { start, order, entry });
            assert!(index.is_marked(start, Mark::Two) && !index.is_marked(start, Mark::One));
        }
        let other = Found {
            start: 1024,
            order: 9,
            entry: 2,
        };
        assert_eq!(index.load_value(1500), Some(other));
        assert!(!index.is_marked(1024, Mark::Two));
    }
}

#[test]
fn a_cursor_goes_on_where_it_was_left() {
    let index: XArray = XArray::new(0);
    let mut writer = index.write();
    for at in [1, 5, 600, 70_000] {
        writer.store(at, 0, Entry::Value(at)).unwrap();
    }
    writer.store(1024, 9, Entry::Value(9)).unwrap();
    drop(writer);
    let mut cursor = index.range(2..=70_000);
    assert_eq!(cursor.next().unwrap().start, 5);
    assert_eq!(cursor.next().unwrap().start, 600);
    let position = cursor.position().unwrap();
    index.write().erase(1024).unwrap();
    index.write().store(1400, 0, Entry::Value(0)).unwrap();
    let rest: Vec<_> = index.range(position..=70_000).map(|found| found.start).collect();
    assert_eq!(rest, [1400, 70_000]);
    assert!(cursor.map(|found| found.start).eq(rest));
}
