//! The arguments with which the connection starts a session process, written and parsed side by side.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use cpu_proto::{CacheMode, Credentials};

use super::{SessionLimits, shown};
use crate::role::Role;

/// What a session process is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spec {
    /// Who has logged in, and from where, for ps(1).
    pub(crate) from: String,
    /// The control socket. Each byte is the number of a signal to deliver, and the end of the stream means that the
    /// client has gone. The session ends the other direction when the command has ended.
    pub(crate) control: RawFd,
    /// The isolation in which the session is, if it is in one.
    pub(crate) isolation: Option<IsolationSpec>,
    /// The client's files, each in this mode: sockets connected to its file server, or, with [`Spec::fuse`], mounts that are
    /// attached nowhere.
    pub(crate) files: Vec<(CacheMode, RawFd)>,
    /// The files are mounted by FUSE.
    pub(crate) fuse: bool,
    /// The file server is u-root's.
    pub(crate) u_root: bool,
    /// A socket through which the connection gets the agent's, if an agent is forwarded.
    pub(crate) agent: Option<RawFd>,
    /// Standard input is the terminal.
    pub(crate) tty: bool,
    /// When the command has ended, end what it has left running.
    pub(crate) only_command: bool,
    /// What its processes may take.
    pub(crate) limits: SessionLimits,
    /// The user who runs the command, if not root.
    pub(crate) user: Option<Credentials>,
    /// The command and its arguments. Empty for the user's shell.
    pub(crate) argv: Vec<OsString>,
}

/// The isolation of a key ([`crate::isolation`]), for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IsolationSpec {
    /// Its root, as the rest of the machine sees it.
    pub(crate) root: u32,
    /// A pidfd of the holder, and what keeps the holder alive.
    pub(crate) holder: RawFd,
    pub(crate) life: RawFd,
    /// A devpts that is mounted nowhere.
    pub(crate) devpts: RawFd,
}

impl Spec {
    /// The arguments of the process, after the program's name.
    pub(crate) fn args(self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec![Role::Session.name().into()];
        args.extend(["--from".into(), self.from.into()]);
        args.extend(["--control".into(), self.control.to_string().into()]);
        if let Some(isolation) = self.isolation {
            let IsolationSpec {
                root,
                holder,
                life,
                devpts,
            } = isolation;
            args.push("--isolate".into());
            args.push(root.to_string().into());
            args.extend([holder, life, devpts].map(|fd| fd.to_string().into()));
        }
        let flag = if self.fuse { "--fuse" } else { "--9p" };
        for (cache, fd) in self.files {
            args.extend([flag.into(), cache.name().into(), fd.to_string().into()]);
        }
        if let Some(fd) = self.agent {
            args.extend(["--agent".into(), fd.to_string().into()]);
        }
        let flags = [
            ("--u-root", self.u_root),
            ("--tty", self.tty),
            ("--nowait", self.only_command),
        ];
        let flags = flags.into_iter().filter(|(_, is_set)| *is_set);
        args.extend(flags.map(|(flag, _)| flag.into()));
        let limits = [
            ("--pids", self.limits.processes),
            ("--memory", self.limits.memory),
        ];
        for (flag, limit) in limits {
            if let Some(limit) = limit {
                args.extend([flag.into(), limit.to_string().into()]);
            }
        }
        if let Some(user) = self.user {
            args.extend(["--user".into(), user.to_string().into()]);
        }
        args.push("--".into());
        args.extend(self.argv);
        args
    }

    /// Parses the arguments after the role's name.
    pub(super) fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Self> {
        let mut control = None;
        let mut spec = Self::default();
        while let Some(arg) = args.next() {
            match arg.as_encoded_bytes() {
                b"--from" => {
                    let from = args.next().context("--from needs a peer")?;
                    spec.from = from.to_string_lossy().into_owned();
                }
                b"--control" => control = Some(number(&arg, args.next())?),
                b"--isolate" => {
                    let root = args.next().and_then(|root| root.to_str()?.parse().ok());
                    let mut next = || number(&arg, args.next());
                    spec.isolation = Some(IsolationSpec {
                        root: root.context("--isolate needs a user's number")?,
                        holder: next()?,
                        life: next()?,
                        devpts: next()?,
                    });
                }
                flag @ (b"--9p" | b"--fuse") => {
                    spec.fuse = flag == b"--fuse";
                    let mode = args.next().and_then(|mode| mode.to_str()?.parse().ok());
                    let mode =
                        mode.with_context(|| format!("{} needs a cache mode", shown(&arg)))?;
                    spec.files.push((mode, number(&arg, args.next())?));
                }
                b"--agent" => spec.agent = Some(number(&arg, args.next())?),
                b"--u-root" => spec.u_root = true,
                b"--tty" => spec.tty = true,
                b"--nowait" => spec.only_command = true,
                b"--pids" => spec.limits.processes = Some(number(&arg, args.next())?),
                b"--memory" => spec.limits.memory = Some(number(&arg, args.next())?),
                b"--user" => {
                    let numbers = args.next().and_then(|user| user.to_str()?.parse().ok());
                    spec.user = Some(numbers.context("--user needs a user's numbers")?);
                }
                b"--" => {
                    spec.control = control.context("--control is missing")?;
                    spec.argv = args.collect();
                    return Ok(spec);
                }
                _ => bail!("unknown argument {}", shown(&arg)),
            }
        }
        bail!("the -- before the command is missing")
    }
}

fn number<N: FromStr>(flag: &OsStr, number: Option<OsString>) -> Result<N> {
    let number = number.and_then(|number| number.to_str()?.parse().ok());
    number.with_context(|| format!("{} needs a number", shown(flag)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            from in "[^\0]{0,20}",
            control in 3..=i32::MAX,
            files in prop::collection::vec((prop::sample::select(vec![CacheMode::None, CacheMode::Mmap, CacheMode::Loose]), 3..=i32::MAX), 0..4),
            (fuse, u_root, tty, only_command) in any::<(bool, bool, bool, bool)>(),
            agent in prop::option::of(3..=i32::MAX),
            (processes, memory) in any::<(Option<u64>, Option<u64>)>(),
            isolation in prop::option::of((any::<u32>(), [3..=i32::MAX, 3..=i32::MAX, 3..=i32::MAX])),
            user in prop::option::of((any::<u32>(), any::<u32>(), prop::collection::vec(any::<u32>(), 0..4))),
            argv in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..4),
            dashes in prop::sample::select(vec!["--", "--tty", "session", "x"]),
        ) {
            let mut argv: Vec<_> = argv.into_iter().map(OsString::from_vec).collect();
            argv.push(dashes.into());
            let user = user.map(|(uid, gid, groups)| Credentials { uid, gid, groups });
            let limits = SessionLimits { processes, memory };
            let isolation = isolation.map(|(root, [holder, life, devpts])| IsolationSpec { root, holder, life, devpts });
            let fuse = fuse && !files.is_empty();
            let spec = Spec { from, control, isolation, files, fuse, u_root, agent, tty, only_command, limits, user, argv };
            let mut args = spec.clone().args().into_iter();
            prop_assert_eq!(args.next().and_then(|name| Role::from_name(&name)), Some(Role::Session));
            prop_assert_eq!(Spec::parse(args).unwrap(), spec);
        }
    }
}
