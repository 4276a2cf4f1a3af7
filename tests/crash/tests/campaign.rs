//! A bounded run of the crash tests, and that what a failure prints leads back to its image.

use std::collections::BTreeSet;
use std::time::Duration;

use udax_check::CheckOptions;
use udax_crash::{Cut, Domain, Medium, Pick};
use udax_test_crash::explore::{Effort, Explorer, Place};
use udax_test_crash::run::{Campaign, Limits, Sequences, Silent, sequences};
use udax_test_crash::workload::{Workload, alphabet};

/// At least so many images are judged in each run of CI.
const IMAGES: u64 = 20_000;

/// The longest run; on two idle processors it takes about a minute.
const LONGEST: Duration = Duration::from_secs(600);

fn workloads(seed: u64) -> Vec<Workload> {
    let of = |length, sample| sequences(Sequences { length, sample }, seed);
    let mut workloads = of(1, None);
    let summed = |workload| Workload::Summed(Box::new(workload));
    workloads.extend(of(1, None).into_iter().map(summed));
    let cached = |workload| Workload::Cached(Box::new(workload));
    workloads.extend(of(1, None).into_iter().map(cached));
    workloads.push(Workload::Lanes { records: 600 });
    workloads.push(Workload::Grow(vec![0, 1]));
    workloads.push(summed(Workload::Grow(vec![0, 20])));
    let others = of(3, Some(30)).into_iter().chain(of(2, Some(2000)));
    for (index, sequence) in (0_u64..).zip(others) {
        workloads.push(sequence);
        if index.is_multiple_of(10) {
            workloads.push(Workload::Random {
                seed: index,
                operations: 100,
            });
            workloads.push(Workload::Threads {
                seed: index,
                threads: 2,
                operations: 20,
            });
            workloads.push(Workload::Full {
                seed: index,
                operations: 40,
            });
            let random = Workload::Random {
                seed: index,
                operations: 100,
            };
            workloads.extend([
                cached(random.clone()),
                cached(summed(random.clone())),
                summed(random),
            ]);
            workloads.push(summed(Workload::Threads {
                seed: index,
                threads: 2,
                operations: 20,
            }));
            workloads.push(summed(Workload::Full {
                seed: index,
                operations: 40,
            }));
        }
    }
    workloads
}

#[test]
fn no_power_failure_breaks_a_promise() {
    let campaign = Campaign {
        workloads: workloads(1),
        domains: Domain::ALL.to_vec(),
        effort: Effort {
            images: 10,
            again: 4,
            every: 4,
        },
        seed: 1,
        limits: Limits {
            images: IMAGES,
            time: LONGEST,
        },
        threads: 0,
    };
    let outcome = campaign.run(&Silent);
    let failures: Vec<String> = outcome.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{:?}", outcome);
    assert!(outcome.distinct >= IMAGES, "{outcome:?}");
    assert!(
        outcome.workloads > u64::try_from(alphabet().len()).unwrap(),
        "{outcome:?}"
    );
}

#[test]
fn a_workload_stores_the_same_each_time() {
    for name in [
        "ace/append,rename-over",
        "random/5/80",
        "full/5/40",
        "sums/random/5/80",
        "cached/random/5/80",
    ] {
        let workload: Workload = name.parse().unwrap();
        let shape = || {
            let recording = workload.record().unwrap();
            let mut medium = Medium::new(Domain::Flush, recording.base.clone());
            let mut open = Vec::new();
            for event in &recording.events {
                medium.step(event);
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
    let effort = Effort {
        images: 4,
        again: 1,
        every: 1,
    };
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
    assert!(names.len() > 1000);
    for wrong in [
        "",
        "ace/nothing",
        "random/1",
        "lanes/x",
        "threads/1/0/5",
        "x/1",
        "sums/x/1",
        "sums/sums/lanes/1",
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
        medium.step(event);
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
