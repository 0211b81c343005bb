//! A server on this computer, for tests that need no virtual machine, or a server whose system has files of its own: our cpud,
//! a stock sshd, or diod. It runs as root, listens on 127.0.0.1 only, and ends when the value is dropped.

use std::fs::File;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::ordinary::as_root;
use crate::port::Port;
use crate::{out, wait_until};

/// A running server with a host key of its own.
pub struct Daemon {
    child: Child,
    /// The TCP port on 127.0.0.1.
    pub port: u16,
    _reserved: Port,
    directory: TempDir,
}

impl Daemon {
    /// Our cpud, which `out()/cpu_rsa` may log in to. Needs root, for mount namespaces.
    pub fn cpud() -> Result<Self> {
        Self::start("cpud", |directory, port| {
            let mut command = cpud(directory);
            command.args(["-port", &format!("127.0.0.1:{port}")]);
            command
        })
    }

    /// The same, for the keys of this file.
    pub fn cpud_for(keys: &Path) -> Result<Self> {
        Self::cpud_for_with(keys, None)
    }

    /// The same with a flag more.
    pub fn cpud_for_with(keys: &Path, flag: Option<&str>) -> Result<Self> {
        Self::start("cpud", |directory, port| {
            let mut command = cpud_with_keys(directory, keys);
            command.args(flag);
            command.args(["-port", &format!("127.0.0.1:{port}")]);
            command
        })
    }

    /// The same as root of a user namespace without other users (unshare(1)).
    pub fn cpud_in_namespace(keys: &Path) -> Result<Self> {
        Self::start("cpud", |directory, port| {
            let cpud = cpud_with_keys(directory, keys);
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--mount"]);
            command.arg(cpud.get_program()).args(cpud.get_args());
            command.args(["-port", &format!("127.0.0.1:{port}")]);
            command
        })
    }

    /// The same with a flag more.
    pub fn cpud_with(flag: &str) -> Result<Self> {
        Self::start("cpud", |directory, port| {
            let mut command = cpud(directory);
            command.arg(flag);
            command.args(["-port", &format!("127.0.0.1:{port}")]);
            command
        })
    }

    /// The same where there is no cgroup v2 at its usual place.
    pub fn cpud_without_cgroups() -> Result<Self> {
        Self::cpud_in("mount -t tmpfs none /sys/fs/cgroup", &[])
    }

    /// The same in a mount namespace that a script changes, with flags more.
    pub fn cpud_in(script: &str, flags: &[&str]) -> Result<Self> {
        Self::start("cpud", |directory, port| {
            let mut command = in_mount_namespace(script, &cpud(directory));
            command.args(flags);
            command.args(["-port", &format!("127.0.0.1:{port}")]);
            command
        })
    }

    /// The same for the keys of this file.
    pub fn cpud_for_in(keys: &Path, script: &str) -> Result<Self> {
        Self::start("cpud", |directory, port| {
            let mut command = in_mount_namespace(script, &cpud_with_keys(directory, keys));
            command.args(["-port", &format!("127.0.0.1:{port}")]);
            command
        })
    }

    /// The same with `-log json:9`, and this file as the descriptor 9.
    pub fn cpud_logging_to(log: &Path) -> Result<Self> {
        Self::start("cpud", |directory, port| {
            let cpud = cpud(directory);
            let mut command = Command::new("sh");
            command.args(["-c", "log=$1; shift; exec \"$@\" 9>>\"$log\"", "sh"]);
            command
                .arg(log)
                .arg(cpud.get_program())
                .args(cpud.get_args());
            command.args(["-log", "json:9", "-port", &format!("127.0.0.1:{port}")]);
            command
        })
    }

    /// The same at [`Self::socket`] instead of a port.
    pub fn cpud_at_a_socket() -> Result<Self> {
        Self::start("cpud", |directory, _| {
            let mut command = cpud(directory);
            command
                .args(["-net", "unix", "-port"])
                .arg(directory.join("socket"));
            command
        })
    }

    /// OpenSSH's, which `out()/cpu_rsa` may log in to.
    pub fn sshd() -> Result<Self> {
        Self::sshd_with(&[])
    }

    /// The same with lines more in its configuration.
    pub fn sshd_with(lines: &[&str]) -> Result<Self> {
        Self::start("sshd (package openssh-server)", |directory, port| {
            // sshd re-executes itself, so it must be called by its whole path.
            let mut command = Command::new("/usr/sbin/sshd");
            command.args(["-D", "-e", "-f", "/dev/null", "-h"]);
            command.arg(directory.join("host_key"));
            let keys = out().join("cpu_rsa.pub");
            for option in [
                "ListenAddress 127.0.0.1".to_owned(),
                format!("Port {port}"),
                format!("AuthorizedKeysFile {}", keys.display()),
                "PidFile none".to_owned(),
                "StrictModes no".to_owned(),
                "PasswordAuthentication no".to_owned(),
                "PermitRootLogin yes".to_owned(),
                "AcceptEnv LANG LC_* FROM_CONFIG SENT KEPT".to_owned(),
            ] {
                command.args(["-o", &option]);
            }
            for line in lines {
                command.args(["-o", line]);
            }
            command
        })
    }

    /// diod, Debian's 9P server: this machine's files over plain TCP, with this user's rights.
    pub fn diod() -> Result<Self> {
        Self::start("diod (package diod)", |_, port| {
            let mut command = Command::new("/usr/sbin/diod");
            command.args(["-f", "-n", "-L", "stderr", "-e", "/"]);
            command.args(["-u", &nix::unistd::getuid().to_string()]);
            command.args(["-l", &format!("127.0.0.1:{port}")]);
            command
        })
    }

    fn start(what: &str, command: impl Fn(&Path, u16) -> Command + Send) -> Result<Self> {
        as_root(|| Self::start_as_root(what, command))
    }

    fn start_as_root(what: &str, command: impl Fn(&Path, u16) -> Command) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // Whatever user and umask the tests run with.
        let everybody = |file: PathBuf, mode| {
            let mode = PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&file, mode).with_context(|| file.display().to_string())
        };
        everybody(directory.path().to_owned(), 0o755)?;
        keygen(&directory.path().join("host_key"), &["-t", "ed25519"], "")?;
        // Debian's sshd needs it; its start script makes it.
        if what.starts_with("sshd") {
            std::fs::create_dir_all("/run/sshd").context("cannot make /run/sshd; are you root?")?;
        }
        let reserved = Port::reserve()?;
        let port = reserved.number();
        let log = directory.path().join("log");
        let output = File::create(&log)?;
        everybody(log, 0o644)?;
        everybody(directory.path().join("host_key.pub"), 0o644)?;
        let child = command(directory.path(), port)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot run {what}"))?;
        let mut daemon = Self {
            child,
            port,
            _reserved: reserved,
            directory,
        };
        wait_until(what, Duration::from_mins(1), || {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("{what} ended with {status}: {}", daemon.log());
            }
            let answers = TcpStream::connect(("127.0.0.1", port)).is_ok();
            Ok((answers || daemon.socket().exists()).then_some(()))
        })?;
        if daemon.socket().exists() {
            everybody(daemon.socket(), 0o777)?;
        }
        Ok(daemon)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file with its public host key.
    pub fn host_key(&self) -> PathBuf {
        self.directory.path().join("host_key.pub")
    }

    /// Where a unix socket of it is.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).map(Pid::from_raw);
        let _ = as_root(|| {
            // The pid of a process that was waited for may belong to another one by now.
            if self.child.try_wait()?.is_none() {
                kill(pid?, Signal::SIGTERM)?;
            }
            self.child.wait()?;
            // The user cannot remove what root made.
            Ok(std::fs::remove_dir_all(self.directory.path())?)
        });
    }
}

fn cpud(directory: &Path) -> Command {
    cpud_with_keys(directory, &out().join("cpu_rsa.pub"))
}

fn cpud_with_keys(directory: &Path, keys: &Path) -> Command {
    // Whatever the file's owner and mode, its copy is root's. If the file is missing, cpud says so.
    let copy = directory.join("keys");
    let _ = std::fs::copy(keys, &copy);
    let _ = std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o644));
    let mut command = Command::new(out().join("cpud"));
    command.arg("-d").arg("-pk").arg(copy);
    command.arg("-hk").arg(directory.join("host_key"));
    command
}

fn in_mount_namespace(script: &str, cpud: &Command) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec"]);
    command.arg(format!("{script}; exec \"$@\"")).arg("sh");
    command.arg(cpud.get_program()).args(cpud.get_args());
    command
}

/// `ssh-keygen` with these arguments, a passphrase and the file to make.
pub fn keygen(file: &Path, arguments: &[&str], passphrase: &str) -> Result<()> {
    let status = Command::new("ssh-keygen")
        .arg("-q")
        .args(arguments)
        .args(["-N", passphrase, "-f"])
        .arg(file)
        .status()
        .context("cannot run ssh-keygen (package openssh-client)")?;
    ensure!(status.success(), "ssh-keygen {arguments:?}: {status}");
    Ok(())
}
