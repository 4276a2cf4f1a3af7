//! The allocator of tests: it counts, and fails what was planned.

use udax_sync::allocation::{CountedAllocator, plan};

#[global_allocator]
static ALLOCATOR: CountedAllocator = CountedAllocator;

#[test]
fn the_planned_allocation_fails_and_no_other() {
    plan(Some(3));
    let results = [8, 16, 32, 64].map(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok());
    assert_eq!(plan(None), 4);
    assert_eq!(results, [true, true, false, true]);
    assert!(Vec::<u8>::new().try_reserve_exact(8).is_ok());
    assert_eq!(plan(None), 1);
}

#[test]
fn growing_and_zeroed_memory_count_and_fail_too() {
    let mut bytes = Vec::<u8>::with_capacity(8);
    bytes.extend_from_slice(b"unmoved");
    plan(Some(1));
    assert!(bytes.try_reserve_exact(1 << 20).is_err());
    assert_eq!(bytes, b"unmoved");
    drop(vec![0_u8; 100]);
    assert_eq!(plan(None), 2);
}

#[test]
fn a_plan_is_for_its_own_thread() {
    let barrier = std::sync::Barrier::new(2);
    let allocates = || Vec::<u8>::new().try_reserve_exact(8).is_ok();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            barrier.wait();
            let is_given = allocates();
            barrier.wait();
            is_given
        });
        // Nothing else may allocate under the plan: std would end the process.
        plan(Some(1));
        barrier.wait();
        barrier.wait();
        let is_given = allocates();
        plan(None);
        assert!(!is_given);
        assert!(other.join().is_ok_and(|is_given| is_given));
    });
}
