//! The clock of a machine that has no battery and begins in 1970: the first client that runs a command sets it.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use crate::rootfs;

const DAY: u64 = 24 * 60 * 60;
/// 2025-01-01, in seconds since 1970, when this program did not exist: a clock that shows an earlier time has not been set.
const EARLIEST: u64 = 1_735_689_600;
/// What no clock shows.
const LATEST: u64 = 1 << 33;

/// The time that a clock is to be set to that shows `here`, when a client's shows `there`.
fn corrected(here: u64, there: &str) -> Option<u64> {
    let there = there.parse().ok();
    let there = there.filter(|there| (EARLIEST..LATEST).contains(there))?;
    (here < EARLIEST).then_some(there)
}

/// Sets the machine's clock to `there`, the client's in seconds since 1970, if it has not been set, and if the machine runs from
/// memory, as appliances do. The result is what to say about it.
pub(super) fn set(there: &str) -> Option<String> {
    let here = SystemTime::now().duration_since(UNIX_EPOCH);
    let here = here.unwrap_or_default().as_secs();
    let there = corrected(here, there).filter(|_| rootfs::is_in_memory())?;
    let time = TimeSpec::new(there.try_into().ok()?, 0);
    let days = (there - here) / DAY;
    Some(match clock_settime(ClockId::CLOCK_REALTIME, time) {
        Ok(()) => {
            format!(
                "the clock, which was {days} days behind, is set to that of this login's computer"
            )
        }
        Err(errno) => format!(
            "cannot set the clock, which is {days} days behind: {}",
            errno.desc()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_was_not_set_is_set_and_only_to_a_time_that_can_be() {
        let now = "1800000000";
        assert_eq!(corrected(0, now), Some(1_800_000_000));
        assert_eq!(corrected(EARLIEST - 1, now), Some(1_800_000_000));
        assert_eq!(corrected(EARLIEST, now), None);
        for there in [
            "",
            "-1",
            "x",
            "1000000000",
            "99999999999",
            "99999999999999999999999",
        ] {
            assert_eq!(corrected(0, there), None, "{there}");
        }
    }
}
