//! A session on the machine whose command runs a workload for each line that it reads.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::client::{Client, Home};

use crate::CPU;

pub(crate) struct BenchSession {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl BenchSession {
    /// With these flags of cpu, and these lines of fstab(5).
    pub(crate) fn start(
        client: &Client,
        flags: &[&str],
        mounts: &str,
        home: &Home,
        smaller: usize,
    ) -> Result<Self> {
        let mut fstab = tempfile::NamedTempFile::new()?;
        writeln!(fstab, "{mounts}/dev {CPU}/dev none bind 0 0")?;
        let fstab = fstab.path().display().to_string();
        let program = std::env::current_exe()?;
        let words = [
            &format!("{CPU}{}", program.display()),
            "--guest",
            &home.path().display().to_string(),
            "--smaller",
            &smaller.to_string(),
        ];
        let mut child = client
            .command(&[&["-fstab", &fstab], flags].concat(), &words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run cpu")?;
        let to = child.stdin.take().context("no input")?;
        let from = BufReader::new(child.stdout.take().context("no output")?);
        let mut session = Self { child, to, from };
        ensure!(session.line()? == "ready", "the session does not begin");
        Ok(session)
    }

    /// cpu's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a workload on the tree at `root`.
    pub(crate) fn run(&mut self, root: &str, number: usize) -> Result<Duration> {
        writeln!(self.to, "{root} {number}")?;
        let line = self.line()?;
        let nanos = line.parse().with_context(|| format!("no time: {line}"))?;
        Ok(Duration::from_nanos(nanos))
    }

    /// Ends it by the end of its input.
    pub(crate) fn end(mut self) -> Result<()> {
        drop(self.to);
        let status = self.child.wait()?;
        ensure!(status.success(), "the session ended with {status}");
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        if !line.ends_with('\n') {
            let status = self.child.wait()?;
            anyhow::bail!("the session ended with {status}");
        }
        Ok(line.trim_end().to_owned())
    }
}
