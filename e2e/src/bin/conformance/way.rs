//! How the files reach the machine: by our own pair, or by the habits of u-root's.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use e2e::{out, u_root, wait_until};

use crate::judges::Sources;

/// The first word of this program when it stands for u-root's `cpu`.
pub(crate) const AS_U_ROOT: &str = "as-u-root";

/// A client and its flags.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    client: Client,
    /// The judges that look at it; none: all.
    only: &'static [&'static str],
}

impl Way {
    pub(crate) fn is_for(&self, judge: &str) -> bool {
        self.only.is_empty() || self.only.contains(&judge)
    }
}

enum Client {
    /// Our own, with these flags.
    Cpu(&'static [&'static str]),
    /// The stand-in: messages of 64 KiB, no extended attributes, names walked one at a time.
    URoot,
}

pub(crate) const WAYS: &[Way] = &[
    Way {
        name: "cpu",
        client: Client::Cpu(&[]),
        only: &[],
    },
    Way {
        name: "u-root",
        client: Client::URoot,
        only: &[],
    },
    Way {
        name: "loose",
        client: Client::Cpu(&["-cache=loose"]),
        only: &["fsx", "cargo"],
    },
    Way {
        name: "none",
        client: Client::Cpu(&["-cache=none"]),
        only: &["fsx"],
    },
];

/// Where a judge works.
pub(crate) struct Place<'a> {
    pub(crate) way: &'a Way,
    pub(crate) judge: &'a str,
    pub(crate) port: u16,
    pub(crate) home: &'a Path,
    /// A fresh directory, of the same name here and there.
    pub(crate) directory: &'a Path,
    pub(crate) sources: &'a Sources,
}

impl Place<'_> {
    /// Start a script there, by bash with -euo pipefail; it is ended after `limit`. What it says goes into a
    /// file beside the kernel that is tested.
    pub(crate) fn start(&self, script: &str, arguments: &[&str], limit: Duration) -> Result<Child> {
        let limit = limit.as_secs().to_string();
        let mut words = vec![
            "timeout", "-k", "20", &limit, "bash", "-euo", "pipefail", "-c",
        ];
        words.extend([script, self.judge]);
        words.extend(arguments);
        let mut command = self.client(&words)?;
        command
            .env("HOME", self.home)
            .env("PWD", self.directory)
            .env("USER", "root")
            .env("JUDGES", there(&e2e::cache()?.join("judges/bin")))
            .current_dir(self.directory);
        let log = File::create(self.log()?)?;
        command.stdin(Stdio::null()).stderr(log.try_clone()?);
        command.stdout(log);
        command
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))
    }

    /// Run a script to its end: whether it succeeded, and what it said, with the status at the end if it did not.
    pub(crate) fn run(
        &self,
        script: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<(bool, String)> {
        let mut child = self.start(script, arguments, limit)?;
        // More than the limit: whoever is ended at the limit has still to say so.
        let ended = wait_until(self.judge, limit + Duration::from_mins(2), || {
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

    /// What the last script has said so far.
    pub(crate) fn said(&self) -> Result<String> {
        let bytes = std::fs::read(self.log()?)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn log(&self) -> Result<std::path::PathBuf> {
        let directory = out().join("conformance");
        std::fs::create_dir_all(&directory)?;
        Ok(directory.join(format!("{}-{}.log", self.judge, self.way.name)))
    }

    fn client(&self, words: &[&str]) -> Result<Command> {
        let port = self.port.to_string();
        let mut command;
        match self.way.client {
            Client::Cpu(flags) => {
                command = Command::new(out().join("cpu"));
                command.arg("-key").arg(out().join("cpu_rsa"));
                command.args(["-sp", &port]).args(flags).arg("localhost");
            }
            Client::URoot => {
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
        .filter(|(name, _)| ["HOME", "PWD", "JUDGES", "USER"].contains(&name.as_str()))
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
