//! One file through a cached handle, a direct one (`O_DIRECT`) and a mapping in turn: each sees what the others did.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use rustix::fs::{FallocateFlags, OFlags};
use udax_pmem::{Region, RegionOptions};

use crate::place::Place;

const BYTES: usize = 256 << 10;
const OPERATIONS: usize = 4000;
const SEED: u64 = 7;

struct Doors {
    cached: File,
    direct: File,
    mapped: Region,
}

impl Doors {
    fn open(place: &Place) -> Self {
        let mut options = File::options();
        options.read(true).write(true);
        let cached = options.clone().create_new(true).open(place.path("f")).unwrap();
        cached.set_len(u64::try_from(BYTES).unwrap()).unwrap();
        let direct = options
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(place.path("f"))
            .unwrap();
        let mapped = Region::open(
            &place.path("f"),
            RegionOptions {
                msync: true,
                ..RegionOptions::default()
            },
        )
        .unwrap();
        Self {
            cached,
            direct,
            mapped,
        }
    }

    fn write(&self, door: u32, at: u64, bytes: &[u8]) {
        match door {
            0 => self.cached.write_all_at(bytes, at).unwrap(),
            1 => self.direct.write_all_at(bytes, at).unwrap(),
            2 => self.mapped.store(at, bytes).unwrap(),
            _ => {
                self.mapped.store(at, bytes).unwrap();
                self.mapped
                    .flush(at, u64::try_from(bytes.len()).unwrap())
                    .unwrap();
                self.mapped.fence().unwrap();
            }
        }
    }

    fn read(&self, door: u32, at: u64, to: &mut [u8]) {
        match door {
            0 => self.cached.read_exact_at(to, at).unwrap(),
            1 => self.direct.read_exact_at(to, at).unwrap(),
            _ => self.mapped.read(at, to).unwrap(),
        }
    }
}

#[test]
fn all_doors_lead_to_the_same_bytes() {
    go_through_doors("");
}

#[test]
fn all_doors_lead_to_the_same_bytes_of_a_file_without_dax() {
    go_through_doors("dax=never,cache=1");
}

fn go_through_doors(options: &str) {
    let Some(place) = Place::with_options(options, 64 << 20) else {
        return;
    };
    let doors = Doors::open(&place);
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut model = vec![0_u8; BYTES];
    for step in 0..OPERATIONS {
        let len = random.random_range(1..20_000);
        let at = random.random_range(0..BYTES - len);
        let offset = u64::try_from(at).unwrap();
        let part = at..at + len;
        match random.random_range(0..10) {
            0..4 => {
                let byte = random.random();
                model[part.clone()].fill(byte);
                doors.write(random.random_range(0..4), offset, &model[part]);
            }
            4 => {
                let flags = [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE][step % 2];
                let length = u64::try_from(len).unwrap();
                rustix::fs::fallocate(&doors.cached, flags | FallocateFlags::KEEP_SIZE, offset, length)
                    .unwrap();
                model[part].fill(0);
            }
            _ => {
                let mut bytes = vec![0; len];
                let door = random.random_range(0..3);
                doors.read(door, offset, &mut bytes);
                assert!(
                    bytes == model[part],
                    "seed {SEED}, step {step}, door {door}, {len} bytes at {at}"
                );
            }
        }
    }
    doors.cached.sync_all().unwrap();
    let none = udax::NewInode::with_permissions(0);
    let inside = place
        .filesystem()
        .open_file("/f", udax::OpenFlags::READ, none)
        .unwrap();
    let mut bytes = vec![0; BYTES];
    inside.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == model, "seed {SEED}: what was synced is in the pool");
}
