//! `-stats`: prints a table of the file requests at the end.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ninep::msg::{FetchTotals, Kind};
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
    told: Mutex<Option<ToldTally>>,
}

/// What the machine has said at the end of its mounts.
#[derive(Default)]
struct ToldTally {
    answered: Vec<(Kind, u64)>,
    fetched: FetchTotals,
}

/// A row of the table.
struct StatsRow {
    word: &'static str,
    requests: u64,
    awaited: u64,
    answered: u64,
    failed: u64,
    bytes: u64,
    time: Duration,
}

impl StatsRow {
    fn new(word: &'static str) -> Self {
        Self {
            word,
            requests: 0,
            awaited: 0,
            answered: 0,
            failed: 0,
            bytes: 0,
            time: Duration::ZERO,
        }
    }

    /// The row that begins with this word: kinds of the same name have one.
    fn of<'r>(rows: &'r mut Vec<Self>, word: &'static str) -> &'r mut Self {
        let at = rows.iter().position(|row| row.word == word);
        let at = at.unwrap_or_else(|| {
            rows.push(Self::new(word));
            rows.len() - 1
        });
        &mut rows[at]
    }

    fn add(&mut self, row: &Self) {
        self.requests += row.requests;
        self.awaited += row.awaited;
        self.answered = self.answered.saturating_add(row.answered);
        self.failed += row.failed;
        self.bytes += row.bytes;
        self.time += row.time;
    }
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
pub(crate) fn shortened(words: &dyn Display) -> String {
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

    fn tally(&self, answered: &[(Kind, u32)], fetched: &FetchTotals) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.get_or_insert_default();
        for &(kind, number) in answered {
            let number = u64::from(number);
            match told.answered.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, all)) => *all = all.saturating_add(number),
                None => told.answered.push((kind, number)),
            }
        }
        let all = told.fetched;
        told.fetched = FetchTotals {
            files: all.files.saturating_add(fetched.files),
            bytes: all.bytes.saturating_add(fetched.bytes),
            used_files: all.used_files.saturating_add(fetched.used_files),
            used_bytes: all.used_bytes.saturating_add(fetched.used_bytes),
        };
    }
}

impl Display for Stats {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<StatsRow> = Vec::new();
        let mut all = StatsRow::new("all");
        for total in self.counts.totals() {
            let row = StatsRow {
                word: total.kind.name(),
                requests: total.requests,
                awaited: total.awaited,
                answered: 0,
                failed: total.failed,
                bytes: total.bytes,
                time: total.elapsed,
            };
            // It is no request.
            if total.kind != Kind::Forget {
                all.add(&row);
            }
            StatsRow::of(&mut rows, row.word).add(&row);
        }
        for (kind, answered) in told.iter().flat_map(|told| &told.answered) {
            let mut row = StatsRow::new(kind.name());
            row.answered = *answered;
            all.add(&row);
            StatsRow::of(&mut rows, row.word).add(&row);
        }
        writeln!(
            f,
            "{:<12} {:>9} {:>9} {:>9} {:>9} {:>13} {:>10}",
            "9p", "requests", "waits", "answered", "failed", "bytes", "time"
        )?;
        for row in rows.iter().chain([&all]) {
            let answered = match &*told {
                Some(_) => row.answered.to_string(),
                None => "-".to_owned(),
            };
            let time = format!("{:.1?}", row.time);
            writeln!(
                f,
                "{:<12} {:>9} {:>9} {answered:>9} {:>9} {:>13} {time:>10}",
                row.word, row.requests, row.awaited, row.failed, row.bytes
            )?;
        }
        if let Some(ToldTally { fetched, .. }) = &*told
            && fetched.files > 0
        {
            writeln!(
                f,
                "fetched before anybody asked: {} files, {} bytes; used: {} files, {} bytes",
                fetched.files, fetched.bytes, fetched.used_files, fetched.used_bytes
            )?;
        }
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
    use std::time::Instant;

    use ninep::observe::Urgency;

    use super::*;

    fn done(stats: &Stats, path: &str, millis: u64) {
        stats.done(&CompletedRequest {
            kind: Kind::Read,
            request: None,
            urgency: Urgency::Awaited,
            begun: Instant::now(),
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
                request: None,
                urgency: match kind {
                    Kind::Walk => Urgency::Answered,
                    _ => Urgency::Awaited,
                },
                begun: Instant::now(),
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
        assert_eq!(words(lines[1])[..6], ["walk", "2", "1", "-", "2", "0"]);
        assert_eq!(words(lines[2])[..6], ["read", "70", "70", "-", "0", "700"]);
        assert_eq!(words(lines[3])[..6], ["all", "72", "71", "-", "2", "700"]);
        assert_eq!(lines[4], "slowest");
        assert_eq!(words(lines[5]), ["1.0s", "read", "/once/19", "10", "@0"]);
        assert_eq!(lines[15], "most requests");
        assert_eq!(words(lines[16]), ["50", "/often"]);
        assert_eq!(lines.len(), 26);
    }

    #[test]
    fn what_the_machine_says_of_its_mounts_is_added_up() {
        let stats = Stats::default();
        done(&stats, "/a", 1);
        let fetched = FetchTotals {
            files: 3,
            bytes: 300,
            used_files: 1,
            used_bytes: 100,
        };
        stats.tally(&[(Kind::Walk, 7), (Kind::Read, 5)], &fetched);
        stats.tally(&[(Kind::Read, u32::MAX)], &fetched);
        let table = stats.to_string();
        let row = |word| {
            let line = table.lines().find(|line| line.starts_with(word)).unwrap();
            line.split_whitespace().skip(1).take(3).collect::<Vec<_>>()
        };
        assert_eq!(row("read"), ["1", "1", "4294967300"]);
        assert_eq!(row("walk"), ["0", "0", "7"]);
        assert_eq!(row("all"), ["1", "1", "4294967307"]);
        assert!(
            table.contains(" asked: 6 files, 600 bytes; used: 2 files, 200 bytes\n"),
            "{table}"
        );
    }

    #[test]
    fn tallies_that_lie_do_no_harm() {
        use cpu_client::export::Export;
        use ninep::msg::{NO_TAG, Request, WATCHED};
        use ninep::wire::Data;
        // Of a file system that can be watched.
        let dir = tempfile::TempDir::new_in("/dev/shm").unwrap();
        let export = std::sync::Arc::new(Export::new(dir.path()).unwrap());
        let stats: &'static Stats = Box::leak(Box::default());
        let config = ninep::server::Config {
            observer: Some(stats),
            ..Default::default()
        };
        let mut raw = ninep_testing::RawClient::attached(export, config);
        let most = FetchTotals {
            files: u32::MAX,
            bytes: u64::MAX,
            used_files: u32::MAX,
            used_bytes: u64::MAX,
        };
        let numbers = vec![0xff; 1 << 19];
        let tally = |length| Request::Tally {
            fetched: most,
            answered: Data(&numbers[..length]),
        };
        // It is of no other dialect, and has no tag.
        raw.send(NO_TAG, &tally(512));
        assert_eq!(raw.receive().errno(), Some(ninep::Errno::EOPNOTSUPP));
        raw.dialect(1 << 20, WATCHED);
        raw.ask(&ninep_testing::attach(0)).unwrap();
        assert_eq!(raw.ask(&tally(512)).err(), Some(ninep::Errno::EOPNOTSUPP));
        assert!(stats.told.lock().unwrap().is_none());
        // Early, again, short, long, and cut off.
        for length in [0, 3, 512, 1 << 19, 512] {
            raw.send(NO_TAG, &tally(length));
        }
        raw.send_bytes(&[11, 0, 0, 0, 140, 0xff, 0xff, 1, 2, 3, 4]);
        assert!(raw.receive().errno().is_some());
        raw.ask(&Request::Getattr { fid: 0, mask: 1 }).unwrap();
        let table = stats.to_string();
        let read = table
            .lines()
            .find(|line| line.starts_with("read "))
            .unwrap();
        let answered = (3 * u64::from(u32::MAX)).to_string();
        assert!(read.contains(&answered), "{table}");
        assert!(table.contains(&u64::MAX.to_string()), "{table}");
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
