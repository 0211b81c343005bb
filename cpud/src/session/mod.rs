//! The session role: a fresh process of cpud, one per command, started by the connection as
//!
//! ```text
//! cpud session [--from USER@ADDRESS] --control FD [--isolate ROOT FD FD FD] [--9p|--fuse CACHE FD]... [--u-root] [--agent FD]
//!     [--tty] [--nowait] [--pids N] [--memory BYTES] [--user UID:GID:GROUPS] -- [ARG...]
//! ```
//!
//! ([`spec`]) with the environment that the client sent ([`environment`]), and pipes or a terminal as standard input, output
//! and error. It is single-threaded, since unshare(2) acts on the calling thread; only while the client's files
//! are looked up or unmounted are there more threads. The steps:
//!
//! 1. take over the descriptors, block signals, become child subreaper, make a control group ([`cgroup`]);
//! 2. make a private mount namespace ([`namespace`]) whose root is not rootfs ([`namespace::root`]), or, in an isolated session,
//!    has nothing that is not the session's ([`namespace::isolated`]), and go on in the key's PID namespace ([`isolation`]); mount a
//!    tmpfs on /tmp, bind `/` on /tmp/local, and mount the client's files on /tmp/cpu, in further cache modes on
//!    /tmp/cpu-CACHE ([`v9fs`]);
//!    In an isolated session, give up all privileges outside its namespaces;
//! 3. mount what `CPU_FSTAB` lists ([`fstab`]), the machine's name servers ([`resolv`]), and cpud's [`sudo`] over the
//!    client's, whose paths are in `CPU_SUDO`;
//! 4. change to the working directory ([`directory`]) and start the command ([`command`]);
//! 5. wait until the command and all its descendants have ended ([`wait`], [`descendants`]);
//! 6. end as the command did, with its status or by its signal.
//!
//! When a step fails, one line on standard error says which, on what, and why. Exit statuses of the session itself:
//! 127 no such command, 126 the command can't be run, 255 no session.

mod agent;
mod cgroup;
mod client_tree;
mod command;
mod descendants;
mod directory;
mod environment;
mod in_root;
mod isolation;
mod mount;
mod namespace;
mod resolv;
mod spec;
mod sudo;
mod wait;

pub(crate) use cgroup::{SessionLimits, kill_all_leftovers, kill_leftovers};
pub(crate) use descendants::Descendants;
pub(crate) use environment::passed_name;
pub(crate) use spec::{IsolationSpec, Spec};

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use cpu_proto::{ENV_FSTAB, ENV_FSTAB_LC, ENV_SUDO, ENV_UMASK};
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise, sigprocmask};
use nix::sys::stat::{Mode, umask};

use crate::console::say;
use crate::init::limits;
use crate::sys::{self, Ended};
use client_tree::ClientTree;
use mount::{fstab, v9fs};

/// Variables for cpud, which the command does not get. The last is the nonce of u-root's client.
const CONSUMED: [&str; 5] = [ENV_FSTAB, ENV_FSTAB_LC, ENV_SUDO, ENV_UMASK, "CPUNONCE"];

/// Runs the role. `args` are those after the role's name.
pub(crate) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match Spec::parse(args).and_then(run) {
        Ok(status) => end_as(status),
        Err(error) => {
            say(format_args!("no session: {error:#}"));
            ExitCode::from(255)
        }
    }
}

fn run(spec: Spec) -> Result<Ended> {
    let Spec {
        from: _,
        control,
        isolation,
        files,
        fuse,
        u_root,
        agent,
        tty,
        only_command,
        limits,
        user,
        argv,
    } = spec;
    let control = inherit("--control", control)?;
    let files = files
        .into_iter()
        .map(|(cache, fd)| Ok((cache, inherit("--9p", fd)?)))
        .collect::<Result<Vec<_>>>()?;
    let agent = agent.map(|fd| inherit("--agent", fd)).transpose()?;
    let isolation = isolation.as_ref().map(isolation::take_over).transpose()?;
    sys::close_others_on_exec().context("cannot mark descriptors close-on-exec")?;
    // From here on only the control socket ends the session; `wait` reads the signals that matter.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)
        .context("cannot block signals")?;
    nix::sys::prctl::set_child_subreaper(true).context("cannot become child subreaper")?;
    umask(Mode::from_bits_truncate(0o022));
    // Opened now, since the session's mounts may cover it, as /proc below.
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.context("cannot open /dev/null")?;

    let mut cgroup = cgroup::Cgroup::new(limits);

    namespace::make_private()?;
    namespace::root::leave_rootfs()?;
    if let Some((isolation, devpts)) = &isolation {
        user.as_ref().map_or(Ok(()), isolation::check_user)?;
        namespace::isolated::enter(isolation.root, devpts)?;
        if let Some(child) = isolation::go_on_inside(isolation)? {
            // The child's copies are to be the last.
            drop((files, agent));
            wait::release_standard_streams(&null)?;
            return isolation::wait_for(child, &control, cgroup.as_ref());
        }
        if let Some(cgroup) = &mut cgroup {
            cgroup.close_directories();
        }
    }
    let proc = nix::dir::Dir::open("/proc", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .context("cannot open /proc (is it mounted?)")?;
    let directory = directory::WorkingDirectory::before_mounts(environment::var("PWD"));
    let root = isolation.as_ref().map(|(isolation, _)| isolation.root);
    let machines = || {
        let sudo = sudo::Sudo::open(environment::var(ENV_SUDO), root.is_some());
        (resolv::ResolvConfBind::open(), sudo)
    };
    let before = root.is_none().then(machines);
    namespace::make_tmp(root.unwrap_or(0))?;
    let user_name = environment::var("USER");
    let mut clients = mount::mount_files(files, |files, cache, point| {
        if fuse {
            mount::attach_fuse(&files, point)
        } else {
            v9fs::mount_9p(&files, cache, point, user_name.as_deref(), u_root)
        }
    })?;
    if let Some((isolation, _)) = isolation {
        isolation::leave_privileges(&isolation)?;
        clients.iter_mut().try_for_each(ClientTree::reopen)?;
    }
    // What was opened in another mount namespace could not be mounted in that of an isolated session.
    let (resolv, sudo) = before.unwrap_or_else(machines);
    let lines = environment::var(ENV_FSTAB).or_else(|| environment::var(ENV_FSTAB_LC));
    let lines = lines.unwrap_or_default();
    let points = sudo.as_ref().map_or(&[][..], sudo::Sudo::paths);
    let points = points.iter().map(PathBuf::as_path);
    let points: Vec<&Path> = points.chain(resolv.point()).collect();
    let held = fstab::look_up(&lines, directory.path(), &points, &clients);
    let mounted = fstab::mount_all(&lines, &clients);
    if let Some(sudo) = &sudo {
        sudo.mount();
    }
    resolv.mount(&mounted);
    drop(held);
    let directory = directory.enter(clients.first())?;
    // Their descriptors are not needed any more.
    drop(clients);

    if let Some(user) = user.as_ref().filter(|_| tty) {
        nix::unistd::fchown(io::stdin(), Some(user.uid.into()), None)
            .context("cannot give the terminal to the user")?;
    }
    let mut set = vec![("PWD", directory.clone().into_os_string())];
    if let Some(connection) = agent {
        agent::listen(&connection, user.as_ref())?;
        set.push((agent::ENV_SOCKET, agent::SOCKET.into()));
    }
    umask(command_umask());
    let how = sys::Spawn {
        tty,
        user: user.as_ref(),
        group: cgroup.as_ref().map(cgroup::Cgroup::descriptors),
        prepare: Some(limits::reset),
    };
    let status = match command::start(argv, &set, &CONSUMED, &how) {
        Ok(pid) => {
            wait::release_standard_streams(&null)?;
            wait::wait_for_descendants(pid, control, tty, only_command, proc, cgroup.as_ref())
        }
        Err(error) => {
            say(&error);
            Ok(Ended::Exited(error.status()))
        }
    };
    fstab::unmount_all(&mounted);
    status
}

/// Takes over a descriptor that an argument names.
fn inherit(flag: &str, fd: RawFd) -> Result<OwnedFd> {
    sys::inherit(fd).with_context(|| format!("{flag} {fd}"))
}

/// The umask of the command: the client's, or 022.
fn command_umask() -> Mode {
    let text = environment::var(ENV_UMASK);
    let bits = text.and_then(|text| u32::from_str_radix(text.to_str()?, 8).ok());
    Mode::from_bits_truncate(bits.unwrap_or(0o022) & 0o777)
}

/// Ends this process as the command ended, so that the connection sees the command's own status.
fn end_as(status: Ended) -> ExitCode {
    match status {
        Ended::Exited(code) => ExitCode::from(code),
        Ended::Killed(number) => match Signal::try_from(number) {
            Ok(signal) => die_by(signal),
            // A real-time signal, for which SSH has no name.
            Err(_) => killed(number),
        },
    }
}

/// The status that a shell gives a command that a signal has killed.
fn killed(signal: i32) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(255))
}

fn die_by(signal: Signal) -> ExitCode {
    use nix::sys::resource::{Resource, setrlimit};
    // If a core dump was wanted, the command has written it. One of cpud would mislead.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    sys::reset_signal_actions();
    let _ = raise(signal);
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&SigSet::from(signal)), None);
    // Reached only for a signal that does not kill by default.
    killed(signal as i32)
}

/// A path or argument as it is printed: quoted only when it is empty or has characters that a terminal must not get.
fn shown(name: &OsStr) -> String {
    match name.to_str() {
        Some(plain) if !plain.is_empty() && !plain.chars().any(char::is_control) => plain.into(),
        _ => format!("{:?}", name.to_string_lossy()),
    }
}
