//! What wakes init: signals, and requests of the FIFO of [`super::initctl`].

use std::fmt;
use std::os::fd::AsFd as _;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::children::MAX_DELAY;
use super::initctl::Initctl;
use crate::console::say;
use crate::poll::timeout;

/// Something has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The signal with this number has arrived, perhaps several times.
    Signal(i32),
    /// Somebody asks for this runlevel, a character.
    Runlevel(u8),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Signal(number) => match Signal::try_from(number) {
                Ok(signal) => write!(f, "{signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
            Self::Runlevel(level) => write!(f, "runlevel {}", char::from(level)),
        }
    }
}

/// Where events come from.
pub(super) struct Events {
    /// For all signals, which are blocked.
    signals: Option<SignalFd>,
    initctl: Option<Initctl>,
}

impl Events {
    /// Of PID 1, or of another process, which only gets signals.
    pub(super) fn new(is_pid_1: bool) -> Self {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&SigSet::all(), flags)
            .inspect_err(|errno| say(format_args!("cannot make a signalfd: {}", errno.desc())));
        let initctl = is_pid_1.then(|| {
            Initctl::new().inspect_err(|errno| {
                say(format_args!("cannot make /run/initctl: {}", errno.desc()));
            })
        });
        Self {
            signals: signals.ok(),
            initctl: initctl.and_then(Result::ok),
        }
    }

    /// Sleeps until there is an event, or until `deadline`.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Option<Event> {
        let Some(signals) = &self.signals else {
            // Only with a kernel without CONFIG_SIGNALFD, on which the rest still works.
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            std::thread::sleep(left.unwrap_or(MAX_DELAY));
            return self.initctl();
        };
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let initctl = self.initctl.as_ref();
        fds.extend(initctl.map(|initctl| PollFd::new(initctl.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout(deadline)) {
            Ok(0) | Err(Errno::EINTR) => None,
            Ok(_) => match signals.read_signal().ok().flatten() {
                Some(info) => Some(Event::Signal(info.ssi_signo.cast_signed())),
                None => self.initctl(),
            },
            Err(errno) => {
                say(format_args!("cannot poll: {}", errno.desc()));
                std::thread::sleep(MAX_DELAY);
                None
            }
        }
    }

    fn initctl(&self) -> Option<Event> {
        self.initctl.as_ref()?.read().map(Event::Runlevel)
    }
}
