//! The time stamp of everything in an image: SOURCE_DATE_EPOCH, else the beginning of 1970, so that the
//! same inputs give the same bytes (reproducible-builds.org/specs/source-date-epoch).

/// Why SOURCE_DATE_EPOCH cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("SOURCE_DATE_EPOCH is {0:?}: it must be seconds since 1970, below 4294967296")]
pub(crate) struct Error(String);

/// Seconds since 1970; 32 bits, since a newc header has no room for more.
pub(crate) fn from_environment() -> Result<u32, Error> {
    match std::env::var_os("SOURCE_DATE_EPOCH") {
        None => Ok(0),
        Some(text) => text
            .to_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error(text.to_string_lossy().into_owned())),
    }
}

/// `2024-02-29 23:59:59 UTC`, as the kernel's banner shows it.
pub(crate) fn to_text(epoch: u32) -> String {
    let [year, month, day, hour, minute, second] = civil(epoch);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Year, month, day, hour, minute and second in UTC.
pub(crate) fn civil(epoch: u32) -> [u32; 6] {
    let (days, seconds) = (epoch / 86_400, epoch % 86_400);
    // Years that begin in March end with the leap day. Day 0 is 0000-03-01, which is 719,468 days
    // before 1970; 400 years are 146,097 days (H. Hinnant, "chrono-Compatible Low-Level Date
    // Algorithms", civil_from_days).
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u32::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    [year, month, day, hour, minute, second]
}

#[cfg(test)]
mod tests {
    use super::to_text;

    #[test]
    fn times_are_those_of_date() {
        // date -u -d @N '+%F %T UTC'
        for (epoch, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (u32::MAX, "2106-02-07 06:28:15 UTC"),
        ] {
            assert_eq!(to_text(epoch), text);
        }
    }
}
