//! When the DHCP clients repeat a message: more and more seldom, and at other times than other machines.

use std::time::Duration;

/// The first wait for an answer. One second instead of RFC 2131's four, since these machines boot in one.
pub(super) const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait of a client without an address.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(64);

/// A source of numbers that differ between machines.
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The wait after this many tries: `first` at the beginning, twice as long each time, at most `max`, and up to a
    /// quarter more or less, so that the machines of a rack that are switched on together do not all ask at once.
    pub(super) fn backoff(&mut self, first: Duration, max: Duration, tries: u32) -> Duration {
        let whole = first.saturating_mul(1 << tries.min(6)).min(max);
        whole * 3 / 4 + whole * self.below(1000) / 2000
    }

    /// splitmix64, Steele and others, OOPSLA 2014.
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = (z ^ (z >> 31)) >> 32;
        u32::try_from(high % u64::from(limit)).unwrap_or(0)
    }
}
