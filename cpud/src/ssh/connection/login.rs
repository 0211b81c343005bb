//! A peer's way to its login: what it has done so far, how long it may take, and the end of those that do not get there.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use cpu_ssh::Throttle;
use russh::{Disconnect, server};
use tokio::sync::watch;

use super::certificate;
use crate::console::say;
use crate::isolation::Isolation;
use crate::ssh::Offence;

/// How long a peer may take to log in: people look for tokens and passphrases. The same as sshd's LoginGraceTime.
pub(in crate::ssh) const LOGIN_GRACE: Duration = Duration::from_mins(2);

/// What is written into the server's pipe when the peer asks to be authenticated for the first time.
pub(in crate::ssh) const ASKED: u8 = b'a';

/// What is written there before the fingerprint of a key whose sessions are to be isolated, and a newline. The answer is an
/// [`Isolation`], or none.
const ISOLATE: u8 = b'i';

/// What is written there before the reason, when a peer has gone without having logged in.
pub(in crate::ssh) const REFUSED: u8 = b'r';

/// How long after a refused key a message that russh leaves without an answer may have been the beginning of an attempt.
const ATTEMPT_TIME: Duration = Duration::from_secs(3);

/// The key for which the report of a connection asks for an isolation.
pub(in crate::ssh) fn wanted_isolation(report: &[u8]) -> Option<String> {
    let begin = report.iter().position(|byte| *byte != ASKED)?;
    let key = report[begin..]
        .strip_prefix(&[ISOLATE])?
        .strip_suffix(b"\n")?;
    Some(String::from_utf8_lossy(key).into_owned())
}

/// Asks the server for the isolation of a key.
pub(super) async fn isolation_of(key: &str) -> io::Result<Isolation> {
    let request = [&[ISOLATE], key.as_bytes(), b"\n"].concat();
    nix::unistd::write(io::stdout(), &request)?;
    tokio::task::spawn_blocking(|| Isolation::receive(io::stdout().as_fd())).await?
}

/// What is known of a peer's login.
pub(super) struct LoginState {
    /// To send messages with, once there is a session.
    pub(super) handle: Option<server::Handle>,
    pub(super) has_succeeded: bool,
    /// How often it has asked to be authenticated.
    pub(super) attempts: u32,
    /// How many keys have been refused.
    pub(super) refused: u32,
    /// Who offered the last of them, and which it is.
    pub(super) last_refused: String,
    /// Why its certificate was refused, if it was before anybody asked who may log in.
    certificate: Option<String>,
    /// What it has done if it goes now.
    pub(super) offence: Option<Offence>,
}

impl LoginState {
    /// Tells the server why the peer has not logged in. It says so, unless there is too much to say.
    pub(super) fn report_refusal(&self) {
        let why = self.refusal();
        if !why.is_empty() {
            let report = [&[REFUSED], why.as_bytes()].concat();
            let _ = nix::unistd::write(std::io::stdout(), &report);
        }
    }

    /// Counts a certificate that russh has refused, unless the peer has logged in all the same.
    pub(super) fn add_certificate(&mut self) {
        if let (Some(why), false) = (certificate::refused(), self.has_succeeded) {
            self.offence = Some(Offence::FailedAuthentication);
            self.certificate = Some(why);
        }
    }

    fn refusal(&self) -> String {
        match self.offence {
            Some(Offence::FailedAuthentication) => {
                let (refused, last) = (self.refused, &self.last_refused);
                let keys = format!(
                    "it offered {refused} key(s) that may not log in, the last one as {last}"
                );
                match &self.certificate {
                    None => keys,
                    Some(certificate) if refused == 0 => certificate.clone(),
                    Some(certificate) => format!("{keys}; {certificate}"),
                }
            }
            Some(Offence::GraceExceeded) => format!("it did not log in within {LOGIN_GRACE:?}"),
            Some(Offence::NoAuthentication) | None => String::new(),
        }
    }

    /// Shared by the handler, which changes it, and [`wait`].
    pub(super) fn new() -> watch::Sender<Self> {
        watch::Sender::new(Self {
            handle: None,
            has_succeeded: false,
            attempts: 0,
            refused: 0,
            last_refused: String::new(),
            certificate: None,
            offence: Some(Offence::NoAuthentication),
        })
    }
}

/// Returns the session's handle when the peer has logged in, or an error when it has had its time.
pub(super) async fn wait(
    login: &watch::Sender<LoginState>,
    throttle: &Throttle,
) -> Result<Option<server::Handle>, ()> {
    let unanswered = unanswered(login.subscribe(), throttle);
    let mut changes = login.subscribe();
    tokio::select! {
        succeeded = changes.wait_for(|login| login.has_succeeded) => {
            Ok(succeeded.ok().and_then(|login| login.handle.clone()))
        }
        () = tokio::time::sleep(LOGIN_GRACE) => {
            login.send_modify(|login| login.offence = Some(Offence::GraceExceeded));
            Err(())
        }
        never = unanswered => match never {},
    }
}

/// Ends a session whose peer waits for an answer that it will not get: after a refused key it has sent something that is no
/// further attempt. That is how paramiko behaves, which requests the service anew for each key (RFC 4253, section 10);
/// russh answers the first such request only, and has no callback for the others.
async fn unanswered(mut login: watch::Receiver<LoginState>, throttle: &Throttle) -> Infallible {
    loop {
        let (refused, handle) = {
            let login = login.borrow_and_update();
            let refused = login.offence == Some(Offence::FailedAuthentication);
            (refused, login.handle.clone())
        };
        // What has arrived until now was the attempt.
        let _ = throttle.was_active();
        // A second time, since what has arrived may be the beginning of an attempt.
        let is_quiet = |changed: Result<_, _>| changed.is_err();
        let quiet = is_quiet(tokio::time::timeout(ATTEMPT_TIME, login.changed()).await)
            && refused
            && throttle.was_active()
            && is_quiet(tokio::time::timeout(ATTEMPT_TIME, login.changed()).await);
        if !quiet {
            continue;
        }
        say(
            "a peer waits for an answer to a second service request after a wrong key; its connection is closed",
        );
        let told = "the server answers one service request for each connection: \
                    connect anew for the next key, or offer the right key first";
        if let Some(handle) = handle {
            let reason = Disconnect::ServiceNotAvailable;
            let _ = handle.disconnect(reason, told.into(), String::new()).await;
        }
        // The session ends by itself when this has been sent.
        return std::future::pending().await;
    }
}
