//! Requests on a session channel that start something: a command, or a shell.

use anyhow::Result;
use bytes::Bytes;
use cpu_proto::{Cache, Credentials, quote};
use cpu_ssh::Stream;
use russh::ChannelId;
use russh::server::Session;

use super::ConnectionHandler;
use crate::ssh::channel::Sender;
use crate::ssh::exec::{self, FilesSource};

impl ConnectionHandler {
    /// Start what was asked for on a channel and answer; a failure to start is told on the
    /// channel's standard error, with the status that a shell would give.
    pub(super) fn start(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<()> {
        let Some(state) = self.channels.get_mut(&id) else {
            return Ok(());
        };
        if state.running.is_some() {
            session.channel_failure(id)?;
            return Ok(());
        }
        let mut request = std::mem::take(&mut state.request);
        let (port, command) = self.forwards.take_files(command, &request.environment);
        let read = Credentials::take(command).map_err(|error| error.to_string());
        let read = read.and_then(|(user, words)| match quote::split(words) {
            Ok(words) => Ok((user, words)),
            Err(error) => Err(error.to_string()),
        });
        (request.user, request.words) = match read {
            Ok(read) => read,
            Err(why) => {
                refuse(
                    state.sender.clone(),
                    format!("cannot read the command: {why}"),
                );
                return Ok(());
            }
        };
        if is_scp(&request.words) {
            session.channel_success(id)?;
            refuse(state.sender.clone(), no("scp"));
            return Ok(());
        }
        request.files = match port {
            Some(port) => vec![(Cache::default(), FilesSource::Port(port, self.mux.clone()))],
            None => self
                .files
                .drain(..)
                .map(|(cache, receiver, sender)| (cache, FilesSource::Channel(receiver, sender)))
                .collect(),
        };
        let listed = self
            .roster
            .as_ref()
            .map(|roster| roster.list(&request.words));
        let started = exec::start(
            request,
            state.receiver.clone(),
            state.sender.clone(),
            session.handle(),
            listed,
        );
        match started {
            Ok(running) => {
                state.running = Some(running);
                session.channel_success(id)?;
            }
            Err(error) => refuse(state.sender.clone(), format!("{error:#}")),
        }
        Ok(())
    }
}

/// Whether it is what `scp -O`, and every scp before OpenSSH 9, asks of a server. A person types neither.
fn is_scp(words: &[Vec<u8>]) -> bool {
    words.first().is_some_and(|word| word == b"scp")
        && words.iter().any(|word| word == b"-t" || word == b"-f")
}

/// Why something is refused that copies files.
pub(super) fn no(what: &str) -> String {
    format!("there is no {what} here; cpu brings your files along: cpu HOST cp ...")
}

/// Tell why a command is not started, and end its channel.
pub(super) fn refuse(sender: Sender, why: String) {
    tokio::spawn(async move {
        let line = Bytes::from(format!("cpud: {why}\n"));
        let _ = sender.send(Stream::Stderr, line).await;
        let _ = sender.request(|write| write.exit_status(255)).await;
        let _ = sender.request(russh::ChannelWriteHalf::eof).await;
        sender.close().await;
    });
}
