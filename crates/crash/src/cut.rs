//! Names of images.

use std::fmt;
use std::str::FromStr;

/// One of the images that a power failure may leave.
///
/// Printed as one word: `most`, `least`, `memory`, `device`, `without-81`, `only-81`, `since-40`, `random-7`, `nth-3`,
/// each with `@` and a number of stored words when the failure comes before later ones were stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cut {
    /// Only words that were stored before this one count; `None`: all.
    pub until: Option<u64>,
    /// Which of those have reached the medium.
    pub pick: Pick,
}

/// What of the open units has reached the medium.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pick {
    /// Nothing that could be lost.
    Least,
    /// All.
    Most,
    /// All of the memory, and nothing of the data device.
    Memory,
    /// All of the data device, and nothing of the memory.
    Device,
    /// All but what was stored to this unit.
    Without(u64),
    /// Nothing but what was stored to this unit.
    Only(u64),
    /// Of the units, those to which nothing was stored before this word.
    Since(u64),
    /// Of each unit some version, by this seed.
    Random(u64),
    /// Of all combinations of versions, this one: the version of the first unit counts fastest.
    Nth(u64),
}

impl Cut {
    /// With all words that were stored.
    pub const fn now(pick: Pick) -> Self {
        Self { until: None, pick }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pick {
            Pick::Least => write!(f, "least"),
            Pick::Most => write!(f, "most"),
            Pick::Memory => write!(f, "memory"),
            Pick::Device => write!(f, "device"),
            Pick::Without(unit) => write!(f, "without-{unit}"),
            Pick::Only(unit) => write!(f, "only-{unit}"),
            Pick::Since(word) => write!(f, "since-{word}"),
            Pick::Random(seed) => write!(f, "random-{seed}"),
            Pick::Nth(index) => write!(f, "nth-{index}"),
        }?;
        match self.until {
            Some(until) => write!(f, "@{until}"),
            None => Ok(()),
        }
    }
}

/// No cut, and no domain, is printed so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "'{word}' names no image: there are most, least, memory, device, without-UNIT, only-UNIT, since-WORD, random-SEED, \
     nth-N, each with @WORDS"
)]
pub struct ParseCutError {
    word: String,
}

impl ParseCutError {
    pub(crate) fn new(word: &str) -> Self {
        Self {
            word: word.to_owned(),
        }
    }
}

impl FromStr for Cut {
    type Err = ParseCutError;

    fn from_str(word: &str) -> Result<Self, ParseCutError> {
        let wrong = || ParseCutError::new(word);
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let (pick, until) = match word.split_once('@') {
            Some((pick, until)) => (pick, Some(number(until)?)),
            None => (word, None),
        };
        let pick = match pick.split_once('-') {
            None if pick == "least" => Pick::Least,
            None if pick == "most" => Pick::Most,
            None if pick == "memory" => Pick::Memory,
            None if pick == "device" => Pick::Device,
            Some(("without", unit)) => Pick::Without(number(unit)?),
            Some(("only", unit)) => Pick::Only(number(unit)?),
            Some(("since", word)) => Pick::Since(number(word)?),
            Some(("random", seed)) => Pick::Random(number(seed)?),
            Some(("nth", index)) => Pick::Nth(number(index)?),
            _ => return Err(wrong()),
        };
        Ok(Self { until, pick })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_cut_is_read_back() {
        let picks = [
            Pick::Least,
            Pick::Most,
            Pick::Memory,
            Pick::Device,
            Pick::Without(0),
            Pick::Only(u64::MAX),
            Pick::Since(5),
            Pick::Random(77),
            Pick::Nth(3),
        ];
        for pick in picks {
            for until in [None, Some(0), Some(99)] {
                let cut = Cut { until, pick };
                assert_eq!(cut.to_string().parse::<Cut>().unwrap(), cut);
            }
        }
    }

    #[test]
    fn what_is_no_cut_is_refused() {
        for word in [
            "",
            "more",
            "nth",
            "nth-",
            "nth-x",
            "most@",
            "without-1@y",
            "random--1",
        ] {
            let error = word.parse::<Cut>().unwrap_err().to_string();
            assert!(error.contains(&format!("'{word}'")), "{error}");
        }
    }
}
