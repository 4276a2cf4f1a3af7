//! Cuts a failing sequence down to what is needed (delta debugging).

use std::time::{Duration, Instant};

use crate::operation::Operation;

/// The shortest sequence found within `limit` for which `fails` still holds. Whole pieces are left out, halves
/// first, then smaller ones down to single operations.
///
/// The first sequence must fail.
pub fn shrink(
    operations: &[Operation],
    limit: Duration,
    mut fails: impl FnMut(&[Operation]) -> bool,
) -> Vec<Operation> {
    let deadline = Instant::now() + limit;
    let mut kept = operations.to_vec();
    let mut piece = kept.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        let mut has_shrunk = false;
        while at < kept.len() {
            if Instant::now() > deadline {
                return kept;
            }
            let end = (at + piece).min(kept.len());
            let candidate = [&kept[..at], &kept[end..]].concat();
            if fails(&candidate) {
                kept = candidate;
                has_shrunk = true;
            } else {
                at = end;
            }
        }
        if !has_shrunk || piece > kept.len() {
            piece /= 2;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_is_left() {
        let operations: Vec<Operation> = (0..100).map(|slot| Operation::Close { slot }).collect();
        let has = |operations: &[Operation], slot| operations.contains(&Operation::Close { slot });
        let kept = shrink(&operations, Duration::from_secs(10), |candidate| {
            has(candidate, 17) && has(candidate, 90)
        });
        assert_eq!(
            kept,
            [Operation::Close { slot: 17 }, Operation::Close { slot: 90 }]
        );
    }

    #[test]
    fn nothing_is_left_out_when_all_is_needed() {
        let operations: Vec<Operation> = (0..10).map(|slot| Operation::Close { slot }).collect();
        let kept = shrink(&operations, Duration::from_secs(10), |candidate| {
            candidate.len() == 10
        });
        assert_eq!(kept, operations);
    }
}
