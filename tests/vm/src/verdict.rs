//! The two ways in which a part can end without success: something is wrong, or nothing could be told.
//!
//! A run that must not fail because of a slow machine ([`Verdict::NotJudged`]) has a time at which it ends. What the
//! emulation itself breaks, and whatever takes longer than it should, is not judged then.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::ensure;

/// Why something was not judged.
#[derive(Debug)]
pub(crate) struct NotJudged(pub(crate) String);

impl fmt::Display for NotJudged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotJudged {}

/// What was promised is not there, something else is, or udax does not go on.
#[derive(Debug)]
pub(crate) struct Lost(pub(crate) String);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lost {}

/// What became of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Passed,
    NotJudged,
}

/// When a run ends that has no time for more.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct End(Option<Instant>);

impl End {
    /// In `seconds`, if a number is given.
    pub(crate) fn within(seconds: Option<u64>) -> Self {
        // A time beyond what the clock counts never comes.
        Self(seconds.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds))))
    }

    /// # Errors
    /// The time is up.
    pub(crate) fn ensure_time(self) -> anyhow::Result<()> {
        let is_over = self.0.is_some_and(|end| Instant::now() >= end);
        ensure!(!is_over, NotJudged("the time is up".to_owned()));
        Ok(())
    }

    /// Runs a part, if there is time. Where a run has an end, what is not judged is told and no failure.
    ///
    /// # Errors
    /// Those of the part.
    pub(crate) fn run(
        self,
        name: &str,
        part: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Verdict> {
        let result = self.ensure_time().and_then(|()| part());
        match result {
            Ok(()) => Ok(Verdict::Passed),
            Err(error) if self.0.is_some() && error.is::<NotJudged>() => {
                println!("ci/vm: NOT run to its end: {name}: {error}");
                Ok(Verdict::NotJudged)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    fn not_judged() -> anyhow::Result<()> {
        Err(NotJudged("slow".to_owned()).into())
    }

    #[test]
    fn what_is_not_judged_fails_a_run_without_an_end_only() {
        let limited = End::within(Some(1000));
        assert_eq!(limited.run("part", not_judged).unwrap(), Verdict::NotJudged);
        assert_eq!(
            limited.run("part", || not_judged().context("boot")).unwrap(),
            Verdict::NotJudged
        );
        assert!(End::within(None).run("part", not_judged).is_err());
        assert!(limited.run("part", || Err(anyhow!("wrong"))).is_err());
        assert_eq!(limited.run("part", || Ok(())).unwrap(), Verdict::Passed);
    }

    #[test]
    fn a_part_is_not_begun_when_the_time_is_up() {
        let over = End::within(Some(0));
        let verdict = over.run("part", || Err(anyhow!("begun"))).unwrap();
        assert_eq!(verdict, Verdict::NotJudged);
        assert!(End::within(None).ensure_time().is_ok());
    }
}
