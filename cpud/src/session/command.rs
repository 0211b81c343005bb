//! Starts the command: finds its file, executes it, and explains why that fails.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use cpu_proto::MOUNT_POINT;
use nix::errno::Errno;
use nix::unistd::Pid;

use super::{environment, shown};
use crate::sys::{self, Spawn};

/// Where commands are searched when the client has sent no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What somebody who is used to ssh, where a shell runs everything, may well send by itself.
const SHELL_BUILTINS: [&str; 8] = [
    "cd", "source", ".", "export", "alias", "ulimit", "umask", "type",
];

/// Why the command could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExecError {
    #[error("{}: command not found", shown(.0))]
    NotFound(OsString),
    #[error("{}: command not found; for a line of a shell: sh -c LINE", shown(.0))]
    NotFoundLine(OsString),
    #[error("{}: no such file", shown(.0))]
    NoFile(OsString),
    #[error("{}: not in this session's namespace; run {}, or add its directory to -namespace", shown(.0), shown(.1.as_os_str()))]
    NotInNamespace(OsString, PathBuf),
    #[error("{}: is a directory", shown(.0))]
    Directory(OsString),
    #[error("{}: not executable (its mode has no x)", shown(.0))]
    NotExecutable(OsString),
    #[error("{}: cannot run: its interpreter {} is not in this session's namespace", shown(.0), shown(.1))]
    NoInterpreter(OsString, OsString),
    #[error("{}: cannot run: a program for another kind of processor than this {}", shown(.0), env::consts::ARCH)]
    Foreign(OsString),
    #[error("{}: cannot run: {}", shown(.0), .1)]
    Exec(OsString, &'static str),
}

impl ExecError {
    /// The exit status that a shell has in this case.
    pub(super) fn status(&self) -> u8 {
        if matches!(
            self,
            Self::NotFound(_) | Self::NotFoundLine(_) | Self::NoFile(_) | Self::NotInNamespace(..)
        ) {
            127
        } else {
            126
        }
    }
}

/// Starts the command, or the user's shell if `argv` is empty, in the current directory, with the client's environment
/// without the variables in `consumed`, and with those in `set`.
pub(super) fn start(
    argv: Vec<OsString>,
    set: &[(&str, OsString)],
    consumed: &[&str],
    how: &Spawn<'_>,
) -> Result<Pid, ExecError> {
    let mut argv = argv.into_iter();
    let (file, name) = if let Some(name) = argv.next() {
        (find(&name)?, name)
    } else {
        let shell = environment::var("SHELL").filter(|shell| !shell.is_empty());
        let file = find(&shell.unwrap_or_else(|| "/bin/sh".into()))?;
        let name = file.file_name().unwrap_or(file.as_os_str()).to_owned();
        (file, name)
    };
    let rest: Vec<CString> = argv.map(|arg| c_string(&arg)).collect();
    let inherited = environment::all()
        .filter(|(name, _)| set.iter().all(|(other, _)| name != other))
        .filter(|(name, _)| !consumed.iter().any(|gone| name == gone));
    let environment: Vec<CString> = inherited
        .chain(
            set.iter()
                .map(|(name, value)| ((*name).into(), value.clone())),
        )
        .map(|(mut variable, value)| {
            variable.push("=");
            variable.push(value);
            c_string(&variable)
        })
        .collect();

    let c_file = c_string(file.as_os_str());
    let args: Vec<CString> = [c_string(&name)]
        .into_iter()
        .chain(rest.iter().cloned())
        .collect();
    sys::spawn_leader(&c_file, &args, &environment, how)
        .or_else(|errno| {
            // The shell runs a script without "#!", as execvp(3) does.
            if errno != Errno::ENOEXEC || head(&file).starts_with(b"\x7fELF") {
                return Err(errno);
            }
            let args: Vec<CString> = [c"sh".into(), c_file.clone()]
                .into_iter()
                .chain(rest.iter().cloned())
                .collect();
            sys::spawn_leader(c"/bin/sh", &args, &environment, how)
        })
        .map_err(|errno| explain(file.into(), errno))
}

/// A string for execve(2). Arguments and variables cannot contain a NUL.
fn c_string(text: &OsStr) -> CString {
    CString::new(text.as_bytes()).unwrap_or_default()
}

/// The client's file of that absolute path, beneath [`MOUNT_POINT`], if there is one.
fn through_client(path: &Path) -> Option<PathBuf> {
    let real = Path::new(MOUNT_POINT).join(path.strip_prefix("/").ok()?);
    fs::metadata(&real).is_ok().then_some(real)
}

/// The file of a command: `name` itself if it has a slash, else searched in PATH.
fn find(name: &OsStr) -> Result<PathBuf, ExecError> {
    if name.as_bytes().contains(&b'/') {
        return match fs::metadata(name) {
            Ok(meta) if meta.is_dir() => Err(ExecError::Directory(name.into())),
            Ok(meta) if meta.permissions().mode() & 0o111 == 0 => {
                Err(ExecError::NotExecutable(name.into()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(match through_client(Path::new(name)) {
                    Some(real) => ExecError::NotInNamespace(name.into(), real),
                    None if has_blank(name) => ExecError::NotFoundLine(name.into()),
                    None => ExecError::NoFile(name.into()),
                })
            }
            // execve(2) reports every other problem.
            Ok(_) | Err(_) => Ok(name.into()),
        };
    }
    let mut error = if has_blank(name)
        || name
            .to_str()
            .is_some_and(|name| SHELL_BUILTINS.contains(&name))
    {
        ExecError::NotFoundLine(name.into())
    } else {
        ExecError::NotFound(name.into())
    };
    if name.is_empty() {
        return Err(error);
    }
    let path = environment::var("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    for directory in env::split_paths(&path) {
        // An empty element means the current directory.
        let file = if directory.as_os_str().is_empty() {
            Path::new(".").join(name)
        } else {
            directory.join(name)
        };
        match fs::metadata(&file) {
            Ok(meta) if !meta.is_file() => {}
            Ok(meta) if meta.permissions().mode() & 0o111 != 0 => return Ok(file),
            Ok(_) => error = ExecError::NotExecutable(file.into()),
            Err(_) => {}
        }
    }
    Err(error)
}

/// Whether it looks like a line for a shell, which a command that ssh is given is.
fn has_blank(name: &OsStr) -> bool {
    name.as_bytes().contains(&b' ')
}

/// Explains an error of execve(2).
fn explain(file: OsString, errno: Errno) -> ExecError {
    match errno {
        Errno::ENOENT => match interpreter(&head(Path::new(&file))) {
            Some(interpreter) => ExecError::NoInterpreter(file, interpreter),
            None => ExecError::NoFile(file),
        },
        Errno::ENOEXEC => ExecError::Foreign(file),
        _ => ExecError::Exec(file, errno.desc()),
    }
}

/// The first 4 KiB of a file, which hold the `#!` line or the program headers. Empty if it can't be read.
fn head(file: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    // Without it the message says less, which is all.
    let _ = fs::File::open(file).and_then(|file| file.take(4096).read_to_end(&mut head));
    head
}

/// The type of the program header that names the dynamic loader (elf(5)).
const PT_INTERP: u64 = 3;

/// The interpreter of a program: from the `#!` line, or the dynamic loader in `PT_INTERP` (elf(5)).
fn interpreter(head: &[u8]) -> Option<OsString> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|&b| b == b'\n').next()?;
        let path = line
            .split(u8::is_ascii_whitespace)
            .find(|path| !path.is_empty())?;
        return Some(OsStr::from_bytes(path).into());
    }
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = head.get(at..at.checked_add(size)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
        )
    };
    // Magic, then class (1: 32 bits, 2: 64 bits), then data (1: little-endian).
    let wide = match head.get(..6)? {
        b"\x7fELF\x02\x01" => true,
        b"\x7fELF\x01\x01" => false,
        _ => return None,
    };
    let (table, size, count) = if wide {
        (number(32, 8)?, 56, number(56, 2)?)
    } else {
        (number(28, 4)?, 32, number(44, 2)?)
    };
    for index in 0..count {
        let entry = usize::try_from(table.checked_add(index * size)?).ok()?;
        if number(entry, 4)? == PT_INTERP {
            let (offset, length) = if wide {
                (
                    number(entry.checked_add(8)?, 8)?,
                    number(entry.checked_add(32)?, 8)?,
                )
            } else {
                (
                    number(entry.checked_add(4)?, 4)?,
                    number(entry.checked_add(16)?, 4)?,
                )
            };
            let (offset, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
            let name = head.get(offset..offset.checked_add(length)?)?;
            return Some(OsStr::from_bytes(name.split(|&b| b == 0).next()?).into());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_interpreter_is_named() {
        assert_eq!(
            interpreter(b"#! /usr/bin/env python3\n").unwrap(),
            "/usr/bin/env"
        );
        assert_eq!(interpreter(b"#!/bin/sh").unwrap(), "/bin/sh");
        assert_eq!(interpreter(b"#!\n"), None);
        assert_eq!(interpreter(b"plain text"), None);
        // One program header right behind the 64-byte file header, the name behind it.
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (elf[32], elf[56], elf[64]) = (64, 1, 3);
        (elf[64 + 8], elf[64 + 32]) = (120, 16);
        elf.extend_from_slice(b"/lib64/ld.so.2\0\0");
        assert_eq!(interpreter(&elf).unwrap(), "/lib64/ld.so.2");
    }

    #[test]
    fn commands_are_found_or_the_reason_is_told() {
        assert_eq!(find(OsStr::new("/bin/sh")).unwrap(), Path::new("/bin/sh"));
        assert!(find(OsStr::new("sh")).unwrap().is_absolute());
        for (name, status, text) in [
            ("nosuch-command", 127, "nosuch-command: command not found"),
            (
                "ls | wc",
                127,
                "ls | wc: command not found; for a line of a shell: sh -c LINE",
            ),
            ("", 127, "\"\": command not found"),
            (
                "export",
                127,
                "export: command not found; for a line of a shell: sh -c LINE",
            ),
            ("/nosuch/file", 127, "/nosuch/file: no such file"),
            (
                "/etc/passwd",
                126,
                "/etc/passwd: not executable (its mode has no x)",
            ),
            ("/etc", 126, "/etc: is a directory"),
        ] {
            let error = find(OsStr::new(name)).unwrap_err();
            assert_eq!((error.status(), error.to_string().as_str()), (status, text));
        }
    }

    proptest! {
        #[test]
        fn what_a_header_names_is_in_it(
            mut head in prop::collection::vec(any::<u8>(), 6..200),
            table in 0..200_u8,
            segment in any::<bool>(),
            at in 0..200_u8,
        ) {
            head[..6].copy_from_slice(b"\x7fELF\x02\x01");
            let entry = usize::from(table);
            if segment && head.len() >= 64 && entry + 40 <= head.len() {
                // A table of programs with one entry.
                head[32..40].copy_from_slice(&u64::from(table).to_le_bytes());
                head[56..58].copy_from_slice(&[1, 0]);
                head[entry..entry + 4].copy_from_slice(&3_u32.to_le_bytes());
                head[entry + 8..entry + 16].copy_from_slice(&u64::from(at).to_le_bytes());
                head[entry + 32..entry + 40].copy_from_slice(&20_u64.to_le_bytes());
            }
            if let Some(name) = interpreter(&head) {
                let name = name.as_bytes();
                prop_assert!(name.is_empty() || head.windows(name.len()).any(|part| part == name));
            }
        }
    }
}
