//! Runs tests as an ordinary user: a process with that user's IDs, groups and umask, and a home directory on a file system of
//! its own, in a private mount namespace. Root stays its saved user ID, so that a test can start servers ([`as_root`]);
//! programs that it executes otherwise are the user's and cannot become root.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use rustix::process::{Gid, Uid, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::{cache, out, root};

/// A user.
#[derive(Debug)]
pub struct Ordinary {
    /// His login name.
    pub name: &'static str,
    /// His user ID, and that of his primary group.
    id: u32,
    /// Whether passwd(5) has an entry for him.
    has_entry: bool,
}

/// The users that tests run as, besides root.
pub const USERS: [Ordinary; 2] = [
    Ordinary {
        name: "ann",
        id: 204_321,
        has_entry: true,
    },
    // As on a system whose directory service cannot be reached.
    Ordinary {
        name: "zoe",
        id: 530_977,
        has_entry: false,
    },
];

/// Supplementary groups: Debian's `users`, and one without an entry in group(5).
const GROUPS: [u32; 2] = [100, 204_400];

impl Ordinary {
    fn home(&self) -> PathBuf {
        Path::new("/home").join(self.name)
    }

    fn cache(&self) -> PathBuf {
        self.home().join("cache")
    }

    /// This program once more, with the environment of his login.
    fn again(&self) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .env("HOME", self.home())
            .env("USER", self.name)
            .env("LOGNAME", self.name)
            .env("SHELL", "/bin/bash")
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("E2E_OUT", self.home().join("out"))
            .env("XDG_CACHE_HOME", self.cache())
            .env("E2E_ROOT_OUT", out())
            .env("E2E_ROOT_CACHE", cache()?)
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("MAIL");
        Ok(command)
    }

    /// Makes this process his; to be called while it has one thread. Nobody else sees what it mounts.
    pub fn become_user(&self) -> Result<()> {
        ensure!(getuid().is_root(), "only root can become {}", self.name);
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
        let none: Option<&str> = None;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).context("cannot make mounts private")?;
        let of_root = |name| std::env::var_os(name).with_context(|| format!("{name} is not set"));
        let programs = PathBuf::from(of_root("E2E_ROOT_OUT")?);
        let downloads_of_root = PathBuf::from(of_root("E2E_ROOT_CACHE")?);
        umask(Mode::from_bits_truncate(0o022));
        cover_home(&[&root(), &programs, &downloads_of_root])?;
        let home = self.home();
        fs::create_dir(&home)?;
        tmpfs(&home, &format!("mode=700,uid={0},gid={0}", self.id))?;
        if self.has_entry {
            self.enter_passwd()?;
        }

        // The programs, and keys that only this user may read.
        let own = out();
        fs::create_dir(&own)?;
        chown(&own, Some(self.id), Some(self.id))?;
        for name in ["cpu", "cpud", "cpu_rsa", "cpu_rsa.pub", "cpu_rsa.hostkey"] {
            let from = programs.join(name);
            fs::copy(&from, own.join(name)).with_context(|| format!("no {}", from.display()))?;
            chown(own.join(name), Some(self.id), Some(self.id))?;
        }
        let downloads = cache()?;
        fs::create_dir_all(&downloads)?;
        fs::set_permissions(self.cache(), PermissionsExt::from_mode(0o755))?;
        let from = downloads_of_root;
        mount(Some(&from), &downloads, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("cannot bind {}", from.display()))?;

        std::env::set_current_dir(&home)?;
        let [users, unnamed] = GROUPS;
        set_ids(self.id, &[self.id, users, unnamed])?;
        umask(Mode::from_bits_truncate(0o077));
        Ok(())
    }

    fn enter_passwd(&self) -> Result<()> {
        let file = Path::new("/home/passwd");
        fs::copy("/etc/passwd", file)?;
        let mut entries = fs::File::options().append(true).open(file)?;
        let (name, id, home) = (self.name, self.id, self.home());
        writeln!(entries, "{name}:x:{id}:{id}::{}:/bin/bash", home.display())?;
        let none: Option<&str> = None;
        mount(Some(file), "/etc/passwd", none, MsFlags::MS_BIND, none)
            .context("cannot bind a file on /etc/passwd")
    }
}

/// Mounts a tmpfs on /home. Of what was there, these directories stay: the project may be in somebody's home, which others may
/// not enter.
fn cover_home(kept: &[&Path]) -> Result<()> {
    let mut open = Vec::new();
    for path in kept {
        let path = path
            .canonicalize()
            .with_context(|| format!("no {}", path.display()))?;
        if path.starts_with("/home") {
            open.push((fs::File::open(&path)?, path));
        }
    }
    tmpfs(Path::new("/home"), "mode=755")?;
    for (directory, path) in open {
        fs::create_dir_all(&path)?;
        let from = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let (none, flags) = (None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC);
        mount(Some(&*from), &path, none, flags, none)
            .with_context(|| format!("cannot bind {}", path.display()))?;
    }
    Ok(())
}

fn tmpfs(target: &Path, options: &str) -> Result<()> {
    let flags = MsFlags::empty();
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options))
        .with_context(|| format!("cannot mount a tmpfs on {}", target.display()))
}

/// Real and effective IDs of this thread and those that it starts; root remains the saved one.
fn set_ids(id: u32, groups: &[u32]) -> Result<()> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(Gid::from_raw(id), Gid::from_raw(id), Gid::ROOT)?;
    Ok(set_thread_res_uid(
        Uid::from_raw(id),
        Uid::from_raw(id),
        Uid::ROOT,
    )?)
}

/// Does something as root, also in a process that became an ordinary user: in a thread of its own, since
/// credentials are a thread's. The umask stays the user's.
pub fn as_root<T: Send>(what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if getuid().is_root() {
        return what();
    }
    let elevated = || {
        set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
            .context("this process did not begin as root")?;
        set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        set_thread_groups(&[Gid::ROOT])?;
        what()
    };
    std::thread::scope(|scope| scope.spawn(elevated).join())
        .unwrap_or_else(|panic| resume_unwind(panic))
}

/// Who this process is to be, if it was started by [`run_as`].
pub fn expected() -> Result<Option<&'static Ordinary>> {
    let Some(name) = std::env::var_os("E2E_USER") else {
        return Ok(None);
    };
    let user = USERS.iter().find(|user| user.name == name);
    Ok(Some(user.context("E2E_USER names no user of the tests")?))
}

/// Starts this program once more for a user, with the same arguments and `environment`; whether it succeeded. What it prints
/// is printed when it has ended, since other tests run meanwhile.
pub fn run_as(user: &Ordinary, environment: &[(&str, String)]) -> Result<bool> {
    let mut again = user.again()?;
    again
        .args(std::env::args_os().skip(1))
        .env("E2E_USER", user.name);
    for (name, value) in environment {
        again.env(name, value);
    }
    let output = again.output().context("cannot run the tests once more")?;
    io::stdout().write_all(&output.stdout)?;
    io::stderr().write_all(&output.stderr)?;
    Ok(output.status.success())
}

/// A test's name when this user runs it.
pub fn test_name(user: Option<&Ordinary>, name: &str) -> String {
    user.map_or_else(|| name.to_owned(), |user| format!("{}_{name}", user.name))
}
