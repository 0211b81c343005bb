//! The command line: `cpu [flags] host [flags] [command args...]`.
//!
//! Flags are written as Go programs write them (`-key x`, `-key=x`), with one dash or two; the
//! one table below is clap's, and this module only brings the words into the form it reads.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser};
use cpu_proto::{Cache, MAX_MSIZE, Wait};

use crate::ssh::Network;
use crate::terminal::Tty;
use crate::user::UserFlag;
use crate::visible;

/// Log in to a machine and run a command there with this machine's files.
///
/// The help has a line for each flag; more is in docs/man/cpu.roff.
#[derive(Debug, Parser)]
#[command(
    name = "cpu",
    version,
    long_about = None,
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true
)]
pub(crate) struct Flags {
    /// private key, may be repeated (~/.ssh/cpu_rsa, ssh's, agent's)
    #[arg(long, value_name = "FILE", action = clap::ArgAction::Append, help_heading = CONNECTION)]
    pub(crate) key: Vec<PathBuf>,

    /// public host keys (KEY.hostkey if it exists, else known_hosts)
    #[arg(long, value_name = "FILE", help_heading = CONNECTION)]
    pub(crate) hk: Option<PathBuf>,

    /// port of cpud (17010), or the path of its unix socket
    #[arg(long, value_name = "PORT", help_heading = CONNECTION)]
    pub(crate) sp: Option<String>,

    /// tcp, unix or vsock (tcp)
    #[arg(long, value_name = "KIND", default_value = "tcp", value_parser = network,
          hide_default_value = true, help_heading = CONNECTION)]
    pub(crate) net: Network,

    /// /dir:/there=/here to show there ($CPU_NAMESPACE, else usual)
    #[arg(long, value_name = "LIST", help_heading = FILES)]
    pub(crate) namespace: Option<String>,

    /// more to mount there, as in fstab(5) ($CPU_FSTAB)
    #[arg(long, value_name = "FILE", help_heading = FILES)]
    pub(crate) fstab: Option<PathBuf>,

    /// directory whose tree is served as / (/)
    #[arg(long, value_name = "DIR", default_value = "/", hide_default_value = true,
          help_heading = FILES)]
    pub(crate) root: PathBuf,

    /// false: serve no files, like plain ssh (true)
    #[arg(long = "9p", value_name = "BOOL", default_value = "true", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = FILES)]
    pub(crate) ninep: GoBool,

    /// none, mmap or loose: what is kept of files there (mmap)
    #[arg(long, value_name = "MODE", help_heading = FILES)]
    pub(crate) cache: Option<Cache>,

    /// largest 9P message, in bytes (1048576)
    #[arg(long, value_name = "BYTES", default_value_t = MAX_MSIZE, hide_default_value = true,
          value_parser = clap::value_parser!(u32).range(4096..=i64::from(MAX_MSIZE)),
          help_heading = FILES)]
    pub(crate) msize: u32,

    /// root or me: who the command is there (root)
    #[arg(long, value_name = "USER", default_value = "root", hide_default_value = true,
          help_heading = SESSION)]
    pub(crate) user: UserFlag,

    /// a terminal there also for a command; -tt: in any case
    #[arg(long = "t", action = clap::ArgAction::Count, help_heading = SESSION)]
    pub(crate) terminal: u8,

    /// no terminal there
    #[arg(long = "T", value_name = "BOOL", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = SESSION)]
    pub(crate) no_terminal: GoBool,

    /// no input: the command reads an empty one
    #[arg(long = "n", value_name = "BOOL", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = SESSION)]
    pub(crate) no_input: GoBool,

    /// end the session with its command, and kill what that left
    #[arg(long = "nowait", value_name = "BOOL", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = SESSION)]
    pub(crate) no_wait: GoBool,

    /// no warnings, and no word of what the session waits for
    #[arg(long = "q", value_name = "BOOL", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = SESSION)]
    pub(crate) quiet: GoBool,

    /// say what cpu does on standard error
    #[arg(long = "d", value_name = "BOOL", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = SESSION)]
    pub(crate) debug: GoBool,

    /// print requests for files; open,read: some; ./FILE: to it
    #[arg(long, value_name = "WHAT", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = SESSION)]
    pub(crate) dbg9p: visible::Wish,

    /// at the end, print a table of the requests for files
    #[arg(long, value_name = "BOOL", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = SESSION)]
    pub(crate) stats: GoBool,

    /// print the version
    #[arg(long = "V", action = clap::ArgAction::Version, help_heading = SESSION)]
    version: Option<bool>,

    /// print this help
    #[arg(long = "h", action = clap::ArgAction::HelpShort, help_heading = SESSION)]
    help: Option<bool>,

    /// The machine: `[user@]host`, or `[user@][host]:port`
    #[arg(hide = true)]
    pub(crate) host: String,

    /// What to run there
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<OsString>,
}

const CONNECTION: &str = "connection";
const FILES: &str = "files";
const SESSION: &str = "session";

const SYNOPSIS: &str = "cpu [flags] [user@]host [flags] [command args...]";

/// What `-h` prints: all flags on one screen of 24 lines and 80 columns.
pub(crate) fn help() -> String {
    let mut text = format!("usage: {SYNOPSIS}\n");
    for arg in Flags::command()
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
    {
        let name = arg.get_long().unwrap_or_default();
        let value = match arg.get_value_names() {
            Some([value]) if value == "BOOL" && name.len() < 2 => String::new(),
            Some([value]) if arg.is_require_equals_set() => format!("={value}"),
            Some([value]) if arg.get_action().takes_values() => format!(" {value}"),
            _ => String::new(),
        };
        let purpose = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let flag = format!("-{name}{value}");
        let _ = writeln!(text, "  {flag:<15} {purpose}");
    }
    text.push_str("One dash or two, -x=v or -x v. No command means a shell. More in cpu(1).\n");
    text
}

/// What people type who know ssh or u-root's cpu, and what to do instead.
const ELSEWHERE: [(&str, &str); 12] = [
    ("l", "write user@host"),
    ("o", "write it into ~/.ssh/config, as ssh_config(5) says"),
    ("J", "write ProxyJump into ~/.ssh/config"),
    ("F", "cpu reads ~/.ssh/config and /etc/ssh/ssh_config only"),
    ("4", "write AddressFamily inet into ~/.ssh/config"),
    ("6", "write AddressFamily inet6 into ~/.ssh/config"),
    (
        "L",
        "cpu forwards no ports; ssh -L does, to a cpud -forward",
    ),
    (
        "R",
        "cpu forwards no ports; ssh -R does, to a cpud -forward",
    ),
    ("A", "cpu forwards no agent"),
    ("X", "cpu forwards no displays"),
    ("ssh", "for plain ssh use -9p=false"),
    ("timeout9p", "cpu waits as long as the connection lives"),
];

/// What is wrong with the words, in one line.
pub(crate) fn complaint(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim);
    let lines =
        lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("tip: to pass"));
    let all: Vec<_> = lines
        .map(|line| {
            line.trim_start_matches("error: ")
                .trim_start_matches("tip: ")
        })
        .collect();
    let unknown = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) if error.kind() == ErrorKind::UnknownArgument => flag,
        _ => "",
    };
    let unknown = unknown.trim_start_matches('-');
    if let Some((_, instead)) = ELSEWHERE.iter().find(|(flag, _)| *flag == unknown) {
        return format!("unexpected argument '-{unknown}' found: {instead}");
    }
    format!(
        "{} (cpu -h lists the flags)",
        all.join("; ").replace(":; ", ": ").replace("'--", "'-")
    )
}

/// The manual page.
#[cfg(feature = "docs")]
pub(crate) fn page() -> manual::Page {
    manual::Page {
        command: Flags::command(),
        section: "1",
        synopsis: SYNOPSIS,
        rest: include_str!("../../docs/man/cpu.roff"),
        one_dash: true,
    }
}

fn network(text: &str) -> Result<Network, &'static str> {
    match text {
        "tcp" => Ok(Network::Tcp),
        "unix" => Ok(Network::Unix),
        "vsock" => Ok(Network::Vsock),
        _ => Err("write tcp, unix or vsock"),
    }
}

/// A boolean as Go's flag package reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GoBool(pub(crate) bool);

impl std::str::FromStr for GoBool {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Self(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Self(false)),
            _ => Err("write true or false"),
        }
    }
}

/// Read the words after the program's name.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Flags, clap::Error> {
    let command = Flags::command();
    let words = normalize(&command, args);
    let matches = command.try_get_matches_from(words)?;
    Flags::from_arg_matches(&matches)
}

/// Gives every flag its two dashes and puts `--` before the host, with all flags in front of it.
fn normalize(command: &clap::Command, args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let takes_next: HashMap<String, bool> = command
        .get_arguments()
        .filter_map(|arg| {
            let takes = arg.get_action().takes_values() && !arg.is_require_equals_set();
            arg.get_long().map(|long| (long.to_owned(), takes))
        })
        .collect();
    let paths: HashSet<&str> = command
        .get_arguments()
        .filter(|arg| {
            let value = arg.get_value_names().and_then(|names| names.first());
            value.is_some_and(|value| value == "FILE" || value == "DIR")
        })
        .filter_map(clap::Arg::get_long)
        .collect();
    let mut args = args.into_iter();
    let mut flags = vec![OsString::from("cpu")];
    let mut positional = Vec::new();
    while let Some(arg) = args.next() {
        let bytes = arg.as_bytes();
        if bytes == b"--" {
            // Everything after it is taken as it stands.
            positional.extend(args);
            break;
        }
        let dashes = bytes.iter().take_while(|&&b| b == b'-').count();
        if dashes == 0 || bytes.len() == dashes {
            let is_command = !positional.is_empty();
            positional.push(arg);
            if is_command {
                positional.extend(args);
                break;
            }
            continue;
        }
        let word = &bytes[dashes.min(2)..];
        let name = word.split(|&b| b == b'=').next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        if name == "tt" {
            flags.push("--t".into());
        }
        let long = match name.as_str() {
            "tt" => "t",
            "version" => "V",
            "help" => "h",
            // As ssh calls them.
            "i" => "key",
            "p" => "sp",
            "v" => "d",
            other => other,
        };
        let mut normal = OsString::from(format!("--{long}"));
        normal.push(OsStr::from_bytes(&word[name.len().min(word.len())..]));
        let has_value = word.contains(&b'=');
        // A shell expands `-key ~/x`, but not `-key=~/x`.
        if let Some(rest) = word
            .get(name.len()..)
            .and_then(|rest| rest.strip_prefix(b"=~/"))
            && paths.contains(long)
            && let Some(home) = std::env::home_dir()
        {
            normal = format!("--{long}=").into();
            normal.push(home.join(OsStr::from_bytes(rest)));
        }
        if !has_value && takes_next.get(long) == Some(&true) {
            // `-x v`, also when v begins with a dash or is empty.
            if let Some(value) = args.next() {
                normal.push("=");
                normal.push(value);
            }
        }
        flags.push(normal);
    }
    flags.push("--".into());
    flags.extend(positional);
    flags
}

impl Flags {
    /// What is wanted of a remote terminal.
    pub(crate) fn tty(&self) -> Tty {
        match (self.no_terminal.0, self.terminal) {
            (true, _) => Tty::Never,
            (false, 0) => Tty::Usual,
            (false, 1) => Tty::Command,
            (false, _) => Tty::Force,
        }
    }

    /// What the session is to do with what its command leaves running; none where the variable of the
    /// environment decides, or the default.
    pub(crate) fn wait(&self) -> Option<Wait> {
        match (self.no_wait.0, self.quiet.0) {
            (true, _) => Some(Wait::No),
            (false, true) => Some(Wait::Quiet),
            (false, false) => None,
        }
    }

    /// The command's words, as bytes.
    pub(crate) fn words(&self) -> Vec<Vec<u8>> {
        self.command
            .iter()
            .map(|word| word.clone().into_vec())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Flags {
        parse(line.split_whitespace().map(OsString::from)).unwrap()
    }

    fn refuse(line: &str) -> String {
        parse(line.split_whitespace().map(OsString::from))
            .map_err(|error| complaint(&error))
            .unwrap_err()
    }

    #[test]
    fn who_knows_ssh_is_told_what_to_write() {
        let flags = read("-i k -p 22 -v host date");
        assert_eq!(flags.key, [PathBuf::from("k")]);
        assert_eq!((flags.sp.as_deref(), flags.debug.0), (Some("22"), true));
        for (line, said) in [
            ("-l me host", "write user@host"),
            ("-o Port=22 host", "~/.ssh/config"),
            ("-J hop host", "ProxyJump"),
            ("-timeout9p 1s host", "as long as"),
        ] {
            let error = refuse(line);
            assert!(
                error.contains(said) && error.lines().count() == 1,
                "{error}"
            );
        }
    }

    #[test]
    fn one_dash_or_two_with_or_without_equals() {
        for line in [
            "-key k -sp 22 host date",
            "--key=k --sp=22 host date",
            "host -key=k --sp 22 date",
            "-key k host -sp=22 date",
        ] {
            let flags = read(line);
            assert_eq!(flags.key, [PathBuf::from("k")], "{line}");
            let place = (flags.sp.as_deref(), flags.host.as_str());
            assert_eq!(place, (Some("22"), "host"), "{line}");
            assert_eq!(flags.command, ["date"], "{line}");
        }
    }

    #[test]
    fn what_follows_the_command_is_its_own() {
        let flags = read("host ls -l --key -9p=false -- -h");
        assert_eq!(
            flags.command,
            ["ls", "-l", "--key", "-9p=false", "--", "-h"]
        );
        assert!(flags.ninep.0);
        let flags = read("-d host -- -strange");
        assert_eq!(flags.command, ["-strange"]);
        assert!(flags.debug.0);
    }

    #[test]
    fn the_commands_user_is_root_or_me() {
        assert_eq!(read("host id -user me").user, UserFlag::Root);
        for line in ["-user me host", "--user=me host", "host -user me id"] {
            assert_eq!(read(line).user, UserFlag::Me, "{line}");
        }
        assert_eq!(read("-user me -user root host").user, UserFlag::Root);
        assert!(refuse("-user ann host").contains("write root or me"));
    }

    #[test]
    fn booleans_take_a_value_only_with_equals() {
        assert!(!read("-9p=false host").ninep.0);
        assert_eq!(read("-9p host").host, "host");
        assert!(read("-stats host").stats.0 && !read("-stats=0 host").stats.0);
        assert!(refuse("-9p=maybe host").contains("write true or false"));
    }

    #[test]
    fn the_last_of_several_counts() {
        let flags = read("-sp 1 -sp 2 host -sp=3 date");
        assert_eq!(flags.sp.as_deref(), Some("3"));
        let keys = read("-key a host -key b date").key;
        assert_eq!(keys, ["a", "b"].map(PathBuf::from));
        assert!(read("-9p=false host -9p=true").ninep.0);
    }

    #[test]
    fn an_empty_namespace_is_a_value() {
        let args = ["-namespace=", "host"].map(OsString::from);
        assert_eq!(parse(args).unwrap().namespace.as_deref(), Some(""));
        let args = ["-namespace", "", "host"].map(OsString::from);
        assert_eq!(parse(args).unwrap().namespace.as_deref(), Some(""));
    }

    #[test]
    fn terminals_are_asked_for_as_in_ssh() {
        for (line, tty) in [
            ("host", Tty::Usual),
            ("-t host", Tty::Command),
            ("-t -t host", Tty::Force),
            ("-tt host", Tty::Force),
            ("-T -t host", Tty::Never),
            ("host -T=false -t ls -T", Tty::Command),
        ] {
            assert_eq!(read(line).tty(), tty, "{line}");
        }
        assert!(read("-n host").no_input.0);
    }

    #[test]
    fn a_wrong_flag_names_the_nearest_in_one_line() {
        let told = refuse("-namspace x host");
        assert!(
            told.contains("-namespace") && !told.contains('\n'),
            "{told}"
        );
        assert!(refuse("-msize 5 host").contains("msize"));
        assert!(refuse("-key k").contains("HOST"));
    }

    #[test]
    fn the_help_fits_a_screen_and_names_every_flag() {
        let help = help();
        // The last line is the prompt's.
        assert!(help.lines().count() < 24, "{help}");
        assert!(help.lines().all(|line| line.chars().count() < 80), "{help}");
        for arg in Flags::command()
            .get_arguments()
            .filter(|arg| !arg.is_hide_set())
        {
            let name = arg.get_long().unwrap();
            assert!(help.contains(&format!("  -{name}")), "{name}");
            assert!(arg.get_help_heading().is_some(), "{name}");
        }
        for line in ["-h", "-help", "--help", "host -h"] {
            let error = parse(line.split(' ').map(OsString::from)).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp, "{line}");
        }
    }
}
