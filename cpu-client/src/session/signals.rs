//! Signals that are forwarded to the command.

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::ssh::ChannelSender;
use crate::terminal;

/// Receives the signals that are forwarded to the command.
pub(super) struct SignalReceiver(mpsc::UnboundedReceiver<Signal>);

impl SignalReceiver {
    pub(super) fn new() -> Result<Self> {
        let (to, from) = mpsc::unbounded_channel();
        for number in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
        ] {
            // Ignored from the start, by nohup(1) or a shell's `&`.
            if crate::sys::is_ignored(number)? {
                continue;
            }
            let mut arrivals = signal(SignalKind::from_raw(number as i32))
                .with_context(|| format!("cannot catch {number}"))?;
            let to = to.clone();
            tokio::spawn(async move {
                while arrivals.recv().await.is_some() {
                    if to.send(number).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self(from))
    }

    pub(super) async fn recv(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

/// Sends the local terminal's size to the remote one whenever it changes.
pub(super) fn forward_window_changes(
    sender: &ChannelSender,
    mut resized: tokio::signal::unix::Signal,
) {
    let sender = sender.clone();
    tokio::spawn(async move {
        while resized.recv().await.is_some() {
            let size = terminal::size();
            let (columns, rows) = (size.ws_col.into(), size.ws_row.into());
            let (x, y) = (size.ws_xpixel.into(), size.ws_ypixel.into());
            let sent = sender
                .request(|write| write.window_change(columns, rows, x, y))
                .await;
            if sent.is_err() {
                return;
            }
        }
    });
}

/// The exit status that a shell gives a command that a signal killed.
pub(super) fn killed(signal: Signal) -> u8 {
    u8::try_from(128 + signal as i32).unwrap_or(255)
}
