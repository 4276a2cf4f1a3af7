//! Which images of a memory and of the data device beside it are legal, by the rules in the crate's head.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeSet;

use udax_crash::{Cut, DEVICE, Domain, Image, Medium, Pick, Trace};
use udax_disk::{Medium as _, Write};
use udax_pmem::Region;

const LEN: u64 = 64 << 10;

fn blank() -> Image {
    Image::zeros(LEN).with_device(LEN)
}

/// What happened to both since they were all zeros.
fn medium(domain: Domain, work: impl FnOnce(&Region, &Trace)) -> Medium {
    let (region, trace) = blank().recorded_with_device().unwrap();
    work(&region, &trace);
    let mut medium = Medium::new(domain, blank());
    for event in trace.take() {
        medium.happen(&event);
    }
    medium
}

fn write(device: &Trace, at: u64, byte: u8) {
    let bytes = &[byte; 4096];
    device.write(&[Write { at, bytes }]).unwrap();
}

fn byte(image: &Image, at: u64) -> u8 {
    let mut byte = [0];
    image.read(at, &mut byte);
    byte[0]
}

/// The bytes that the images have at `places`.
fn seen(medium: &Medium, cuts: &[Cut], places: &[u64]) -> BTreeSet<Vec<u8>> {
    let of = |cut: &Cut| {
        let image = medium.image(cut);
        places.iter().map(|at| byte(&image, *at)).collect()
    };
    cuts.iter().map(of).collect()
}

fn samples(medium: &Medium, places: &[u64]) -> BTreeSet<Vec<u8>> {
    let random = (0..2000).map(|seed| Cut::now(Pick::Random(seed)));
    seen(medium, &random.collect::<Vec<_>>(), places)
}

#[test]
fn sectors_are_lost_or_there_whatever_fences_the_memory_has() {
    for domain in Domain::ALL {
        let medium = medium(domain, |region, device| {
            write(device, 0, 1);
            region.store_nontemporal(0, &[2; 64]).unwrap();
            region.fence().unwrap();
        });
        assert_eq!(medium.open_units().len(), 8, "the sectors of a block");
        let found = samples(&medium, &[0, DEVICE, DEVICE + 512]);
        let expected = [[2, 0, 0], [2, 1, 0], [2, 0, 1], [2, 1, 1]].map(Vec::from);
        assert_eq!(found, BTreeSet::from(expected), "{}", domain.name());
        for seed in 0..100 {
            let image = medium.image(&Cut::now(Pick::Random(seed)));
            for sector in 0..8 {
                let at = DEVICE + sector * 512;
                assert_eq!(byte(&image, at), byte(&image, at + 511), "a torn sector");
            }
        }
    }
}

#[test]
fn a_flush_of_the_device_keeps_what_was_written_before_and_nothing_of_the_memory() {
    let medium = medium(Domain::Flush, |region, device| {
        region.store(0, &[1; 8]).unwrap();
        write(device, 0, 2);
        write(device, 0, 3);
        device.flush().unwrap();
        write(device, 4096, 4);
    });
    let found = samples(&medium, &[0, DEVICE, DEVICE + 4096]);
    let expected = [[0, 3, 0], [1, 3, 0], [0, 3, 4], [1, 3, 4]].map(Vec::from);
    assert_eq!(found, BTreeSet::from(expected));
}

#[test]
fn a_sector_is_as_of_any_write_since_the_last_flush() {
    let medium = medium(Domain::Flush, |_, device| {
        write(device, 0, 1);
        device.flush().unwrap();
        write(device, 0, 2);
        write(device, 0, 3);
    });
    let found = samples(&medium, &[DEVICE]);
    assert_eq!(found, BTreeSet::from([[1], [2], [3]].map(Vec::from)));
}

#[test]
fn either_may_be_lost_without_the_other() {
    let medium = medium(Domain::Flush, |region, device| {
        for at in (0..4096).step_by(64) {
            region.store(at, &[1; 8]).unwrap();
        }
        write(device, 0, 2);
    });
    let cuts = medium.cuts(12, 1);
    let found = seen(&medium, &cuts, &[0, DEVICE]);
    assert!(
        found.contains(&vec![1, 0]) && found.contains(&vec![0, 2]),
        "{cuts:?}"
    );
    // A record that overtakes the data that it relies on.
    let overtaken = |cut: &Cut| matches!(cut.pick, Pick::Since(_));
    assert!(cuts.iter().any(overtaken), "{cuts:?}");
}

#[test]
fn the_device_reads_what_was_written_and_has_a_fingerprint() {
    let (region, trace) = blank().recorded_with_device().unwrap();
    write(&trace, 4096, 7);
    let mut bytes = [0; 4096];
    trace.read(4096, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 4096]);
    assert_eq!(trace.len(), 1);
    let mut medium = Medium::new(Domain::Flush, blank());
    for event in trace.take() {
        medium.happen(&event);
    }
    let (lost, there) = (
        medium.image(&Cut::now(Pick::Least)),
        medium.image(&Cut::now(Pick::Most)),
    );
    assert!(lost.fingerprint() != there.fingerprint() && lost == blank());
    assert_eq!(there.len(), LEN, "the region is as long as before");
    // What goes on with an image has its device.
    let (again, trace) = there.recorded_with_device().unwrap();
    assert_eq!(again.len(), region.len());
    trace.read(4096, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 4096]);
}
