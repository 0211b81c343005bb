//! The table of flags, from which clap parses them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use clap::Parser;
use cpu_client::export::RuleKind;
use cpu_proto::{CacheMode, MAX_MSIZE, Wait};

use super::value::{GoBool, socket_kind};
use crate::ssh::SocketKind;
use crate::terminal::Tty;
use crate::trace;
use crate::user::UserFlag;

const CONNECTION: &str = "connection";
const FILES: &str = "files";
const SESSION: &str = "session";

/// Log in to a machine and run a command there with this machine's files.
///
/// The help has a line for each flag; docs/man/cpu.roff has the details.
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

    /// a setting as in ssh_config(5), may be repeated; before the files
    #[arg(long = "o", value_name = "SETTING", action = clap::ArgAction::Append,
          hide_short_help = true, help_heading = CONNECTION)]
    pub(crate) settings: Vec<String>,

    /// tcp, unix or vsock (tcp)
    #[arg(long, value_name = "KIND", default_value = "tcp", value_parser = socket_kind,
          hide_default_value = true, hide_short_help = true, help_heading = CONNECTION)]
    pub(crate) net: SocketKind,

    /// /dir:/there=/here to bind there ($CPU_NAMESPACE, else usual)
    #[arg(long, value_name = "LIST", help_heading = FILES)]
    pub(crate) namespace: Option<String>,

    /// further mounts there, in fstab(5) format ($CPU_FSTAB)
    #[arg(hide_short_help = true, long, value_name = "FILE", help_heading = FILES)]
    pub(crate) fstab: Option<PathBuf>,

    /// directory that is served as / (/)
    #[arg(long, value_name = "DIR", default_value = "/", hide_default_value = true,
          help_heading = FILES)]
    pub(crate) root: PathBuf,

    /// false: serve no files, like plain ssh (true)
    #[arg(long = "9p", value_name = "BOOL", default_value = "true", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = FILES)]
    pub(crate) ninep: GoBool,

    /// none, mmap or loose: what the machine caches (mmap)
    #[arg(hide_short_help = true, long, value_name = "MODE", help_heading = FILES)]
    pub(crate) cache: Option<CacheMode>,

    /// false: keep no trace of what commands read, to send it ahead (true)
    #[arg(long, value_name = "BOOL", default_value = "true", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          hide_short_help = true, help_heading = FILES)]
    pub(crate) learn: GoBool,

    /// serve files read-only; /dir,ro in LIST: that one
    #[arg(long = "ro", value_name = "BOOL",
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = FILES)]
    pub(crate) read_only: Option<GoBool>,

    /// serve nothing but LIST and the working directory
    #[arg(long, value_name = "BOOL",
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = FILES)]
    pub(crate) only: Option<GoBool>,

    /// keep these files from being opened there, may be repeated
    #[arg(long, value_name = "PATH", action = clap::ArgAction::Append, help_heading = FILES)]
    pub(crate) hide: Vec<String>,

    /// do not, though -hidden lists them; may be repeated
    #[arg(long, value_name = "PATH", action = clap::ArgAction::Append, help_heading = FILES)]
    pub(crate) show: Vec<String>,

    /// print what is hidden
    #[arg(long, value_name = "BOOL", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          hide_short_help = true, help_heading = FILES)]
    pub(crate) hidden: GoBool,

    /// list the machines on this network that can be found
    #[arg(long, value_name = "BOOL", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          hide_short_help = true, help_heading = CONNECTION)]
    pub(crate) hosts: GoBool,

    /// variables to send too, or with -NAME not; patterns; '*': all
    #[arg(long, value_name = "LIST", allow_hyphen_values = true, help_heading = SESSION)]
    pub(crate) env: Option<String>,

    /// largest 9P message, in bytes (1048576)
    #[arg(long, value_name = "BYTES", default_value_t = MAX_MSIZE, hide_default_value = true,
          value_parser = clap::value_parser!(u32).range(4096..=i64::from(MAX_MSIZE)),
          hide_short_help = true,
          help_heading = FILES)]
    pub(crate) msize: u32,

    /// root or me: the user of the command there (root)
    #[arg(long, value_name = "USER", default_value = "root", hide_default_value = true,
          help_heading = SESSION)]
    pub(crate) user: UserFlag,

    /// a terminal even for a command; -tt: even without one here
    #[arg(long = "t", action = clap::ArgAction::Count, help_heading = SESSION)]
    pub(crate) terminal: u8,

    /// forward the agent: programs there can log in with its keys
    #[arg(long = "A", value_name = "BOOL",
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = SESSION)]
    pub(crate) forward_agent: Option<GoBool>,

    /// allocate no terminal there
    #[arg(long = "T", value_name = "BOOL", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = SESSION)]
    pub(crate) no_terminal: GoBool,

    /// no input: the command's standard input is empty
    #[arg(long = "n", value_name = "BOOL", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = SESSION)]
    pub(crate) no_input: GoBool,

    /// end the session with its command; kill what that left
    #[arg(long = "nowait", value_name = "BOOL", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = SESSION)]
    pub(crate) no_wait: GoBool,

    /// no warnings, no notice of what the session waits for
    #[arg(hide_short_help = true, long = "q", value_name = "BOOL", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = SESSION)]
    pub(crate) quiet: GoBool,

    /// log each step on standard error
    #[arg(long = "d", value_name = "BOOL", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = SESSION)]
    pub(crate) debug: GoBool,

    /// trace file requests; open: only those; ./FILE, X.json: to it
    #[arg(long, value_name = "WHAT", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = SESSION)]
    pub(crate) dbg9p: trace::TraceFilter,

    /// print a table of the file requests at the end
    #[arg(hide_short_help = true, long, value_name = "BOOL", default_value = "false", hide_default_value = true,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = SESSION)]
    pub(crate) stats: GoBool,

    /// print the version
    #[arg(long = "V", action = clap::ArgAction::Version, help_heading = SESSION)]
    version: Option<bool>,

    /// print this help
    #[arg(long = "h", action = clap::ArgAction::HelpShort, help_heading = SESSION)]
    help: Option<bool>,

    /// The machine: `[user@]host`, or `[user@][host]:port`; `[user@].` for any that is found
    #[arg(hide = true, required_unless_present_any = ["hidden", "hosts"])]
    pub(crate) host: Option<String>,

    /// What to run there
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<OsString>,
}

impl Flags {
    /// Whether a terminal is to be allocated.
    pub(crate) fn tty(&self) -> Tty {
        match (self.no_terminal.0, self.terminal) {
            (true, _) => Tty::No,
            (false, 0) => Tty::Auto,
            (false, 1) => Tty::Yes,
            (false, _) => Tty::Force,
        }
    }

    /// What the session does about processes that its command leaves running; `None` if the environment variable or the
    /// default decides.
    pub(crate) fn wait(&self) -> Option<Wait> {
        match (self.no_wait.0, self.quiet.0) {
            (true, _) => Some(Wait::No),
            (false, true) => Some(Wait::Quiet),
            (false, false) => None,
        }
    }

    /// The paths of `-hide` and `-show`.
    pub(crate) fn withheld(&self) -> impl Iterator<Item = (RuleKind, String)> {
        let hidden = self.hide.iter().map(|path| (RuleKind::Hide, path.clone()));
        let shown = self.show.iter().map(|path| (RuleKind::Show, path.clone()));
        hidden.chain(shown)
    }

    /// The patterns of `-env`.
    pub(crate) fn env(&self) -> impl Iterator<Item = String> {
        let patterns = self.env.iter().flat_map(|list| list.split(','));
        patterns
            .filter(|pattern| !pattern.is_empty())
            .map(str::to_owned)
    }

    /// The command, as bytes.
    pub(crate) fn argv(&self) -> Vec<Vec<u8>> {
        self.command
            .iter()
            .map(|arg| arg.clone().into_vec())
            .collect()
    }
}
