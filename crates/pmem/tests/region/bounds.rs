//! What is refused.

use udax_pmem::{Region, RegionError, RegionOptions};

use super::memory_directory;

fn is_out_of_bounds<T>(result: Result<T, RegionError>) -> bool {
    matches!(
        result,
        Err(RegionError::OutOfBounds {
            region_len: 10_000,
            ..
        })
    )
}

#[test]
fn accesses_beyond_the_end_are_refused_and_change_nothing() {
    let region = Region::anonymous(10_000, None).unwrap();
    for (at, len) in [
        (10_000, 1),
        (9_999, 2),
        (0, 10_001),
        (u64::MAX, 1),
        (u64::MAX - 7, 8),
        (1 << 36, 8),
    ] {
        let size = usize::try_from(len).unwrap();
        let mut buffer = vec![0xFF; size];
        assert!(is_out_of_bounds(region.read(at, &mut buffer)), "read {at}+{len}");
        assert!(
            is_out_of_bounds(region.compare(at, &buffer)),
            "compare {at}+{len}"
        );
        assert!(is_out_of_bounds(region.store(at, &buffer)), "store {at}+{len}");
        assert!(
            is_out_of_bounds(region.store_nontemporal(at, &buffer)),
            "nontemporal {at}+{len}"
        );
        assert!(is_out_of_bounds(region.zero(at, len)), "zero {at}+{len}");
        assert!(
            is_out_of_bounds(region.zero_nontemporal(at, len)),
            "zero nontemporal {at}+{len}"
        );
        assert!(
            is_out_of_bounds(region.copy_nontemporal(at, 0, len)),
            "copy from {at}+{len}"
        );
        assert!(
            is_out_of_bounds(region.copy_nontemporal(0, at, len)),
            "copy to {at}+{len}"
        );
        assert!(is_out_of_bounds(region.flush(at, len)), "flush {at}+{len}");
    }
    assert!(region.compare(0, &[0; 10_000]).unwrap());
}

#[test]
fn lengths_that_overflow_are_refused() {
    let region = Region::anonymous(10_000, None).unwrap();
    assert!(is_out_of_bounds(region.zero(8, u64::MAX)));
    assert!(is_out_of_bounds(region.zero_nontemporal(8, u64::MAX)));
    assert!(is_out_of_bounds(region.flush(8, u64::MAX)));
    assert!(is_out_of_bounds(region.copy_nontemporal(8, 16, u64::MAX - 7)));
}

#[test]
fn words_beyond_the_end_are_refused() {
    let region = Region::anonymous(10_000, None).unwrap();
    for at in [10_000, u64::MAX - 7] {
        assert!(is_out_of_bounds(region.read_u64(at)));
        assert!(is_out_of_bounds(region.store_u64(at, 1)));
        assert!(is_out_of_bounds(region.set_bits(at, 1)));
        assert!(is_out_of_bounds(region.clear_bits(at, 1)));
    }
    assert!(is_out_of_bounds(region.read_words(9_992, &mut [0; 2])));
    assert_eq!(region.read_u64(9_992).unwrap(), 0);
}

#[test]
fn words_that_are_not_aligned_are_refused() {
    let region = Region::anonymous(4096, None).unwrap();
    let is_misaligned = |result: Result<u64, RegionError>| {
        matches!(result, Err(RegionError::Misaligned { at: 12, align: 8 }))
    };
    assert!(is_misaligned(region.read_u64(12)));
    assert!(is_misaligned(region.store_u64(12, 1).map(|()| 0)));
    assert!(is_misaligned(region.set_bits(12, 1)));
    assert!(is_misaligned(region.clear_bits(12, 1)));
    assert!(is_misaligned(region.read_words(12, &mut [0]).map(|()| 0)));
    assert!(region.compare(0, &[0; 4096]).unwrap());
}

#[test]
fn empty_accesses_at_the_end_succeed() {
    let region = Region::anonymous(64, None).unwrap();
    region.read(64, &mut []).unwrap();
    region.store(64, &[]).unwrap();
    region.store_nontemporal(64, &[]).unwrap();
    region.store_nontemporal(63, &[]).unwrap();
    region.zero(64, 0).unwrap();
    region.flush(64, 0).unwrap();
    region.copy_nontemporal(64, 64, 0).unwrap();
}

#[test]
fn an_empty_region_refuses_every_byte() {
    let region = Region::anonymous(0, None).unwrap();
    assert!(region.is_empty());
    assert!(matches!(region.read_u64(0), Err(RegionError::OutOfBounds { .. })));
    region.fence().unwrap();
}

#[test]
fn a_read_only_region_refuses_stores_and_gives_bytes() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    std::fs::write(&path, [7; 4096]).unwrap();
    let options = RegionOptions {
        read_only: true,
        ..RegionOptions::default()
    };
    let region = Region::open(&path, options.clone()).unwrap();
    let is_refused = |result: Result<(), RegionError>| matches!(result, Err(RegionError::ReadOnly { .. }));
    assert!(is_refused(region.store(0, &[1])));
    assert!(is_refused(region.store_u64(0, 1)));
    assert!(is_refused(region.set_bits(0, 1).map(drop)));
    assert!(is_refused(region.clear_bits(0, 1).map(drop)));
    assert!(is_refused(region.store_nontemporal(0, &[1; 64])));
    assert!(is_refused(region.zero(0, 1)));
    assert!(is_refused(region.zero_nontemporal(0, 64)));
    assert!(is_refused(region.copy_nontemporal(0, 64, 64)));
    assert!(is_refused(region.grow(8192)));
    region.flush(0, 4096).unwrap();
    region.fence().unwrap();
    assert!(region.compare(0, &[7; 4096]).unwrap());
    assert!(is_refused(Region::create(&path, 4096, options).map(drop)));
}

#[test]
fn addresses_are_those_of_bytes_inside_and_do_not_move() {
    let region = Region::anonymous(8192, None).unwrap();
    let first = region.address(0, 8192).unwrap();
    let later = region.address(4096, 1).unwrap();
    assert_eq!(later.as_ptr().addr() - first.as_ptr().addr(), 4096);
    region.store(4096, &[9]).unwrap();
    region.grow(1 << 20).unwrap();
    assert_eq!(region.address(4096, 1 << 12).unwrap(), later);
    for (at, len) in [(1 << 20, 1), (8191, 1 << 20), (u64::MAX, 1), (0, u64::MAX)] {
        assert!(matches!(
            region.address(at, len),
            Err(RegionError::OutOfBounds { .. })
        ));
    }
}
