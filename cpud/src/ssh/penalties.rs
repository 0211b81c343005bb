//! Penalties of sources whose peers did not log in, as sshd's PerSourcePenalties counts them. A penalty does not lock
//! anybody out: behind one address there may be a whole laboratory. Its source has only less room ([`super::admission`]).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::source::PeerSource;

/// A penalty is enforced while this much of it is left, so that somebody who has tried a wrong key or two has none.
const MIN: Duration = Duration::from_secs(15);
/// The most that a source can have before it.
const MAX: Duration = Duration::from_mins(1);
/// The most sources that are remembered.
const MAX_SOURCES: usize = 1024;

/// What a peer that did not log in has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offence {
    /// It has gone without trying a key.
    NoAuthentication,
    /// It has offered keys, none of which may log in.
    FailedAuthentication,
    /// It has not logged in within the time for it.
    GraceExceeded,
}

impl Offence {
    const ALL: [Self; 3] = [
        Self::NoAuthentication,
        Self::FailedAuthentication,
        Self::GraceExceeded,
    ];

    /// The default of sshd_config(5).
    fn penalty(self) -> Duration {
        Duration::from_secs(match self {
            Self::NoAuthentication => 1,
            Self::FailedAuthentication => 5,
            Self::GraceExceeded => 10,
        })
    }

    /// The status with which a connection's process reports it.
    pub(crate) fn exit_status(self) -> u8 {
        3 + self as u8
    }

    /// The offence that a process has reported.
    pub(super) fn from_exit_status(status: i32) -> Option<Self> {
        let is_it = |offence: &Self| i32::from(offence.exit_status()) == status;
        Self::ALL.into_iter().find(is_it)
    }
}

/// The penalties of all sources.
#[derive(Debug, Default)]
pub(super) struct Penalties {
    /// When each is over.
    ends: BTreeMap<PeerSource, Instant>,
}

impl Penalties {
    /// Adds what an offence costs.
    pub(super) fn add(&mut self, source: PeerSource, offence: Offence, now: Instant) {
        if source == PeerSource::Local {
            return;
        }
        if self.ends.len() >= MAX_SOURCES && !self.ends.contains_key(&source) {
            self.ends.retain(|_, end| *end > now);
            let soonest = self.ends.iter().min_by_key(|(_, end)| **end);
            if let Some((&soonest, _)) = soonest.filter(|_| self.ends.len() >= MAX_SOURCES) {
                self.ends.remove(&soonest);
            }
        }
        let end = self.ends.entry(source).or_insert(now);
        *end = ((*end).max(now) + offence.penalty()).min(now + MAX);
    }

    /// Whether a source's penalty is large enough to be enforced.
    pub(super) fn is_penalised(&self, source: PeerSource, now: Instant) -> bool {
        self.ends.get(&source).is_some_and(|end| *end >= now + MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAB: PeerSource = PeerSource::V4([192, 0, 2, 1]);

    #[test]
    fn a_few_wrong_keys_have_no_consequence_and_many_have_one_that_ends() {
        let now = Instant::now();
        let mut penalties = Penalties::default();
        for _ in 0..2 {
            penalties.add(LAB, Offence::FailedAuthentication, now);
        }
        assert!(!penalties.is_penalised(LAB, now));
        for _ in 0..1000 {
            penalties.add(LAB, Offence::FailedAuthentication, now);
        }
        assert!(penalties.is_penalised(LAB, now));
        assert!(penalties.is_penalised(LAB, now + MAX.saturating_sub(MIN)));
        assert!(!penalties.is_penalised(LAB, now + MAX));
        assert!(!penalties.is_penalised(PeerSource::V4([192, 0, 2, 2]), now));
        penalties.add(PeerSource::Local, Offence::GraceExceeded, now);
        penalties.add(PeerSource::Local, Offence::GraceExceeded, now);
        assert!(!penalties.is_penalised(PeerSource::Local, now));
    }

    #[test]
    fn the_table_is_bounded_and_the_worst_stay_in_it() {
        let now = Instant::now();
        let mut penalties = Penalties::default();
        for _ in 0..4 {
            penalties.add(LAB, Offence::GraceExceeded, now);
        }
        for number in 0..3 * MAX_SOURCES {
            let source = PeerSource::V4(u32::try_from(number).unwrap().to_be_bytes());
            penalties.add(source, Offence::NoAuthentication, now);
        }
        assert_eq!(penalties.ends.len(), MAX_SOURCES);
        assert!(penalties.is_penalised(LAB, now));
    }

    #[test]
    fn an_offence_is_reported_by_a_status_of_its_own() {
        for offence in Offence::ALL {
            let status = i32::from(offence.exit_status());
            assert_eq!(Offence::from_exit_status(status), Some(offence));
        }
        assert_eq!(Offence::from_exit_status(0), None);
        assert_eq!(Offence::from_exit_status(1), None);
    }
}
