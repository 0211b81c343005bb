//! How the machine reaches the files: through our own pair, or with the requests of u-root's programs.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use e2e::{out, u_root, wait_until};

use crate::suites::Sources;

/// The first word of this program when it stands for u-root's `cpu`.
pub(crate) const AS_U_ROOT: &str = "as-u-root";

/// A client and its flags.
pub(crate) struct Transport {
    pub(crate) name: &'static str,
    client: ClientProgram,
    /// The suites that run over it; none: all.
    only: &'static [&'static str],
}

impl Transport {
    pub(crate) fn is_for(&self, suite: &str) -> bool {
        self.only.is_empty() || self.only.contains(&suite)
    }
}

enum ClientProgram {
    /// Our own, with these flags.
    Cpu(&'static [&'static str]),
    /// The stand-in: messages of 64 KiB, no extended attributes, names walked one at a time.
    URoot,
}

pub(crate) const TRANSPORTS: &[Transport] = &[
    Transport {
        name: "cpu",
        client: ClientProgram::Cpu(&[]),
        only: &[],
    },
    Transport {
        name: "u-root",
        client: ClientProgram::URoot,
        only: &[],
    },
    Transport {
        name: "loose",
        client: ClientProgram::Cpu(&["-cache=loose"]),
        only: &["fsx", "cargo"],
    },
    Transport {
        name: "none",
        client: ClientProgram::Cpu(&["-cache=none"]),
        only: &["fsx"],
    },
];

/// One run of a suite.
pub(crate) struct SuiteRun<'a> {
    pub(crate) transport: &'a Transport,
    pub(crate) suite: &'a str,
    pub(crate) port: u16,
    pub(crate) home: &'a Path,
    /// A fresh directory, of the same name here and there.
    pub(crate) directory: &'a Path,
    pub(crate) sources: &'a Sources,
}

impl SuiteRun<'_> {
    /// Start a script on the machine by bash with -euo pipefail, to be killed after `limit`. Its output goes into a
    /// file beside the kernel under test.
    pub(crate) fn start(&self, script: &str, arguments: &[&str], limit: Duration) -> Result<Child> {
        let limit = limit.as_secs().to_string();
        let mut words = vec![
            "timeout", "-k", "20", &limit, "bash", "-euo", "pipefail", "-c",
        ];
        words.extend([script, self.suite]);
        words.extend(arguments);
        let mut command = self.client(&words)?;
        command
            .env("HOME", self.home)
            .env("PWD", self.directory)
            .env("USER", "root")
            .env("SUITES", there(&e2e::cache()?.join("suites/bin")))
            .current_dir(self.directory);
        let log = File::create(self.log()?)?;
        command.stdin(Stdio::null()).stderr(log.try_clone()?);
        command.stdout(log);
        command
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))
    }

    /// Run a script to its end: whether it succeeded, and its output, followed by the status if it failed.
    pub(crate) fn run(
        &self,
        script: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<(bool, String)> {
        let mut child = self.start(script, arguments, limit)?;
        // Longer than the limit, so that a script killed at the limit can still report it.
        let ended = wait_until(self.suite, limit + Duration::from_mins(2), || {
            Ok(child.try_wait()?)
        });
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        let mut said = self.said()?;
        let status = ended.with_context(|| said.clone())?;
        if !status.success() {
            writeln!(said, "{status}")?;
        }
        Ok((status.success(), said))
    }

    /// The output of the last script so far.
    pub(crate) fn said(&self) -> Result<String> {
        let bytes = std::fs::read(self.log()?)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn log(&self) -> Result<std::path::PathBuf> {
        let directory = out().join("conformance");
        std::fs::create_dir_all(&directory)?;
        Ok(directory.join(format!("{}-{}.log", self.suite, self.transport.name)))
    }

    fn client(&self, words: &[&str]) -> Result<Command> {
        let port = self.port.to_string();
        let mut command;
        match self.transport.client {
            ClientProgram::Cpu(flags) => {
                command = Command::new(out().join("cpu"));
                command.arg("-key").arg(out().join("cpu_rsa"));
                command.args(["-sp", &port]).args(flags).arg("localhost");
            }
            ClientProgram::URoot => {
                command = Command::new(std::env::current_exe()?);
                command.args([AS_U_ROOT, &port]);
            }
        }
        command.args(words);
        for variable in ["CPU_FSTAB", "CPU_NAMESPACE", "SSH_AUTH_SOCK"] {
            command.env_remove(variable);
        }
        Ok(command)
    }
}

/// A path of this machine as a session names it, in the namespace or not.
pub(crate) fn there(path: &Path) -> String {
    format!("/tmp/cpu{}", path.display())
}

/// What u-root's `cpu` does: port, then the words to run, with the environment that this process has.
pub(crate) fn as_u_root(words: &[String]) -> Result<ExitCode> {
    let [port, words @ ..] = words else {
        bail!("{AS_U_ROOT} PORT WORDS...");
    };
    let line =
        |directory: &str| format!("/tmp/cpu{directory} {directory} none defaults,bind 0 0\n");
    let mounts: String = ["/lib", "/lib64", "/usr", "/bin", "/etc", "/home"]
        .map(line)
        .concat();
    let variables: Vec<(String, String)> = std::env::vars()
        .filter(|(name, _)| ["HOME", "PWD", "SUITES", "USER"].contains(&name.as_str()))
        .collect();
    let mut environment: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    environment.extend([
        ("PATH", "/usr/sbin:/usr/bin:/bin"),
        ("CPU_FSTAB", &mounts),
        ("LC_GLENDA_CPU_FSTAB", &mounts),
    ]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    cpu_client::export::prepare_process();
    let key = out().join("cpu_rsa");
    let cpu = u_root::Cpu {
        port: port.parse()?,
        key: &key,
        root: Some("/".as_ref()),
        environment: &environment,
        terminal: None,
        input: b"",
        second_choice: false,
    };
    let ran = cpu.run(&words)?;
    print!("{}", ran.stdout);
    eprint!("{}", ran.stderr);
    let status = ran.status.and_then(|status| u8::try_from(status).ok());
    Ok(ExitCode::from(status.unwrap_or(255)))
}
