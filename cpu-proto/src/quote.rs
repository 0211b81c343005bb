//! Converts the arguments of a command into one string, as an SSH `exec` request carries it, and back.
//!
//! [`join`] writes the string as u-root's client does. [`split`] also reads whatever a person types, by the quoting
//! rules of POSIX.1-2024, Shell Command Language, 2.2. No shell is involved: nothing is expanded and there are no
//! operators, so `$HOME`, `*` and `|` are ordinary text.

/// Why a string cannot be split. Positions are byte offsets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A quotation is not closed.
    #[error("the {quote} quote at byte {at} of the command is never closed")]
    Unterminated {
        /// `single` or `double`.
        quote: &'static str,
        /// Position of the opening quote.
        at: usize,
    },
    /// The last character is a backslash, which quotes nothing.
    #[error("the command ends in a backslash that quotes nothing")]
    TrailingBackslash,
    /// A NUL byte can't be part of an argument (execve(2)).
    #[error("byte {at} of the command is NUL, which no argument can contain")]
    Nul {
        /// Position of the byte.
        at: usize,
    },
}

/// Splits a command into its arguments.
pub fn split(command: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    if let Some(at) = command.iter().position(|&b| b == 0) {
        return Err(Error::Nul { at });
    }
    let mut argv = Vec::new();
    // `''` is an argument, so there is a difference between none yet and an empty one.
    let mut argument: Option<Vec<u8>> = None;
    let mut bytes = command.iter().copied().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b' ' | b'\t' | b'\n' => argv.extend(argument.take()),
            b'\\' => match bytes.next() {
                None => return Err(Error::TrailingBackslash),
                Some((_, b'\n')) => {}
                Some((_, quoted)) => argument.get_or_insert_default().push(quoted),
            },
            b'\'' => {
                let argument = argument.get_or_insert_default();
                loop {
                    match bytes.next() {
                        None => {
                            return Err(Error::Unterminated {
                                quote: "single",
                                at,
                            });
                        }
                        Some((_, b'\'')) => break,
                        Some((_, inner)) => argument.push(inner),
                    }
                }
            }
            b'"' => {
                let argument = argument.get_or_insert_default();
                let unterminated = Error::Unterminated {
                    quote: "double",
                    at,
                };
                loop {
                    match bytes.next() {
                        None => return Err(unterminated),
                        Some((_, b'"')) => break,
                        Some((_, b'\\')) => match bytes.next() {
                            None => return Err(unterminated),
                            Some((_, b'\n')) => {}
                            Some((_, b @ (b'$' | b'`' | b'"' | b'\\'))) => argument.push(b),
                            Some((_, b)) => argument.extend([b'\\', b]),
                        },
                        Some((_, inner)) => argument.push(inner),
                    }
                }
            }
            plain => argument.get_or_insert_default().push(plain),
        }
    }
    argv.extend(argument);
    Ok(argv)
}

/// Joins arguments so that [`split`], a POSIX shell and u-root's cpud read the same arguments again: each in single
/// quotes, with `'` as `'"'"'`.
pub fn join<W: AsRef<[u8]>>(argv: impl IntoIterator<Item = W>) -> Vec<u8> {
    let mut command = Vec::new();
    for argument in argv {
        if !command.is_empty() {
            command.push(b' ');
        }
        command.push(b'\'');
        for &byte in argument.as_ref() {
            match byte {
                b'\'' => command.extend_from_slice(br#"'"'"'"#),
                _ => command.push(byte),
            }
        }
        command.push(b'\'');
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split_str(command: &str) -> Result<Vec<String>, Error> {
        let split = split(command.as_bytes())?;
        Ok(split
            .into_iter()
            .map(|w| String::from_utf8(w).unwrap())
            .collect())
    }

    #[test]
    fn reads_what_posix_shells_read() {
        for (command, expected) in [
            ("", &[][..]),
            (" \t\n ", &[]),
            ("ls  -l\t/tmp", &["ls", "-l", "/tmp"]),
            ("-port9p=45678 'ls' '-l'", &["-port9p=45678", "ls", "-l"]),
            (" 'date'", &["date"]),
            (r#"'it'"'"'s'"#, &["it's"]),
            (r#""a b"'c d'e\ f"#, &["a bc de f"]),
            (r#""\$\`\"\\\n""#, &[r#"$`"\\n"#]),
            ("a\\\nb \"c\\\nd\"", &["ab", "cd"]),
            ("'' \"\" x", &["", "", "x"]),
            ("echo $HOME | cat *", &["echo", "$HOME", "|", "cat", "*"]),
        ] {
            assert_eq!(split_str(command).unwrap(), expected, "{command:?}");
        }
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        assert_eq!(
            split_str("ls 'a"),
            Err(Error::Unterminated {
                quote: "single",
                at: 3
            })
        );
        assert_eq!(
            split_str("ls \"a\\"),
            Err(Error::Unterminated {
                quote: "double",
                at: 3
            })
        );
        assert_eq!(split_str("ls \\"), Err(Error::TrailingBackslash));
        assert_eq!(split_str("ls\0"), Err(Error::Nul { at: 2 }));
    }

    #[test]
    fn writes_what_u_root_writes() {
        assert_eq!(join(["ls", "-l", "it's"]), br#"'ls' '-l' 'it'"'"'s'"#);
        assert_eq!(join([""; 2]), b"'' ''");
    }

    proptest! {
        #[test]
        fn arguments_survive(list in prop::collection::vec(prop::collection::vec(1u8.., 0..20), 0..10)) {
            prop_assert_eq!(split(&join(&list)).unwrap(), list);
        }

        #[test]
        fn any_bytes_are_arguments_or_an_error(command in prop::collection::vec(
            prop::sample::select(&b"a '\"\\\n$\0"[..]), 0..40)) {
            if let Ok(argv) = split(&command) {
                let read: usize = argv.iter().map(Vec::len).sum();
                prop_assert!(read <= command.len());
                prop_assert_eq!(split(&join(&argv)).unwrap(), argv);
            }
        }
    }
}
