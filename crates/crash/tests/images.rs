//! Which images are legal, by the rules in the crate's head.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeSet;
use std::sync::Arc;

use udax_crash::{Cut, Domain, Image, Medium, Pick};
use udax_pmem::{Region, TraceRecorder};

const LEN: u64 = 64 << 10;

/// What a region stored since `recorded`, on a medium that was all zeros.
fn medium(domain: Domain, work: impl FnOnce(&Region)) -> Medium {
    let (region, trace) = Image::zeros(LEN).recorded().unwrap();
    work(&region);
    let mut medium = Medium::new(domain, Image::zeros(LEN));
    for event in trace.take() {
        medium.step(&event);
    }
    medium
}

fn word(image: &Image, at: u64) -> u64 {
    let mut bytes = [0; 8];
    image.read(at, &mut bytes);
    u64::from_le_bytes(bytes)
}

/// The values that the words at `places` have in the images, all of which are looked at.
fn seen(medium: &Medium, places: &[u64]) -> BTreeSet<Vec<u64>> {
    let cuts = medium.cuts(10_000, 1);
    assert!(cuts.iter().all(|cut| matches!(cut.pick, Pick::Nth(_))));
    let of = |cut: &Cut| {
        let image = medium.image(cut);
        places.iter().map(|at| word(&image, *at)).collect()
    };
    cuts.iter().map(of).collect()
}

fn set<const N: usize, const M: usize>(values: [[u64; N]; M]) -> BTreeSet<Vec<u64>> {
    values.iter().map(|values| values.to_vec()).collect()
}

#[test]
fn lines_reach_the_medium_independently_of_each_other() {
    let medium = medium(Domain::Flush, |region| {
        region.store_u64(0, 1).unwrap();
        region.store_u64(64, 2).unwrap();
    });
    assert_eq!(seen(&medium, &[0, 64]), set([[0, 0], [1, 0], [0, 2], [1, 2]]));
}

#[test]
fn words_of_a_line_reach_the_medium_in_the_order_of_their_stores() {
    let medium = medium(Domain::Flush, |region| {
        region.store_u64(8, 1).unwrap();
        region.store_u64(0, 2).unwrap();
        region.store_u64(8, 3).unwrap();
    });
    assert_eq!(seen(&medium, &[0, 8]), set([[0, 0], [0, 1], [2, 1], [2, 3]]));
}

#[test]
fn what_is_flushed_and_fenced_is_durable_and_nothing_else() {
    let medium = medium(Domain::Flush, |region| {
        region.store_u64(0, 1).unwrap();
        region.flush(0, 8).unwrap();
        // After the flush: the line may be written back without it.
        region.store_u64(8, 2).unwrap();
        region.store_u64(64, 3).unwrap();
        region.store_nontemporal(128, &[4; 64]).unwrap();
        region.fence().unwrap();
        region.store_nontemporal(192, &[5; 64]).unwrap();
    });
    let four = u64::from_le_bytes([4; 8]);
    let seen = seen(&medium, &[0, 8, 64, 128]);
    assert_eq!(
        seen,
        set([[1, 0, 0, four], [1, 2, 0, four], [1, 0, 3, four], [1, 2, 3, four]])
    );
    assert_eq!(medium.open_units(), [0, 1, 3]);
}

#[test]
fn a_fence_counts_for_its_own_thread_only() {
    let (region, trace) = Image::zeros(LEN).recorded().unwrap();
    region.store_u64(0, 1).unwrap();
    region.flush(0, 8).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            region.store_u64(64, 2).unwrap();
            region.flush(64, 8).unwrap();
            region.fence().unwrap();
        });
    });
    let mut medium = Medium::new(Domain::Flush, Image::zeros(LEN));
    for event in trace.take() {
        medium.step(&event);
    }
    assert_eq!(seen(&medium, &[0, 64]), set([[0, 2], [1, 2]]));
}

#[test]
fn words_are_never_torn_but_unaligned_stores_are() {
    let medium = medium(Domain::Flush, |region| {
        region.store(4, &[0xff; 8]).unwrap();
    });
    assert_eq!(
        seen(&medium, &[0, 8]),
        set([
            [0, 0],
            [0xffff_ffff_0000_0000, 0],
            [0xffff_ffff_0000_0000, 0xffff_ffff]
        ])
    );
}

#[test]
fn with_caches_that_are_saved_stores_are_seen_in_order() {
    let medium = medium(Domain::Eadr, |region| {
        region.store_u64(0, 1).unwrap();
        region.store_u64(64, 2).unwrap();
        region.store_u64(128, 3).unwrap();
    });
    let mut seen = BTreeSet::new();
    for cut in medium.cuts(200, 3) {
        let image = medium.image(&cut);
        seen.insert([0, 64, 128].map(|at| word(&image, at)));
    }
    assert_eq!(seen, BTreeSet::from([[0, 0, 0], [1, 0, 0], [1, 2, 0], [1, 2, 3]]));
}

#[test]
fn a_sector_is_as_it_was_at_one_moment() {
    let medium = medium(Domain::Msync, |region| {
        region.store_u64(0, 1).unwrap();
        region.store_u64(64, 2).unwrap();
        region.store_u64(512, 3).unwrap();
    });
    assert_eq!(
        seen(&medium, &[0, 64, 512]),
        set([[0, 0, 0], [1, 0, 0], [1, 2, 0], [0, 0, 3], [1, 0, 3], [1, 2, 3]])
    );
}

#[test]
fn many_images_are_sampled_with_their_extremes_and_the_same_each_time() {
    let medium = medium(Domain::Flush, |region| {
        for line in 0..100 {
            region.store_u64(line * 64, line + 1).unwrap();
        }
    });
    assert_eq!(medium.image_count(), None);
    let cuts = medium.cuts(500, 9);
    assert_eq!(cuts.len(), 500);
    assert_eq!(cuts, medium.cuts(500, 9));
    let images: Vec<Image> = cuts.iter().map(|cut| medium.image(cut)).collect();
    let again: Vec<u128> = cuts.iter().map(|cut| medium.image(cut).fingerprint()).collect();
    assert!(images.iter().map(Image::fingerprint).eq(again));
    let with = |line: u64| {
        images
            .iter()
            .filter(move |image| word(image, line * 64) == line + 1)
    };
    let reached = |image: &Image| (0..100).filter(|line| word(image, line * 64) != 0).count();
    assert!(images.iter().any(|image| reached(image) == 0));
    assert!(images.iter().any(|image| reached(image) == 100));
    let only = (0..100).filter(|line| with(*line).any(|image| reached(image) == 1));
    assert!(
        only.count() > 20,
        "of each line, that only it has reached the medium"
    );
    assert!(images.iter().filter(|image| reached(image) == 99).count() > 20);
}

#[test]
fn distinct_images_have_distinct_fingerprints() {
    let mut image = Image::zeros(LEN);
    let empty = image.fingerprint();
    image.write(100, &[1, 2, 3]);
    let written = image.fingerprint();
    assert_ne!(written, empty);
    let mut other = Image::zeros(LEN);
    other.write(164, &[1, 2, 3]);
    assert_ne!(other.fingerprint(), written, "the same bytes elsewhere");
    image.write(100, &[0; 3]);
    assert_eq!(image.fingerprint(), empty, "the same bytes, the same fingerprint");
}

#[test]
fn a_region_is_made_of_an_image_and_back() {
    let mut image = Image::zeros(LEN);
    image.write(4090, b"across two pages");
    image.write(LEN - 3, b"end");
    let region = image.region().unwrap();
    assert_eq!(region.len(), LEN);
    let back = Image::of(&region).unwrap();
    assert_eq!(back.fingerprint(), image.fingerprint());
    let (region, trace): (Region, Arc<TraceRecorder>) = image.recorded().unwrap();
    assert!(trace.is_empty(), "the image is where the trace begins");
    region.store_u64(0, 1).unwrap();
    assert_eq!(trace.len(), 1);
}

#[test]
fn a_region_that_grows_is_longer_before_anything_is_stored_there() {
    let mut medium = medium(Domain::Flush, |_| {});
    medium.grow(2 * LEN);
    assert_eq!(medium.image(&Cut::now(Pick::Least)).len(), 2 * LEN);
}

#[test]
fn what_changes_nothing_leaves_nothing_open() {
    let medium = medium(Domain::Flush, |region| {
        region.store_u64(0, 0).unwrap();
        region.store_u64(64, 7).unwrap();
        region.store_u64(64, 7).unwrap();
        region.store_u64(128, 8).unwrap();
        region.store_u64(128, 0).unwrap();
    });
    assert_eq!(medium.open_units(), [1, 2]);
    assert_eq!(medium.image_count(), Some(2 * 3));
    assert_eq!(seen(&medium, &[64, 128]), set([[0, 0], [7, 0], [0, 8], [7, 8]]));
}

#[test]
fn with_caches_that_are_saved_a_store_that_changes_nothing_makes_what_went_past_the_cache_durable() {
    let medium = medium(Domain::Eadr, |region| {
        region.store_nontemporal(0, &7_u64.to_le_bytes()).unwrap();
        region.store_u64(0, 7).unwrap();
    });
    assert_eq!(word(&medium.image(&Cut::now(Pick::Least)), 0), 7);
}

#[test]
fn few_samples_have_later_stores_that_overtook_earlier_ones() {
    let medium = medium(Domain::Flush, |region| {
        region.store_nontemporal(0, &[1; 4096]).unwrap();
        region.store_nontemporal(8192, &[2; 4096]).unwrap();
    });
    for seed in 0..100 {
        let cuts = medium.cuts(10, seed);
        assert!(cuts.contains(&Cut::now(Pick::Since(512))), "{cuts:?}");
    }
    let image = medium.image(&Cut::now(Pick::Since(512)));
    let first_and_last = [0, 4088, 8192, 12280].map(|at| word(&image, at));
    assert_eq!(
        first_and_last,
        [0, 0, 0x0202_0202_0202_0202, 0x0202_0202_0202_0202]
    );
}
