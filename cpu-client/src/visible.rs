//! What a person sees of the file requests: `-dbg9p`, a line for each, and `-stats`, a table at the end.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use ninep::msg::Kind;
use ninep::observe::{Counts, Event, Observer, Trace};

/// Lines of a list in the table.
const LINES: usize = 10;

/// Different paths that are counted; a session that touches more says so.
const PATHS: usize = 16 * 1024;

/// The value of `-dbg9p`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    wanted: bool,
    /// Only these; all if there are none.
    kinds: Vec<Kind>,
    /// Where to, instead of standard error.
    file: Option<PathBuf>,
}

impl FromStr for Wish {
    type Err = String;

    /// A boolean, or kinds of requests, separated by commas, and at last a file, told by its slash.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(super::flags::GoBool(wanted)) = text.parse() {
            return Ok(Self {
                wanted,
                ..Self::default()
            });
        }
        let words_end = text
            .find('/')
            .map(|slash| text[..slash].rfind(',').map_or(0, |comma| comma + 1));
        let (words, file) = match words_end {
            Some(end) => (text[..end].trim_end_matches(','), Some(text[end..].into())),
            None => (text, None),
        };
        let mut kinds = Vec::new();
        for word in words.split(',').filter(|word| !word.is_empty()) {
            let before = kinds.len();
            kinds.extend(Kind::ALL.iter().filter(|kind| kind.word() == word));
            if kinds.len() == before {
                let mut known: Vec<_> = Kind::ALL.iter().map(|kind| kind.word()).collect();
                known.dedup();
                return Err(format!(
                    "no request is called {word:?}; write ./{word} for a file, or some of {}",
                    known.join(",")
                ));
            }
        }
        Ok(Self {
            wanted: true,
            kinds,
            file,
        })
    }
}

impl Wish {
    /// The trace; the file is made anew.
    pub(crate) fn trace(&self) -> Result<Option<Trace<Box<dyn Write + Send>>>> {
        if !self.wanted {
            return Ok(None);
        }
        let to: Box<dyn Write + Send> = match &self.file {
            None => Box::new(std::io::stderr()),
            Some(path) => Box::new(File::create(path).with_context(|| {
                format!("cannot write the requests of -dbg9p to {}", path.display())
            })?),
        };
        Ok(Some(Trace::new(to, self.kinds.clone())))
    }
}

/// Counts requests, and remembers those that stand out.
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
    /// Requests about paths for which there was no room.
    others: u64,
}

impl Observer for Stats {
    fn done(&self, event: &Event<'_>) {
        self.counts.done(event);
        let path = event.path.to_string();
        let mut notable = self.notable.lock().unwrap_or_else(PoisonError::into_inner);
        let place = notable
            .slowest
            .partition_point(|(elapsed, _)| *elapsed >= event.elapsed);
        if place < LINES {
            let words = event.words.to_string();
            notable.slowest.insert(place, (event.elapsed, words));
            notable.slowest.truncate(LINES);
        }
        if path.is_empty() {
            return;
        }
        if notable.paths.len() < PATHS || notable.paths.contains_key(&path) {
            *notable.paths.entry(path).or_default() += 1;
        } else {
            notable.others += 1;
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
        for total in &totals {
            let of = [total.requests, total.failed, total.bytes];
            row(f, total.kind.word(), of, total.elapsed)?;
            sum = std::array::from_fn(|i| sum[i] + of[i]);
            time += total.elapsed;
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
        for (path, requests) in paths.iter().take(LINES) {
            writeln!(f, "{requests:>12} {path}")?;
        }
        if notable.others > 0 {
            writeln!(
                f,
                "{:>12} to more than {PATHS} different paths, not told apart",
                notable.others
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(text: &str) -> Wish {
        text.parse().unwrap()
    }

    #[test]
    fn a_boolean_kinds_and_a_file() {
        assert!(wish("true").wanted && !wish("false").wanted);
        assert_eq!(wish("open").kinds, [Kind::Lopen]);
        assert_eq!(wish("open,read").kinds, [Kind::Lopen, Kind::Read]);
        assert_eq!(wish("/tmp/a,b").file, Some("/tmp/a,b".into()));
        let both = wish("rename,./here");
        assert_eq!(both.kinds, [Kind::Rename, Kind::Renameat]);
        assert_eq!(both.file, Some("./here".into()));
        assert!(both.wanted);
    }

    #[test]
    fn a_word_that_is_neither_is_refused() {
        for text in ["opne", "open,opne", "opne,/tmp/x"] {
            let error = text.parse::<Wish>().unwrap_err();
            assert!(
                error.starts_with("no request is called \"opne\""),
                "{error}"
            );
        }
    }

    fn done(stats: &Stats, path: &str, millis: u64) {
        stats.done(&Event {
            kind: Kind::Read,
            words: &format!("read {path} 10 @0"),
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
        let table = stats.to_string();
        let lines: Vec<_> = table.lines().collect();
        let words =
            |line: &str| -> Vec<String> { line.split_whitespace().map(Into::into).collect() };
        assert_eq!(words(lines[1])[..4], ["read", "70", "0", "700"]);
        assert_eq!(words(lines[2])[..4], ["all", "70", "0", "700"]);
        assert_eq!(lines[3], "slowest");
        assert_eq!(words(lines[4]), ["1.0s", "read", "/once/19", "10", "@0"]);
        assert_eq!(lines[14], "most requests");
        assert_eq!(words(lines[15]), ["50", "/often"]);
        assert_eq!(lines.len(), 25);
    }

    #[test]
    fn memory_is_bounded() {
        let stats = Stats::default();
        for n in 0..PATHS + 5 {
            done(&stats, &format!("/{n}"), 1);
        }
        done(&stats, "/0", 1);
        assert!(stats.to_string().contains("           5 to more than"));
    }
}
