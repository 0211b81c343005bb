//! Where to connect and as whom: from the command line, else ssh's configuration, else the defaults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cpu_client::export::RuleKind;
use cpu_proto::DEFAULT_PORT;
use cpu_ssh::keepalive;
use tracing::debug;

use super::config::{AddressFamily, Checking, NewHost, Proxy, Query, Settings, Tokens, shell};
use super::destination::split;
use super::endpoint::Endpoint;
use super::hostkeys::{HostId, HostKeys};
use super::login::{self, Identities};
use crate::terminal::{self, Tty};
use crate::withheld;

/// The longest time from the first packet to the end of the key exchange. If packets are lost, this is reported within
/// 15 seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(13);

/// The kind of socket on which the server listens (`-net`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketKind {
    Tcp,
    Unix,
    Vsock,
}

/// What the command line says about the connection.
#[derive(Debug)]
pub(crate) struct ConnectOptions<'a> {
    pub(crate) socket: SocketKind,
    /// `[user@]host` or `[user@][host]:port`.
    pub(crate) host: &'a str,
    /// `-sp`: a port, or the path of a unix socket.
    pub(crate) port: Option<&'a str>,
    /// Where the host has been found, if it was not named.
    pub(crate) found: Option<&'a [SocketAddr]>,
    pub(crate) keys: &'a [PathBuf],
    pub(crate) host_key: Option<&'a Path>,
    pub(crate) home: &'a Path,
    pub(crate) local_user: &'a str,
    /// `-A`, if given.
    pub(crate) forward_agent: Option<bool>,
}

/// Everything that is known before the first packet.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) endpoint: Endpoint,
    pub(crate) user: String,
    pub(crate) identities: Identities,
    /// The private keys that the configuration has for whatever host, as paths with patterns.
    pub(crate) other_keys: Vec<String>,
    pub(crate) host_keys: HostKeys,
    /// `None`: no limit but the system's own.
    pub(crate) connect_timeout: Option<Duration>,
    /// `None`: a silent server is not probed.
    pub(crate) alive_interval: Option<Duration>,
    pub(crate) alive_max: usize,
    /// `SendEnv`: patterns for the names of variables that are sent to an sshd.
    pub(crate) send_env: Vec<String>,
    pub(crate) set_env: Vec<(String, String)>,
    /// `RequestTTY`
    pub(crate) tty: Option<Tty>,
    /// The socket of the agent that is forwarded.
    pub(crate) forward_agent: Option<PathBuf>,
    /// `Hide` and `Show`
    pub(crate) withheld: Vec<(RuleKind, String)>,
    /// `Env`
    pub(crate) env: Vec<String>,
    /// `ReadOnly`
    pub(crate) read_only: bool,
    /// `Only`
    pub(crate) only: bool,
}

fn port(text: &str) -> Result<u16> {
    let port = text.parse().ok().filter(|&port| port != 0);
    port.with_context(|| format!("{text:?} is not a TCP port: write a number from 1 to 65535"))
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

impl Target {
    /// `read` returns the settings of the configuration files for a host.
    pub(crate) fn new(
        options: &ConnectOptions<'_>,
        read: impl FnOnce(&Query<'_>) -> Result<Settings>,
    ) -> Result<Self> {
        let (user, original_host, inline_port) = split(options.host)?;
        let settings = read(&Query {
            host: original_host,
            user,
            local_user: options.local_user,
            home: options.home,
        })?;
        if !settings.ignored.is_empty() {
            let ignored: Vec<_> = settings.ignored.iter().map(String::as_str).collect();
            debug!("ignored in the ssh configuration: {}", ignored.join(", "));
        }
        let host = match options.found {
            // It keeps the name whose key is checked.
            Some(_) => original_host.to_owned(),
            None => settings.host(original_host)?,
        };
        let user = user.map(str::to_owned).or_else(|| settings.user.clone());
        let user = user.unwrap_or_else(|| options.local_user.to_owned());
        let tcp_port = match (options.socket, options.port.or(inline_port)) {
            (SocketKind::Tcp, Some(text)) => port(text).with_context(|| match options.port {
                Some(_) => String::from("-sp"),
                None => format!("{original_host:?}"),
            })?,
            _ => match options.found.and_then(<[_]>::first) {
                Some(address) => address.port(),
                None => settings.port.unwrap_or(DEFAULT_PORT),
            },
        };
        let tokens = Tokens {
            home: options.home,
            original_host,
            alias: settings.host_key_alias.as_deref(),
            host: &host,
            port: tcp_port,
            user: &user,
            local_user: options.local_user,
        };
        let endpoint = match options.socket {
            // Where a machine has been found, no proxy is needed.
            SocketKind::Tcp => match options.found {
                Some(found) => Endpoint::Found {
                    host: host.clone(),
                    addresses: found.iter().map(|at| with_port(*at, tcp_port)).collect(),
                    family: settings.family.unwrap_or(AddressFamily::Any),
                },
                None => tcp(&host, tcp_port, &settings, &tokens)?,
            },
            _ if options.found.is_some() => bail!("machines are found by TCP only: leave out -net"),
            SocketKind::Unix => Endpoint::Unix(
                options
                    .port
                    .map(PathBuf::from)
                    .context("-net unix needs the path of cpud's socket: -sp PATH")?,
            ),
            SocketKind::Vsock => vsock(&host, options.port)?,
        };
        let identities = identities(options, &settings, &tokens)?;
        let every = settings.every_identity_file.iter();
        let every = every.filter(|file| *file != "none");
        let other_keys = every.filter_map(|file| tokens.pattern(file)).collect();
        let host_keys = host_keys(options, &settings, &tokens, &identities)?;
        let forward_agent = forward_agent(options, &settings, &tokens, &identities)?;
        let interval = settings.alive_interval.unwrap_or(keepalive::INTERVAL);
        let connect_timeout = match (settings.connect_timeout, &endpoint) {
            (Some(limit), _) => Some(limit).filter(|limit| !limit.is_zero()),
            // A proxy may ask a person something, who may take any time to answer.
            (None, Endpoint::Command { .. }) if terminal::can_ask() => None,
            (None, _) => Some(CONNECT_TIMEOUT),
        };
        Ok(Self {
            endpoint,
            user,
            identities,
            other_keys,
            host_keys,
            connect_timeout,
            alive_interval: Some(interval).filter(|interval| !interval.is_zero()),
            alive_max: settings.alive_max.unwrap_or(keepalive::MAX_UNANSWERED),
            send_env: settings.send_env,
            set_env: settings.set_env,
            tty: settings.tty,
            forward_agent,
            withheld: settings.withheld,
            env: settings.env,
            read_only: settings.read_only.unwrap_or(false),
            only: settings.only.unwrap_or(false),
        })
    }

    /// Whether `SendEnv` names a variable. A later `-pattern` removes names.
    pub(crate) fn sends(&self, name: &str) -> bool {
        withheld::includes(self.send_env.iter().map(String::as_str), name).unwrap_or(false)
    }
}

/// Directly, or through the proxy that the configuration names. ssh(1) connects to the hosts of a `ProxyJump`: it can log
/// in with passwords, certificates and second factors.
fn tcp(host: &str, port: u16, settings: &Settings, tokens: &Tokens<'_>) -> Result<Endpoint> {
    match &settings.proxy {
        None | Some(Proxy::None) => Ok(Endpoint::Tcp {
            host: host.to_owned(),
            port,
            family: settings.family.unwrap_or(AddressFamily::Any),
        }),
        Some(Proxy::Command(command)) => {
            let command = tokens.expand(command)?;
            Ok(Endpoint::Command {
                display: format!("{host} port {port} through {command:?}"),
                argv: [shell(), "-c".into(), format!("exec {command}")].to_vec(),
            })
        }
        Some(Proxy::Jump(hosts)) => {
            let hosts = &tokens.expand(hosts)?;
            let (before, last) = match hosts.rsplit_once(',') {
                Some((before, last)) => (Some(before), last),
                None => (None, hosts.as_str()),
            };
            let mut argv = vec![
                "ssh".to_owned(),
                "-W".to_owned(),
                format!("[{host}]:{port}"),
            ];
            if let Some(before) = before {
                argv.extend(["-J".to_owned(), before.to_owned()]);
            }
            let is_uri = last.starts_with("ssh://");
            argv.push(if is_uri {
                last.to_owned()
            } else {
                format!("ssh://{last}")
            });
            Ok(Endpoint::Command {
                display: format!("{host} port {port} through {hosts}"),
                argv,
            })
        }
    }
}

/// A context identifier: a number, or a name as in vsock(7).
fn vsock(host: &str, port: Option<&str>) -> Result<Endpoint> {
    let cid = match host {
        "hypervisor" => 0,
        "local" | "localhost" => 1,
        "host" => 2,
        number => number.parse().ok().with_context(|| {
            format!("{number:?} is not a vsock address: write a number, local, or host")
        })?,
    };
    let port = match port {
        Some(text) => text
            .parse()
            .ok()
            .with_context(|| format!("-sp: {text:?} is not a vsock port: write a number"))?,
        None => u32::from(DEFAULT_PORT),
    };
    Ok(Endpoint::Vsock { cid, port })
}

fn identities(
    options: &ConnectOptions<'_>,
    settings: &Settings,
    tokens: &Tokens<'_>,
) -> Result<Identities> {
    let files = settings
        .identity_files
        .iter()
        .filter(|file| *file != "none");
    let configured: Vec<PathBuf> = files.map(|file| tokens.path(file)).collect::<Result<_>>()?;
    let certificates = settings.certificate_files.iter();
    let certificates = certificates.filter(|file| *file != "none");
    let agent = match settings.identity_agent.as_deref() {
        Some("none") => None,
        None | Some("SSH_AUTH_SOCK") => std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from),
        Some(path) => socket(path, tokens)?,
    };
    Ok(Identities {
        optional: match (options.keys, &settings.identity_files[..]) {
            ([], []) => login::default_files(options.home),
            // As in ssh, a configured file need not exist.
            _ => configured,
        },
        named: options.keys.to_vec(),
        certificates: certificates
            .map(|file| tokens.path(file))
            .collect::<Result<_>>()?,
        agent: agent.filter(|path| !path.as_os_str().is_empty()),
        only: settings.identities_only.unwrap_or(false),
    })
}

/// The path of an agent's socket: `$` and the name of a variable that has it, or the path itself.
fn socket(text: &str, tokens: &Tokens<'_>) -> Result<Option<PathBuf>> {
    Ok(match text.strip_prefix('$') {
        Some(name) if !name.starts_with('{') => std::env::var_os(name).map(PathBuf::from),
        _ => Some(tokens.path(text)?),
    })
}

/// The socket of the agent that is forwarded: that of the login, or the one that `ForwardAgent` names.
fn forward_agent(
    options: &ConnectOptions<'_>,
    settings: &Settings,
    tokens: &Tokens<'_>,
    identities: &Identities,
) -> Result<Option<PathBuf>> {
    let socket = match (options.forward_agent, settings.forward_agent.as_deref()) {
        (Some(false), _) | (None, None | Some("no" | "false")) => return Ok(None),
        (_, None | Some("no" | "false" | "yes" | "true")) => identities.agent.clone(),
        (_, Some(path)) => socket(path, tokens)?,
    };
    if socket.is_none() && options.forward_agent == Some(true) {
        warn!("there is no agent to forward: SSH_AUTH_SOCK is not set");
    }
    Ok(socket)
}

fn host_keys(
    options: &ConnectOptions<'_>,
    settings: &Settings,
    tokens: &Tokens<'_>,
    identities: &Identities,
) -> Result<HostKeys> {
    let name = HostId {
        host: tokens.host.to_owned(),
        port: tokens.port,
        alias: settings.host_key_alias.clone(),
    };
    let files = || match &settings.user_known_hosts {
        Some(files) => files
            .iter()
            .filter(|file| *file != "none")
            .map(|file| tokens.path(file))
            .collect::<Result<Vec<_>>>(),
        None => Ok(["known_hosts", "known_hosts2"]
            .map(|name| options.home.join(".ssh").join(name))
            .to_vec()),
    };
    if let Some(file) = options.host_key {
        return HostKeys::pinned(name, file, None);
    }
    let keys = identities.named.iter().chain(&identities.optional);
    let mut pins = keys.map(|key| PathBuf::from(format!("{}.hostkey", key.display())));
    if let Some(file) = pins.find(|pin| pin.exists()) {
        let was_named = !identities.named.is_empty() || !settings.identity_files.is_empty();
        let others = if was_named { None } else { Some(files()?) };
        return HostKeys::pinned(name, &file, others);
    }
    let ask = Checking {
        new: NewHost::Ask,
        changed_is_accepted: false,
    };
    let checking = match settings.checking {
        // Anybody can answer with a name that is new, so nobody becomes known by that alone.
        Some(checking) if options.found.is_some() && checking.new == NewHost::Accept => ask,
        checking => checking.unwrap_or(ask),
    };
    let hashed = settings.hash_known_hosts.unwrap_or(false);
    let mut keys = HostKeys::known(name, files()?, checking, hashed);
    keys.found = options.found.is_some();
    Ok(keys)
}

#[cfg(test)]
mod tests;
