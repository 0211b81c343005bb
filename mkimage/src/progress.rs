//! Progress of what takes long: a bar or a spinner on a terminal, a plain line
//! every so often elsewhere, nothing with `-q`. All of it on standard error.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use cpu_proto::printable;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// Logs of builds stay short, and yet nobody takes a long step for a hung one.
const PLAIN_EVERY: Duration = Duration::from_secs(20);

/// Text for a terminal, which may have words of others in it. The end of a log has several lines.
pub(crate) fn shown(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(printable).collect();
    lines.join("\n")
}

/// How much is said.
#[derive(Clone, Copy)]
pub(crate) struct Progress {
    quiet: bool,
    verbose: bool,
}

/// One step under way.
pub(crate) struct Task {
    bar: ProgressBar,
    title: &'static str,
    last_plain: Option<Instant>,
}

impl Progress {
    /// Silent when `quiet`, with every detail when `verbose`.
    pub(crate) fn new(quiet: bool, verbose: bool) -> Self {
        Self { quiet, verbose }
    }

    /// Says nothing.
    #[cfg(test)]
    pub(crate) fn silent() -> Self {
        Self::new(true, false)
    }

    /// The flags by which another mkimage says as much.
    pub(crate) fn flags(self) -> &'static [&'static str] {
        match (self.quiet, self.verbose) {
            (true, _) => &["--quiet"],
            (_, true) => &["--verbose"],
            _ => &[],
        }
    }

    /// One line for those who asked for details.
    pub(crate) fn detail(self, line: impl Display) {
        if self.verbose {
            self.say(line);
        }
    }

    /// One line.
    pub(crate) fn say(self, line: impl Display) {
        if !self.quiet {
            // A closed standard error does not stop the work.
            let _ = writeln!(std::io::stderr(), "{}", shown(&line.to_string()));
        }
    }

    /// A file is ready: name, size, time since `started`.
    pub(crate) fn made(self, path: &Path, bytes: usize, started: Instant) {
        self.say(format!(
            "{}  {bytes} bytes, {:.1} s",
            path.display(),
            started.elapsed().as_secs_f64()
        ));
    }

    /// Begin a step of `total` units; of unknown length when `None`.
    pub(crate) fn task(self, title: &'static str, total: Option<u64>) -> Task {
        let terminal = std::io::stderr().is_terminal();
        // The lines of -v would tear a bar apart.
        let bar = if self.quiet || self.verbose || !terminal {
            ProgressBar::hidden()
        } else {
            ProgressBar::new_spinner()
        };
        let template = match total {
            Some(total) => {
                bar.set_length(total);
                "{msg:12} {wide_bar} {pos}/{len} {elapsed}, {eta} to go"
            }
            None => "{msg:12} {spinner} {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(title);
        bar.enable_steady_tick(Duration::from_millis(200));
        let last_plain = (!self.quiet && !terminal).then(Instant::now);
        if last_plain.is_some() {
            self.say(format!("{title} ..."));
        }
        Task {
            bar,
            title,
            last_plain,
        }
    }
}

impl Task {
    /// One unit more is done.
    pub(crate) fn step(&mut self) {
        self.bar.inc(1);
        // The length is an estimate: better a bar that waits near its end than one beyond it.
        if self
            .bar
            .length()
            .is_some_and(|length| self.bar.position() > length)
        {
            self.bar.inc_length(1);
        }
        if self
            .last_plain
            .is_some_and(|last| last.elapsed() >= PLAIN_EVERY)
        {
            self.last_plain = Some(Instant::now());
            let of = self
                .bar
                .length()
                .map_or_else(String::new, |length| format!("/{length}"));
            let line = format!(
                "{} {}{of}, {}",
                self.title,
                self.bar.position(),
                HumanDuration(self.bar.elapsed())
            );
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
