//! sudo(8) in a session. Its user is root already, so no password is asked for and every command is allowed. The
//! command runs with the environment as it is, and with the directories of root's programs in its PATH. If the session's
//! user is not root (`-user me`), the command becomes root by the capabilities that this user has.
//!
//! Flags about passwords are accepted, and so are those about keeping the environment, which is kept anyway. Flags that
//! ask for anything else than to be root are refused, since ignoring them would do something else than was meant.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

/// The directories of root's programs, which an ordinary user's PATH may lack.
const ROOT_PATH: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

const USAGE: &str = "\
usage: sudo [-nEH] [-u root] [-D DIRECTORY] [VAR=VALUE ...] [-s | -i] [COMMAND [ARGUMENT ...]]
In a session of cpu the command simply runs, since its user is root already.
";

/// Long and short names of sudo(8)'s flags.
const LONG: [(&str, char); 16] = [
    ("askpass", 'A'),
    ("bell", 'B'),
    ("chdir", 'D'),
    ("group", 'g'),
    ("help", 'h'),
    ("list", 'l'),
    ("login", 'i'),
    ("non-interactive", 'n'),
    ("prompt", 'p'),
    ("remove-timestamp", 'K'),
    ("reset-timestamp", 'k'),
    ("set-home", 'H'),
    ("shell", 's'),
    ("stdin", 'S'),
    ("user", 'u'),
    ("version", 'V'),
];

/// A parsed command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Invocation {
    argv: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    shell: bool,
    login: bool,
    /// It is about passwords, so there is nothing to do unless there is a command.
    nothing: bool,
    /// A text to print instead of running a command.
    text: Option<String>,
}

/// Runs as `sudo`. `args` are its arguments.
pub(crate) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let done = parse(args).and_then(|invocation| match invocation {
        Invocation {
            text: Some(text), ..
        } => io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| format!("cannot write: {error}")),
        Invocation { nothing: true, .. } => Ok(()),
        invocation => Err(exec(invocation)),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // If it cannot be written, there is still the status.
            let _ = io::stderr().write_all(format!("sudo: {why}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Invocation, String> {
    let mut invocation = Invocation::default();
    while let Some(arg) = args.next() {
        let bytes = arg.as_bytes();
        if bytes == b"--" {
            break;
        }
        if let Some(long) = bytes.strip_prefix(b"--") {
            let mut parts = long.splitn(2, |&byte| byte == b'=');
            let name = parts.next().unwrap_or_default();
            let value = parts.next().map(<[u8]>::to_vec);
            // The environment is kept in any case.
            if name == b"preserve-env" {
                continue;
            }
            let known = LONG.iter().find(|(long, _)| long.as_bytes() == name);
            let &(_, flag) = known.ok_or_else(|| refusal(&arg))?;
            invocation.flag(flag, value, &mut args)?;
        } else if let Some(mut flags) = bytes.strip_prefix(b"-").filter(|flags| !flags.is_empty()) {
            while let Some((&flag, rest)) = flags.split_first() {
                let value = (!rest.is_empty()).then(|| rest.to_vec());
                let took_value = invocation.flag(flag.into(), value, &mut args)?;
                flags = if took_value { &[] } else { rest };
            }
        } else if let Some((name, value)) = variable(bytes) {
            invocation.variables.push((name, value));
        } else {
            invocation.argv.push(arg);
            break;
        }
    }
    invocation.argv.extend(args);
    let is_command = invocation.shell || !invocation.argv.is_empty();
    if !is_command && !invocation.nothing && invocation.text.is_none() {
        return Err("no command is given (see sudo -h)".to_owned());
    }
    invocation.nothing &= !is_command;
    Ok(invocation)
}

impl Invocation {
    /// Applies a flag. True if it takes a value, which has been used then.
    fn flag(
        &mut self,
        flag: char,
        value: Option<Vec<u8>>,
        args: &mut impl Iterator<Item = OsString>,
    ) -> Result<bool, String> {
        let takes_value = matches!(flag, 'u' | 'g' | 'D' | 'p');
        let value = match value {
            Some(value) if takes_value => OsString::from_vec(value),
            None if takes_value => args
                .next()
                .ok_or_else(|| format!("-{flag} needs a value"))?,
            _ => OsString::new(),
        };
        match flag {
            // About passwords, and about keeping the environment.
            'A' | 'B' | 'E' | 'H' | 'N' | 'n' | 'P' | 'p' | 'S' => {}
            'k' | 'K' | 'v' => self.nothing = true,
            'u' | 'g' if value == "root" || value == "#0" => {}
            'u' | 'g' => {
                let value = value.display();
                return Err(format!(
                    "-{flag} {value}: a session of cpu has no user or group but root"
                ));
            }
            'D' => self.directory = Some(value.into()),
            's' => self.shell = true,
            'i' => (self.shell, self.login) = (true, true),
            'l' => self.text = Some("root may run every command in this session\n".to_owned()),
            'V' => self.text = Some(format!("sudo of cpud {}\n", env!("CARGO_PKG_VERSION"))),
            'h' => self.text = Some(USAGE.to_owned()),
            _ => return Err(refusal(OsStr::new(&format!("-{flag}")))),
        }
        Ok(takes_value)
    }
}

fn refusal(flag: &OsStr) -> String {
    format!(
        "{} is not supported in a session of cpu (see sudo -h)",
        flag.display()
    )
}

/// Parses `NAME=value`, which may stand before the command.
fn variable(arg: &[u8]) -> Option<(OsString, OsString)> {
    let at = arg
        .iter()
        .position(|&byte| byte == b'=')
        .filter(|&at| at > 0)?;
    let (name, value) = arg.split_at(at);
    let is_name = name
        .iter()
        .all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then(|| {
        (
            OsString::from_vec(name.to_vec()),
            OsString::from_vec(value[1..].to_vec()),
        )
    })
}

/// Executes the command. Returns only if that fails; the result is the reason.
fn exec(invocation: Invocation) -> String {
    let shell = || {
        env::var_os("SHELL")
            .filter(|shell| !shell.is_empty())
            .unwrap_or_else(|| "/bin/sh".into())
    };
    let argv = if invocation.shell {
        in_shell(shell(), &invocation)
    } else {
        invocation.argv
    };
    let Some((program, arguments)) = argv.split_first() else {
        return "no command is given".to_owned();
    };
    let mut command = Command::new(program);
    command.args(arguments);
    if invocation.login {
        let name = Path::new(program).file_name().unwrap_or(program);
        let mut zeroth = OsString::from("-");
        zeroth.push(name);
        command.arg0(zeroth);
    }
    if let Some(path) = env::var_os("PATH") {
        command.env("PATH", with_root_path(&path));
    }
    command.envs(invocation.variables);
    let directory = match invocation.directory {
        None if invocation.login => env::home_dir(),
        directory => directory,
    };
    if let Some(directory) = directory
        && let Err(error) = env::set_current_dir(&directory)
    {
        return format!("cannot change to {}: {error}", directory.display());
    }
    if let Err(errno) = become_root() {
        return format!(
            "cannot become root: {} (has this process lost its capabilities?)",
            errno.desc()
        );
    }
    let error = command.exec();
    match error.kind() {
        io::ErrorKind::NotFound => format!("{}: command not found", program.display()),
        _ => format!("cannot run {}: {error}", program.display()),
    }
}

fn become_root() -> nix::Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[gid])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

/// The argv of a shell that runs the command, with every character quoted that the shell could interpret.
fn in_shell(shell: OsString, invocation: &Invocation) -> Vec<OsString> {
    let mut argv = vec![shell];
    if !invocation.argv.is_empty() {
        let mut line = Vec::new();
        for arg in &invocation.argv {
            if !line.is_empty() {
                line.push(b' ');
            }
            for &byte in arg.as_bytes() {
                let is_plain =
                    byte.is_ascii_alphanumeric() || b"_-$".contains(&byte) || !byte.is_ascii();
                line.extend((!is_plain).then_some(b'\\'));
                line.push(byte);
            }
        }
        argv.extend(["-c".into(), OsString::from_vec(line)]);
    }
    argv
}

/// PATH with the directories of [`ROOT_PATH`] appended.
fn with_root_path(path: &OsStr) -> OsString {
    let mut all: Vec<PathBuf> = env::split_paths(path).collect();
    for directory in ROOT_PATH.map(PathBuf::from) {
        if !all.contains(&directory) {
            all.push(directory);
        }
    }
    env::join_paths(all).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Invocation, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn argv(line: &str) -> Vec<OsString> {
        let invocation = read(line).unwrap();
        assert!(!invocation.nothing && invocation.text.is_none(), "{line}");
        invocation.argv
    }

    #[test]
    fn the_command_is_what_follows_the_flags() {
        for line in [
            "id -u",
            "-n id -u",
            "-nE id -u",
            "-nHuroot id -u",
            "-u root -g #0 -- id -u",
            "--non-interactive --user=root --group root --preserve-env=A,B id -u",
            "-p password? -Sk id -u",
            "-v id -u",
        ] {
            assert_eq!(argv(line), ["id", "-u"], "{line}");
        }
        assert_eq!(argv("sh -c -n"), ["sh", "-c", "-n"]);
        assert_eq!(argv("-- -n"), ["-n"]);
        assert_eq!(argv("- x"), ["-", "x"]);
    }

    #[test]
    fn variables_stand_in_front_of_the_command() {
        let invocation = read("A=1 -n B_2=x=y C= make D=4").unwrap();
        let all = [("A", "1"), ("B_2", "x=y"), ("C", "")];
        assert_eq!(
            invocation.variables,
            all.map(|(name, value)| (name.into(), value.into()))
        );
        assert_eq!(invocation.argv, ["make", "D=4"]);
        assert_eq!(argv("./a=b"), ["./a=b"]);
        assert_eq!(argv("=x"), ["=x"]);
        assert_eq!(argv("A=1 -- B=2"), ["B=2"]);
    }

    #[test]
    fn what_is_not_about_root_is_refused_in_a_line() {
        for (line, message) in [
            ("-u postgres psql", "-u postgres: "),
            ("--user=ann id", "-u ann: "),
            ("-g wheel id", "-g wheel: "),
            ("-b sleep 1", "-b is not"),
            ("-nb sleep 1", "-b is not"),
            ("-e /etc/fstab", "-e is not"),
            ("--edit /etc/fstab", "--edit is not"),
            ("-R /tree id", "-R is not"),
            ("-u", "-u needs a value"),
            ("--user", "-u needs a value"),
            ("", "no command"),
            ("-n", "no command"),
            ("A=1", "no command"),
        ] {
            let why = read(line).unwrap_err();
            assert!(
                why.starts_with(message) && !why.contains('\n'),
                "{line}: {why}"
            );
        }
    }

    #[test]
    fn questions_of_scripts_are_answered() {
        for line in ["-v", "-nv", "-k", "-K", "--reset-timestamp"] {
            assert!(read(line).unwrap().nothing, "{line}");
        }
        for line in ["-l", "-nl", "-V", "-h", "--help", "--version"] {
            assert!(read(line).unwrap().text.is_some(), "{line}");
        }
    }

    #[test]
    fn a_shell_runs_the_arguments_as_they_are() {
        let shell = |line: &str| in_shell("/bin/sh".into(), &read(line).unwrap());
        assert_eq!(shell("-s"), ["/bin/sh"]);
        assert_eq!(shell("-i"), ["/bin/sh"]);
        assert_eq!(
            shell("-s echo a;b $HOME é"),
            ["/bin/sh", "-c", r"echo a\;b $HOME é"]
        );
        let output = Command::new("/bin/sh")
            .args(&shell("-s printf %s. (* 'q' \\")[1..])
            .output();
        assert_eq!(output.unwrap().stdout, br"(*.'q'.\.");
    }

    #[test]
    fn the_path_has_roots_programs_at_its_end() {
        for (path, expected) in [
            ("/usr/bin", "/usr/bin:/usr/local/sbin:/usr/sbin:/sbin"),
            (
                "/sbin:/usr/sbin:/usr/local/sbin",
                "/sbin:/usr/sbin:/usr/local/sbin",
            ),
        ] {
            assert_eq!(with_root_path(OsStr::new(path)), expected);
        }
    }
}
