//! What differs between the kinds of server, once it is known which one it is: this project's cpud, u-root's cpud, or
//! another, such as sshd.

pub(crate) mod uroot;

use anyhow::{Result, bail};
use cpu_proto::{CacheMode, Credentials, ENV_WAIT, Wait, quote};

use crate::environment::Environment;
use crate::ssh::{ServerKind, Target};

impl ServerKind {
    /// Fails if the server cannot do what is asked for: files, if they are served, mounted in these cache modes, and a
    /// command that runs as another user than the server's.
    pub(crate) fn check(
        self,
        files: Option<&[CacheMode]>,
        cache_is_chosen: bool,
        as_other_user: bool,
    ) -> Result<()> {
        if self == Self::URoot
            && cache_is_chosen
            && files.is_some_and(|caches| caches != [CacheMode::None])
        {
            bail!(
                "the server is u-root's cpud, which supports only -cache none; \
                 leave out -cache, and ,cache= in the namespace"
            );
        }
        if self == Self::Sshd && files.is_some() {
            bail!(
                "the server is not a cpud, so it cannot mount this machine's files; use -9p=false for plain ssh"
            );
        }
        let others_user = match self {
            Self::Cpud => return Ok(()),
            Self::URoot => "root",
            Self::Sshd => "the user who logs in",
        };
        if as_other_user {
            bail!(
                "the server is not this project's cpud and does not support -user; its commands run as {others_user}"
            );
        }
        Ok(())
    }

    /// The variables that the server is sent.
    pub(crate) fn environment(
        self,
        environment: Environment,
        target: &Target,
        wait: Option<Wait>,
    ) -> Vec<(String, String)> {
        let mut variables = environment.variables;
        match self {
            Self::Cpud => replace(&mut variables, environment.for_cpud),
            Self::URoot => {}
            // An sshd has an environment of its own. It is sent only what SendEnv names.
            Self::Sshd => variables.retain(|(name, _)| target.sends(name)),
        }
        replace(&mut variables, target.set_env.clone());
        if let (Self::Cpud, Some(wait)) = (self, wait) {
            replace(
                &mut variables,
                vec![(ENV_WAIT.to_owned(), wait.to_string())],
            );
        }
        variables
    }

    /// The command line of the exec request; `None` for a shell request. `port` is that of the files.
    pub(crate) fn command_line(
        self,
        user: Option<&Credentials>,
        argv: Vec<Vec<u8>>,
        port: Option<u32>,
    ) -> Option<Vec<u8>> {
        let user = user.map(Credentials::flag).unwrap_or_default();
        let is_shell = argv.is_empty() && user.is_empty();
        match self {
            // An empty argv starts a shell there.
            Self::URoot => {
                let port = port.map_or(String::new(), |port| format!("-port9p={port}"));
                let argv = quote::join(uroot::with_empty_arguments(argv));
                Some([format!("{port} ").into_bytes(), argv].concat())
            }
            _ if is_shell => None,
            Self::Cpud => Some([user, quote::join(&argv)].concat()),
            Self::Sshd => Some(argv.join(&b' ')),
        }
    }
}

/// Sets variables, in place of those of the same names.
fn replace(variables: &mut Vec<(String, String)>, others: Vec<(String, String)>) {
    variables.retain(|(name, _)| others.iter().all(|(other, _)| other != name));
    variables.extend(others);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_written_as_each_kind_reads_it() {
        let argv = |words: &[&str]| -> Vec<Vec<u8>> {
            words.iter().map(|word| word.as_bytes().to_vec()).collect()
        };
        let line = |kind: ServerKind, words: &[&str], port| {
            let line = kind.command_line(None, argv(words), port)?;
            Some(String::from_utf8(line).unwrap())
        };
        let words = ["ls", "a b"];
        assert_eq!(line(ServerKind::Cpud, &words, None).unwrap(), "'ls' 'a b'");
        assert_eq!(line(ServerKind::Sshd, &words, None).unwrap(), "ls a b");
        assert_eq!(
            line(ServerKind::URoot, &words, Some(5)).unwrap(),
            "-port9p=5 'ls' 'a b'"
        );
        assert_eq!(
            line(ServerKind::URoot, &["ls", ""], None).unwrap(),
            r#" 'sh' '-c' 'exec '"'"'ls'"'"' '"'"''"'"''"#
        );
        for kind in [ServerKind::Cpud, ServerKind::Sshd] {
            assert_eq!(line(kind, &[], None), None);
        }
        assert_eq!(line(ServerKind::URoot, &[], None).unwrap(), " ");
    }
}
