//! The command line: `cpu [flags] host [flags] [command args...]`.
//!
//! Flags have the form of Go's flag package: `-key x` or `-key=x`, with one dash or two. [`normalize`] brings them into
//! the form that clap parses, and [`defs`] is the table.

mod defs;
mod help;
mod normalize;
pub(crate) mod value;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches};

pub(crate) use defs::Flags;
#[cfg(feature = "docs")]
pub(crate) use help::page;
pub(crate) use help::{complaint, help};

/// Parses the arguments after the program's name.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Flags, clap::Error> {
    let command = Flags::command();
    let args = normalize::normalize(&command, args);
    let matches = command.try_get_matches_from(args)?;
    Flags::from_arg_matches(&matches)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::terminal::Tty;
    use crate::user::UserFlag;

    fn read(line: &str) -> Flags {
        parse(line.split_whitespace().map(OsString::from)).unwrap()
    }

    fn refuse(line: &str) -> String {
        parse(line.split_whitespace().map(OsString::from))
            .map_err(|error| complaint(&error))
            .unwrap_err()
    }

    #[test]
    fn flags_of_ssh_are_understood_or_answered_with_ours() {
        let flags = read("-i k -p 22 -v host date");
        assert_eq!(flags.key, [PathBuf::from("k")]);
        assert_eq!((flags.sp.as_deref(), flags.debug.0), (Some("22"), true));
        for line in [
            "-o Port=22 -oUser=x host",
            "host --o=Port=22 -o User=x date",
        ] {
            assert_eq!(read(line).settings, ["Port=22", "User=x"], "{line}");
        }
        for (line, said) in [
            ("-l me host", "write user@host"),
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
            let place = (flags.sp.as_deref(), flags.host.as_deref().unwrap());
            assert_eq!(place, (Some("22"), "host"), "{line}");
            assert_eq!(flags.command, ["date"], "{line}");
        }
    }

    #[test]
    fn arguments_after_the_command_are_the_commands() {
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
        assert_eq!(read("-9p host").host.as_deref(), Some("host"));
        assert!(read("-stats host").stats.0 && !read("-stats=0 host").stats.0);
        let read_only = |line: &str| read(line).read_only.map(|flag| flag.0);
        assert_eq!(read_only("host"), None);
        assert_eq!(read_only("-ro host"), Some(true));
        assert_eq!(read_only("-ro=false host"), Some(false));
        assert!(refuse("-9p=maybe host").contains("write true or false"));
    }

    #[test]
    fn the_last_of_repeated_flags_counts() {
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
    fn terminals_are_requested_as_with_ssh() {
        for (line, tty) in [
            ("host", Tty::Auto),
            ("-t host", Tty::Yes),
            ("-t -t host", Tty::Force),
            ("-tt host", Tty::Force),
            ("-T -t host", Tty::No),
            ("host -T=false -t ls -T", Tty::Yes),
        ] {
            assert_eq!(read(line).tty(), tty, "{line}");
        }
        assert!(read("-n host").no_input.0);
    }

    #[test]
    fn an_unknown_flag_is_answered_with_the_nearest_in_one_line() {
        let told = refuse("-namspace x host");
        assert!(
            told.contains("-namespace") && !told.contains('\n'),
            "{told}"
        );
        assert!(refuse("-msize 5 host").contains("msize"));
        assert!(refuse("-key k").contains("HOST"));
    }

    #[test]
    fn the_help_fits_a_screen() {
        let help = help();
        // The 24th line is for the shell's prompt.
        assert!(help.lines().count() < 24, "{help}");
        assert!(help.lines().all(|line| line.chars().count() < 80), "{help}");
        for arg in Flags::command()
            .get_arguments()
            .filter(|arg| !arg.is_hide_set())
        {
            let name = arg.get_long().unwrap();
            let is_shown = !arg.is_hide_short_help_set();
            let begins = format!("-{name}");
            let has = help.lines().any(|line| {
                let rest = line.trim_start().strip_prefix(&begins);
                rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
            });
            assert_eq!(has, is_shown, "{name}");
            assert!(arg.get_help_heading().is_some(), "{name}");
        }
        for line in ["-h", "-help", "--help", "host -h"] {
            let error = parse(line.split(' ').map(OsString::from)).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp, "{line}");
        }
    }
}
