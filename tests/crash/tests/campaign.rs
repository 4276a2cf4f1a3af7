//! A bounded run of the crash tests, and that what a failure prints leads back to its image.

use std::collections::BTreeSet;
use std::time::Duration;

use udax_check::CheckOptions;
use udax_crash::{Cut, Domain, Medium, Pick};
use udax_pmem::{OwnedEvent, Region, RegionOptions};
use udax_test_crash::explore::{Effort, Explorer, Place};
use udax_test_crash::hunt::settled;
use udax_test_crash::record::Act;
use udax_test_crash::run::{Campaign, Limits, Sequences, Silent, sequences};
use udax_test_crash::workload::{Workload, task_list};

/// At least so many distinct images are judged in each run of CI, those of recoveries apart.
const IMAGES: u64 = 20_000;

/// The longest run; on two processors that others use too it takes one to four minutes.
const LONGEST: Duration = Duration::from_secs(540);

/// After so many single actions, each in three ways, the other kinds have a turn.
const TURN: u64 = 27;

/// So many operations of several records come with them.
const TASKS: usize = 9;

/// Of each kind at least so many images are judged on each machine.
const LEAST: u64 = 50;

const CHECKPOINTS: [udax_media::BlockNo; 2] = udax_media::geometry::CHECKPOINTS;

fn summed(workload: Workload) -> Workload {
    Workload::Summed(Box::new(workload))
}

fn cached(workload: Workload) -> Workload {
    Workload::Cached(Box::new(workload))
}

fn tiered(workload: Workload) -> Workload {
    Workload::Tiered(Box::new(workload))
}

/// All single actions, on plain files, on files with checksums and on files in the page cache, half of them with a data
/// device, too; between them, in turns, everything else: whoever ends the run early has seen all kinds.
fn workloads(seed: u64) -> Vec<Workload> {
    let of = |length, sample, seed| sequences(Sequences { length, sample }, seed);
    let mut pairs = of(2, Some(400), seed).into_iter();
    let mut triples = of(3, Some(200), seed).into_iter();
    let mut tasks = long(seed).into_iter();
    let mut workloads = Vec::new();
    let [plain, with_sums, in_cache] = [seed, seed + 1, seed + 2].map(|seed| of(1, None, seed));
    let singles = plain.into_iter().zip(with_sums).zip(in_cache);
    for (index, ((plain, with_sums), in_cache)) in (0_u64..).zip(singles) {
        if index.is_multiple_of(TURN) {
            let seed = seed.wrapping_mul(1000) + index;
            workloads.extend(others(seed, &mut pairs, &mut triples));
            workloads.extend(tasks.by_ref().take(TASKS));
        }
        if index.is_multiple_of(2) {
            workloads.push(tiered(plain.clone()));
        }
        workloads.extend([plain, summed(with_sums), cached(in_cache)]);
    }
    workloads.extend(settled().into_iter().map(tiered));
    workloads.extend(tasks);
    workloads
}

/// All operations of several records on plain files, and a few of them on all other kinds of files.
fn long(seed: u64) -> Vec<Workload> {
    let mut workloads = Vec::new();
    for (index, task) in (seed..).zip((0..task_list().len()).map(Workload::Many)) {
        match index % 6 {
            0 => workloads.push(summed(task.clone())),
            1 => workloads.push(cached(task.clone())),
            2 | 4 => workloads.push(tiered(task.clone())),
            _ => {}
        }
        workloads.push(task);
    }
    for name in ["dedupe", "set-dax", "truncate"] {
        workloads.extend(format!("tiered/many/{name}").parse());
    }
    workloads
}

/// One of each kind that is no single action, and some of those that cost little.
fn others(
    seed: u64,
    pairs: &mut impl Iterator<Item = Workload>,
    triples: &mut impl Iterator<Item = Workload>,
) -> Vec<Workload> {
    let random = Workload::Random { seed, operations: 60 };
    let threads = Workload::Threads {
        seed,
        threads: 2,
        operations: 20,
    };
    let full = Workload::Full { seed, operations: 40 };
    let load = Workload::Load {
        threads: 2,
        records: 350,
    };
    let reuse = Workload::Reuse {
        threads: 2,
        rounds: 10,
    };
    let shared = Workload::Shared {
        threads: 2,
        rounds: 6,
    };
    let mut workloads = vec![
        Workload::Lanes { records: 600 },
        load,
        reuse,
        shared,
        tiered(random.clone()),
        cached(random.clone()),
        cached(summed(random.clone())),
        summed(random.clone()),
        random,
        cached(threads.clone()),
        summed(threads.clone()),
        tiered(threads.clone()),
        threads,
        cached(full.clone()),
        tiered(full.clone()),
        summed(full.clone()),
        full,
    ];
    for name in [
        "grow/create,append",
        "grow/append,clone",
        "sums/grow/mkdir,allocate",
        "cached/grow/create,append",
        "tiered/grow/create,xattr-large",
    ] {
        workloads.extend(name.parse());
    }
    workloads.extend(pairs.take(6));
    workloads.extend(pairs.take(3).map(summed));
    workloads.extend(pairs.take(3).map(cached));
    workloads.extend(pairs.take(3).map(tiered));
    workloads.extend(triples.take(6));
    workloads
}

#[test]
fn no_power_failure_breaks_a_promise() {
    let campaign = Campaign {
        workloads: workloads(1),
        domains: Domain::ALL.to_vec(),
        effort: Effort {
            images: 12,
            again: 4,
            every: 16,
            moments: 8,
        },
        seed: 1,
        limits: Limits {
            images: u64::MAX,
            time: LONGEST,
        },
        threads: 0,
    };
    let outcome = campaign.run(&Silent);
    let failures: Vec<String> = outcome.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{outcome:#?}");
    assert!(outcome.distinct.first >= IMAGES, "{:?}", outcome.distinct);
    for kind in campaign.workloads.iter().map(Workload::kind) {
        for domain in Domain::ALL {
            let share = outcome.kinds.get(&(kind.clone(), domain.name()));
            let images = share.map_or(0, |share| share.tally.images);
            assert!(images >= LEAST, "{kind} on {}: {images} images", domain.name());
        }
    }
}

#[test]
fn every_kind_of_workload_is_in_the_run() {
    let kinds: BTreeSet<String> = workloads(1).iter().map(Workload::kind).collect();
    for kind in [
        "single", "pair", "sequence", "random", "threads", "full", "lanes", "load", "grow", "many",
    ] {
        assert!(kinds.contains(kind), "{kind}");
    }
    for kind in ["single", "pair", "random", "threads", "many"] {
        assert!(kinds.contains(&format!("tiered/{kind}")), "tiered/{kind}");
        assert!(kinds.contains(&format!("sums/{kind}")), "sums/{kind}");
        assert!(kinds.contains(&format!("cached/{kind}")), "cached/{kind}");
    }
    for kind in [
        "sums/full",
        "sums/grow",
        "cached/grow",
        "tiered/grow",
        "cached/sums/random",
    ] {
        assert!(kinds.contains(kind), "{kind}");
    }
}

#[test]
fn each_action_that_matters_with_a_data_device_is_found_by_its_name() {
    assert_eq!(settled().len(), 7);
}

#[test]
fn moments_that_are_looked_at_are_spread_over_all_of_a_workload() {
    let recording = "ace/append,create,mkdir,punch"
        .parse::<Workload>()
        .unwrap()
        .record()
        .unwrap();
    let tally = |moments| {
        let effort = Effort {
            moments,
            ..Effort::of_all_moments(1, 1, 1000)
        };
        let mut explorer = Explorer::new(&recording, Domain::Flush, effort, 1);
        explorer.explore(&mut |_| true).unwrap();
        explorer.tally
    };
    let all = tally(usize::MAX).moments;
    assert!(all > 12, "{all}");
    assert!((2..=4).contains(&tally(4).moments));
}

#[test]
fn one_recording_is_judged_on_each_machine() {
    let campaign = Campaign {
        workloads: vec!["ace/append".parse().unwrap(), "ace/create".parse().unwrap()],
        domains: Domain::ALL.to_vec(),
        effort: Effort::of_all_moments(4, 1, 8),
        seed: 1,
        limits: Limits {
            images: u64::MAX,
            time: LONGEST,
        },
        threads: 1,
    };
    let outcome = campaign.run(&Silent);
    assert!(outcome.failures.is_empty() && outcome.is_complete, "{outcome:?}");
    assert_eq!(outcome.workloads, 2);
    let sum = outcome
        .kinds
        .values()
        .map(|share| share.tally.images)
        .sum::<u64>();
    assert_eq!(sum, outcome.tally.images);
    for domain in Domain::ALL {
        let share = outcome.kinds[&("single".to_owned(), domain.name())];
        assert!(share.workloads == 2 && share.tally.images > 0, "{outcome:?}");
    }
}

#[test]
fn checkpoints_run_while_threads_store_records() {
    // Twice as many as elsewhere: on a busy machine one checkpoint passes much.
    let recording = "load/2/700".parse::<Workload>().unwrap().record().unwrap();
    let steps = recording.lanes.iter().flat_map(|lane| &lane.steps);
    let last = steps.map(|step| step.returned).max().unwrap();
    let first = CHECKPOINTS[0].offset().raw();
    let events = &recording.events[recording.opened()..last];
    let published = events.iter().filter(|event| match event.memory() {
        Some(OwnedEvent::Store { at, .. } | OwnedEvent::NonTemporal { at, .. }) => {
            (first..first + 4096).contains(at)
        }
        _ => false,
    });
    let published = published.count();
    assert!(published >= 2, "{published} checkpoints");
}

/// What is one record has two fences at most: of the data, and of the record.
#[test]
fn each_long_operation_takes_several_records() {
    for task in (0..task_list().len()).map(Workload::Many) {
        let recording = task.record().unwrap();
        let steps = recording.lanes.iter().flat_map(|lane| &lane.steps);
        let fences = steps.map(|step| {
            let events = &recording.events[step.began..step.returned];
            events.iter().filter(|event| event.is_barrier()).count()
        });
        let most = fences.max().unwrap();
        let least = match task.to_string().as_str() {
            // Moves are to and from a data device, which is not here: below.
            "many/set-dax" => 0,
            // No data goes with them: one for each record.
            "many/allocate" | "many/unlink-open" => 2,
            _ => 3,
        };
        assert!(most >= least, "{task}: {most} fences");
    }
}

#[test]
fn a_workload_stores_the_same_each_time() {
    for name in [
        "ace/append,rename-over",
        "random/5/80",
        "full/5/40",
        "sums/random/5/80",
        "cached/random/5/80",
        "tiered/random/5/80",
        "tiered/ace/set-dax,write-dedupe",
        "many/clone",
    ] {
        let workload: Workload = name.parse().unwrap();
        let shape = || {
            let recording = workload.record().unwrap();
            let mut medium = Medium::new(Domain::Flush, recording.base.clone());
            let mut open = Vec::new();
            for event in &recording.events {
                medium.happen(event);
                open.push(medium.open_units());
            }
            open
        };
        assert_eq!(shape(), shape(), "{name}");
    }
}

#[test]
fn what_a_failure_prints_leads_back_to_its_image() {
    let place = Place {
        first: (17, Cut::now(Pick::Random(8))),
        second: Some((
            3,
            Cut {
                until: Some(5),
                pick: Pick::Most,
            },
        )),
    };
    assert_eq!(place.to_string().parse::<Place>().unwrap(), place);
    let recording = "ace/create".parse::<Workload>().unwrap().record().unwrap();
    let last = recording.events.len();
    let place = format!("{last}:most/1:least").parse().unwrap();
    recording.judge_at(Domain::Flush, &place).unwrap();
    let beyond = format!("{}:most", last + 1).parse().unwrap();
    let error = recording
        .judge_at(Domain::Flush, &beyond)
        .unwrap_err()
        .to_string();
    assert!(error.contains("events only"), "{error}");
}

#[test]
fn an_image_that_breaks_a_promise_is_told_with_its_place() {
    let mut recording = "ace/create".parse::<Workload>().unwrap().record().unwrap();
    // What had been promised after the first operation is promised from the start.
    for step in &mut recording.lanes[0].steps {
        step.returned = step.began;
    }
    let effort = Effort::of_all_moments(4, 1, 1);
    let mut explorer = Explorer::new(&recording, Domain::Flush, effort, 1);
    let violation = explorer.explore(&mut |_| true).unwrap_err();
    assert!(violation.what.contains("not after"), "{}", violation.what);
    assert!(recording.judge_at(Domain::Flush, &violation.place).is_err());
}

#[test]
fn each_workload_has_a_name_that_makes_it_again() {
    let mut names = BTreeSet::new();
    for workload in workloads(3) {
        let name = workload.to_string();
        assert_eq!(name.parse::<Workload>().unwrap(), workload);
        names.insert(name);
    }
    assert!(names.len() > 250);
    for wrong in [
        "",
        "ace/nothing",
        "random/1",
        "lanes/x",
        "load/0/5",
        "threads/1/0/5",
        "x/1",
        "sums/x/1",
        "sums/sums/lanes/1",
        "sums/tiered/lanes/1",
        "tiered/cached/lanes/1",
        "tiered/tiered/lanes/1",
        "many/nothing",
    ] {
        assert!(wrong.parse::<Workload>().is_err(), "{wrong}");
    }
}

#[test]
fn a_growth_that_the_journal_completes_counts_in_the_check_and_in_the_map() {
    let recording = "grow/create,append"
        .parse::<Workload>()
        .unwrap()
        .record()
        .unwrap();
    let old_blocks = recording.base.len() / 4096;
    let mut medium = Medium::new(Domain::Flush, recording.base.clone());
    let mut grown = 0;
    for event in &recording.events {
        medium.happen(event);
        medium.grow(recording.base.len() + (6 << 20));
        let region = medium.image(&Cut::now(Pick::Least)).region().unwrap();
        let report = udax_check::check(&region, &CheckOptions::default(), &udax_check::Silent).unwrap();
        let map = udax_check::map(&region).unwrap();
        let is_in_map = map.iter().any(|(range, _)| range.start.raw() >= old_blocks);
        assert_eq!(is_in_map, report.total_blocks > old_blocks);
        grown += usize::from(report.total_blocks > old_blocks);
    }
    assert!((1..recording.events.len()).contains(&grown), "{grown} events");
}

/// The blocks that the last action takes are of what was added: nearly all others are in use.
#[test]
fn what_is_done_after_a_growth_reaches_the_new_blocks() {
    for name in [
        "grow/create,append",
        "grow/append,clone",
        "sums/grow/mkdir,allocate",
        "cached/grow/create,append",
    ] {
        let recording = name.parse::<Workload>().unwrap().record().unwrap();
        let grown = recording.base.len();
        let steps = &recording.lanes[0].steps;
        let growth = steps
            .iter()
            .position(|step| matches!(step.act, Act::Grow(_)))
            .unwrap();
        let bitmaps = steps[growth].returned;
        let stored = recording.events[bitmaps..]
            .iter()
            .filter_map(udax_crash::Happened::memory);
        let is_new = |event: &OwnedEvent| match event {
            OwnedEvent::Store { at, .. } | OwnedEvent::NonTemporal { at, .. } => *at >= grown,
            _ => false,
        };
        let new = stored.filter(|event| is_new(event)).count();
        assert!(new > 0, "{name}: {new} stores");
    }
}

#[test]
fn an_image_of_threads_is_kept_as_files() {
    let recording = "tiered/threads/3/2/10"
        .parse::<Workload>()
        .unwrap()
        .record()
        .unwrap();
    let place = (recording.events.len(), Cut::now(Pick::Most));
    let path = recording.keep_image(Domain::Flush, place).unwrap();
    let device = path.with_extension("device");
    let region = Region::open(&path, RegionOptions::default()).unwrap();
    let report = udax_check::check(&region, &CheckOptions::default(), &udax_check::Silent).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    drop(region);
    assert_eq!(
        std::fs::metadata(&device).unwrap().len(),
        recording.base.device_len()
    );
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(&device).unwrap();
}
