//! Loads, stores, copies and flushes of x86-64.
//!
//! The routines keep `to`, `from` and `len` as "what is still to do" in rdi, rsi and rdx at every instruction that may
//! fault. A copy that faults goes on byte by byte from there, which finds the exact byte; that stores the same bytes
//! again where the group of the fault was half done. The slow way uses no `rep movs`: poison met in a fast string
//! operation is fatal on some processors.
//!
//! Intel SDM: stores past the cache are weakly ordered and need sfence ("Caching of Temporal vs. Non-Temporal Data");
//! aligned 8-byte accesses are atomic ("Guaranteed Atomic Operations").
//!
//! movdir64b is not used: nothing may rely on 64-byte atomicity, since most processors lack it, and for throughput a
//! line of vector stores is as good.

use std::arch::{asm, naked_asm};

use super::fixup::fixup;
use super::{CopyFn, Fault, FlushFn, Outcome, StreamFn};

/// Whether lines can be written back by instructions.
pub(crate) const CAN_FLUSH: bool = true;

/// Loads an aligned word, atomically (relaxed).
///
/// # Safety
/// `from` is aligned and mapped.
#[inline(always)]
pub(crate) unsafe fn load(from: *const u64) -> Result<u64, Fault> {
    let value: u64;
    let failed: u32;
    // SAFETY: the caller's; a fault goes on at label 4 with `failed` still 1.
    unsafe {
        asm!(
            "mov {failed:e}, 1",
            "2: mov {value}, qword ptr [{from}]",
            "3: xor {failed:e}, {failed:e}",
            "4:",
            fixup!("2b", "3b", "4b"),
            from = in(reg) from,
            value = out(reg) value,
            failed = out(reg) failed,
            out("r11") _,
            options(nostack, readonly),
        );
    }
    if failed == 0 { Ok(value) } else { Err(Fault) }
}

/// Stores an aligned word, atomically (relaxed).
///
/// # Safety
/// `to` is aligned and mapped for writing.
#[inline(always)]
pub(crate) unsafe fn store(to: *mut u64, value: u64) -> Result<(), Fault> {
    let failed: u32;
    // SAFETY: the caller's; a fault goes on at label 4 with `failed` still 1.
    unsafe {
        asm!(
            "mov {failed:e}, 1",
            "2: mov qword ptr [{to}], {value}",
            "3: xor {failed:e}, {failed:e}",
            "4:",
            fixup!("2b", "3b", "4b"),
            to = in(reg) to,
            value = in(reg) value,
            failed = out(reg) failed,
            out("r11") _,
            options(nostack),
        );
    }
    if failed == 0 { Ok(()) } else { Err(Fault) }
}

/// Puts `new` where `current` is, atomically; gives the word that was there.
///
/// # Safety
/// `at` is aligned and mapped for writing.
#[inline]
pub(crate) unsafe fn compare_exchange(at: *mut u64, current: u64, new: u64) -> Result<u64, Fault> {
    let failed: u32;
    let before: u64;
    // SAFETY: the caller's; a fault goes on at label 4 with `failed` still 1.
    unsafe {
        asm!(
            "mov {failed:e}, 1",
            "2: lock cmpxchg qword ptr [{at}], {new}",
            "3: mov {failed:e}, 0",
            "4:",
            fixup!("2b", "3b", "4b"),
            at = in(reg) at,
            new = in(reg) new,
            failed = out(reg) failed,
            inout("rax") current => before,
            out("r11") _,
            options(nostack),
        );
    }
    if failed == 0 { Ok(before) } else { Err(Fault) }
}

/// Waits for this thread's flushes and stores past the cache.
#[inline(always)]
pub(crate) fn drain() {
    // SAFETY: sfence touches nothing; not `nomem`, so that no access is moved over it by the compiler.
    unsafe { asm!("sfence", options(nostack, preserves_flags)) };
}

/// [`CopyFn`] by aligned 8-byte accesses of `to`, its ragged ends by bytes.
///
/// # Safety
/// As [`CopyFn`].
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn store_words(to: *mut u8, from: *const u8, len: usize) -> Outcome {
    naked_asm!(
        "test rdx, rdx",
        "jz 7f",
        "2: test dil, 7",
        "jz 3f",
        "mov al, byte ptr [rsi]",
        "mov byte ptr [rdi], al",
        "inc rsi",
        "inc rdi",
        "dec rdx",
        "jnz 2b",
        "jmp 7f",
        "3: cmp rdx, 32",
        "jb 4f",
        "mov rax, qword ptr [rsi]",
        "mov rcx, qword ptr [rsi + 8]",
        "mov r8, qword ptr [rsi + 16]",
        "mov r9, qword ptr [rsi + 24]",
        "mov qword ptr [rdi], rax",
        "mov qword ptr [rdi + 8], rcx",
        "mov qword ptr [rdi + 16], r8",
        "mov qword ptr [rdi + 24], r9",
        "add rsi, 32",
        "add rdi, 32",
        "sub rdx, 32",
        "jmp 3b",
        "4: cmp rdx, 8",
        "jb 5f",
        "mov rax, qword ptr [rsi]",
        "mov qword ptr [rdi], rax",
        "add rsi, 8",
        "add rdi, 8",
        "sub rdx, 8",
        "jmp 4b",
        "5: test rdx, rdx",
        "jz 7f",
        "6: mov al, byte ptr [rsi]",
        "mov byte ptr [rdi], al",
        "inc rsi",
        "inc rdi",
        "dec rdx",
        "jnz 6b",
        "7: xor eax, eax",
        "xor edx, edx",
        "ret",
        "8: jmp {slow}",
        fixup!("2b", "7b", "8b"),
        slow = sym copy_bytes,
    )
}

/// [`CopyFn`] byte by byte: where the others go on after a fault. `len` is not zero.
///
/// # Safety
/// As [`CopyFn`].
#[unsafe(naked)]
unsafe extern "C" fn copy_bytes(to: *mut u8, from: *const u8, len: usize) -> Outcome {
    naked_asm!(
        "2: mov al, byte ptr [rsi]",
        "mov byte ptr [rdi], al",
        "3: inc rsi",
        "inc rdi",
        "dec rdx",
        "jnz 2b",
        "xor eax, eax",
        "ret",
        "4: mov rax, rdx",
        "mov rdx, r11",
        "ret",
        fixup!("2b", "3b", "4b"),
    )
}

/// [`CopyFn`] by 16-byte vectors.
///
/// # Safety
/// As [`CopyFn`].
#[unsafe(naked)]
unsafe extern "C" fn copy_sse2(to: *mut u8, from: *const u8, len: usize) -> Outcome {
    naked_asm!(
        "2: cmp rdx, 64",
        "jb 3f",
        "movdqu xmm0, xmmword ptr [rsi]",
        "movdqu xmm1, xmmword ptr [rsi + 16]",
        "movdqu xmm2, xmmword ptr [rsi + 32]",
        "movdqu xmm3, xmmword ptr [rsi + 48]",
        "movdqu xmmword ptr [rdi], xmm0",
        "movdqu xmmword ptr [rdi + 16], xmm1",
        "movdqu xmmword ptr [rdi + 32], xmm2",
        "movdqu xmmword ptr [rdi + 48], xmm3",
        "add rsi, 64",
        "add rdi, 64",
        "sub rdx, 64",
        "jmp 2b",
        "3: jmp {words}",
        "4: jmp {slow}",
        fixup!("2b", "3b", "4b"),
        words = sym store_words,
        slow = sym copy_bytes,
    )
}

/// [`CopyFn`] by 32-byte vectors.
///
/// # Safety
/// As [`CopyFn`], and the processor has AVX.
#[unsafe(naked)]
unsafe extern "C" fn copy_avx2(to: *mut u8, from: *const u8, len: usize) -> Outcome {
    naked_asm!(
        "cmp rdx, 32",
        "jae 2f",
        "jmp {words}",
        "2: cmp rdx, 128",
        "jb 4f",
        ".balign 16",
        "3: vmovdqu ymm0, ymmword ptr [rsi]",
        "vmovdqu ymm1, ymmword ptr [rsi + 32]",
        "vmovdqu ymm2, ymmword ptr [rsi + 64]",
        "vmovdqu ymm3, ymmword ptr [rsi + 96]",
        "vmovdqu ymmword ptr [rdi], ymm0",
        "vmovdqu ymmword ptr [rdi + 32], ymm1",
        "vmovdqu ymmword ptr [rdi + 64], ymm2",
        "vmovdqu ymmword ptr [rdi + 96], ymm3",
        "sub rsi, -128",
        "sub rdi, -128",
        "add rdx, -128",
        "cmp rdx, 128",
        "jae 3b",
        "4: cmp rdx, 32",
        "jb 5f",
        "vmovdqu ymm0, ymmword ptr [rsi]",
        "vmovdqu ymmword ptr [rdi], ymm0",
        "add rsi, 32",
        "add rdi, 32",
        "sub rdx, 32",
        "jmp 4b",
        // At least 32 bytes are done: the rest is the end of one whole vector.
        "5: test rdx, rdx",
        "jz 6f",
        "vmovdqu ymm0, ymmword ptr [rsi + rdx - 32]",
        "vmovdqu ymmword ptr [rdi + rdx - 32], ymm0",
        "6: vzeroupper",
        "xor eax, eax",
        "xor edx, edx",
        "ret",
        "7: vzeroupper",
        "jmp {slow}",
        fixup!("2b", "6b", "7b"),
        words = sym store_words,
        slow = sym copy_bytes,
    )
}

/// [`StreamFn`] by 16-byte vectors.
///
/// # Safety
/// As [`StreamFn`].
#[unsafe(naked)]
unsafe extern "C" fn stream_sse2(to: *mut u8, from: *const u8, len: usize) -> Outcome {
    naked_asm!(
        "test rdx, rdx",
        "jz 3f",
        "2: movdqu xmm0, xmmword ptr [rsi]",
        "movdqu xmm1, xmmword ptr [rsi + 16]",
        "movdqu xmm2, xmmword ptr [rsi + 32]",
        "movdqu xmm3, xmmword ptr [rsi + 48]",
        "movntdq xmmword ptr [rdi], xmm0",
        "movntdq xmmword ptr [rdi + 16], xmm1",
        "movntdq xmmword ptr [rdi + 32], xmm2",
        "movntdq xmmword ptr [rdi + 48], xmm3",
        "add rsi, 64",
        "add rdi, 64",
        "sub rdx, 64",
        "jnz 2b",
        "3: xor eax, eax",
        "ret",
        "4: mov rax, rdx",
        "mov rdx, r11",
        "ret",
        fixup!("2b", "3b", "4b"),
    )
}

/// [`StreamFn`] by 32-byte vectors.
///
/// # Safety
/// As [`StreamFn`], and the processor has AVX.
#[unsafe(naked)]
unsafe extern "C" fn stream_avx2(to: *mut u8, from: *const u8, len: usize) -> Outcome {
    naked_asm!(
        "test rdx, rdx",
        "jz 3f",
        "2: vmovdqu ymm0, ymmword ptr [rsi]",
        "vmovdqu ymm1, ymmword ptr [rsi + 32]",
        "vmovntdq ymmword ptr [rdi], ymm0",
        "vmovntdq ymmword ptr [rdi + 32], ymm1",
        "add rsi, 64",
        "add rdi, 64",
        "sub rdx, 64",
        "jnz 2b",
        "3: vzeroupper",
        "xor eax, eax",
        "ret",
        "4: vzeroupper",
        "mov rax, rdx",
        "mov rdx, r11",
        "ret",
        fixup!("2b", "3b", "4b"),
    )
}

/// [`StreamFn`] by 64-byte vectors.
///
/// # Safety
/// As [`StreamFn`], and the processor has AVX-512F.
#[unsafe(naked)]
unsafe extern "C" fn stream_avx512(to: *mut u8, from: *const u8, len: usize) -> Outcome {
    naked_asm!(
        "test rdx, rdx",
        "jz 3f",
        "2: vmovdqu64 zmm0, zmmword ptr [rsi]",
        "vmovntdq zmmword ptr [rdi], zmm0",
        "add rsi, 64",
        "add rdi, 64",
        "sub rdx, 64",
        "jnz 2b",
        "3: vzeroupper",
        "xor eax, eax",
        "ret",
        "4: vzeroupper",
        "mov rax, rdx",
        "mov rdx, r11",
        "ret",
        fixup!("2b", "3b", "4b"),
    )
}

/// A [`FlushFn`] of one instruction.
macro_rules! flush_routine {
    ($name:ident, $instruction:literal) => {
        #[doc = concat!("[`FlushFn`] by ", $instruction, ".")]
        ///
        /// # Safety
        /// As [`FlushFn`], and the processor has the instruction.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(at: *const u8, lines: usize) -> Outcome {
            naked_asm!(
                "test rsi, rsi",
                "jz 3f",
                concat!("2: ", $instruction, " [rdi]"),
                "add rdi, 64",
                "dec rsi",
                "jnz 2b",
                "3: xor eax, eax",
                "ret",
                "4: mov rax, rsi",
                "mov rdx, r11",
                "ret",
                fixup!("2b", "3b", "4b"),
            )
        }
    };
}

flush_routine!(flush_clwb, "clwb");
flush_routine!(flush_clflushopt, "clflushopt");
flush_routine!(flush_clflush, "clflush");

/// The fastest copy this processor has.
pub(crate) fn select_copy() -> CopyFn {
    if is_x86_feature_detected!("avx2") {
        copy_avx2
    } else {
        copy_sse2
    }
}

/// The widest stores past the cache this processor has.
pub(crate) fn select_stream() -> StreamFn {
    if is_x86_feature_detected!("avx512f") {
        stream_avx512
    } else if is_x86_feature_detected!("avx2") {
        stream_avx2
    } else {
        stream_sse2
    }
}

/// The cheapest write-back this processor has: clwb keeps the line cached, clflushopt need not wait for the one
/// before, clflush every x86-64 has.
pub(crate) fn select_flush() -> FlushFn {
    const CLFLUSHOPT: u32 = 1 << 23;
    const CLWB: u32 = 1 << 24;
    let structured_features = 7;
    if core::arch::x86_64::__cpuid(0).eax < structured_features {
        return flush_clflush;
    }
    let features = core::arch::x86_64::__cpuid_count(structured_features, 0).ebx;
    if features & CLWB != 0 {
        flush_clwb
    } else if features & CLFLUSHOPT != 0 {
        flush_clflushopt
    } else {
        flush_clflush
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// # Safety
    /// As [`CopyFn`].
    unsafe extern "C" fn at_once(to: *mut u8, from: *const u8, len: usize) -> Outcome {
        // SAFETY: the caller's; what a test copies to has whole words.
        unsafe { super::super::store_at_once(to, from, len) }
    }

    /// Every routine that copies and that this processor can run.
    fn copies() -> Vec<(&'static str, CopyFn)> {
        let mut all: Vec<(&'static str, CopyFn)> = vec![
            ("store_words", store_words),
            ("store_at_once", at_once),
            ("copy_sse2", copy_sse2),
        ];
        if is_x86_feature_detected!("avx2") {
            all.push(("copy_avx2", copy_avx2));
        }
        all
    }

    fn streams() -> Vec<(&'static str, StreamFn)> {
        let mut all: Vec<(&'static str, StreamFn)> = vec![("stream_sse2", stream_sse2)];
        if is_x86_feature_detected!("avx2") {
            all.push(("stream_avx2", stream_avx2));
        }
        if is_x86_feature_detected!("avx512f") {
            all.push(("stream_avx512", stream_avx512));
        }
        all
    }

    #[repr(align(64))]
    struct Aligned([u8; 1024]);

    fn source() -> Aligned {
        let mut bytes = Aligned([0; 1024]);
        for (at, byte) in bytes.0.iter_mut().enumerate() {
            *byte = u8::try_from(at % 251 + 1).unwrap();
        }
        bytes
    }

    #[test]
    fn every_copy_moves_exactly_its_bytes_at_every_alignment() {
        let source = source();
        for (name, copy) in copies() {
            for to in [0, 1, 7, 8, 31] {
                for from in [0, 1, 8, 13] {
                    for len in (0..300).chain([511, 640]) {
                        let mut target = Aligned([0; 1024]);
                        // SAFETY: both ranges are inside of their arrays.
                        let outcome =
                            unsafe { copy(target.0[to..].as_mut_ptr(), source.0[from..].as_ptr(), len) };
                        assert_eq!(outcome.left, 0);
                        let mut expected = [0; 1024];
                        expected[to..to + len].copy_from_slice(&source.0[from..from + len]);
                        assert!(target.0 == expected, "{name}: {len} bytes from {from} to {to}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_stream_moves_exactly_its_lines() {
        let source = source();
        for (name, stream) in streams() {
            for from in [0, 1, 8, 13] {
                for len in (0..=640).step_by(64) {
                    let mut target = Aligned([0; 1024]);
                    // SAFETY: both ranges are inside of their arrays; the target is aligned.
                    let outcome =
                        unsafe { stream(target.0[64..].as_mut_ptr(), source.0[from..].as_ptr(), len) };
                    drain();
                    assert_eq!(outcome.left, 0);
                    let mut expected = [0; 1024];
                    expected[64..64 + len].copy_from_slice(&source.0[from..from + len]);
                    assert!(target.0 == expected, "{name}: {len} bytes from {from}");
                }
            }
        }
    }

    #[test]
    fn every_routine_survives_a_page_that_cannot_be_had() {
        super::super::install().unwrap();
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(4096).unwrap();
        let len = std::num::NonZeroUsize::new(8192).unwrap();
        let protection = nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE;
        let flags = nix::sys::mman::MapFlags::MAP_SHARED;
        // SAFETY: at an address that the kernel chooses.
        let mapped = unsafe { nix::sys::mman::mmap(None, len, protection, flags, &file, 0) }.unwrap();
        let lost = mapped.cast::<u8>().as_ptr().wrapping_add(4096);
        let mut buffer = source();
        for (name, copy) in copies() {
            for before in [0_usize, 1, 64, 65, 200] {
                // SAFETY: inside of the mapping and of the buffer.
                let outcome = unsafe { copy(lost.wrapping_sub(before), buffer.0.as_ptr(), before + 300) };
                let expected = Outcome {
                    left: 300,
                    fault: lost.addr(),
                };
                assert_eq!(outcome, expected, "{name}: into, {before} bytes before");
                // SAFETY: as above.
                let outcome = unsafe { copy(buffer.0.as_mut_ptr(), lost.wrapping_sub(before), before + 300) };
                assert_eq!(outcome, expected, "{name}: out of, {before} bytes before");
            }
        }
        for (name, stream) in streams() {
            // SAFETY: inside of the mapping and of the buffer; the target is aligned.
            let outcome = unsafe { stream(lost.wrapping_sub(128), buffer.0.as_ptr(), 256) };
            assert_eq!((outcome.left, outcome.fault), (128, lost.addr()), "{name}");
        }
        for flush in flushes() {
            // SAFETY: inside of the mapping.
            let outcome = unsafe { flush(lost.wrapping_sub(192), 5) };
            assert_eq!((outcome.left, outcome.fault), (2, lost.addr()));
        }
        // SAFETY: mapped above; nothing uses it any more.
        unsafe { nix::sys::mman::munmap(mapped, len.get()) }.unwrap();
    }

    /// Every flush that this processor can run.
    fn flushes() -> Vec<FlushFn> {
        let features = core::arch::x86_64::__cpuid_count(7, 0).ebx;
        let mut all: Vec<FlushFn> = vec![flush_clflush];
        if features & (1 << 23) != 0 {
            all.push(flush_clflushopt);
        }
        if features & (1 << 24) != 0 {
            all.push(flush_clwb);
        }
        all
    }

    #[test]
    fn flushes_change_no_byte() {
        let bytes = source();
        for flush in flushes() {
            // SAFETY: 16 lines are the array.
            let outcome = unsafe { flush(bytes.0.as_ptr(), 16) };
            drain();
            assert_eq!(outcome.left, 0);
            assert!(bytes.0 == source().0);
        }
    }
}
