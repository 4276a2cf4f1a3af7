//! Every way of copying, at every alignment, against a plain vector.

use proptest::prelude::*;
use udax_pmem::{Persistence, Region};

use super::{backends, with_backend};

const LEN: usize = 3 * 4096;

/// What is done at an offset.
#[derive(Clone, Debug)]
enum Op {
    Store(usize, Vec<u8>),
    NonTemporal(usize, Vec<u8>),
    Zero(usize, usize),
    ZeroNonTemporal(usize, usize),
    Copy(usize, usize, usize),
    StoreWord(usize, u64),
    SetBits(usize, u64),
    ClearBits(usize, u64),
}

fn range() -> impl Strategy<Value = (usize, usize)> {
    let len = prop_oneof![0..20_usize, 0..300_usize, 0..=LEN, Just(64), Just(4096)];
    (0..=LEN, len).prop_map(|(at, len)| (at, len.min(LEN - at)))
}

fn bytes() -> impl Strategy<Value = (usize, Vec<u8>)> {
    (range(), any::<u64>()).prop_map(|((at, len), seed)| {
        let mut state = seed | 1;
        let bytes = (0..len).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_le_bytes()[7]
        });
        (at, bytes.collect())
    })
}

fn op() -> impl Strategy<Value = Op> {
    let word = 0..LEN / 8;
    prop_oneof![
        bytes().prop_map(|(at, bytes)| Op::Store(at, bytes)),
        bytes().prop_map(|(at, bytes)| Op::NonTemporal(at, bytes)),
        range().prop_map(|(at, len)| Op::Zero(at, len)),
        range().prop_map(|(at, len)| Op::ZeroNonTemporal(at, len)),
        (range(), 0..=LEN).prop_map(|((from, len), to)| Op::Copy(from, to, len.min(LEN - to))),
        (word.clone(), any::<u64>()).prop_map(|(at, word)| Op::StoreWord(at * 8, word)),
        (word.clone(), any::<u64>()).prop_map(|(at, mask)| Op::SetBits(at * 8, mask)),
        (word, any::<u64>()).prop_map(|(at, mask)| Op::ClearBits(at * 8, mask)),
    ]
}

fn offset(at: usize) -> u64 {
    u64::try_from(at).unwrap()
}

fn word_of(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn apply(region: &Region, model: &mut [u8], op: &Op) {
    match op {
        Op::Store(at, bytes) => {
            region.store(offset(*at), bytes).unwrap();
            model[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        Op::NonTemporal(at, bytes) => {
            region.store_nontemporal(offset(*at), bytes).unwrap();
            model[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        Op::Zero(at, len) => {
            region.zero(offset(*at), offset(*len)).unwrap();
            model[*at..at + len].fill(0);
        }
        Op::ZeroNonTemporal(at, len) => {
            region.zero_nontemporal(offset(*at), offset(*len)).unwrap();
            model[*at..at + len].fill(0);
        }
        Op::Copy(from, to, len) => {
            region
                .copy_nontemporal(offset(*from), offset(*to), offset(*len))
                .unwrap();
            model.copy_within(*from..from + len, *to);
        }
        Op::StoreWord(at, word) => {
            region.store_u64(offset(*at), *word).unwrap();
            model[*at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        Op::SetBits(at, mask) => {
            let before = word_of(model, *at);
            assert_eq!(region.set_bits(offset(*at), *mask).unwrap(), before);
            model[*at..at + 8].copy_from_slice(&(before | mask).to_le_bytes());
        }
        Op::ClearBits(at, mask) => {
            let before = word_of(model, *at);
            assert_eq!(region.clear_bits(offset(*at), *mask).unwrap(), before);
            model[*at..at + 8].copy_from_slice(&(before & !mask).to_le_bytes());
        }
    }
}

fn contents(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0xA5; LEN];
    region.read(0, &mut bytes).unwrap();
    bytes
}

proptest! {
    #[test]
    fn any_sequence_of_stores_reads_back_as_from_a_vector(ops in prop::collection::vec(op(), 1..30)) {
        for backend in backends() {
            let region = Region::anonymous_with(offset(LEN), with_backend(backend)).unwrap();
            let mut model = vec![0; LEN];
            for op in &ops {
                apply(&region, &mut model, op);
            }
            region.flush(0, offset(LEN)).unwrap();
            region.fence().unwrap();
            prop_assert!(contents(&region) == model);
        }
    }

    #[test]
    fn reads_give_the_bytes_and_touch_nothing_around_the_buffer((at, len) in range(), shift in 0..64_usize) {
        for backend in backends() {
            let region = Region::anonymous_with(offset(LEN), with_backend(backend)).unwrap();
            let pattern: Vec<u8> = (0..LEN).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
            region.store(0, &pattern).unwrap();
            let mut buffer = vec![0xEE; shift + len + 64];
            region.read(offset(at), &mut buffer[shift..shift + len]).unwrap();
            prop_assert!(buffer[shift..shift + len] == pattern[at..at + len]);
            prop_assert!(buffer[..shift].iter().chain(&buffer[shift + len..]).all(|byte| *byte == 0xEE));
        }
    }
}

#[test]
fn every_small_length_at_every_alignment_is_copied_exactly() {
    for backend in backends() {
        let region = Region::anonymous_with(4096, with_backend(backend)).unwrap();
        let pattern: Vec<u8> = (1..=200).collect();
        for at in 0..70 {
            for len in 0..=200 {
                for nontemporal in [false, true] {
                    region.zero(0, 512).unwrap();
                    let bytes = &pattern[..len];
                    if nontemporal {
                        region.store_nontemporal(offset(at), bytes).unwrap();
                    } else {
                        region.store(offset(at), bytes).unwrap();
                    }
                    let mut found = [0xFF; 512];
                    region.read(0, &mut found).unwrap();
                    let mut expected = [0; 512];
                    expected[at..at + len].copy_from_slice(bytes);
                    assert!(
                        found == expected,
                        "{backend:?} {at}+{len} nontemporal: {nontemporal}"
                    );
                    let mut back = vec![0; len];
                    region.read(offset(at), &mut back).unwrap();
                    assert!(back == bytes, "{backend:?} read {at}+{len}");
                }
            }
        }
    }
}

/// A word that tells its number, in all its bytes.
fn pattern(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[test]
fn words_are_read_as_stored() {
    let region = Region::anonymous(8192, None).unwrap();
    for word in 0..1024 {
        region.store_u64(word * 8, pattern(word)).unwrap();
    }
    assert_eq!(region.read_u64(24).unwrap(), pattern(3));
    for count in [0, 1, 3, 4, 5, 31, 1023] {
        let mut words = vec![0; count];
        region.read_words(8, &mut words).unwrap();
        let expected: Vec<u64> = (1..).take(count).map(pattern).collect();
        assert_eq!(words, expected);
    }
}

#[test]
fn compare_finds_a_difference_in_any_place() {
    let region = Region::anonymous(3 * 4096, None).unwrap();
    let bytes: Vec<u8> = (0..10_000_u32).map(|at| at.to_le_bytes()[0] ^ 0x5A).collect();
    region.store(100, &bytes).unwrap();
    assert!(region.compare(100, &bytes).unwrap());
    assert!(region.compare(100, &[]).unwrap());
    for at in [0, 1, 63, 4095, 4096, 8191, 9_999] {
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert!(!region.compare(100, &other).unwrap(), "difference at {at}");
    }
}

#[test]
fn anonymous_memory_is_zero_and_says_that_it_is_not_persistent() {
    let region = Region::anonymous(10_000, None).unwrap();
    assert!(region.compare(0, &[0; 10_000]).unwrap());
    assert_eq!(region.persistence(), Persistence::ProcessOnly);
    assert_eq!(
        (region.len(), region.is_empty(), region.path()),
        (10_000, false, None)
    );
    assert_eq!(region.name(), "anonymous memory");
}
