//! What a session tells its client besides its output: that it goes on although its command has ended, because processes that
//! the command started are still running, without which it would seem to hang; and that it is ended by the server.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cpu_ssh::Stream;
use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use tokio::time::{Instant, sleep_until, timeout};

use super::channel::ServerSender;
use crate::session::Descendants;

/// The notice is printed when there has been no output for this long after the end of the command.
const SILENCE: Duration = Duration::from_secs(2);

/// How long the client may take to read that its session is ended.
const LAST_LINE: Duration = Duration::from_millis(200);

/// The time of a session's last output.
#[derive(Clone)]
pub(super) struct LastOutput(Arc<Mutex<Instant>>);

impl LastOutput {
    pub(super) fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn renew(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns when nothing has been printed for [`SILENCE`], counted from now.
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

/// Called when the command has ended and its session has not: waits for a silence, then names the processes
/// that the session waits for.
pub(super) async fn send(
    session: Pid,
    is_isolated: bool,
    output: &LastOutput,
    sender: &ServerSender,
    terminal: bool,
) {
    output.silence().await;
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let Ok(proc) = Dir::open("/proc", flags, Mode::empty()) else {
        return;
    };
    // There are none while the session unmounts.
    let Some(left) = Descendants::new(proc, session).describe(is_isolated) else {
        return;
    };
    let line = format!(
        "the command has ended; the session waits for what it left running: {left}; \
         cpu -nowait ends the session with the command and kills the rest"
    );
    send_line(&line, sender, terminal).await;
}

/// Called before a session is ended because the server ends.
pub(super) async fn ending(sender: &ServerSender, terminal: bool) {
    let line = send_line("the server is shutting down", sender, terminal);
    let _ = timeout(LAST_LINE, line).await;
}

async fn send_line(line: &str, sender: &ServerSender, terminal: bool) {
    // The client's terminal is in raw mode.
    let end = if terminal { "\r\n" } else { "\n" };
    let line = format!("cpud: {line}{end}");
    // A client that has gone needs no notice.
    let _ = sender.send(Stream::Stderr, Bytes::from(line)).await;
}
