//! How long a large pool takes: run by hand, in a release build.

use std::time::Instant;

use udax_check::{CheckOptions, Silent, check};

use crate::image::Image;

#[test]
#[ignore = "prints a measurement; run with --release --ignored --nocapture"]
fn hundred_thousand_inodes() {
    let mut image = Image::new(300_000);
    for directory in 0..100 {
        let parent = image.mkdir(1, &format!("directory {directory}"));
        for file in 0..1000 {
            image.file(parent, &format!("file number {file}"), &[(0, 1)]);
        }
    }
    let region = image.write();
    for threads in [1, 2] {
        let start = Instant::now();
        let report = check(
            &region,
            &CheckOptions {
                repair: false,
                threads,
                ..CheckOptions::default()
            },
            &Silent,
        )
        .unwrap();
        let elapsed = start.elapsed();
        assert_eq!(report.problems, []);
        println!("{} inodes, {threads} threads: {elapsed:?}", report.inodes);
    }
}
