//! Each protection that can be switched off is missed by the crash tests. Needs a build with `--cfg udax_faults`:
//! `ci/faults` makes one.

#![cfg(udax_faults)]

use std::path::Path;
use std::time::Duration;

use udax_sync::fault::Fault;
use udax_test_crash::hunt::hunt;

/// Each is found within seconds; a machine may be slow.
const LONGEST: Duration = Duration::from_secs(180);
/// Tests that the faults are dealt to, so that none takes too long for one test.
const SHARES: usize = 4;

fn those_of_a_share_are_found(share: usize) {
    let program = Path::new(env!("CARGO_BIN_EXE_udax-test-crash"));
    let mut missed = Vec::new();
    for fault in Fault::CRASH.iter().skip(share).step_by(SHARES) {
        match hunt(program, *fault, LONGEST) {
            Ok(found) => println!("{}: {found}", fault.name()),
            Err(error) => missed.push(format!("{error:#}")),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn each_missing_protection_is_found_first_share() {
    those_of_a_share_are_found(0);
    assert!(Fault::CRASH.len() >= 20);
}

#[test]
fn each_missing_protection_is_found_second_share() {
    those_of_a_share_are_found(1);
}

#[test]
fn each_missing_protection_is_found_third_share() {
    those_of_a_share_are_found(2);
}

#[test]
fn each_missing_protection_is_found_fourth_share() {
    those_of_a_share_are_found(3);
}
