//! A word about a session that goes on although its command has ended: it waits for what that has left
//! running, which looks like a session that hangs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cpu_ssh::Stream;
use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use tokio::time::{Instant, sleep_until};

use super::channel::Sender;
use crate::session::Descendants;

/// How long nothing is printed after the command's end before it is said what is waited for.
const SILENCE: Duration = Duration::from_secs(2);

/// When a session printed something last.
#[derive(Clone)]
pub(super) struct LastOutput(Arc<Mutex<Instant>>);

impl LastOutput {
    pub(super) fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn renew(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns when nothing was printed for [`SILENCE`], from now on at the earliest.
    async fn silence(&self) {
        self.renew();
        loop {
            let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + SILENCE;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// Called when the command has ended and its session has not: names what `session` waits for, when
/// nothing else is seen of it.
pub(super) async fn tell(session: Pid, output: &LastOutput, sender: &Sender, terminal: bool) {
    output.silence().await;
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let Ok(proc) = Dir::open("/proc", flags, Mode::empty()) else {
        return;
    };
    // None are left while it unmounts.
    let Some(left) = Descendants::new(proc, session).describe() else {
        return;
    };
    // A terminal is in raw mode over there.
    let end = if terminal { "\r\n" } else { "\n" };
    let line = format!(
        "cpud: the command has ended; the session waits for what it left running: {left}; \
         cpu -nowait ends the session with the command and kills the rest{end}"
    );
    // A client that has gone needs none.
    let _ = sender.send(Stream::Stderr, Bytes::from(line)).await;
}
