//! What fails for another reason than an image is no fault that was found.

#![cfg(not(udax_faults))]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use udax_crash::Domain;
use udax_sync::fault::Fault;
use udax_test_crash::hunt::hunt;

fn told(program: &str) -> String {
    let found = hunt(
        Path::new(program),
        Fault::UnflushedPin,
        Domain::Flush,
        Duration::from_secs(1),
    );
    found.expect_err("nothing can be found").to_string()
}

#[test]
fn a_build_that_cannot_be_made_faulty_finds_nothing() {
    let error = told(env!("CARGO_BIN_EXE_udax-test-crash"));
    assert!(error.contains("unflushed-pin was not found"), "{error}");
}

#[test]
fn a_program_that_fails_or_cannot_be_started_finds_nothing() {
    for program in ["false", "true"] {
        let error = told(program);
        assert!(error.contains("was not found"), "{error}");
    }
    assert!(told("/nonexistent/udax-test-crash").contains("start of the hunt"));
}

#[test]
fn a_workload_that_fails_by_itself_is_no_violation() {
    let output = Command::new(env!("CARGO_BIN_EXE_udax-test-crash"))
        .args(["explore", "lanes/0"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("lanes/0: there is nothing to do"), "{text}");
    assert_eq!(output.status.code(), Some(1), "{text}");
}
