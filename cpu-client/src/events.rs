//! `-dbg9p=FILE.json`: the requests for files and the steps of the session in the Trace Event Format, which Perfetto and
//! chrome://tracing show.
//!
//! A request is on the row of the thread that performs it. A thread performs one at a time, so nothing overlaps there. The file
//! is complete after each write(2): what follows replaces the end of the array.

use std::collections::HashSet;
use std::fmt::{Display, Write as _};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ninep::msg::{Kind, Request};
use ninep::observe::{CompletedRequest, Observer, Urgency};
use rustix::thread::gettid;

use crate::stats::shortened;

/// Events are written together, up to this many bytes,
const BUFFER: usize = 64 * 1024;
/// and not later than when another one comes after this time.
const INTERVAL: Duration = Duration::from_secs(1);

const BEGINNING: &str = "[\n";
const SEPARATOR: &str = ",\n";
const END: &str = "\n]\n";

/// A trace of one process.
pub(crate) struct EventTrace {
    start: Instant,
    pid: u32,
    kinds: Vec<Kind>,
    state: Mutex<EventFile>,
}

struct EventFile {
    file: File,
    /// The length of what is written, without the end of the array.
    length: u64,
    /// Events that are not written yet, each with a separator before it.
    buffer: String,
    written: Instant,
    /// Threads whose rows have a name.
    named: HashSet<i32>,
    in_step: bool,
    /// How writing ended: nothing is written after that.
    ended: Option<io::Result<()>>,
}

impl EventTrace {
    /// Begins a trace of requests of these kinds, or of all if there are none. A file of this name is replaced.
    pub(crate) fn create(path: &Path, kinds: Vec<Kind>) -> io::Result<Self> {
        let pid = std::process::id();
        let row = metadata(pid, pid, "session");
        let file = replace(path, &format!("{BEGINNING}{row}{END}"))?;
        let start = Instant::now();
        let state = EventFile {
            file,
            length: (BEGINNING.len() + row.len()) as u64,
            buffer: String::new(),
            written: start,
            named: HashSet::new(),
            in_step: false,
            ended: None,
        };
        let state = Mutex::new(state);
        Ok(Self {
            start,
            pid,
            kinds,
            state,
        })
    }

    fn lock(&self) -> MutexGuard<'_, EventFile> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The beginning of an event on the row of a thread.
    fn event(&self, phase: &str, tid: u32, at: Instant) -> String {
        let at = microseconds(at.saturating_duration_since(self.start));
        format!(
            "{{\"ph\":\"{phase}\",\"pid\":{},\"tid\":{tid},\"ts\":{at}",
            self.pid
        )
    }

    /// Ends the step before.
    fn end_step(&self, state: &mut EventFile) {
        if std::mem::take(&mut state.in_step) {
            let event = self.event("E", self.pid, Instant::now());
            state.push(&format!("{event}}}"));
        }
    }

    /// A step of the session begins, and with it the one before ends.
    fn begin_step(&self, name: &str) {
        let mut state = self.lock();
        self.end_step(&mut state);
        let event = self.event("B", self.pid, Instant::now());
        state.push(&format!("{event},\"name\":{}}}", quoted(name)));
        state.in_step = true;
        state.write();
    }

    /// Writes what is left. Why the trace is incomplete, if it is.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let mut state = self.lock();
        self.end_step(&mut state);
        state.write();
        state.ended.replace(Ok(())).unwrap_or(Ok(()))
    }
}

impl Observer for EventTrace {
    fn done(&self, event: &CompletedRequest<'_>) {
        if !self.kinds.is_empty() && !self.kinds.contains(&event.kind) {
            return;
        }
        let thread = gettid().as_raw_pid();
        let tid = thread.unsigned_abs();
        let words = shortened(event.description);
        let path = shortened(event.path);
        let name = match &*path {
            "" => words.clone(),
            path => format!("{} {path}", event.kind.name()),
        };
        let (phase, category) = match (event.kind, event.urgency) {
            (Kind::Forget, _) => ("i", "forget"),
            (_, Urgency::Awaited) => ("X", "awaited"),
            (_, Urgency::Ahead) => ("X", "ahead"),
            (_, Urgency::Answered) => ("X", "answered"),
        };
        let mut text = self.event(phase, tid, event.begun);
        let _ = write!(text, ",\"name\":{},\"cat\":\"{category}\"", quoted(&name));
        if phase == "i" {
            text.push_str(",\"s\":\"t\"}");
        } else {
            let _ = write!(text, ",\"dur\":{}", microseconds(event.elapsed));
            let _ = write!(text, ",\"args\":{{\"request\":{}", quoted(&words));
            if !path.is_empty() {
                let _ = write!(text, ",\"path\":{}", quoted(&path));
            }
            let (offset, count) = event.request.map_or((None, None), range);
            let bytes = event.result.ok().flatten();
            let numbers = [
                ("offset", offset),
                ("count", count),
                ("bytes", bytes.map(Into::into)),
            ];
            for (name, number) in numbers {
                if let Some(number) = number {
                    let _ = write!(text, ",\"{name}\":{number}");
                }
            }
            if let Err(errno) = event.result {
                let _ = write!(text, ",\"error\":{}", quoted(&errno.to_string()));
            }
            text.push_str("}}");
        }
        let mut state = self.lock();
        if state.named.insert(thread) {
            let thread = std::thread::current();
            state.push(&metadata(self.pid, tid, thread.name().unwrap_or("?")));
        }
        state.push(&text);
        if state.buffer.len() >= BUFFER || state.written.elapsed() >= INTERVAL {
            state.write();
        }
    }
}

impl EventFile {
    fn push(&mut self, event: &str) {
        if self.ended.is_none() {
            self.buffer.push_str(SEPARATOR);
            self.buffer.push_str(event);
        }
    }

    fn write(&mut self) {
        self.written = Instant::now();
        if self.ended.is_some() || self.buffer.is_empty() {
            return;
        }
        let length = self.buffer.len() as u64;
        self.buffer.push_str(END);
        let written = self.file.write_all_at(self.buffer.as_bytes(), self.length);
        self.buffer.clear();
        match written {
            Ok(()) => self.length += length,
            // The disk is full, perhaps. What was there before is good, and has the room for its end.
            Err(error) => {
                let _ = self.file.write_all_at(END.as_bytes(), self.length);
                let _ = self.file.set_len(self.length + END.len() as u64);
                self.ended = Some(Err(error));
            }
        }
    }
}

/// The steps of a session, for its trace if there is one.
#[derive(Clone, Default)]
pub(crate) struct Steps(pub(crate) Option<Arc<EventTrace>>);

impl Steps {
    /// A step begins, and with it the one before ends.
    pub(crate) fn begin(&self, name: &str) {
        if let Some(trace) = &self.0 {
            trace.begin_step(name);
        }
    }
}

/// Makes a new file, readable by its owner only, with this text. It gets its name, perhaps another's, when it has that.
fn replace(path: &Path, text: &str) -> io::Result<File> {
    let temporary = path.with_file_name(format!(".cpu-trace-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let file = options.open(&temporary)?;
    file.write_all_at(text.as_bytes(), 0)
        .and_then(|()| fs::rename(&temporary, path))
        .inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })?;
    Ok(file)
}

/// Gives the row of a thread a name.
fn metadata(pid: u32, tid: u32, name: &str) -> String {
    format!(
        "{{\"ph\":\"M\",\"pid\":{pid},\"tid\":{tid},\"name\":\"thread_name\",\"args\":{{\"name\":{}}}}}",
        quoted(name)
    )
}

/// The bytes that a request concerns: from where, and how many.
fn range(request: &Request<'_>) -> (Option<u64>, Option<u64>) {
    match *request {
        Request::Read { offset, count, .. } | Request::Readdir { offset, count, .. } => {
            (Some(offset), Some(count.into()))
        }
        Request::Write { offset, data, .. } => (Some(offset), Some(data.0.len() as u64)),
        Request::Lopenread { count, .. } => (Some(0), Some(count.into())),
        _ => (None, None),
    }
}

/// Microseconds, to the nanosecond.
fn microseconds(time: Duration) -> impl Display {
    let nanos = time.as_nanos();
    format!("{}.{:03}", nanos / 1000, nanos % 1000)
}

/// A string of JSON (RFC 8259, section 7).
fn quoted(text: &str) -> String {
    let mut all = String::with_capacity(text.len() + 2);
    all.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => all.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(all, "\\u{:04x}", u32::from(c));
            }
            c => all.push(c),
        }
    }
    all.push('"');
    all
}

#[cfg(test)]
mod tests;
