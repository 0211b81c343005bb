//! Agent forwarding (draft-miller-ssh-agent, section 4): programs of a session that connect to its agent socket get a channel
//! to the client's agent.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener as StdListener;

use anyhow::{Context, Result};
use cpu_ssh::Mux;
use russh::server::Handle;
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::channel::{ServerReceiver, ServerSender};
use super::forward::copy_both;
use crate::console::say;
use crate::sys;

/// The most programs of a session that use the agent at once.
const MAX_CHANNELS: usize = 16;

/// Serves the socket that the session sends through `session`, until the command has ended.
pub(super) fn forward(
    session: OwnedFd,
    mux: Mux,
    handle: Handle,
    mut ended: watch::Receiver<bool>,
) {
    tokio::spawn(async move {
        tokio::select! {
            served = serve(session, mux, handle) => if let Err(error) = served {
                say(format_args!("the agent is not forwarded: {error:#}"));
            },
            _ = ended.wait_for(|ended| *ended) => {}
        }
    });
}

async fn serve(session: OwnedFd, mux: Mux, handle: Handle) -> Result<()> {
    // This ends when the session has sent its socket, or has ended itself.
    let received =
        tokio::task::spawn_blocking(move || sys::receive_descriptors(session.as_fd())).await?;
    // Without a socket there is no session either, which the client is told.
    let Ok((_, [listener])) = received else {
        return Ok(());
    };
    let listener = StdListener::from(listener);
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(MAX_CHANNELS));
    loop {
        let slot = slots.clone().acquire_owned().await?;
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        let stream = OwnedFd::from(stream.into_std()?);
        let (mux, handle) = (mux.clone(), handle.clone());
        tokio::spawn(async move {
            if let Ok((receiver, sender)) = open(&mux, &handle).await {
                copy_both(receiver, sender, stream).await;
            }
            drop(slot);
        });
    }
}

/// An `auth-agent@openssh.com` channel to the client.
async fn open(mux: &Mux, handle: &Handle) -> Result<(ServerReceiver, ServerSender)> {
    let expected = mux.begin_open();
    let channel = handle.channel_open_agent().await?;
    Ok(expected.open(channel))
}
