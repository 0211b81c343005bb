//! Starts what an `exec` or `shell` request asks for.

use anyhow::Result;
use bytes::Bytes;
use cpu_proto::{CacheMode, Credentials, ENV_CLOCK, ENV_FILES, ENV_FSTAB_LC, quote};
use cpu_ssh::Stream;
use russh::ChannelId;
use russh::server::Session;

use super::ConnectionHandler;
use super::limits::no_room_for_variables;
use crate::init::limits;
use crate::ssh::channel::ServerSender;
use crate::ssh::clock;
use crate::ssh::exec::{self, FilesSource, take_variable};

impl ConnectionHandler {
    /// Starts a command and answers the request. Why one cannot be started is written to the channel's standard error,
    /// and the exit status is 255.
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
        let clock = take_variable(&mut request.environment, ENV_CLOCK);
        // A key that may run one command may not set it.
        let clock = clock.filter(|_| self.options.command.is_none());
        if let (Some(who), Some(clock)) = (&self.who, clock)
            && let Some(line) = clock::set(&clock)
        {
            who.say(&line);
        }
        request.isolation = match &self.isolation {
            None => None,
            Some(Ok(isolation)) => Some(isolation.clone()),
            Some(Err(_)) => {
                let why = "no session: this machine cannot isolate it, as it is told to; its log says why";
                refuse(state.sender.clone(), why.to_owned());
                return Ok(());
            }
        };
        let (port, command) = self.forwards.take_files(command, &request.environment);
        // OpenSSH, like cpu, waits for no reply to a variable.
        if state.lacks_variables && self.options.command.is_none() {
            session.channel_success(id)?;
            refuse(state.sender.clone(), no_room_for_variables());
            return Ok(());
        }
        let (port, command) = match &self.options.command {
            Some(forced) => {
                force(&mut request.environment, command);
                (None, forced.as_bytes())
            }
            None => (port, command),
        };
        request
            .environment
            .extend_from_slice(&self.options.environment);
        let parsed = Credentials::take(command).map_err(|error| error.to_string());
        let parsed = parsed.and_then(|(user, command)| match quote::split(command) {
            Ok(argv) => Ok((user, argv)),
            Err(error) => Err(error.to_string()),
        });
        (request.user, request.argv) = match parsed {
            Ok(parsed) => parsed,
            Err(why) => {
                refuse(
                    state.sender.clone(),
                    format!("cannot parse the command: {why}"),
                );
                return Ok(());
            }
        };
        if is_scp(&request.argv) {
            session.channel_success(id)?;
            refuse(state.sender.clone(), no_copying("scp"));
            return Ok(());
        }
        let name = take_variable(&mut request.environment, ENV_FILES);
        request.files = match port {
            Some(port) => vec![(
                CacheMode::default(),
                FilesSource::Port(port, self.mux.clone()),
            )],
            None => self
                .files
                .extract_if(.., |files| files.name == name)
                .map(|files| {
                    (
                        files.cache,
                        FilesSource::Channel(files.receiver, files.sender),
                    )
                })
                .collect(),
        };
        let listed = self
            .roster
            .as_ref()
            .map(|roster| roster.list(&request.argv));
        let Some(who) = &self.who else {
            return Ok(());
        };
        let audit = who.start(&request.argv);
        let started = exec::start(
            request,
            state.receiver.clone(),
            state.sender.clone(),
            session.handle(),
            listed,
            audit,
            &self.sessions,
        );
        match started {
            Ok(running) => {
                state.running = Some(running);
                // What it copies from now on is the session's work.
                limits::stop_preferring();
                session.channel_success(id)?;
            }
            Err(error) => refuse(state.sender.clone(), format!("{error:#}")),
        }
        Ok(())
    }
}

/// Prepares the environment for the command of the key's line. What the client has sent could make it another command:
/// `PATH`, mounts, `LD_PRELOAD`. The command gets the terminal's name, the language, and what the client asked for.
fn force(environment: &mut Vec<(String, String)>, asked: &[u8]) {
    environment.retain(|(name, _)| {
        let is_language = name == "LANG" || name == "LANGUAGE" || name.starts_with("LC_");
        (name == "TERM" || is_language) && name != ENV_FSTAB_LC
    });
    if !asked.is_empty() {
        let asked = String::from_utf8_lossy(asked).replace('\0', "");
        environment.push(("SSH_ORIGINAL_COMMAND".to_owned(), asked));
    }
}

/// Whether this is the command that `scp -O`, and every scp before OpenSSH 9, runs on a server. Nobody types that.
fn is_scp(argv: &[Vec<u8>]) -> bool {
    argv.first().is_some_and(|program| program == b"scp")
        && argv.iter().any(|arg| arg == b"-t" || arg == b"-f")
}

/// Why a program that copies files is refused.
pub(super) fn no_copying(what: &str) -> String {
    format!("there is no {what} here; cpu brings your files along: cpu HOST cp ...")
}

/// Writes why a command is not started, and closes its channel.
pub(super) fn refuse(sender: ServerSender, why: String) {
    tokio::spawn(async move {
        let line = Bytes::from(format!("cpud: {why}\n"));
        let _ = sender.send(Stream::Stderr, line).await;
        let _ = sender.request(|write| write.exit_status(255)).await;
        let _ = sender.request(russh::ChannelWriteHalf::eof).await;
        sender.close().await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forced_command_gets_nothing_that_could_change_it() {
        let variable = |name: &str| (name.to_owned(), "x".to_owned());
        let names = [
            "TERM",
            "PATH",
            "LC_ALL",
            "LD_PRELOAD",
            "CPU_FSTAB",
            ENV_FSTAB_LC,
            "PWD",
            "SHELL",
            "CPU_SUDO",
            "LANG",
        ];
        let mut environment: Vec<_> = names.into_iter().map(variable).collect();
        force(&mut environment, b"'rm' '-r'");
        let kept: Vec<&str> = environment.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(kept, ["TERM", "LC_ALL", "LANG", "SSH_ORIGINAL_COMMAND"]);
        assert_eq!(environment[3].1, "'rm' '-r'");
        force(&mut environment, b"");
        assert_eq!(environment.len(), 3);
    }
}
