//! `-dbg9p`: prints a line for each file request, or only for the kinds that the flag's value names; or writes events of JSON.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Stderr, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result};
use ninep::msg::Kind;
use ninep::observe::{CompletedRequest, Observer, Trace};

use crate::events::EventTrace;
use crate::flags::value::GoBool;

/// The value of `-dbg9p`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TraceFilter {
    is_enabled: bool,
    /// Only requests of these kinds; all if there are none.
    kinds: Vec<Kind>,
    /// The file to write to, instead of standard error.
    file: Option<PathBuf>,
}

impl FromStr for TraceFilter {
    type Err = String;

    /// A boolean; or kinds of requests, separated by commas; or a file, which has a slash or ends in `.json`; or kinds and then a
    /// file.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(GoBool(is_enabled)) = text.parse() {
            return Ok(Self {
                is_enabled,
                ..Self::default()
            });
        }
        let in_file = text
            .find('/')
            .or_else(|| text.ends_with(JSON).then_some(text.len()));
        let names_end = in_file.map(|at| text[..at].rfind(',').map_or(0, |comma| comma + 1));
        let (names, file) = match names_end {
            Some(end) => (text[..end].trim_end_matches(','), Some(text[end..].into())),
            None => (text, None),
        };
        let mut kinds = Vec::new();
        for name in names.split(',').filter(|name| !name.is_empty()) {
            let before = kinds.len();
            kinds.extend(Kind::ALL.iter().filter(|kind| kind.name() == name));
            if kinds.len() == before {
                let known: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
                let known: Vec<_> = known.into_iter().collect();
                return Err(format!(
                    "no request is called {name:?}; write ./{name} for a file, or one or more of {}",
                    known.join(",")
                ));
            }
        }
        if kinds.is_empty() && file.is_none() {
            return Err("write true or false, kinds of requests, or a file".to_owned());
        }
        if let (Some(_), Some((_, last))) = (&file, text.rsplit_once(','))
            && Kind::ALL.iter().any(|kind| kind.name() == last)
        {
            return Err(format!("write the file last: {last},./FILE"));
        }
        Ok(Self {
            is_enabled: true,
            kinds,
            file,
        })
    }
}

impl TraceFilter {
    /// The trace, if it is enabled. The file is created, or truncated or replaced.
    pub(crate) fn start(&self) -> Result<Option<StartedTrace>> {
        if !self.is_enabled {
            return Ok(None);
        }
        let kinds = self.kinds.clone();
        let to: Box<dyn Write + Send> = match &self.file {
            None if io::stderr().is_terminal() => Box::new(RawTerminal(io::stderr())),
            None => Box::new(io::stderr()),
            Some(path) => {
                let failed = || format!("cannot write the trace of -dbg9p to {}", path.display());
                if path.as_os_str().as_bytes().ends_with(JSON.as_bytes()) {
                    let events = EventTrace::create(path, kinds).with_context(failed)?;
                    return Ok(Some(StartedTrace::Events(Arc::new(events))));
                }
                // Names of files are nobody else's business. It may also be a terminal or a pipe.
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(0o600);
                Box::new(options.open(path).with_context(failed)?)
            }
        };
        Ok(Some(StartedTrace::Lines(Trace::new(to, kinds))))
    }
}

/// How the name of a file ends that gets events.
const JSON: &str = ".json";

/// A trace that has begun.
pub(crate) enum StartedTrace {
    Lines(Trace<Box<dyn Write + Send>>),
    Events(Arc<EventTrace>),
}

impl Observer for StartedTrace {
    fn done(&self, event: &CompletedRequest<'_>) {
        match self {
            Self::Lines(lines) => lines.done(event),
            Self::Events(events) => events.done(event),
        }
    }
}

/// A terminal that may be in raw mode, where a newline alone does not return to column 0.
struct RawTerminal(Stderr);

impl Write for RawTerminal {
    /// [`Trace`] writes one whole line at a time.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        self.0.write_all(&[text, b"\r\n"].concat())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TraceFilter {
        text.parse().unwrap()
    }

    #[test]
    fn a_boolean_kinds_and_a_file() {
        assert!(filter("true").is_enabled && !filter("false").is_enabled);
        let open = [Kind::Lopen, Kind::Lopenread];
        assert_eq!(filter("open").kinds, open);
        assert_eq!(
            filter("open,read").kinds,
            [&open[..], &[Kind::Read]].concat()
        );
        assert_eq!(filter("/tmp/a,b").file, Some("/tmp/a,b".into()));
        let both = filter("rename,./here");
        assert_eq!(both.kinds, [Kind::Rename, Kind::Renameat]);
        assert_eq!(both.file, Some("./here".into()));
        assert!(both.is_enabled);
        assert_eq!(filter("a.json").file, Some("a.json".into()));
        let both = filter("rename,a.json");
        assert_eq!(both.kinds, [Kind::Rename, Kind::Renameat]);
        assert_eq!(both.file, Some("a.json".into()));
        assert_eq!(filter("open,./a,b.json").file, Some("./a,b.json".into()));
    }

    #[test]
    fn nothing_and_kinds_after_the_file_are_refused() {
        for text in ["", ",", "./x.json,open", "/tmp/x,read,open"] {
            let error = text.parse::<TraceFilter>().unwrap_err();
            assert!(error.starts_with("write "), "{text}: {error}");
        }
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        for text in ["opne", "open,opne", "opne,/tmp/x", "opne,x.json"] {
            let error = text.parse::<TraceFilter>().unwrap_err();
            assert!(
                error.starts_with("no request is called \"opne\""),
                "{error}"
            );
        }
    }
}
