//! What ssh_config(5) says of a host: `~/.ssh/config`, then `/etc/ssh/ssh_config`. The first
//! value of each keyword wins, as in ssh; lists of files and variables grow. What is not honoured
//! is collected, to be told with `-d`.

mod file;
mod include;
mod keywords;
mod matching;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::terminal::Tty;
use file::ConfigReader;

/// Which host is asked for, and by whom.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    /// As the user wrote it.
    pub(crate) host: &'a str,
    /// From `user@`, which wins.
    pub(crate) user: Option<&'a str>,
    /// The name of the person here.
    pub(crate) local_user: &'a str,
    pub(crate) home: &'a Path,
}

/// What to do with a host key that nothing is known of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewHost {
    Accept,
    Ask,
    Refuse,
}

/// `StrictHostKeyChecking`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checking {
    pub(crate) new: NewHost,
    /// A key that contradicts what is known is accepted too, with a warning.
    pub(crate) changed_is_accepted: bool,
}

/// `AddressFamily`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressFamily {
    Any,
    Inet,
    Inet6,
}

/// What the files say; what they do not say is `None` or empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) host_name: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) user: Option<String>,
    pub(crate) identity_files: Vec<String>,
    pub(crate) identities_only: Option<bool>,
    /// `none` for no agent, a path, or `SSH_AUTH_SOCK`.
    pub(crate) identity_agent: Option<String>,
    pub(crate) user_known_hosts: Option<Vec<String>>,
    pub(crate) checking: Option<Checking>,
    /// The name in known_hosts files.
    pub(crate) host_key_alias: Option<String>,
    /// Whether names that are added there are hashed.
    pub(crate) hash_known_hosts: Option<bool>,
    /// Zero: no limit.
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) alive_interval: Option<Duration>,
    pub(crate) alive_max: Option<usize>,
    /// `ProxyJump` or `ProxyCommand`, whichever comes first.
    pub(crate) proxy: Option<Proxy>,
    pub(crate) family: Option<AddressFamily>,
    /// `RequestTTY`
    pub(crate) tty: Option<Tty>,
    /// Patterns of names; one that begins with `-` takes names away.
    pub(crate) send_env: Vec<String>,
    pub(crate) set_env: Vec<(String, String)>,
    /// Keywords that have no effect here.
    pub(crate) ignored: BTreeSet<String>,
}

/// A way to the host that is not a connection of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// As `ProxyCommand none` and `ProxyJump none` ask for.
    None,
    /// Hosts between, in ssh's notation.
    Jump(String),
    /// A command of the shell whose input and output are the connection.
    Command(String),
}

/// Read both files.
pub(crate) fn read(query: &Query<'_>) -> Result<Settings> {
    let mut reader = ConfigReader::new(query);
    reader.read(&query.home.join(".ssh/config"), true)?;
    reader.read(Path::new("/etc/ssh/ssh_config"), false)?;
    Ok(reader.settings)
}

impl Settings {
    /// Where to go: `HostName` with its `%h`, or what was asked for.
    pub(crate) fn host(&self, original_host: &str) -> Result<String> {
        match &self.host_name {
            Some(name) => value::expand(name, |letter| {
                (letter == 'h').then(|| original_host.to_owned())
            }),
            None => Ok(original_host.to_owned()),
        }
    }
}

/// What the tokens of file names and commands stand for.
#[derive(Debug)]
pub(crate) struct Tokens<'a> {
    pub(crate) home: &'a Path,
    pub(crate) original_host: &'a str,
    /// `HostKeyAlias`
    pub(crate) alias: Option<&'a str>,
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) user: &'a str,
    pub(crate) local_user: &'a str,
}

impl Tokens<'_> {
    /// Expands `%h` and its like.
    pub(crate) fn expand(&self, text: &str) -> Result<String> {
        value::expand(text, |letter| {
            Some(match letter {
                'd' => self.home.display().to_string(),
                'h' => self.host.to_owned(),
                'n' => self.original_host.to_owned(),
                'k' => self.alias.unwrap_or(self.original_host).to_owned(),
                'p' => self.port.to_string(),
                'r' => self.user.to_owned(),
                'u' => self.local_user.to_owned(),
                'l' => here(),
                'L' => here().split('.').next().unwrap_or_default().to_owned(),
                'i' => nix::unistd::getuid().to_string(),
                _ => return None,
            })
        })
    }

    /// A file's name: `${NAME}` too, and `~/` or `~user/` at its beginning.
    pub(crate) fn path(&self, text: &str) -> Result<PathBuf> {
        let text = value::expand_environment(&self.expand(text)?)?;
        Ok(tilde(&text, self.home))
    }
}

/// The user's, which runs the commands of the configuration.
pub(crate) fn shell() -> String {
    let shell = std::env::var("SHELL").ok();
    let shell = shell.filter(|shell| !shell.is_empty());
    shell.unwrap_or_else(|| "/bin/sh".into())
}

/// This machine's name.
fn here() -> String {
    let names = rustix::system::uname();
    names.nodename().to_string_lossy().into_owned()
}

fn tilde(path: &str, home: &Path) -> PathBuf {
    let Some(rest) = path.strip_prefix('~') else {
        return PathBuf::from(path);
    };
    match rest.split_once('/').unwrap_or((rest, "")) {
        ("", rest) => home.join(rest),
        (name, rest) => match nix::unistd::User::from_name(name) {
            Ok(Some(user)) => user.dir.join(rest),
            _ => PathBuf::from(path),
        },
    }
}
