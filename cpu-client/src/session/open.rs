//! Opens the channels of a command, and sends the requests that start it.

use anyhow::{Context, Result};
use cpu_proto::{CacheMode, Credentials, ENV_FSTAB, ENV_FSTAB_LC, quote};
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
use crate::files::FileServer;
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
            let served = serve_at_port(connection, files, &mut command.environment).await?;
            (Some(served.0), Some(served.1))
        }
        None => (None, None),
    };
    let caches = files.iter().flat_map(|(_, caches)| caches);
    let (main, channels) = tokio::try_join!(open(), try_join_all(caches.map(|_| open())))?;
    let lost = "the connection ended while the command was being started";
    if let Some((files, caches)) = files {
        for (channel, cache) in channels.into_iter().zip(caches) {
            let (receiver, sender) = connection.mux.open(channel);
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
    }
    let (receiver, sender) = connection.mux.open(main);
    let stdin = Stdin::new(sender.clone());
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
    for (name, value) in command.environment {
        sender
            .request(|write| write.set_env(false, name, value))
            .await
            .context(lost)?;
    }
    let user = command
        .user
        .as_ref()
        .map(Credentials::flag)
        .unwrap_or_default();
    let is_shell = command.argv.is_empty() && user.is_empty();
    if is_shell && connection.server != ServerKind::URoot {
        sender.request(|write| write.request_shell(true)).await
    } else {
        let line = match connection.server {
            ServerKind::Sshd => command.argv.join(&b' '),
            ServerKind::Cpud => [user, quote::join(&command.argv)].concat(),
            // There, an empty argv starts a shell.
            ServerKind::URoot => {
                let port = port.map_or(String::new(), |port| format!("-port9p={port}"));
                let argv = quote::join(with_empty_arguments(command.argv));
                [format!("{port} ").into_bytes(), argv].concat()
            }
        };
        sender.request(|write| write.exec(true, line)).await
    }
    .context(lost)?;
    Ok((receiver, sender, stdin))
}

/// u-root's cpud drops empty arguments, however they are quoted. A shell passes them on.
fn with_empty_arguments(argv: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    if !argv.iter().any(Vec::is_empty) {
        return argv;
    }
    let script = [&b"exec "[..], &quote::join(argv)].concat();
    vec![b"sh".to_vec(), b"-c".to_vec(), script]
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

/// Serves the files to u-root's cpud through a forwarded port. Returns the port's number, and a receiver that fires when the
/// files are unmounted.
async fn serve_at_port(
    connection: &ServerConnection,
    files: FileServer,
    environment: &mut Vec<(String, String)>,
) -> Result<(u32, oneshot::Receiver<()>)> {
    let port = connection.ask_for_port().await?;
    let number = port.port;
    let mounts = environment.iter().find(|(name, _)| name == ENV_FSTAB);
    let mounts = mounts.map(|(_, text)| (ENV_FSTAB_LC.to_owned(), text.clone()));
    environment.extend(mounts);
    environment.push(("CPUNONCE".into(), port.nonce.clone()));
    let handle = connection.handle.clone();
    let (ended, unmounted) = oneshot::channel();
    tokio::spawn(async move {
        let served = port.accept(&handle).await.and_then(|(receiver, sender)| {
            // u-root's cpud mounts without a cache.
            files.serve(
                CacheMode::None,
                BlockingReader::new(receiver, Stream::Data, Handle::current()),
                BlockingWriter::new(sender, Stream::Data, Handle::current()),
                // Fails only if the session has ended.
                move || {
                    let _ = ended.send(());
                },
            )
        });
        if let Err(error) = served {
            say!("{error:#}");
        }
    });
    Ok((number, unmounted))
}
