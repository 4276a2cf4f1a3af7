//! Random changes of ranges, sharing among them, against a model, also in a pool that is nearly full.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax::{AllocateMode, Error, File};

use crate::pool::{MIB, TestPool, open};

const BLOCK: u64 = 4096;

fn random_ops(seed: u64, tight: bool, scale: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let pool = TestPool::new(16 * MIB * if scale > 1 { 6 } else { 1 });
    let mut fs = pool.open();
    if tight {
        let ballast = open(&fs, "/ballast");
        fs.sync().unwrap();
        let rest = fs.stat_filesystem().available_blocks;
        ballast
            .allocate(AllocateMode::KeepSize, 0, (rest - 120 * scale) * BLOCK)
            .unwrap();
    }
    const N: usize = 3;
    let mut model: Vec<Vec<u8>> = vec![Vec::new(); N];
    let mut files: Vec<File> = (0..N).map(|n| open(&fs, &format!("/{n}"))).collect();
    let max: u64 = 40 * scale * BLOCK;
    if scale > 1 {
        for n in 0..N {
            model[n] = vec![0; usize::try_from(max).unwrap()];
            files[n].truncate(max).unwrap();
            for b in (0..40 * scale).step_by(2) {
                if rng.random_bool(0.8) {
                    files[n].write_at(&[5; 4096], b * BLOCK).unwrap();
                    let b = usize::try_from(b).unwrap();
                    model[n][b * 4096..b * 4096 + 4096].fill(5);
                }
            }
        }
    }
    for step in 0..400 {
        let n = rng.random_range(0..N);
        let m = rng.random_range(0..N);
        let mut off = rng.random_range(0..max);
        let factor = if rng.random_bool(0.5) { scale } else { 1 };
        let mut len = rng.random_range(1..12 * BLOCK * factor);
        if rng.random_bool(0.5) {
            off = off / BLOCK * BLOCK;
        }
        if rng.random_bool(0.5) {
            len = len.div_ceil(BLOCK) * BLOCK;
        }
        let (o, l) = (usize::try_from(off).unwrap(), usize::try_from(len).unwrap());
        let end = o + l;
        let old = model.clone();
        let f = &files[n];
        let op = rng.random_range(0..15);
        let fill = rng.random::<u8>();
        let grow = |v: &mut Vec<u8>, to: usize| {
            if v.len() < to {
                v.resize(to, 0)
            }
        };
        let size = model[n].len();
        let result: udax::Result<()> = match op {
            0 | 1 => f.write_at(&vec![fill; l], off).map(|c| {
                grow(&mut model[n], o + c);
                model[n][o..o + c].fill(fill);
            }),
            2 => f.truncate(off).map(|()| model[n].resize(o, 0)),
            3 => f.allocate(AllocateMode::PunchHole, off, len).map(|()| {
                let e = end.min(size);
                if o < e {
                    model[n][o..e].fill(0)
                }
            }),
            4 => f.allocate(AllocateMode::ZeroRange, off, len).map(|()| {
                grow(&mut model[n], end);
                model[n][o..end].fill(0);
            }),
            5 => f.allocate(AllocateMode::ZeroRangeKeepSize, off, len).map(|()| {
                let e = end.min(size);
                if o < e {
                    model[n][o..e].fill(0)
                }
            }),
            6 => f
                .allocate(AllocateMode::Allocate, off, len)
                .map(|()| grow(&mut model[n], end)),
            7 => f.allocate(AllocateMode::KeepSize, off, len),
            8 => f
                .allocate(
                    AllocateMode::Collapse,
                    off / BLOCK * BLOCK,
                    len.div_ceil(BLOCK) * BLOCK,
                )
                .map(|()| {
                    let o = o / 4096 * 4096;
                    let e = o + l.div_ceil(4096) * 4096;
                    model[n].drain(o..e);
                }),
            9 if size < usize::try_from(2 * max).unwrap() => f
                .allocate(
                    AllocateMode::Insert,
                    off / BLOCK * BLOCK,
                    len.div_ceil(BLOCK) * BLOCK,
                )
                .map(|()| {
                    let o = o / 4096 * 4096;
                    let l = l.div_ceil(4096) * 4096;
                    model[n].splice(o..o, std::iter::repeat_n(0, l));
                }),
            10 | 11 => {
                let from = off / BLOCK * BLOCK;
                let to = rng.random_range(0..40 * scale) * BLOCK;
                let len = if rng.random_bool(0.3) { 0 } else { len };
                f.clone_range(from, &files[m], to, len).map(|()| {
                    let from = usize::try_from(from).unwrap();
                    let to = usize::try_from(to).unwrap();
                    let l = if len == 0 { old[n].len() - from } else { l };
                    if l > 0 {
                        grow(&mut model[m], to + l);
                        model[m][to..to + l].copy_from_slice(&old[n][from..from + l]);
                    }
                })
            }
            12 => {
                let from = off / BLOCK * BLOCK;
                let to = if rng.random_bool(0.7) {
                    from
                } else {
                    rng.random_range(0..40 * scale) * BLOCK
                };
                f.dedupe_range(from, &files[m], to, len.div_ceil(BLOCK) * BLOCK)
                    .map(|_| ())
            }
            13 => f.allocate(AllocateMode::Unshare, off, len),
            _ => {
                let to = rng.random_range(0..max);
                f.copy_range(off, &files[m], to, len).map(|c| {
                    let c = usize::try_from(c).unwrap();
                    let to = usize::try_from(to).unwrap();
                    if c > 0 {
                        grow(&mut model[m], to + c);
                        model[m][to..to + c].copy_from_slice(&old[n][o..o + c]);
                    }
                })
            }
        };
        let what = format!(
            "seed {seed} step {step} op {op} n {n} m {m} off {off} len {len} size {size}: {result:?}"
        );
        if let Err(error) = &result {
            assert!(
                matches!(error, Error::Invalid(_) | Error::NoSpace { .. }),
                "{what}"
            );
        }
        for (k, file) in files.iter().enumerate() {
            let st = file.stat().unwrap();
            assert_eq!(st.size, u64::try_from(model[k].len()).unwrap(), "{what} file {k}");
            let mut bytes = vec![1; model[k].len()];
            assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
            if bytes != model[k]
                && let Some(at) = (0..bytes.len()).find(|at| bytes[*at] != model[k][*at])
            {
                panic!(
                    "{what} file {k} differs at {at}: {} not {}",
                    bytes[at], model[k][at]
                );
            }
        }
        if step % 20 == 0 {
            let copy = pool.crash_copy("x.pool");
            let report = crate::pool::report(&copy);
            assert!(report.problems.is_empty(), "{what} {:#?}", report.problems);
        }
        if step % 97 == 96 {
            drop(files);
            fs.close().unwrap();
            fs = pool.open();
            files = (0..N).map(|n| open(&fs, &format!("/{n}"))).collect();
        }
    }
}

#[test]
fn random_ops_follow_a_model() {
    for seed in 0..8 {
        random_ops(seed, seed % 2 == 0, 1);
    }
}

#[test]
fn random_ops_on_fragmented_files_follow_a_model() {
    for seed in 0..1 {
        random_ops(seed, false, 80);
    }
}
