//! The text of `-h`, the manual page, and messages about wrong flags.

use std::fmt::Write as _;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Flags;

const SYNOPSIS: &str = "cpu [flags] [user@]host [flags] [command args...]";

/// The text of `-h`: what most need, on a screen of 24 lines and 80 columns.
pub(crate) fn help() -> String {
    let mut text = format!("usage: {SYNOPSIS}\n");
    for arg in Flags::command()
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && !arg.is_hide_short_help_set())
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
    text.push_str(
        "One dash or two, -x=v or -x v. No command means a shell. More flags in cpu(1).\n",
    );
    text
}

/// Flags of ssh and of u-root's cpu that cpu does not have, and what to do instead.
const ELSEWHERE: [(&str, &str); 10] = [
    ("l", "write user@host"),
    ("J", "write -o ProxyJump=HOST"),
    ("F", "cpu reads ~/.ssh/config and /etc/ssh/ssh_config only"),
    ("4", "write -o AddressFamily=inet"),
    ("6", "write -o AddressFamily=inet6"),
    (
        "L",
        "cpu forwards no ports; ssh -L does, to a cpud -forward",
    ),
    (
        "R",
        "cpu forwards no ports; ssh -R does, to a cpud -forward",
    ),
    ("X", "cpu forwards no displays"),
    ("ssh", "-9p=false is plain ssh"),
    ("timeout9p", "cpu waits as long as the connection lives"),
];

/// The message about wrong arguments, in one line.
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
        rest: include_str!("../../../docs/man/cpu.roff"),
        one_dash: true,
    }
}
