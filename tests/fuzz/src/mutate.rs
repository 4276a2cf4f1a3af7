//! Bytes that are like others.

use rand::Rng;
use rand::rngs::SmallRng;

/// The longest result.
const MAX_LEN: usize = 1 << 16;
/// Values that code is tempted to add to, multiply or allocate.
const EXTREMES: [u64; 12] = [
    0,
    1,
    0xff,
    0xffff,
    0xffff_ffff,
    4095,
    4096,
    4097,
    1 << 47,
    1 << 48,
    u64::MAX >> 1,
    u64::MAX,
];

/// A few changes of `bytes`.
pub fn mutate(bytes: &[u8], random: &mut SmallRng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.random_range(1..8) {
        let at = random.random_range(0..=bytes.len());
        let len = random.random_range(1..=16).min(bytes.len() - at);
        match random.random_range(0..7) {
            0 if len > 0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 if len > 0 => bytes[at] = random.random(),
            2 => {
                let value = EXTREMES[random.random_range(0..EXTREMES.len())].to_le_bytes();
                let width = (1 << random.random_range(0..4)).min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&value[..width]);
            }
            3 => drop(bytes.drain(at..at + len)),
            4 => {
                let new: Vec<u8> = (0..random.random_range(1..=16))
                    .map(|_| random.random())
                    .collect();
                bytes.splice(at..at, new);
            }
            5 if len > 0 => {
                let to = random.random_range(0..=bytes.len() - len);
                bytes.copy_within(at..at + len, to);
            }
            _ if len > 0 => random.fill(&mut bytes[at..at + len]),
            _ => bytes.push(random.random()),
        }
    }
    bytes.truncate(MAX_LEN);
    bytes
}
