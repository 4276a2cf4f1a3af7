//! The same work on several threads.

use crate::thread;

/// Runs `work` on this thread and up to `threads - 1` more, and gives what each came to, this one's first. Where the
/// system gives fewer threads (`ulimit -u`, cgroups), those that there are do it: `work` takes its pieces from a place
/// that all share, until there are none.
///
/// # Panics
/// When one of them did, once all have ended.
pub fn on_threads<T: Send>(threads: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    let work = &work;
    thread::scope(|scope| {
        #[cfg(not(shuttle))]
        let start = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
        // Its threads are no real ones: there are always enough.
        #[cfg(shuttle)]
        let start = |_| Some(scope.spawn(work));
        let others: Vec<_> = (1..threads).map_while(start).collect();
        let mut results = vec![work()];
        for other in others {
            match other.join() {
                Ok(result) => results.push(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    })
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use crate::atomic::{AtomicU64, Ordering};

    #[test]
    fn all_pieces_are_taken_once() {
        for threads in [0, 1, 4] {
            let next = AtomicU64::new(0);
            let sums = on_threads(threads, || {
                let mut sum = 0;
                loop {
                    match next.fetch_add(1, Ordering::Relaxed) {
                        piece @ 0..1000 => sum += piece,
                        _ => return sum,
                    }
                }
            });
            assert_eq!(sums.len(), threads.max(1));
            assert_eq!(sums.iter().sum::<u64>(), 499_500);
        }
    }
}
