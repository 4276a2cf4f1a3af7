//! Each protection that can be switched off is missed by the crash tests. Needs a build with `--cfg udax_faults`:
//! `ci/faults` makes one.

#![cfg(udax_faults)]

use std::path::Path;
use std::time::Duration;

use udax_sync::fault::Fault;
use udax_test_crash::hunt::hunt;

/// Each is found within seconds; a machine may be slow.
const LONGEST: Duration = Duration::from_secs(180);

#[test]
fn each_missing_protection_is_found() {
    let program = Path::new(env!("CARGO_BIN_EXE_udax-test-crash"));
    let mut missed = Vec::new();
    for fault in Fault::CRASH {
        match hunt(program, *fault, LONGEST) {
            Ok(found) => println!("{}: {found}", fault.name()),
            Err(error) => missed.push(format!("{error:#}")),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
    assert!(Fault::CRASH.len() >= 20);
}
