//! Sound pools have no problems, and checking changes nothing.

use crate::image::{Image, rich};
use crate::run;
use udax_check::{CheckError, CheckOptions, Silent, check};
use udax_pmem::Region;

fn bytes_of(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(region.len()).unwrap()];
    region.read(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn empty_pool_has_no_problem() {
    let mut image = Image::new(4096);
    let report = run(&image.write(), false);
    assert_eq!(report.problems, []);
    assert_eq!(
        (report.inodes, report.directories, report.total_blocks),
        (1, 1, 4096)
    );
    assert!(report.was_clean);
    assert_eq!(report.exit_code(), 0);
}

#[test]
fn rich_pool_has_no_problem_and_is_not_changed_even_by_a_repair() {
    let mut image = rich(4096);
    let region = image.write();
    let before = bytes_of(&region);
    let report = run(&region, false);
    assert_eq!(report.problems, []);
    assert_eq!(report.inodes, u64::try_from(image.inodes.len()).unwrap());
    assert_eq!(report.used_blocks, u64::try_from(image.used.len()).unwrap());
    assert_eq!(run(&region, true).problems, []);
    assert!(bytes_of(&region) == before);
}

#[test]
fn pools_of_several_groups_and_leaves_have_no_problem() {
    let mut image = Image::new(40_000);
    let directory = image.mkdir(1, "many");
    for index in 0..3000 {
        image.file(directory, &format!("name number {index}"), &[(0, 1)]);
    }
    assert_eq!(run(&image.write(), false).problems, []);
}

#[test]
fn shared_blocks_with_the_right_count_are_no_problem() {
    let mut image = Image::new(4096);
    let first = image.file(1, "first", &[(0, 5)]);
    let second = image.file(1, "second", &[]);
    let mut extent = image.extents[&first][0];
    extent.start.0 += 1;
    extent.count = 3;
    image.extents.insert(second, vec![extent]);
    image.shared.insert(extent.start.raw(), (3, 2));
    assert_eq!(run(&image.write(), false).problems, []);
}

#[test]
fn what_is_no_pool_is_refused() {
    for len in [4096, 16 << 20] {
        let region = Region::anonymous(len, None).unwrap();
        let options = CheckOptions::default();
        assert!(matches!(
            check(&region, &options, &Silent),
            Err(CheckError::NoSuperblock { .. })
        ));
    }
}
