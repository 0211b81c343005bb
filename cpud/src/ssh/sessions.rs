//! The sessions of a connection: what they may take, how all of them are ended, and how what a killed one leaves is killed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::wait::WaitPidFlag;
use nix::unistd::{Pid, getpid};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::flags::MountKind;
use crate::session::{Descendants, SessionLimits, kill_leftovers};

/// The pause until leftovers are killed again, since they take a moment to die, and may fork. It is doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(10);
const MAX_RETRY: Duration = Duration::from_secs(1);

/// All sessions of this process.
pub(super) struct Sessions {
    pub(super) limits: SessionLimits,
    /// How the client's files are mounted.
    pub(super) mount: MountKind,
    /// Each session has a receiver until it has ended. True tells them to end.
    ending: watch::Sender<bool>,
    processes: Mutex<Vec<Pid>>,
}

/// A session that has not ended.
pub(super) struct OpenSession {
    sessions: Arc<Sessions>,
    process: Pid,
    ending: watch::Receiver<bool>,
}

impl Sessions {
    /// None yet. This process becomes the parent of what a killed session leaves.
    pub(super) fn new(limits: SessionLimits, mount: MountKind) -> Arc<Self> {
        // It cannot fail (PR_SET_CHILD_SUBREAPER).
        let _ = nix::sys::prctl::set_child_subreaper(true);
        Arc::new(Self {
            limits,
            mount,
            ending: watch::Sender::new(false),
            processes: Mutex::default(),
        })
    }

    /// Counts a session, whose process this is.
    pub(super) fn begin(self: &Arc<Self>, process: Pid) -> OpenSession {
        self.processes().push(process);
        OpenSession {
            sessions: self.clone(),
            process,
            ending: self.ending.subscribe(),
        }
    }

    /// Tells all sessions to end, and waits for that, but not longer than `patience`.
    pub(super) async fn end(&self, patience: Duration) {
        self.ending.send_replace(true);
        let _ = timeout(patience, self.ending.closed()).await;
    }

    /// Whether there is a session that has not ended, or has left something.
    pub(super) fn are_open(&self) -> bool {
        self.ending.receiver_count() > 0
    }

    /// Called when the connection has ended, and with it the runtime: waits until its sessions have ended too, but not longer
    /// than `patience`. This process stays as long, so that what one of them leaves that is killed comes to it, and is killed.
    pub(super) fn wait_for_last(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut pause = FIRST_RETRY;
        loop {
            self.processes().retain(|&session| !has_ended(session));
            for &session in &*self.processes() {
                // Root in a session can stop its process, which then could not end it.
                let _ = nix::sys::signal::kill(session, Signal::SIGCONT);
            }
            let is_clean = self.kill_strays();
            if (is_clean && self.processes().is_empty()) || Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(MAX_RETRY);
        }
    }

    /// Kills the descendants of this process that belong to no session, and reaps them. True if there were none.
    fn kill_strays(&self) -> bool {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let Ok(proc) = Dir::open("/proc", flags, Mode::empty()) else {
            return true;
        };
        let strays = Descendants::new(proc, getpid()).without(&self.processes());
        for &stray in &strays {
            let _ = nix::sys::signal::kill(stray, Signal::SIGKILL);
        }
        // Each of the strays comes to this process when its parent has died.
        for &stray in &strays {
            has_ended(stray);
        }
        // One that was forked while the others were looked for is found the next time.
        strays.is_empty()
    }

    fn processes(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reaps a process if it has ended.
fn has_ended(process: Pid) -> bool {
    match nix::sys::wait::waitpid(process, Some(WaitPidFlag::WNOHANG)) {
        Ok(status) => status.pid().is_some(),
        // It is not, or not yet, a child of this process.
        Err(Errno::ECHILD) => nix::sys::signal::kill(process, None).is_err(),
        Err(_) => false,
    }
}

impl OpenSession {
    /// Returns when the session is told to end.
    pub(super) fn told_to_end(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ending = self.ending.clone();
        async move {
            // An error: the connection itself has ended, and with it the runtime.
            let _ = ending.wait_for(|is_told| *is_told).await.is_ok();
        }
    }

    /// Called when the session's process has ended: kills what it has left, which it did if it `was_killed`.
    pub(super) async fn ended(&self, was_killed: bool) {
        self.sessions
            .processes()
            .retain(|process| *process != self.process);
        let mut pause = FIRST_RETRY;
        loop {
            let is_empty = kill_leftovers(self.process).is_ok();
            if is_empty && (!was_killed || self.sessions.kill_strays()) {
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(MAX_RETRY);
        }
    }
}
