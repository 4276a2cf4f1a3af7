//! Each protection that can be switched off is missed by the crash tests. Needs a build with `--cfg udax_faults`:
//! `ci/faults` makes one.

#![cfg(udax_faults)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use udax_crash::Domain;
use udax_sync::fault::Fault;
use udax_test_crash::hunt::{VIOLATION, faults, hunt};

/// Alone on a machine of two processors each is found within 40 seconds; another may be slower, and has more to do.
const LONGEST: Duration = Duration::from_secs(400);

fn those_of_a_share_are_found(share: usize, shares: usize) {
    let program = Path::new(env!("CARGO_BIN_EXE_udax-test-crash"));
    let mut missed = Vec::new();
    for fault in faults().skip(share).step_by(shares) {
        match hunt(program, fault, Domain::Flush, LONGEST) {
            Ok(found) => println!("{}: {found}", fault.name()),
            Err(error) => missed.push(format!("{error:#}")),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

/// The faults are dealt to tests, so that none takes too long for one test.
macro_rules! shares {
    ($($test:ident = $share:literal of $shares:literal,)*) => {
        $(#[test]
        fn $test() {
            those_of_a_share_are_found($share, $shares);
        })*
    };
}

shares! {
    each_missing_protection_is_found_share_0 = 0 of 8,
    each_missing_protection_is_found_share_1 = 1 of 8,
    each_missing_protection_is_found_share_2 = 2 of 8,
    each_missing_protection_is_found_share_3 = 3 of 8,
    each_missing_protection_is_found_share_4 = 4 of 8,
    each_missing_protection_is_found_share_5 = 5 of 8,
    each_missing_protection_is_found_share_6 = 6 of 8,
    each_missing_protection_is_found_share_7 = 7 of 8,
}

/// The images of other machines can show a missing protection as well: some of which each machine has a use for.
#[test]
fn missing_protections_are_found_on_other_machines() {
    let program = Path::new(env!("CARGO_BIN_EXE_udax-test-crash"));
    let caches_are_saved = [
        Fault::UnfencedRecord,
        Fault::EarlyApply,
        Fault::UnfencedData,
        Fault::EarlySize,
        Fault::UnwrittenSync,
    ];
    let sectors_are_synced = [
        Fault::UnflushedRecord,
        Fault::UnfencedCheckpoint,
        Fault::UnflushedData,
        Fault::UnwrittenDsync,
        Fault::UnflushedDeviceSync,
    ];
    for (domain, faults) in [
        (Domain::Eadr, caches_are_saved),
        (Domain::Msync, sectors_are_synced),
    ] {
        for fault in faults {
            let found = hunt(program, fault, domain, LONGEST).unwrap();
            println!("{} on {}: {found}", fault.name(), domain.name());
        }
    }
}

/// What was stored through a pin is flushed by the pin, or else by a sync of its file, in blocks of the file's own and
/// in copies of shared ones.
#[test]
fn stores_through_pins_that_nobody_flushes_are_found() {
    for workload in [
        "ace/pin-only",
        "ace/pin-sync",
        "ace/pin-sync-shared",
        "sums/ace/pin-sync",
        "random/1/200",
    ] {
        let arguments = [
            "explore",
            "--without",
            Fault::UnflushedPin.name(),
            "--domains",
            "flush",
            "--images",
            "4",
            "--every",
            "1000",
            workload,
        ];
        let output = Command::new(env!("CARGO_BIN_EXE_udax-test-crash"))
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(i32::from(VIOLATION)),
            "{workload}: {text}"
        );
        assert!(text.contains("the word at"), "{workload}: {text}");
    }
}

#[test]
fn there_are_at_least_twenty() {
    assert!(faults().count() >= 20);
}
