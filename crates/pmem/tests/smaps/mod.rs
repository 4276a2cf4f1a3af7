//! What is not yet on a file's medium, as the kernel tells it.

/// KiB of dirty pages in this process's mappings of files of a name (proc(5), `smaps`): pages of the page cache that
/// are not written back, whoever changed them.
pub(crate) fn dirty_kib(name: &str) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_ours = false;
    let mut sum = 0;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        match (fields.next(), fields.next()) {
            (Some("Shared_Dirty:" | "Private_Dirty:"), Some(kib)) if is_ours => {
                sum += kib.parse::<u64>().unwrap();
            }
            // The first line of a mapping.
            (Some(first), _) if !first.ends_with(':') => is_ours = line.ends_with(name),
            _ => {}
        }
    }
    sum
}
