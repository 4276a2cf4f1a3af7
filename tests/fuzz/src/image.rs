//! A whole pool with anything in its metadata, sealed again: it is checked, looked at, used, mended, and sound then.

use udax::{Error, MountOptions};
use udax_check::{CheckError, CheckOptions, Report, Silent, check};
use udax_media::geometry::{CHECKPOINTS, SUPERBLOCKS};
use udax_media::{BLOCK_SIZE, LINE_SIZE, seal};
use udax_pmem::{Region, RegionOptions};
use udax_test_corruption::case::use_pool;
use udax_test_corruption::image::{Block, Scratch};
use udax_test_corruption::place::Places;
use udax_test_corruption::sample::Ending;
use udax_test_corruption::tree::Tree;

use crate::input::Input;
use crate::journal::with_samples;

/// The most changes of an input.
const MAX_CHANGES: usize = 12;

thread_local! {
    static SCRATCH: Scratch = Scratch::new(&format!("fuzz-{:?}", std::thread::current().id()))
        .expect("a file for a pool");
}

/// The target.
pub(crate) fn image(data: &[u8]) {
    with_samples(|samples| {
        SCRATCH.with(|scratch| {
            let mut input = Input::new(data);
            let ending = Ending::ALL[usize::from(input.byte()) % Ending::ALL.len()];
            let (sample, places) = samples.of(ending);
            scratch
                .load(&sample.image, sample.device.as_deref())
                .expect("memory for a pool");
            let mut changed = std::collections::BTreeMap::new();
            for _ in 0..MAX_CHANGES {
                if input.is_empty() {
                    break;
                }
                let blocks: Vec<u64> = places.roles.keys().copied().collect();
                let number = blocks[usize::from(input.byte()) % blocks.len()];
                let block = changed
                    .entry(number)
                    .or_insert_with(|| Box::new(*sample.image.block(number)));
                let is_sealed = change(block, &mut input);
                if is_sealed {
                    reseal(number, block, places);
                }
            }
            for (block, bytes) in &changed {
                scratch.store(*block, bytes).expect("a block of the pool");
            }
            judge(scratch);
        })
    });
}

/// Changes a word or less, or a run; whether it is to be sealed.
fn change(block: &mut Block, input: &mut Input<'_>) -> bool {
    let (how, at) = (input.byte(), usize::from(input.short()) % BLOCK_SIZE);
    let width = 1 << (how & 3);
    let at = if how & 4 == 0 { at / width * width } else { at };
    let value = input.word().to_le_bytes();
    let len = width.min(BLOCK_SIZE - at);
    block[at..at + len].copy_from_slice(&value[..len]);
    how & 0x40 == 0
}

/// Seals every unit of the block, whatever it is.
fn reseal(number: u64, block: &mut Block, places: &Places) {
    let seed = places.superblock.seed();
    if SUPERBLOCKS.iter().any(|one| one.raw() == number) {
        seal::seal(seed, block.as_mut_slice());
    } else if CHECKPOINTS.iter().any(|one| one.raw() == number) {
        let slots = block.as_chunks_mut::<LINE_SIZE>().0;
        slots
            .iter_mut()
            .take(2)
            .for_each(|slot| seal::seal(seed, slot.as_mut_slice()));
    } else {
        seal::seal_block(seed, block, u64::MAX);
    }
}

fn run_check(scratch: &Scratch, repair: bool) -> Result<Report, CheckError> {
    let options = CheckOptions {
        repair,
        threads: 1,
        ..CheckOptions::default()
    };
    check_as(scratch, &options)
}

fn check_as(scratch: &Scratch, options: &CheckOptions) -> Result<Report, CheckError> {
    let region = Region::open(scratch.path(), RegionOptions::default())?;
    check(&region, options, &Silent)
}

/// Whether data does not have its checksum: a sum block that was changed and sealed is believed, so that reads of right
/// data are refused, also after a repair.
fn has_wrong_data(scratch: &Scratch) -> bool {
    let options = CheckOptions {
        data: true,
        threads: 1,
        ..CheckOptions::default()
    };
    let report = check_as(scratch, &options).expect("a check of a mended pool's data");
    !report.problems.is_empty()
}

fn judge(scratch: &Scratch) {
    let found = run_check(scratch, false);
    let private = MountOptions {
        private: true,
        ..MountOptions::default()
    };
    if let Ok(fs) = scratch.open(private) {
        let _ = Tree::read(&fs);
        let _ = use_pool(&fs);
        let _ = fs.close();
    }
    let Ok(found) = found else { return };
    let Ok(report) = run_check(scratch, true) else {
        assert!(!found.problems.is_empty(), "what is sound cannot be mended");
        return;
    };
    assert!(report.exit_code() <= 1, "not all is mended: {report:#?}");
    let again = run_check(scratch, false).expect("a check of a mended pool");
    assert!(again.problems.is_empty(), "{again:#?} after {report:#?}");
    let open = || scratch.open(MountOptions::default());
    let mut fs = match open() {
        // What says so was changed and sealed.
        Err(Error::NotDevice { .. } | Error::Invalid("the pool has no data device")) => return,
        opened => opened.expect("a mended pool opens"),
    };
    let tree = Tree::read(&fs);
    if !tree.is_whole() && tree.errors.is_empty() {
        fs.close().expect("a mended pool closes");
        assert!(has_wrong_data(scratch), "errors of right data after {report:#?}");
        fs = open().expect("a mended pool opens");
    }
    assert!(
        tree.errors.is_empty(),
        "errors in a mended pool: {:?} after {report:#?}",
        tree.errors
    );
    // Names of other kinds may be where something is to be made.
    let _ = use_pool(&fs);
    fs.close().expect("a mended pool closes");
    let last = run_check(scratch, false).expect("a check of a used pool");
    assert!(
        last.problems.is_empty(),
        "after use: {last:#?}, after {report:#?}"
    );
}
