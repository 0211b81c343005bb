//! The settings of a host: on the command line (`-o`), in `~/.config/cpu/config`, which may have the keywords of cpu itself,
//! in `~/.ssh/config` and in `/etc/ssh/ssh_config` (ssh_config(5)). As in ssh, the first value of a keyword applies; only
//! IdentityFile, CertificateFile and SendEnv accumulate. Keywords without effect are collected, and `-d` lists them.

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
use cpu_client::export::RuleKind;
use cpu_proto::glob;

use crate::terminal::Tty;
use file::ConfigReader;

/// The host whose settings are wanted, and the user.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    /// As on the command line.
    pub(crate) host: &'a str,
    /// From `user@` on the command line, which overrides the configuration.
    pub(crate) user: Option<&'a str>,
    /// The name of the local user.
    pub(crate) local_user: &'a str,
    pub(crate) home: &'a Path,
}

/// What to do with the key of an unknown host.
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
    /// Whether a changed host key is accepted, with a warning.
    pub(crate) changed_is_accepted: bool,
}

/// `AddressFamily`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressFamily {
    Any,
    Inet,
    Inet6,
}

/// The settings; `None` or empty if the files do not have the keyword.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) host_name: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) user: Option<String>,
    pub(crate) identity_files: Vec<String>,
    /// IdentityFile of all lines, whether they apply to the host or not.
    pub(crate) every_identity_file: Vec<String>,
    /// `CertificateFile`
    pub(crate) certificate_files: Vec<String>,
    pub(crate) identities_only: Option<bool>,
    /// `none`, a path, or `SSH_AUTH_SOCK`.
    pub(crate) identity_agent: Option<String>,
    /// `ForwardAgent`: `yes`, `no`, a path, or the name of a variable after a `$`.
    pub(crate) forward_agent: Option<String>,
    pub(crate) user_known_hosts: Option<Vec<String>>,
    pub(crate) checking: Option<Checking>,
    /// `HostKeyAlias`: the name in known_hosts files.
    pub(crate) host_key_alias: Option<String>,
    /// `HashKnownHosts`: whether names are hashed when they are added.
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
    /// Patterns of names. One that begins with `-` removes names.
    pub(crate) send_env: Vec<String>,
    pub(crate) set_env: Vec<(String, String)>,
    /// `Hide` and `Show`: paths that the machine cannot open, and exceptions.
    pub(crate) withheld: Vec<(RuleKind, String)>,
    /// `Env`: as `-env`.
    pub(crate) env: Vec<String>,
    /// `ReadOnly`
    pub(crate) read_only: Option<bool>,
    /// `Only`: nothing but the namespace and the working directory is served.
    pub(crate) only: Option<bool>,
    /// Keywords without effect in cpu.
    pub(crate) ignored: BTreeSet<String>,
}

/// `ProxyJump` or `ProxyCommand`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// `none`.
    None,
    /// Jump hosts, in ssh's notation.
    Jump(String),
    /// A shell command whose standard input and output are the connection.
    Command(String),
}

/// Reads the files, after the `settings` of the command line.
pub(crate) fn read(query: &Query<'_>, settings: &[String]) -> Result<Settings> {
    let mut reader = ConfigReader::new(query);
    for setting in settings {
        reader.setting(setting)?;
    }
    reader.read(&query.home.join(".config/cpu/config"), true)?;
    reader.read(&query.home.join(".ssh/config"), true)?;
    reader.read(Path::new("/etc/ssh/ssh_config"), false)?;
    Ok(reader.settings)
}

impl Settings {
    /// The host to connect to: `HostName` with `%h` expanded, else the one of the command line.
    pub(crate) fn host(&self, original_host: &str) -> Result<String> {
        match &self.host_name {
            Some(name) => value::expand(name, |letter| {
                (letter == 'h').then(|| original_host.to_owned())
            }),
            None => Ok(original_host.to_owned()),
        }
    }
}

/// The values of the tokens (TOKENS in ssh_config(5)).
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
    /// Expands `%h` and the other tokens.
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
                'l' => local_host_name(),
                'L' => local_host_name()
                    .split('.')
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
                'i' => nix::unistd::getuid().to_string(),
                _ => return None,
            })
        })
    }

    /// Expands a file name: tokens, `${NAME}`, and a leading `~/` or `~user/`.
    pub(crate) fn path(&self, text: &str) -> Result<PathBuf> {
        let text = value::expand_environment(&self.expand(text)?)?;
        Ok(tilde(&text, self.home))
    }

    /// Expands a file name that may be about any host: a pattern for its path, in which what differs from host to host is
    /// `*`. None if it cannot be read, so that ssh finds no such file either.
    pub(crate) fn pattern(&self, text: &str) -> Option<String> {
        let text = value::expand(&glob::quote(text), |letter| match letter {
            'h' | 'n' | 'k' | 'p' | 'r' | 'j' | 'C' | 'H' | 'K' => Some("*".to_owned()),
            letter => Some(glob::quote(&self.expand(&format!("%{letter}")).ok()?)),
        });
        let text = value::expand_environment(&text.ok()?).ok()?;
        let rest = text.strip_prefix("~/");
        Some(match rest {
            Some(rest) => format!("{}/{rest}", glob::quote(&self.home.to_string_lossy())),
            None => tilde(&text, self.home).to_string_lossy().into_owned(),
        })
    }
}

/// The user's shell, which runs the commands of the configuration.
pub(crate) fn shell() -> String {
    let shell = std::env::var("SHELL").ok();
    let shell = shell.filter(|shell| !shell.is_empty());
    shell.unwrap_or_else(|| "/bin/sh".into())
}

/// This machine's host name.
fn local_host_name() -> String {
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
