//! What the client gets besides output: the machine's time, and how the command ended.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cpu_ssh::{Stream, signals};
use nix::sys::signal::Signal;
use russh::server;

use crate::ssh::channel::ServerSender;

/// Sends the machine's time, which the client compares with its own. Nothing waits for this.
pub(super) async fn send_clock(sender: &ServerSender) {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    sender
        .report_clock(since_1970.unwrap_or_default().as_secs())
        .await;
}

/// Reports the exit status or the signal, then the end of data, then closes the channel. Called after all output.
pub(super) async fn report(
    status: std::io::Result<ExitStatus>,
    sender: &ServerSender,
    handle: &server::Handle,
) {
    let signal = status.as_ref().ok().and_then(ExitStatusExt::signal);
    if let Some(signal) = signal.and_then(|number| Signal::try_from(number).ok()) {
        let core = status.as_ref().is_ok_and(ExitStatusExt::core_dumped);
        let sent = handle.exit_signal_request(
            sender.id(),
            signals::name(signal),
            core,
            String::new(),
            String::new(),
        );
        tokio::select! {
            _ = sent => {}
            () = sender.closed() => return,
        }
    } else {
        let code = match status {
            Ok(status) => status.code().unwrap_or(255),
            Err(error) => {
                let line = format!("cpud: cannot wait for the session: {error}\n");
                let _ = sender.send(Stream::Stderr, Bytes::from(line)).await;
                255
            }
        };
        let code = u32::try_from(code).unwrap_or(255);
        let _ = sender.request(|write| write.exit_status(code)).await;
    }
    let _ = sender.request(russh::ChannelWriteHalf::eof).await;
    sender.close().await;
}
