//! The server's flags: one table, used to parse them and to make the help text and the manual page.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::listen_addr::ListenAddr;
use crate::session::SessionLimits;
use crate::sys;

/// The settings of the server and of its connections.
#[derive(Clone, Debug)]
pub(crate) struct ServerOptions {
    /// Where to listen.
    pub(crate) listen: ListenAddr,
    /// Public keys that may log in, `authorized_keys` format.
    pub(crate) public_keys: PathBuf,
    /// The machine's private host key, OpenSSH format.
    pub(crate) host_key: PathBuf,
    /// Grant forwarding of TCP ports on loopback (ssh -L, -R).
    pub(crate) forward: bool,
    /// Make the machine known on its links.
    pub(crate) dnssd: bool,
    /// Isolate the sessions of each key from those of all others, and from the machine.
    pub(crate) isolate: bool,
    /// Exchange keys by ML-KEM only.
    pub(crate) post_quantum: bool,
    /// Refuse key files that others may read or change. If it is not given, a server does unless init has started it.
    pub(crate) strict_modes: Option<bool>,
    /// How long a silent peer is left alone; zero means for ever.
    pub(crate) alive: Duration,
    /// The most that a session may take.
    pub(crate) session_limits: SessionLimits,
    /// How the client's files are mounted.
    pub(crate) mount: MountKind,
    /// How logins, sessions and refusals are reported.
    pub(crate) log: LogFormat,
    /// Report every step on standard error.
    pub(crate) debug: bool,
}

/// How the client's files are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// By the kernel's 9P client, if it has one.
    Auto,
    /// By the kernel's 9P client.
    V9fs,
    /// By FUSE.
    Fuse,
}

impl MountKind {
    /// Whether it is FUSE here.
    pub(crate) fn is_fuse(self) -> bool {
        match self {
            Self::Auto => {
                // Asked once a process: where there is no 9P, the kernel looks for a module each time.
                static IS_FUSE: OnceLock<bool> = OnceLock::new();
                *IS_FUSE
                    .get_or_init(|| !sys::has_file_system(c"9p") && sys::has_file_system(c"fuse"))
            }
            Self::V9fs => false,
            Self::Fuse => true,
        }
    }
}

impl fmt::Display for MountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::V9fs => "9p",
            Self::Fuse => "fuse",
        })
    }
}

impl FromStr for MountKind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut all = [Self::Auto, Self::V9fs, Self::Fuse].into_iter();
        let named = all.find(|kind| kind.to_string() == text);
        named.with_context(|| format!("-mount={text}: write auto, 9p or fuse"))
    }
}

/// How logins, sessions and refusals are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// As lines among the others.
    Text,
    /// Each as an object of JSON, on standard error or on this inherited descriptor.
    Json(Option<RawFd>),
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Json(None) => f.write_str("json"),
            Self::Json(Some(descriptor)) => write!(f, "json:{descriptor}"),
        }
    }
}

impl FromStr for LogFormat {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "text" => return Ok(Self::Text),
            "json" => return Ok(Self::Json(None)),
            _ => {}
        }
        let descriptor = text
            .strip_prefix("json:")
            .and_then(|text| text.parse().ok());
        match descriptor {
            // Those below are used otherwise.
            Some(descriptor @ 3..) => Ok(Self::Json(Some(descriptor))),
            _ => bail!("-log={text}: write text, json, or json: and a descriptor from 3 on"),
        }
    }
}

/// A flag: its name, the name of its value (empty if it takes none), and what it is for.
type Flag = (&'static str, &'static str, &'static str);

const FLAGS: &[Flag] = &[
    ("net", "KIND", "tcp, unix or vsock (tcp)"),
    (
        "port",
        "PORT",
        "port to listen on (17010), or address:port, or the path of a unix socket",
    ),
    (
        "pk",
        "FILE",
        "public keys that may log in, authorized_keys format (/key.pub)",
    ),
    ("hk", "FILE", "private host key, OpenSSH format (/host_key)"),
    (
        "forward",
        "",
        "allow port forwarding (ssh -L, -R) between loopback addresses",
    ),
    (
        "dnssd",
        "",
        "let clients on the same network find this machine, by multicast DNS",
    ),
    (
        "isolate",
        "",
        "let each key see its own sessions only, and change nothing of the machine",
    ),
    (
        "pq",
        "",
        "exchange keys by ML-KEM only, which u-root's cpu and ssh before 9.9 lack",
    ),
    (
        "strictmodes",
        "",
        "refuse key files that others may read or change (true, but not for init)",
    ),
    (
        "alive",
        "SEC",
        "probe a client that has been silent for SEC seconds; 0: never (15)",
    ),
    (
        "session-pids",
        "N",
        "the most processes of a session (a quarter of the kernel's)",
    ),
    (
        "session-memory",
        "SIZE",
        "the most memory of a session: bytes, or with K, M or G (all)",
    ),
    (
        "mount",
        "HOW",
        "mount the clients' files by 9p or fuse (auto: fuse where there is no 9p)",
    ),
    (
        "log",
        "FORMAT",
        "report logins and sessions as text, json, or json:FD (text)",
    ),
    ("d", "", "log each step on standard error"),
    ("V", "", "print the version"),
    ("h", "", "print this help"),
];

const SYNOPSIS: &str =
    "cpud [flags]          serve\ncpud -init [flags]    be the init of a machine, as PID 1 is";

/// What `-h` prints.
pub(crate) fn help() -> String {
    let mut text = format!("usage: {}\n\n", SYNOPSIS.replace('\n', "\n       "));
    for (name, value, purpose) in FLAGS {
        let flag = format!("-{name} {value}");
        let _ = writeln!(text, "  {flag:<12} {purpose}");
    }
    text
}

/// Parses the server's flags, which begin with one dash or two.
pub(crate) fn parse(args: &[String]) -> Result<ServerOptions> {
    let mut options = ServerOptions {
        listen: ListenAddr::Tcp(None, cpu_proto::DEFAULT_PORT),
        public_keys: PathBuf::from("/key.pub"),
        host_key: PathBuf::from("/host_key"),
        forward: false,
        dnssd: false,
        isolate: false,
        post_quantum: false,
        strict_modes: None,
        alive: cpu_ssh::keepalive::INTERVAL,
        session_limits: SessionLimits::default(),
        mount: MountKind::Auto,
        log: LogFormat::Text,
        debug: false,
    };
    let (mut network, mut port) = (None, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (name, mut inline) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let mut value = || {
            inline
                .take()
                .or_else(|| args.next().cloned())
                .with_context(|| format!("{name} needs a value (see cpud -h)"))
        };
        match name.strip_prefix("--").or(name.strip_prefix('-')) {
            Some("net") => network = Some(value()?),
            // `-sp` is what u-root's cpud calls it.
            Some("port" | "sp") => port = Some(value()?),
            Some("pk") => options.public_keys = value()?.into(),
            Some("hk") => options.host_key = value()?.into(),
            Some("forward") => options.forward = boolean(name, inline.as_deref())?,
            Some("dnssd") => options.dnssd = boolean(name, inline.as_deref())?,
            Some("isolate") => options.isolate = boolean(name, inline.as_deref())?,
            Some("pq") => options.post_quantum = boolean(name, inline.as_deref())?,
            Some("strictmodes") => {
                options.strict_modes = Some(boolean(name, inline.as_deref())?);
            }
            Some("alive") => {
                let seconds = value()?.parse::<u32>();
                let seconds = seconds.context("-alive needs a number of seconds")?;
                options.alive = Duration::from_secs(seconds.into());
            }
            Some("session-pids") => {
                let number = value()?.parse::<u64>().ok().filter(|&number| number > 0);
                let number = number.context("-session-pids needs a number of processes")?;
                options.session_limits.processes = Some(number);
            }
            Some("session-memory") => {
                let size = size(&value()?);
                let size = size.context("-session-memory needs a size, such as 512M")?;
                options.session_limits.memory = Some(size);
            }
            Some("mount") => options.mount = value()?.parse()?,
            Some("log") => options.log = value()?.parse()?,
            Some("d") => options.debug = boolean(name, inline.as_deref())?,
            Some(what @ ("h" | "V" | "help" | "version" | "init")) => {
                bail!("-{what} must be the only argument: cpud -{what}")
            }
            _ => match nearest(name.trim_start_matches('-')) {
                Some(flag) => bail!("unknown argument {arg}; did you mean -{flag}?"),
                None => bail!("unknown argument {arg} (see cpud -h)"),
            },
        }
    }
    options.listen = ListenAddr::parse(network.as_deref(), port.as_deref())?;
    match options.listen {
        ListenAddr::Tcp(only, _) if !only.is_some_and(|only| only.is_loopback()) => {}
        _ if options.dnssd => bail!(
            "-dnssd needs a TCP port that others can reach, and cpud is to listen on {}",
            options.listen
        ),
        _ => {}
    }
    Ok(options)
}

/// The same, as init has them.
pub(crate) fn parse_os(args: &[OsString]) -> Result<ServerOptions> {
    let args = args.iter().map(|arg| arg.to_string_lossy().into_owned());
    parse(&args.collect::<Vec<_>>())
}

/// A flag that is on or off: without a value it is on, else the value is one that Go's flag package accepts.
fn boolean(name: &str, value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => bail!("{name}={other}: write true or false"),
    }
}

/// A number of bytes, or with K, M or G of 2^10, 2^20 or 2^30 bytes. Not zero.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'k', 'm', 'g']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return None,
    };
    let size = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (size > 0).then_some(size)
}

/// The flag whose name is nearest to this one, unless more than half of the letters differ.
fn nearest(name: &str) -> Option<&'static str> {
    let names = FLAGS.iter().map(|(flag, ..)| (distance(name, flag), *flag));
    let (changes, flag) = names.min()?;
    (2 * changes < name.len().max(flag.len())).then_some(flag)
}

/// How many letters must be inserted, deleted or changed (Levenshtein distance).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.bytes().enumerate() {
            let changed = corner + usize::from(a != b);
            corner = row[j + 1];
            row[j + 1] = changed.min(corner + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

/// The manual page, described as those of the other programs are.
#[cfg(feature = "docs")]
pub(crate) fn page() -> manual::Page {
    let flags = FLAGS.iter().map(|&(name, value, purpose)| {
        let flag = clap::Arg::new(name).long(name).help(purpose);
        if value.is_empty() {
            flag.action(clap::ArgAction::SetTrue)
        } else {
            flag.value_name(value)
        }
    });
    manual::Page {
        command: clap::Command::new("cpud")
            .about("The server of cpu, and the init of machines that have no other")
            .version(env!("CARGO_PKG_VERSION"))
            .disable_help_flag(true)
            .disable_version_flag(true)
            .args(flags),
        section: "8",
        synopsis: SYNOPSIS,
        rest: include_str!("../../docs/man/cpud.roff"),
        one_dash: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_the_table_is_read_and_no_other() {
        for (name, value, _) in FLAGS.iter().filter(|(name, ..)| !["V", "h"].contains(name)) {
            let args = match (*name, *value) {
                ("net", _) => vec!["-net=tcp".to_owned()],
                ("log", _) => vec!["-log=json".to_owned()],
                ("mount", _) => vec!["-mount=fuse".to_owned()],
                (name, "") => vec![format!("-{name}")],
                (name, _) => vec![format!("--{name}"), "1".to_owned()],
            };
            assert!(parse(&args).is_ok(), "{args:?}");
        }
        assert!(parse(&["-sp".to_owned(), "17011".to_owned()]).is_ok());
        let refusal = |arg: &str| parse(&[arg.to_owned()]).unwrap_err().to_string();
        assert_eq!(refusal("-x"), "unknown argument -x (see cpud -h)");
        assert_eq!(
            refusal("--prt=1"),
            "unknown argument --prt=1; did you mean -port?"
        );
        assert_eq!(
            refusal("-forwards"),
            "unknown argument -forwards; did you mean -forward?"
        );
        assert!(parse(&["-pk".to_owned()]).is_err());
        let switched = |arg: &str| parse(&[arg.to_owned()]).unwrap();
        assert!(switched("-forward=true").forward && !switched("-forward=false").forward);
        assert!(switched("--pq").post_quantum && !switched("-pq=0").post_quantum);
        let memory = |size: &str| {
            let options = parse(&[format!("-session-memory={size}")]).ok()?;
            options.session_limits.memory
        };
        assert_eq!(memory("512M"), Some(512 << 20));
        assert_eq!(memory("1g"), Some(1 << 30));
        assert_eq!(memory("4096"), Some(4096));
        for wrong in [
            "",
            "M",
            "0",
            "0K",
            "1T",
            "1MM",
            "-1",
            "1.5G",
            "99999999999G",
        ] {
            assert_eq!(memory(wrong), None, "{wrong}");
        }
        assert_eq!(
            refusal("-session-pids=0"),
            "-session-pids needs a number of processes"
        );
        for format in ["text", "json", "json:3"] {
            let log = switched(&format!("-log={format}")).log;
            assert_eq!(log.to_string(), format);
        }
        for bad in ["xml", "json:", "json:2", "json:-1", "json:x", ""] {
            assert!(refusal(&format!("-log={bad}")).contains("write text"));
        }
        for unreachable in ["-port=127.0.0.1:1", "-net=vsock"] {
            let with = |flag: &str| parse(&[unreachable.to_owned(), flag.to_owned()]);
            assert!(with("-dnssd").is_err() && with("-dnssd=false").is_ok());
        }
        assert_eq!(refusal("-d=maybe"), "-d=maybe: write true or false");
        assert!(refusal("-init").contains("only argument"));
        assert!(help().lines().all(|line| line.len() <= 90), "{}", help());
    }
}
