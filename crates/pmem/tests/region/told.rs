//! Pages of which the kernel says by a signal, and not by a fault, that they are lost.

use nix::errno::Errno;
use udax_pmem::{Region, RegionError};

use super::{child, child_path, memory_directory};

const PAGE: u64 = 4096;

/// What the kernel sends when memory is found lost that nobody has loaded (`siginfo_t` of x86-64 and of arm64).
#[repr(C)]
struct MemoryError {
    signal: i32,
    errno: i32,
    code: i32,
    padding: i32,
    address: usize,
    lsb: i16,
    rest: [u16; 51],
}

fn tell(address: usize, lsb: i16) {
    let error = MemoryError {
        signal: libc::SIGBUS,
        errno: 0,
        code: libc::BUS_MCEERR_AO,
        padding: 0,
        address,
        lsb,
        rest: [0; 51],
    };
    // SAFETY: a signal to this thread, since others may not be told such things, with a `siginfo_t` of the right size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            nix::unistd::getpid().as_raw(),
            nix::unistd::gettid().as_raw(),
            libc::SIGBUS,
            &raw const error,
        )
    };
    assert_eq!(result, 0, "{}", Errno::last());
}

#[test]
#[ignore = "started by another test: a signal of this kind ends the process"]
fn told_child() {
    let region = Region::create(&child_path(), 4 * PAGE, udax_pmem::RegionOptions::default()).unwrap();
    let other = Region::anonymous(4 * PAGE, None).unwrap();
    region.store(0, &[7; 4 * 4096]).unwrap();
    let address = region.address(PAGE + 100, 1).unwrap();
    // Somewhere in 2 MiB: that does not make all of it bad.
    tell(address.as_ptr().addr(), 21);
    assert_eq!(region.bad_ranges(), []);
    tell(address.as_ptr().addr(), 12);
    tell(address.as_ptr().addr(), 12);
    assert!(matches!(
        region.read_u64(PAGE),
        Err(RegionError::Media { at: PAGE })
    ));
    assert_eq!(region.bad_ranges().first(), Some(&(PAGE..2 * PAGE)));
    assert_eq!(region.bad_ranges().len(), 1);
    assert!(region.compare(0, &[7; 4096]).unwrap());
    assert_eq!(other.bad_ranges(), []);
    region.store_nontemporal(PAGE, &[9; 4096]).unwrap();
    assert_eq!(region.bad_ranges(), []);
    assert!(region.compare(PAGE, &[9; 4096]).unwrap());

    // Addresses of a region that is gone are nobody's: the next one is not told of them.
    let gone = region.address(0, 1).unwrap().as_ptr().addr();
    drop(region);
    println!("survived");
    // Twice: std's own handler of SIGBUS, which then has it, only takes itself away at the first.
    tell(gone, 12);
    tell(gone, 12);
    println!("not reached");
}

#[test]
fn a_page_that_a_signal_tells_of_is_bad_until_it_is_stored() {
    let directory = memory_directory();
    let output = child("told::told_child", directory.path().join("pool"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("survived"), "{said}");
    // One that concerns no region does what it does without us: it ends the process.
    assert!(
        !said.contains("not reached") && !output.status.success(),
        "{said}"
    );
}
