//! What is said about peers that are sent away: a few lines in some seconds, and then how many more there were, so that
//! a flood of connections is not one of messages.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// The most lines in an interval.
const MAX_LINES: u32 = 5;
const INTERVAL: Duration = Duration::from_secs(10);

/// Refusals in the present interval.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    began: Option<Instant>,
    lines: u32,
    more: u64,
}

impl Refusals {
    /// The line to say about a refusal, if it is to be said.
    pub(super) fn line(&mut self, address: &str, why: &str, now: Instant) -> Option<String> {
        if self.lines == MAX_LINES && self.began.is_some_and(|began| now < began + INTERVAL) {
            self.more += 1;
            return None;
        }
        let mut line = format!("the connection from {address} is closed: {why}");
        if self.began.is_none_or(|began| now >= began + INTERVAL) {
            if let Some(rest) = self.rest(now) {
                let _ = write!(line, "; before it, {rest}");
            }
            (self.began, self.lines) = (Some(now), 0);
        }
        self.lines += 1;
        Some(line)
    }

    /// When [`Self::rest`] has something to say.
    pub(super) fn due(&self) -> Option<Instant> {
        let began = self.began.filter(|_| self.more > 0);
        began.map(|began| began + INTERVAL)
    }

    /// How many refusals there were that no line was about, once their interval is over.
    pub(super) fn unreported(&self, now: Instant) -> Option<u64> {
        self.due().filter(|due| *due <= now).map(|_| self.more)
    }

    /// The same as a line, once.
    pub(super) fn rest(&mut self, now: Instant) -> Option<String> {
        self.due().filter(|due| *due <= now)?;
        let more = std::mem::take(&mut self.more);
        self.began = None;
        Some(format!("{more} more connections were closed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_five_lines_and_a_number() {
        let now = Instant::now();
        let mut refusals = Refusals::default();
        let first = refusals.line("192.0.2.1", "it does not speak SSH", now);
        let text = "the connection from 192.0.2.1 is closed: it does not speak SSH";
        assert_eq!(first.as_deref(), Some(text));
        let said = (0..1000).filter_map(|_| refusals.line("192.0.2.1", "x", now));
        assert_eq!(said.count(), 4);
        let due = refusals.due().unwrap();
        assert_eq!(refusals.rest(now), None);
        assert_eq!(
            refusals.rest(due).unwrap(),
            "996 more connections were closed"
        );
        assert_eq!((refusals.due(), refusals.rest(due)), (None, None));
        assert_eq!(
            refusals.line("192.0.2.1", "it does not speak SSH", due),
            first
        );
        for _ in 0..9 {
            refusals.line("192.0.2.1", "x", due);
        }
        let later = refusals.line("192.0.2.2", "y", due + INTERVAL).unwrap();
        assert!(
            later.ends_with("y; before it, 5 more connections were closed"),
            "{later}"
        );
    }
}
