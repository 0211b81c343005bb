//! Brings the arguments as typed into the form that clap parses.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Gives every flag two dashes, and puts all flags first, then `--`, then the host and the command.
pub(super) fn normalize(
    command: &clap::Command,
    args: impl IntoIterator<Item = OsString>,
) -> Vec<OsString> {
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
            // What follows is not searched for flags.
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
        // As ssh has it: -oPort=22.
        if let Some(setting) = word.strip_prefix(b"o").filter(|_| dashes == 1)
            && setting.first().is_some_and(u8::is_ascii_uppercase)
        {
            let mut normal = OsString::from("--o=");
            normal.push(OsStr::from_bytes(setting));
            flags.push(normal);
            continue;
        }
        let name = word.split(|&b| b == b'=').next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        if name == "tt" {
            flags.push("--t".into());
        }
        let long = match name.as_str() {
            "tt" => "t",
            "version" => "V",
            "help" => "h",
            // Their names in ssh.
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
