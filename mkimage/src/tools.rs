//! The one place that runs other programs: the kernel's build, and what fetches, unpacks and patches its
//! source. Each runs in a clean environment. Its output goes to a log, whose end is part of the error.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::progress::Progress;

/// How many of the last lines of a log an error shows.
const TAIL: usize = 20;

/// A program, and the Debian package that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "missing: {}; on Debian or Ubuntu: apt-get install {}",
        .0.iter().map(|tool| tool.program).collect::<Vec<_>>().join(", "),
        .0.iter().map(|tool| tool.package).collect::<Vec<_>>().join(" ")
    )]
    Missing(Vec<Tool>),
    #[error("cannot run {program}")]
    Run { program: String, source: io::Error },
    #[error("cannot write the log {path}")]
    Log { path: PathBuf, source: io::Error },
    #[error("{program} failed ({status}): {said}")]
    Refused {
        program: String,
        status: ExitStatus,
        said: String,
    },
    #[error("{program} failed ({status}); the end of {log}:\n{tail}", log = .log.display())]
    Failed {
        program: String,
        status: ExitStatus,
        log: PathBuf,
        tail: String,
    },
}

impl Error {
    /// Of what a program said, keep only the last line: the ones before it are progress or belong to earlier attempts.
    pub(crate) fn with_last_line(mut self) -> Self {
        if let Self::Refused { said, .. } = &mut self {
            *said = said.lines().last().unwrap_or_default().to_owned();
        }
        self
    }
}

/// Fail when tools are missing, and name all of them at once.
pub(crate) fn require(tools: &[Tool]) -> Result<(), Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<Tool> = tools
        .iter()
        .filter(|tool| !std::env::split_paths(&path).any(|dir| runs(&dir.join(tool.program))))
        .copied()
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::Missing(missing))
    }
}

fn runs(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// A command that inherits nothing of the environment but where programs, a home and temporary
/// files are: neither `make -j` around us nor a stray CROSS_COMPILE changes what comes out.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").stdin(Stdio::null());
    for name in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Give a program that fetches something the user's proxies: they belong to his network, not to what is fetched.
pub(crate) fn pass_proxies(command: &mut Command) {
    for name in [
        "http_proxy",
        "https_proxy",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "no_proxy",
    ] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// What a program prints.
pub(crate) fn output(mut command: Command) -> Result<String, Error> {
    let output = command
        .output()
        .map_err(|source| cannot_run(command.get_program(), source))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first line that a program prints, such as its version.
pub(crate) fn first_line(command: Command) -> Result<String, Error> {
    let text = output(command)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Whether the C compiler finds a header.
pub(crate) fn has_header(compiler: &str, header: &str) -> Result<bool, Error> {
    let mut command = command(compiler);
    command
        .args(["-E", "-x", "c", "-", "-include", header])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = command
        .status()
        .map_err(|source| cannot_run(command.get_program(), source))?;
    Ok(status.success())
}

/// Run something short to the end. What it says is shown when it fails.
pub(crate) fn run_short(command: Command, progress: Progress) -> Result<(), Error> {
    run_limited(command, u64::MAX, progress)
}

/// Like [`run_short`]; a program that writes more than `max` bytes to a file is killed.
pub(crate) fn run_limited(mut command: Command, max: u64, progress: Progress) -> Result<(), Error> {
    progress.detail(format_args!("+ {}", shell_text(&command)));
    let output = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|child| {
            if max < u64::MAX {
                let (current, maximum) = (Some(max), Some(max));
                let limit = Rlimit { current, maximum };
                prlimit(Some(Pid::from_child(&child)), Resource::Fsize, limit)?;
            }
            child.wait_with_output()
        })
        .map_err(|source| cannot_run(command.get_program(), source))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    if output.status.success() {
        text.lines().for_each(|line| progress.detail(line));
        return Ok(());
    }
    Err(Error::Refused {
        program: command.get_program().to_string_lossy().into_owned(),
        status: output.status,
        said: tail(&text),
    })
}

/// Run to the end with all output, in its order, in `log`, and each line of it given to `on_line`.
pub(crate) fn run(
    mut command: Command,
    log: &Path,
    progress: Progress,
    mut on_line: impl FnMut(&str),
) -> Result<(), Error> {
    progress.detail(format_args!("+ {}", shell_text(&command)));
    let program = command.get_program().to_owned();
    let cannot_run = |source| cannot_run(&program, source);
    let failed_log = |source| Error::Log {
        path: log.to_owned(),
        source,
    };
    let mut file = File::create(log).map_err(failed_log)?;
    let (output, writer) = io::pipe().map_err(cannot_run)?;
    command
        .stdout(writer.try_clone().map_err(cannot_run)?)
        .stderr(writer);
    let mut child = command.spawn().map_err(cannot_run)?;
    // Open copies of the pipe's end would keep its reader from seeing the end.
    drop(command);
    for line in BufReader::new(output).split(b'\n') {
        let mut line = line.map_err(cannot_run)?;
        let text = String::from_utf8_lossy(&line);
        progress.detail(&text);
        on_line(&text);
        line.push(b'\n');
        file.write_all(&line).map_err(failed_log)?;
    }
    let status = child.wait().map_err(cannot_run)?;
    if status.success() {
        return Ok(());
    }
    let text = fs::read(log).map_err(failed_log)?;
    Err(Error::Failed {
        program: program.to_string_lossy().into_owned(),
        status,
        log: log.to_owned(),
        tail: tail(&String::from_utf8_lossy(&text)),
    })
}

/// The command as one could type it, near enough.
fn shell_text(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn cannot_run(program: &OsStr, source: io::Error) -> Error {
    Error::Run {
        program: program.to_string_lossy().into_owned(),
        source,
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_told_with_its_packages() {
        let absent = |program, package| Tool { program, package };
        let tools = [
            absent("no-such-flex", "flex"),
            absent("sh", "dash"),
            absent("no-such-bc", "bc"),
        ];
        assert_eq!(
            require(&tools).unwrap_err().to_string(),
            "missing: no-such-flex, no-such-bc; on Debian or Ubuntu: apt-get install flex bc"
        );
    }

    #[test]
    fn a_failure_shows_the_end_of_both_outputs() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut script = command("sh");
        script.args(["-c", "seq 99; echo broken >&2; echo 100; exit 3"]);
        let mut lines = 0;
        let error = run(script, &log, Progress::silent(), |_| lines += 1).unwrap_err();
        assert_eq!(lines, 101);
        let Error::Failed { status, tail, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(status.code(), Some(3));
        assert!(
            tail.starts_with("82\n") && tail.ends_with("\n99\nbroken\n100"),
            "{tail}"
        );
        assert!(fs::read_to_string(&log).unwrap().starts_with("1\n2\n"));
    }

    #[test]
    fn headers_are_looked_for_by_the_compiler() {
        assert!(has_header("gcc", "stdio.h").unwrap());
        assert!(!has_header("gcc", "no/such/header.h").unwrap());
    }
}
