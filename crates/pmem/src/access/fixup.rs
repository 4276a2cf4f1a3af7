//! The table of instructions that may raise SIGBUS, and the handler that sends them to their fix-ups.
//!
//! Each entry of the linker section `udax_pmem_fixups` is three 32-bit distances, each from its own place: start and
//! end of a range of instructions, and where to go on when one of them faults. The handler puts the failing address
//! into r11, so all code in the table must give r11 up. It is safe in a signal handler: it reads only the table, the
//! saved registers and the handler that was there before, and leaves what it is told in atomics (`told`).

use std::sync::OnceLock;

use libc::{c_int, c_void, siginfo_t, ucontext_t};
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::told;

/// One line of assembly: an entry for the instructions from label `$start` to before `$end`, going on at `$fixup`.
macro_rules! fixup {
    ($start:literal, $end:literal, $fixup:literal) => {
        concat!(
            ".pushsection udax_pmem_fixups, \"aR\", @progbits\n",
            ".balign 4\n",
            ".long ",
            $start,
            " - .\n",
            ".long ",
            $end,
            " - .\n",
            ".long ",
            $fixup,
            " - .\n",
            ".popsection"
        )
    };
}
pub(super) use fixup;

#[repr(C)]
struct Entry {
    start: i32,
    end: i32,
    fixup: i32,
}

unsafe extern "C" {
    // The linker makes these for any section whose name is a C identifier.
    static __start_udax_pmem_fixups: Entry;
    static __stop_udax_pmem_fixups: Entry;
}

/// Where a distance points to.
fn target(distance: &i32) -> usize {
    let place = std::ptr::from_ref(distance).addr();
    place.wrapping_add_signed(isize::try_from(*distance).unwrap_or(0))
}

fn find_fixup(instruction: usize) -> Option<usize> {
    let start = &raw const __start_udax_pmem_fixups;
    let stop = &raw const __stop_udax_pmem_fixups;
    let count = (stop.addr() - start.addr()) / size_of::<Entry>();
    // SAFETY: the section consists of nothing but `count` entries, is never written and lives as long as the program.
    let table = unsafe { std::slice::from_raw_parts(start, count) };
    table
        .iter()
        .find(|entry| (target(&entry.start)..target(&entry.end)).contains(&instruction))
        .map(|entry| target(&entry.fixup))
}

const RIP: usize = 16;
const R11: usize = 3;
const _: () = assert!(libc::REG_RIP == 16 && libc::REG_R11 == 3);

static PREVIOUS: OnceLock<Result<SigAction, Errno>> = OnceLock::new();

/// Installs the handler, once a process.
///
/// # Errors
/// What sigaction gave.
pub(crate) fn install() -> Result<(), Errno> {
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK | SaFlags::SA_RESTART;
    let action = SigAction::new(SigHandler::SigAction(on_sigbus), flags, SigSet::empty());
    PREVIOUS
        .get_or_init(|| {
            // SAFETY: the handler is async-signal-safe, as said above.
            unsafe { sigaction(Signal::SIGBUS, &action) }
        })
        .as_ref()
        .map(|_| ())
        .map_err(|errno| *errno)
}

extern "C" fn on_sigbus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gave a valid siginfo, for the time of this call.
    let info_ref = unsafe { &*info };
    let is_done = match info_ref.si_code {
        // It comes at any instruction, which goes on as if nothing was: none of ours has failed.
        libc::BUS_MCEERR_AO => is_told(info_ref),
        // Positive: raised by a fault of this thread, not sent by somebody.
        code => code > 0 && redirect(info_ref, context.cast()),
    };
    if !is_done {
        chain(signal, info, context);
    }
}

/// Whether the fault was one of ours.
fn redirect(info: &siginfo_t, context: *mut ucontext_t) -> bool {
    // SAFETY: the kernel gave a valid context, which is this handler's alone until it returns.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    let instruction = usize::try_from(registers[RIP].cast_unsigned()).unwrap_or(0);
    let Some(fixup) = find_fixup(instruction) else {
        return false;
    };
    // SAFETY: faults have an address.
    let address = unsafe { info.si_addr() }.addr();
    let (Ok(fixup), Ok(address)) = (u64::try_from(fixup), u64::try_from(address)) else {
        return false;
    };
    registers[RIP] = fixup.cast_signed();
    registers[R11] = address.cast_signed();
    true
}

/// Where `si_addr_lsb` is: behind the address, which is behind three numbers and their padding.
const ADDRESS_LSB: usize = 24;

/// Whether the kernel only tells that bytes of a region are lost, which no instruction has met.
fn is_told(info: &siginfo_t) -> bool {
    if info.si_code != libc::BUS_MCEERR_AO {
        return false;
    }
    // SAFETY: signals of this code have an address.
    let address = unsafe { info.si_addr() }.addr();
    let lsb = std::ptr::from_ref(info)
        .cast::<u8>()
        .wrapping_add(ADDRESS_LSB)
        .cast::<i16>();
    // SAFETY: inside the `siginfo_t`; signals of this code have it.
    told::tell(address, unsafe { lsb.read() })
}

/// Does what would have been done without us.
fn chain(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: as in the caller.
    let code = unsafe { (*info).si_code };
    // What the kernel only tells of does not come again when the handler returns.
    let faulted = code > 0 && code != libc::BUS_MCEERR_AO;
    match PREVIOUS.get() {
        Some(Ok(previous)) => match previous.handler() {
            SigHandler::Handler(handler) => handler(signal),
            SigHandler::SigAction(handler) => handler(signal, info, context),
            // A fault cannot be ignored.
            SigHandler::SigIgn if !faulted => {}
            SigHandler::SigIgn | SigHandler::SigDfl => take_default(faulted),
        },
        // Delivered between sigaction and the store of its result.
        _ => take_default(faulted),
    }
}

/// Lets the default action kill the process: by the same fault again, or by the signal raised again.
fn take_default(faulted: bool) {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours.
    let _ = unsafe { sigaction(Signal::SIGBUS, &default) };
    if !faulted {
        let _ = nix::sys::signal::raise(Signal::SIGBUS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::told::Told;

    /// A signal of `code` for `address`, at an instruction that has a fix-up; where it goes on.
    fn delivered(code: c_int, address: usize) -> (usize, usize) {
        // SAFETY: numbers and addresses, for which zeros are valid.
        let mut info: siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut context: ucontext_t = unsafe { std::mem::zeroed() };
        info.si_code = code;
        let place = (&raw mut info).cast::<u8>();
        // SAFETY: inside the `siginfo_t`, aligned, and nobody else's.
        unsafe { place.wrapping_add(16).cast::<usize>().write(address) };
        // SAFETY: as above.
        unsafe { place.wrapping_add(ADDRESS_LSB).cast::<i16>().write(12) };
        // SAFETY: the table has entries.
        let at = target(unsafe { &__start_udax_pmem_fixups.start });
        context.uc_mcontext.gregs[RIP] = i64::try_from(at).unwrap();
        on_sigbus(libc::SIGBUS, &raw mut info, (&raw mut context).cast());
        (at, usize::try_from(context.uc_mcontext.gregs[RIP]).unwrap())
    }

    #[test]
    fn a_lost_page_that_is_only_told_of_leaves_the_instruction_that_it_meets_alone() {
        let bytes = vec![0_u8; 8192];
        let start = bytes.as_ptr().addr();
        let told = Told::new(start..start + bytes.len());
        let (at, then) = delivered(libc::BUS_MCEERR_AO, start + 4096);
        assert_eq!(at, then);
        assert!(told.is_any());
        assert_eq!(told.take(), [4096]);
    }

    #[test]
    fn a_fault_goes_on_at_the_fix_up() {
        let (at, then) = delivered(libc::BUS_MCEERR_AR, 0x1000);
        assert_ne!(at, then);
        assert_eq!(Some(then), find_fixup(at));
    }
}
