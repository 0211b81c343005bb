//! A warning about a machine whose clock is wrong: many have no battery and start in 1970.

use std::time::{SystemTime, UNIX_EPOCH};

/// The smallest difference that is reported, in seconds. No confusion of time zones makes as much.
const DAY: u64 = 24 * 60 * 60;

/// The warning about a clock that said `there` when this one said `here`, both in seconds since 1970.
fn difference(there: u64, here: u64) -> Option<String> {
    let days = there.abs_diff(here) / DAY;
    let (which, days) = match (there < here, days) {
        (_, 0) => return None,
        (true, 1) => ("behind", "a day".to_owned()),
        (false, 1) => ("ahead of", "a day".to_owned()),
        (true, days) => ("behind", format!("{days} days")),
        (false, days) => ("ahead of", format!("{days} days")),
    };
    Some(format!(
        "the machine's clock is {days} {which} this one's, which breaks certificates and make; \
         cpu HOST date -s @$(date +%s) sets it"
    ))
}

/// Warns about the machine's clock, which now says `there`. A terminal in raw mode needs a carriage return.
pub(crate) fn compare(there: u64, is_raw: bool) {
    let here = SystemTime::now().duration_since(UNIX_EPOCH);
    if let Some(warning) = difference(there, here.unwrap_or_default().as_secs()) {
        warn!("{warning}{}", if is_raw { "\r" } else { "" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_more_than_a_day_is_reported() {
        let now = 1_800_000_000;
        for there in [now, now - DAY + 1, now + DAY - 1] {
            assert_eq!(difference(there, now), None);
        }
        let warning = |there| difference(there, now).unwrap();
        assert!(warning(0).starts_with("the machine's clock is 20833 days behind this one's"));
        assert!(warning(now - DAY).contains("is a day behind this"));
        assert!(warning(now + 2 * DAY).contains("is 2 days ahead of this"));
        assert!(warning(u64::MAX).contains("ahead of"));
    }
}
