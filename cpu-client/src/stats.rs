//! `-stats`: prints a table of the file requests at the end.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ninep::msg::Kind;
use ninep::observe::{CompletedRequest, Counts, Observer};

/// The length of the lists below the table.
const LIST_LENGTH: usize = 10;

/// The most paths that are counted at one time. If there were more, the table says so.
const MAX_PATHS: usize = 16 * 1024;

/// The length in bytes to which the text of a path or request is cut.
const MAX_TEXT: usize = 1024;

/// Counts requests, and remembers the slowest and the busiest paths.
#[derive(Default)]
pub(crate) struct Stats {
    counts: Counts,
    notable: Mutex<Notable>,
}

#[derive(Default)]
struct Notable {
    /// The slowest first.
    slowest: Vec<(Duration, String)>,
    paths: HashMap<String, u64>,
    /// The most requests that may be missing from a path's count.
    missing: u64,
}

impl Notable {
    /// Counts a request for a path. If there is no room for a new path, one is subtracted from every count. So paths with
    /// many requests stay, whatever the order of the requests (Misra and Gries, 1982).
    fn count(&mut self, path: String) {
        if let Some(requests) = self.paths.get_mut(&path) {
            *requests += 1;
        } else if self.paths.len() < MAX_PATHS {
            self.paths.insert(path, 1);
        } else {
            self.missing += 1;
            self.paths.retain(|_, requests| {
                *requests -= 1;
                *requests > 0
            });
        }
    }
}

/// A text, cut to a bounded length.
fn shortened(words: &dyn Display) -> String {
    let mut text = words.to_string();
    if let Some(end) = (MAX_TEXT..text.len()).find(|&end| text.is_char_boundary(end)) {
        text.truncate(end);
        text.push('…');
    }
    text
}

impl Observer for Stats {
    fn done(&self, event: &CompletedRequest<'_>) {
        self.counts.done(event);
        if event.kind == Kind::Forget {
            return;
        }
        let path = shortened(event.path);
        let mut notable = self.notable.lock().unwrap_or_else(PoisonError::into_inner);
        let place = notable
            .slowest
            .partition_point(|(elapsed, _)| *elapsed >= event.elapsed);
        if place < LIST_LENGTH {
            let words = shortened(event.description);
            notable.slowest.insert(place, (event.elapsed, words));
            notable.slowest.truncate(LIST_LENGTH);
        }
        if !path.is_empty() {
            notable.count(path);
        }
    }
}

impl Display for Stats {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let totals = self.counts.totals();
        let row = |f: &mut Formatter<'_>, word: &str, of: [u64; 3], time: Duration| {
            let [requests, failed, bytes] = of;
            let time = format!("{time:.1?}");
            writeln!(
                f,
                "{word:<12} {requests:>9} {failed:>9} {bytes:>13} {time:>10}"
            )
        };
        writeln!(
            f,
            "{:<12} {:>9} {:>9} {:>13} {:>10}",
            "9p", "requests", "failed", "bytes", "time"
        )?;
        let (mut sum, mut time) = ([0; 3], Duration::ZERO);
        let mut rows: Vec<(&str, [u64; 3], Duration)> = Vec::new();
        for total in &totals {
            let (word, of) = (
                total.kind.name(),
                [total.requests, total.failed, total.bytes],
            );
            match rows.iter_mut().find(|(known, ..)| *known == word) {
                Some((_, all, elapsed)) => {
                    *all = std::array::from_fn(|i| all[i] + of[i]);
                    *elapsed += total.elapsed;
                }
                None => rows.push((word, of, total.elapsed)),
            }
            // It is no request.
            if total.kind == Kind::Forget {
                continue;
            }
            sum = std::array::from_fn(|i| sum[i] + of[i]);
            time += total.elapsed;
        }
        for (word, of, elapsed) in rows {
            row(f, word, of, elapsed)?;
        }
        row(f, "all", sum, time)?;
        let notable = self.notable.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(f, "slowest")?;
        for (elapsed, words) in &notable.slowest {
            let elapsed = format!("{elapsed:.1?}");
            writeln!(f, "{elapsed:>12} {words}")?;
        }
        writeln!(f, "most requests")?;
        let mut paths: Vec<_> = notable.paths.iter().collect();
        paths.sort_unstable_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        for (path, requests) in paths.iter().take(LIST_LENGTH) {
            writeln!(f, "{requests:>12} {path}")?;
        }
        if notable.missing > 0 {
            let most = notable.missing;
            writeln!(
                f,
                "(more than {MAX_PATHS} different paths: each may have had up to {most} more requests)"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(stats: &Stats, path: &str, millis: u64) {
        stats.done(&CompletedRequest {
            kind: Kind::Read,
            description: &format!("read {path} 10 @0"),
            path: &path,
            result: Ok(Some(10)),
            elapsed: Duration::from_millis(millis),
        });
    }

    #[test]
    fn the_table_has_sums_and_what_stands_out() {
        let stats = Stats::default();
        for millis in 0..50 {
            done(&stats, "/often", millis);
        }
        for n in 0..20 {
            done(&stats, &format!("/once/{n}"), 1000 + n);
        }
        for kind in [Kind::Walk, Kind::Walkgetattr] {
            stats.done(&CompletedRequest {
                kind,
                description: &"walk /a",
                path: &"",
                result: Err(ninep::Errno::ENOENT),
                elapsed: Duration::ZERO,
            });
        }
        let table = stats.to_string();
        let lines: Vec<_> = table.lines().collect();
        let words =
            |line: &str| -> Vec<String> { line.split_whitespace().map(Into::into).collect() };
        // Two kinds with the same name have one row.
        assert_eq!(words(lines[1])[..4], ["walk", "2", "2", "0"]);
        assert_eq!(words(lines[2])[..4], ["read", "70", "0", "700"]);
        assert_eq!(words(lines[3])[..4], ["all", "72", "2", "700"]);
        assert_eq!(lines[4], "slowest");
        assert_eq!(words(lines[5]), ["1.0s", "read", "/once/19", "10", "@0"]);
        assert_eq!(lines[15], "most requests");
        assert_eq!(words(lines[16]), ["50", "/often"]);
        assert_eq!(lines.len(), 26);
    }

    #[test]
    fn memory_is_bounded() {
        let stats = Stats::default();
        for n in 0..3 * MAX_PATHS {
            done(&stats, &format!("/{n}"), 1);
            if n % 2 == 0 {
                done(&stats, "/often", 1);
            }
        }
        let often = stats.notable.lock().unwrap().paths["/often"];
        assert!(stats.notable.lock().unwrap().paths.len() <= MAX_PATHS);
        let table = stats.to_string();
        let mut most = table.lines().skip_while(|line| *line != "most requests");
        assert!(
            most.nth(1).unwrap().ends_with(&format!("{often} /often")),
            "{table}"
        );
        let missing = stats.notable.lock().unwrap().missing;
        assert!(
            table.ends_with(&format!(
                "each may have had up to {missing} more requests)\n"
            )),
            "{table}"
        );
        let true_number = 3 * MAX_PATHS as u64 / 2;
        assert!(
            (often..=often + missing).contains(&true_number),
            "{often} {missing}"
        );

        let long = "ä".repeat(MAX_PATHS);
        done(&stats, &long, 2);
        let slowest = &stats.notable.lock().unwrap().slowest[0].1;
        assert!(slowest.len() < MAX_TEXT + 10 && slowest.ends_with('…'));
    }
}
