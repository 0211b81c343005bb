//! A word about a machine whose clock is wrong: many have no battery, and begin in 1970.

use std::time::{SystemTime, UNIX_EPOCH};

/// From this difference on, in seconds, it is told: no time zone makes so much.
const DAY: u64 = 24 * 60 * 60;

/// What to tell of a clock that said `there` when this one said `here`, both in seconds since 1970.
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
        "the machine's clock is {days} {which} this one's, which certificates and make do not take well; \
         cpu HOST date -s @$(date +%s) sets it"
    ))
}

/// Warns of a clock that now says `there`. A terminal in raw mode wants its carriage returns.
pub(crate) fn compare(there: u64, is_raw: bool) {
    let here = SystemTime::now().duration_since(UNIX_EPOCH);
    if let Some(told) = difference(there, here.unwrap_or_default().as_secs()) {
        warn!("{told}{}", if is_raw { "\r" } else { "" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_more_than_a_day_is_told() {
        let now = 1_800_000_000;
        for there in [now, now - DAY + 1, now + DAY - 1] {
            assert_eq!(difference(there, now), None);
        }
        let told = |there| difference(there, now).unwrap();
        assert!(told(0).starts_with("the machine's clock is 20833 days behind this one's"));
        assert!(told(now - DAY).contains("is a day behind this"));
        assert!(told(now + 2 * DAY).contains("is 2 days ahead of this"));
        assert!(told(u64::MAX).contains("ahead of"));
    }
}
