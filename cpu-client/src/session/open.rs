//! Opens the channels of a command, and sends the requests that start it.

use anyhow::{Context, Result};
use cpu_proto::ENV_FILES;
use cpu_ssh::Stream;
use cpu_ssh::blocking::{BlockingReader, BlockingWriter};
use futures_util::future::try_join_all;
use nix::sys::termios::Termios;
use russh::ChannelWriteHalf;
use russh::client::Msg;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::Command;
use super::stdio::Stdin;
use crate::remote::uroot;
use crate::ssh::{ChannelReceiver, ChannelSender, ServerConnection, ServerKind};
use crate::terminal;

/// Opens the channels and sends all requests, without waiting for replies that are not needed.
pub(super) async fn start(
    connection: &mut ServerConnection,
    mut command: Command,
    modes: Option<&Termios>,
) -> Result<(ChannelReceiver, ChannelSender, Stdin)> {
    let refused = "the server opens no session channel";
    let open = || async {
        connection
            .handle
            .channel_open_session()
            .await
            .context(refused)
    };
    let mut files = command.files.take();
    let (port, unmounted) = match files.take_if(|_| connection.server == ServerKind::URoot) {
        Some((files, _)) => {
            let environment = &mut command.environment;
            let served = uroot::serve_at_port(connection, files, environment).await?;
            (Some(served.0), Some(served.1))
        }
        None => (None, None),
    };
    let caches = files.iter().flat_map(|(_, caches)| caches);
    let (main, channels) = tokio::try_join!(open(), try_join_all(caches.map(|_| open())))?;
    let lost = "the connection ended while the command was being started";
    let served = files.as_ref().map(|(files, _)| files.clone());
    if let Some((files, caches)) = files {
        // Any name that no other command of this connection uses.
        let name = main.id().to_string();
        for (channel, cache) in channels.into_iter().zip(caches) {
            let (receiver, sender) = connection.mux.open(channel);
            sender
                .request(|write| write.set_env(false, ENV_FILES, &name))
                .await
                .context(lost)?;
            sender
                .request(|write| write.request_subsystem(false, cache.subsystem()))
                .await
                .context(lost)?;
            files.clone().serve(
                cache,
                BlockingReader::new(receiver, Stream::Data, Handle::current()),
                BlockingWriter::new(sender, Stream::Data, Handle::current()),
                || {},
            )?;
        }
        command.environment.push((ENV_FILES.to_owned(), name));
    }
    let (receiver, sender) = connection.mux.open(main);
    let stdin = Stdin::new(sender.clone(), served);
    if let Some(unmounted) = unmounted {
        end_after(stdin.clone(), unmounted);
    }
    if command.terminal {
        let modes = modes.map(cpu_ssh::modes::encode).unwrap_or_default();
        let size = terminal::size();
        let set = command.environment.iter().find(|(name, _)| name == "TERM");
        let term = match set {
            Some((_, term)) => term.clone(),
            None => std::env::var("TERM").unwrap_or_default(),
        };
        sender
            .request(async |write: &ChannelWriteHalf<Msg>| {
                let (columns, rows) = (size.ws_col.into(), size.ws_row.into());
                let (x, y) = (size.ws_xpixel.into(), size.ws_ypixel.into());
                write
                    .request_pty(true, &term, columns, rows, x, y, &modes)
                    .await
            })
            .await
            .context(lost)?;
    }
    if command.forward_agent {
        sender
            .request(|write| write.agent_forward(false))
            .await
            .context(lost)?;
    }
    for (name, value) in command.environment {
        sender
            .request(|write| write.set_env(false, name, value))
            .await
            .context(lost)?;
    }
    let line = connection
        .server
        .command_line(command.user.as_ref(), command.argv, port);
    match line {
        Some(line) => sender.request(|write| write.exec(true, line)).await,
        None => sender.request(|write| write.request_shell(true)).await,
    }
    .context(lost)?;
    Ok((receiver, sender, stdin))
}

/// Ends standard input when the files are unmounted. u-root's cpud unmounts them when its command has ended, which it does
/// not report otherwise, and then waits for the end of standard input.
fn end_after(stdin: Stdin, unmounted: oneshot::Receiver<()>) {
    tokio::spawn(async move {
        if unmounted.await.is_ok() {
            let _ = tokio::task::spawn_blocking(move || stdin.end()).await;
        }
    });
}
