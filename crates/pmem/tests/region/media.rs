//! A file cut short under its mapping: errors for the lost bytes, and nothing worse.

use std::fs::OpenOptions;
use std::num::NonZeroUsize;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use udax_pmem::{Backend, CountingRecorder, Region, RegionError, RegionOptions};

use super::{backends, child, child_path, in_four_threads, memory_directory, with_backend};

const LEN: u64 = 16 * 4096;
/// What is left of the file: two pages.
const CUT: u64 = 2 * 4096;

fn cut(path: &Path, len: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

/// A region full of sevens whose file is cut to `CUT` bytes while `action` runs.
fn with_cut_region(action: impl Fn(&Region)) {
    for backend in backends() {
        let directory = memory_directory();
        let path = directory.path().join("pool");
        let region = Region::create(&path, LEN, with_backend(backend)).unwrap();
        region.store(0, &[7; 16 * 4096]).unwrap();
        cut(&path, CUT);
        action(&region);
        // What is there works as before.
        assert!(region.compare(0, &[7; 2 * 4096 - 512]).unwrap());
        assert_eq!(region.read_u64(8).unwrap(), 0x0707_0707_0707_0707);
        region.store_u64(8, 1).unwrap();
        region.flush(8, 8).unwrap();
        region.fence().unwrap();
    }
}

fn failing_byte<T: std::fmt::Debug>(result: Result<T, RegionError>) -> u64 {
    match result {
        Err(RegionError::Unreachable { at }) => at,
        other => panic!("not out of reach: {other:?}"),
    }
}

#[test]
fn a_read_gives_the_bytes_before_the_lost_page_and_the_exact_place() {
    with_cut_region(|region| {
        for before in [0, 1, 3, 8, 31, 32, 33, 100, 127, 128, 129, 500] {
            let at = CUT - u64::try_from(before).unwrap();
            let mut buffer = [0; 1500];
            assert_eq!(failing_byte(region.read(at, &mut buffer)), CUT);
            assert!(buffer[..before].iter().all(|byte| *byte == 7), "{before} before");
            assert!(buffer[before..].iter().all(|byte| *byte == 0), "{before} before");
        }
        assert_eq!(region.media_failures(), [CUT]);
    });
}

#[test]
fn small_reads_fail_at_the_exact_byte() {
    with_cut_region(|region| {
        for len in 2..64 {
            for before in 1..len {
                let mut buffer = vec![0; len];
                let at = CUT - u64::try_from(before).unwrap();
                assert_eq!(failing_byte(region.read(at, &mut buffer)), CUT);
                assert!(
                    buffer[..before].iter().all(|byte| *byte == 7),
                    "{before} of {len}"
                );
            }
        }
    });
}

#[test]
fn a_store_keeps_the_bytes_before_the_lost_page_and_tells_the_exact_place() {
    with_cut_region(|region| {
        for before in [0, 1, 8, 9, 31, 32, 63, 64, 65, 300] {
            let at = CUT - before;
            assert_eq!(failing_byte(region.store(at, &[9; 1000])), CUT);
            let kept = vec![9; usize::try_from(before).unwrap()];
            assert!(region.compare(at, &kept).unwrap(), "{before} before");
        }
        assert_eq!(failing_byte(region.store(CUT + 10_000, &[9; 3])), CUT + 10_000);
        assert_eq!(region.media_failures(), [CUT, CUT + 8192]);
    });
}

#[test]
fn a_store_past_the_cache_keeps_the_bytes_before_the_lost_page() {
    with_cut_region(|region| {
        for before in [0, 1, 64, 65, 128, 300, 512] {
            let at = CUT - before;
            assert_eq!(failing_byte(region.store_nontemporal(at, &[5; 2000])), CUT);
            let kept = vec![5; usize::try_from(before).unwrap()];
            assert!(region.compare(at, &kept).unwrap(), "{before} before");
        }
    });
}

#[test]
fn words_of_a_lost_page_are_errors() {
    with_cut_region(|region| {
        let at = CUT + 16;
        assert_eq!(failing_byte(region.read_u64(at)), at);
        assert_eq!(failing_byte(region.store_u64(at, 1)), at);
        assert_eq!(failing_byte(region.set_bits(at, 1)), at);
        assert_eq!(failing_byte(region.clear_bits(at, 1)), at);
        let mut words = [0; 4];
        assert_eq!(failing_byte(region.read_words(CUT - 16, &mut words)), CUT);
        assert_eq!(words, [0x0707_0707_0707_0707, 0x0707_0707_0707_0707, 0, 0]);
    });
}

#[test]
fn everything_else_on_a_lost_page_is_an_error_too() {
    with_cut_region(|region| {
        assert_eq!(failing_byte(region.zero(CUT - 8, 16)), CUT);
        assert_eq!(failing_byte(region.zero_nontemporal(CUT - 64, 8192)), CUT);
        assert_eq!(failing_byte(region.copy_nontemporal(CUT - 64, 0, 128)), CUT);
        region.store(0, &[7; 128]).unwrap();
        assert_eq!(failing_byte(region.copy_nontemporal(0, CUT, 128)), CUT);
        assert_eq!(failing_byte(region.compare(CUT, &[0])), CUT);
        assert_eq!(failing_byte(region.flush(CUT + 3, 70)), CUT + 3);
        assert_eq!(failing_byte(region.flush(CUT - 64, 128)), CUT);
    });
}

#[test]
fn a_lost_page_that_comes_back_is_usable_again() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    let region = Region::create(&path, LEN, RegionOptions::default()).unwrap();
    cut(&path, CUT);
    failing_byte(region.read_u64(CUT));
    cut(&path, LEN);
    assert_eq!(region.read_u64(CUT).unwrap(), 0);
    region.store_u64(CUT, 5).unwrap();
    assert_eq!(region.read_u64(CUT).unwrap(), 5);
}

#[test]
fn a_recorder_sees_only_what_was_stored() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    let recorder = Arc::new(CountingRecorder::new());
    let options = RegionOptions {
        recorder: Some(recorder.clone()),
        ..RegionOptions::default()
    };
    let region = Region::create(&path, LEN, options).unwrap();
    cut(&path, CUT);
    failing_byte(region.store(CUT - 10, &[1; 100]));
    failing_byte(region.store_nontemporal(CUT - 128, &[1; 1024]));
    failing_byte(region.store_u64(CUT, 1));
    failing_byte(region.set_bits(CUT, 1));
    let counts = recorder.snapshot();
    assert_eq!(
        (counts.stores, counts.stored_bytes, counts.nontemporal_bytes),
        (1, 10, 128)
    );
}

#[test]
fn threads_that_meet_media_errors_at_once_all_survive() {
    with_cut_region(|region| {
        in_four_threads(|thread| {
            for round in 0..500 {
                let at = CUT + (thread * 4096 + round * 8) % (LEN - CUT - 64);
                assert_eq!(failing_byte(region.read_u64(at)), at);
                assert_eq!(failing_byte(region.read(at, &mut [0; 64])), at);
            }
        });
    });
}

#[test]
fn a_lost_page_of_the_callers_buffer_is_not_blamed_on_the_medium() {
    let directory = memory_directory();
    let path = directory.path().join("buffer");
    std::fs::write(&path, [1; 4096]).unwrap();
    let buffer = raw_mapping(&path);
    let region = Region::anonymous(4096, None).unwrap();
    cut(&path, 0);
    // SAFETY: mapped for 4096 bytes; whoever touches them meets SIGBUS, and only the region does.
    let slice = unsafe { std::slice::from_raw_parts_mut(buffer, 4096) };
    match region.read(0, slice) {
        Err(RegionError::Io { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(libc::EFAULT));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(region.media_failures(), []);
}

fn raw_mapping(path: &Path) -> *mut u8 {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let len = NonZeroUsize::new(4096).unwrap();
    // SAFETY: at an address that the kernel chooses.
    let address = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, &file, 0) }.unwrap();
    address.cast().as_ptr()
}

/// Touches a page that no region has.
fn fault_outside_of_regions() {
    let path = child_path();
    std::fs::write(&path, [1; 4096]).unwrap();
    let place = raw_mapping(&path);
    cut(&path, 0);
    // SAFETY: mapped; the fault is what is wanted.
    unsafe { place.read_volatile() };
}

fn run_child(test: &str) -> std::process::ExitStatus {
    let directory = memory_directory();
    let output = child(test, directory.path().join("foreign")).output().unwrap();
    output.status
}

#[test]
#[ignore = "run by a_foreign_fault_still_kills"]
fn child_with_a_foreign_fault() {
    let _region = Region::anonymous(4096, None).unwrap();
    fault_outside_of_regions();
}

#[test]
fn a_foreign_fault_still_kills() {
    let status = run_child("media::child_with_a_foreign_fault");
    assert_eq!(status.signal(), Some(libc::SIGBUS));
}

#[test]
#[ignore = "run by a_signal_that_was_sent_still_kills"]
fn child_that_sends_itself_the_signal() {
    // In place of the standard library's handler, which lets the first signal that was sent pass.
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours.
    unsafe { sigaction(Signal::SIGBUS, &action) }.unwrap();
    let _region = Region::anonymous(4096, None).unwrap();
    nix::sys::signal::raise(Signal::SIGBUS).unwrap();
}

#[test]
fn a_signal_that_was_sent_still_kills() {
    let status = run_child("media::child_that_sends_itself_the_signal");
    assert_eq!(status.signal(), Some(libc::SIGBUS));
}

extern "C" fn exit_with_42(_signal: libc::c_int) {
    // SAFETY: ends the process at once, which a signal handler may.
    unsafe { libc::_exit(42) };
}

#[test]
#[ignore = "run by a_foreign_fault_goes_to_the_handler_that_was_there_before"]
fn child_with_a_handler_of_its_own() {
    let action = SigAction::new(
        SigHandler::Handler(exit_with_42),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler only ends the process.
    unsafe { sigaction(Signal::SIGBUS, &action) }.unwrap();
    let directory = memory_directory();
    let path = directory.path().join("pool");
    let region = Region::create(&path, LEN, RegionOptions::default()).unwrap();
    cut(&path, 0);
    // Ours first: it must not get to that handler.
    assert!(matches!(region.read_u64(0), Err(error) if error.errno() == Errno::EIO));
    drop(directory);
    fault_outside_of_regions();
}

#[test]
fn a_foreign_fault_goes_to_the_handler_that_was_there_before() {
    let status = run_child("media::child_with_a_handler_of_its_own");
    assert_eq!(status.code(), Some(42));
}

#[test]
fn native_is_the_default_backend() {
    assert_eq!(RegionOptions::default().backend, Backend::Native);
}
