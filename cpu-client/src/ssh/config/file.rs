//! One file of ssh_config(5), and those that it includes: which lines count, and what they set.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cpu_proto::DEFAULT_PORT;
use nix::unistd::{Gid, Group, User, getuid};

use super::value::{time, words, yes_or_no};
use super::{Asked, Checking, ENDLESS, Family, NewHost, Proxy, Settings, Tokens, tilde};
use crate::ssh::pattern::matches_list;
use crate::terminal::Tty;

/// ssh's own limit for files that include each other.
const DEPTH: usize = 16;

/// More than any real file; a device or a log must not fill the memory.
const LARGEST: u64 = 1 << 20;

/// Collects the settings.
pub(super) struct Reader<'a> {
    asked: &'a Asked<'a>,
    pub(super) settings: Settings,
    depth: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(asked: &'a Asked<'a>) -> Self {
        Self {
            asked,
            settings: Settings::default(),
            depth: 0,
        }
    }

    /// Reads a file; one that is missing says nothing. A user's must not be writable by others,
    /// since it can name commands to run.
    pub(super) fn read(&mut self, path: &Path, of_user: bool) -> Result<()> {
        self.include(path, of_user, true)
    }

    fn include(&mut self, path: &Path, of_user: bool, active: bool) -> Result<()> {
        let what = || format!("cannot read {}", path.display());
        let meta = match std::fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            meta => meta.with_context(what)?,
        };
        // A directory says nothing, nor does /dev/null.
        if !meta.is_file() {
            return Ok(());
        }
        if meta.len() > LARGEST {
            bail!("{}: not a configuration of ssh", path.display());
        }
        if of_user && may_be_written_by_others(&meta) {
            bail!(
                "{} may be written by others, and it can name commands to run: chmod 600 it",
                path.display()
            );
        }
        // Comments are in any encoding.
        let bytes = std::fs::read(path).with_context(what)?;
        self.text(&String::from_utf8_lossy(&bytes), path, of_user, active)
    }

    /// Reads a text. `active` is whether the line that included it counts.
    pub(super) fn text(
        &mut self,
        text: &str,
        path: &Path,
        of_user: bool,
        active: bool,
    ) -> Result<()> {
        let mut counts = active;
        for (number, line) in text.lines().enumerate() {
            self.line(line, path, of_user, active, &mut counts)
                .with_context(|| format!("{} line {}", path.display(), number + 1))?;
        }
        Ok(())
    }

    fn line(
        &mut self,
        line: &str,
        path: &Path,
        of_user: bool,
        active: bool,
        counts: &mut bool,
    ) -> Result<()> {
        let words = words(line)?;
        let Some((keyword, arguments)) = words.split_first() else {
            return Ok(());
        };
        let Some(first) = arguments.first() else {
            bail!("{keyword} has no value");
        };
        match keyword.to_ascii_lowercase().as_str() {
            "host" => {
                let patterns = arguments.iter().map(String::as_str);
                *counts = active && matches_list(patterns, self.asked.host);
            }
            "match" => *counts = active && self.matches(arguments)?,
            "include" => {
                if self.depth == DEPTH {
                    bail!("files include each other more than {DEPTH} deep");
                }
                self.depth += 1;
                for pattern in arguments {
                    for file in self.included(pattern, path, of_user)? {
                        self.include(&file, of_user, *counts)?;
                    }
                }
                self.depth -= 1;
            }
            // A command is the rest of the line as it stands.
            "proxycommand" if *counts => {
                let line = line.trim();
                let command = line.get(keyword.len()..).unwrap_or_default();
                let command = command.trim_start_matches(|c: char| c.is_whitespace() || c == '=');
                self.settings.proxy.get_or_insert(if first == "none" {
                    Proxy::None
                } else {
                    Proxy::Command(command.to_owned())
                });
            }
            keyword if *counts => self.set(keyword, first, arguments)?,
            _ => {}
        }
        Ok(())
    }

    fn set(&mut self, keyword: &str, first: &str, arguments: &[String]) -> Result<()> {
        let settings = &mut self.settings;
        match keyword {
            "hostname" => {
                settings.host_name.get_or_insert(first.to_owned());
            }
            "user" => {
                settings.user.get_or_insert(first.to_owned());
            }
            "port" => {
                let port = first.parse().ok().filter(|&port| port != 0);
                let port = port.with_context(|| format!("{first:?} is not a port"))?;
                settings.port.get_or_insert(port);
            }
            "identityfile" => {
                if !settings.identity_files.iter().any(|file| file == first) {
                    settings.identity_files.push(first.to_owned());
                }
            }
            "identitiesonly" => {
                settings.identities_only.get_or_insert(yes_or_no(first)?);
            }
            "identityagent" => {
                settings.identity_agent.get_or_insert(first.to_owned());
            }
            "userknownhostsfile" => {
                settings
                    .user_known_hosts
                    .get_or_insert_with(|| arguments.to_vec());
            }
            "stricthostkeychecking" => {
                let (new, changed_is_accepted) = match first.to_ascii_lowercase().as_str() {
                    "yes" | "true" => (NewHost::Refuse, false),
                    "ask" => (NewHost::Ask, false),
                    "accept-new" => (NewHost::Accept, false),
                    "no" | "off" | "false" => (NewHost::Accept, true),
                    _ => bail!("{first:?} is none of yes, ask, accept-new, no"),
                };
                settings.checking.get_or_insert(Checking {
                    new,
                    changed_is_accepted,
                });
            }
            "hostkeyalias" => {
                settings.host_key_alias.get_or_insert(first.to_owned());
            }
            "hashknownhosts" => {
                settings.hash_known_hosts.get_or_insert(yes_or_no(first)?);
            }
            "requesttty" => {
                let tty = match first.to_ascii_lowercase().as_str() {
                    "auto" => Tty::Usual,
                    "yes" | "true" => Tty::Command,
                    "force" => Tty::Force,
                    "no" | "false" => Tty::Never,
                    _ => bail!("{first:?} is none of auto, yes, force, no"),
                };
                settings.tty.get_or_insert(tty);
            }
            "connecttimeout" => {
                let patience = match first {
                    "none" | "0" => ENDLESS,
                    some => time(some)?,
                };
                settings.connect_timeout.get_or_insert(patience);
            }
            "serveraliveinterval" => {
                let interval = match first {
                    "none" => Duration::ZERO,
                    some => time(some)?,
                };
                settings.alive_interval.get_or_insert(interval);
            }
            "serveralivecountmax" => {
                let count = first.parse();
                let count = count.with_context(|| format!("{first:?} is not a number"))?;
                settings.alive_max.get_or_insert(count);
            }
            "proxyjump" => {
                settings.proxy.get_or_insert(if first == "none" {
                    Proxy::None
                } else {
                    Proxy::Jump(first.to_owned())
                });
            }
            "addressfamily" => {
                let family = match first.to_ascii_lowercase().as_str() {
                    "any" => Family::Any,
                    "inet" => Family::Inet,
                    "inet6" => Family::Inet6,
                    _ => bail!("{first:?} is none of any, inet, inet6"),
                };
                settings.family.get_or_insert(family);
            }
            "sendenv" => settings.send_env.extend(arguments.iter().cloned()),
            // As in ssh, the first line alone.
            "setenv" if !settings.set_env.is_empty() => {}
            "setenv" => {
                for argument in arguments {
                    let Some((name, value)) = argument.split_once('=') else {
                        bail!("{argument:?} is not NAME=value");
                    };
                    if !settings.set_env.iter().any(|(other, _)| other == name) {
                        settings.set_env.push((name.to_owned(), value.to_owned()));
                    }
                }
            }
            other => {
                settings.ignored.insert(other.to_owned());
            }
        }
        Ok(())
    }

    /// Whether all criteria of a `Match` line hold.
    fn matches(&mut self, criteria: &[String]) -> Result<bool> {
        let mut all = true;
        // `host=x` is the same as `host x`.
        let mut words = criteria.iter().flat_map(|word| match word.split_once('=') {
            Some((name, value)) if is_criterion(name) => [Some(name), Some(value)],
            _ => [Some(word.as_str()), None],
        });
        let mut words = words.by_ref().flatten();
        while let Some(word) = words.next() {
            let lower = word.to_ascii_lowercase();
            let (negated, name) = match lower.strip_prefix('!') {
                Some(name) => (true, name),
                None => (false, lower.as_str()),
            };
            let text = match name {
                "all" => {
                    all &= !negated;
                    continue;
                }
                "host" => self.settings.host(self.asked.host)?,
                "originalhost" => self.asked.host.to_owned(),
                "user" => {
                    let set = self.asked.user.or(self.settings.user.as_deref());
                    set.unwrap_or(self.asked.local_user).to_owned()
                }
                "localuser" => self.asked.local_user.to_owned(),
                "exec" => {
                    let command = words.next().context("Match exec has no command")?;
                    // What decides nothing is not run.
                    all = all && self.succeeds(command)? != negated;
                    continue;
                }
                // There is no second reading of the files, so these are never true.
                "final" | "canonical" => {
                    self.settings.ignored.insert(format!("match {name}"));
                    all &= negated;
                    continue;
                }
                _ => {
                    words.next();
                    self.settings.ignored.insert(format!("match {name}"));
                    all = false;
                    continue;
                }
            };
            let Some(list) = words.next() else {
                bail!("Match {name} has no pattern");
            };
            all &= matches_list(list.split(','), &text) != negated;
        }
        Ok(all)
    }

    /// Whether a command of `Match exec` does, as ssh runs it.
    fn succeeds(&self, command: &str) -> Result<bool> {
        let asked = self.asked;
        let host = self.settings.host(asked.host)?;
        let user = asked.user.or(self.settings.user.as_deref());
        let tokens = Tokens {
            home: asked.home,
            asked: asked.host,
            alias: self.settings.host_key_alias.as_deref(),
            host: &host,
            port: self.settings.port.unwrap_or(DEFAULT_PORT),
            user: user.unwrap_or(asked.local_user),
            local_user: asked.local_user,
        };
        let command = tokens.expand(command)?;
        let shell = super::shell();
        let mut run = Command::new(&shell);
        run.arg("-c").arg(command);
        run.stdin(Stdio::null()).stdout(Stdio::null());
        let status = run.status();
        let status = status.with_context(|| format!("cannot run {shell}"))?;
        Ok(status.success())
    }

    /// The files that an `Include` means, in the order of their names.
    fn included(&self, pattern: &str, from: &Path, of_user: bool) -> Result<Vec<PathBuf>> {
        let mut path = tilde(pattern, self.asked.home);
        if !path.is_absolute() {
            let base = match (of_user, from.parent()) {
                (true, _) | (_, None) => self.asked.home.join(".ssh"),
                (false, Some(_)) => PathBuf::from("/etc/ssh"),
            };
            path = base.join(path);
        }
        let path = path.to_string_lossy();
        let as_shells_do = glob::MatchOptions {
            require_literal_leading_dot: true,
            ..glob::MatchOptions::default()
        };
        let found = glob::glob_with(&path, as_shells_do);
        let found = found.with_context(|| format!("Include {pattern}"))?;
        // What cannot be looked into says nothing.
        Ok(found.filter_map(Result::ok).collect())
    }
}

/// Of the criteria of `Match`, those that have a value.
fn is_criterion(name: &str) -> bool {
    let name = name.strip_prefix('!').unwrap_or(name);
    ["host", "originalhost", "user", "localuser", "exec"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(name))
}

/// Others than the user and root; a group that bears the user's name and has no other member is the user.
fn may_be_written_by_others(meta: &Metadata) -> bool {
    let me = getuid();
    let mine = [0, me.as_raw()].contains(&meta.uid());
    let is_mine_alone = || {
        let group = Group::from_gid(Gid::from_raw(meta.gid())).ok().flatten();
        let user = User::from_uid(me).ok().flatten();
        matches!((group, user), (Some(group), Some(user))
            if group.name == user.name && group.mem.iter().all(|member| *member == user.name))
    };
    !mine || meta.mode() & 0o002 != 0 || meta.mode() & 0o020 != 0 && !is_mine_alone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    fn settings_for(asked: &Asked<'_>, text: &str) -> Result<Settings> {
        let mut reader = Reader::new(asked);
        reader.text(text, Path::new("config"), true, true)?;
        Ok(reader.settings)
    }

    fn settings(host: &str, text: &str) -> Settings {
        settings_for(&asked(host), text).unwrap()
    }

    fn asked(host: &str) -> Asked<'_> {
        Asked {
            host,
            user: None,
            local_user: "ann",
            home: Path::new("/nosuch"),
        }
    }

    #[test]
    fn the_first_value_wins_and_lists_grow() {
        let text = "User early\nHost board b?\n  Port=2222\n  user late\n  IdentityFile ~/a\n\
                    Host !board *\n  Port 1\nHost *\n  IdentityFile ~/b\n  port 3\n  SetEnv A=1 B=2\n\
                    SetEnv A=3 C=4\n  ForwardAgent yes\n";
        let found = settings("board", text);
        assert_eq!(found.user.as_deref(), Some("early"));
        assert_eq!(found.port, Some(2222));
        assert_eq!(found.identity_files, ["~/a", "~/b"]);
        let set = [("A", "1"), ("B", "2")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(found.set_env, set);
        assert!(found.ignored.contains("forwardagent"));
        assert_eq!(settings("other", text).port, Some(1));
        assert_eq!(settings("bx", text).port, Some(2222));
    }

    #[test]
    fn match_lines() {
        let text = "Host short\n  HostName long.lab\nMatch host *.lab user ann\n  Port 7\n\
                    Match originalhost short !localuser ann\n  User no\n\
                    Match exec \"test %h/%p/%n = long.lab/7/other\"\n  User no\nMatch !exec true\n  User no\n\
                    Match originalhost other exec no-such-command\n  User no\n\
                    Match exec \"test %h/%p/%n = long.lab/7/short\"\n  IdentityFile mine\nMatch surprise x\n  User no\n\
                    Match final\n  User no\nMatch user=bob\n  User no\nMatch !host=*.lab\n User elsewhere\nMatch all\n  User yes\n";
        let found = settings("short", text);
        assert_eq!((found.port, found.user.as_deref()), (Some(7), Some("yes")));
        assert_eq!(found.identity_files, ["mine"]);
        assert!(found.ignored.contains("match surprise"));
        assert_eq!(settings("x", text).user.as_deref(), Some("elsewhere"));
        let mut other = asked("short");
        other.user = Some("bob");
        assert_eq!(settings_for(&other, text).unwrap().port, None);
    }

    #[test]
    fn every_honoured_keyword() {
        let found = settings(
            "h",
            "UserKnownHostsFile ~/k1 \"k 2\"\nStrictHostKeyChecking yes\nConnectTimeout 1m\n\
             ServerAliveInterval 5\nServerAliveCountMax 2\nProxyJump a,b\nProxyCommand late\n\
             AddressFamily inet6\nSendEnv LANG LC_*\nIdentitiesOnly yes\nIdentityAgent none\n\
             HostKeyAlias lab\nHashKnownHosts yes\nRequestTTY force\n",
        );
        let expected = Settings {
            user_known_hosts: Some(vec!["~/k1".into(), "k 2".into()]),
            checking: Some(Checking {
                new: NewHost::Refuse,
                changed_is_accepted: false,
            }),
            connect_timeout: Some(Duration::from_mins(1)),
            alive_interval: Some(Duration::from_secs(5)),
            alive_max: Some(2),
            proxy: Some(Proxy::Jump("a,b".into())),
            family: Some(Family::Inet6),
            send_env: vec!["LANG".into(), "LC_*".into()],
            identities_only: Some(true),
            identity_agent: Some("none".into()),
            host_key_alias: Some("lab".into()),
            hash_known_hosts: Some(true),
            tty: Some(Tty::Force),
            ..Settings::default()
        };
        assert_eq!(found, expected);
        let found = settings("h", "ProxyCommand = nc -X \"a b\" %h %p # not a comment\n");
        let command = "nc -X \"a b\" %h %p # not a comment";
        assert_eq!(found.proxy, Some(Proxy::Command(command.into())));
        assert_eq!(settings("h", "ProxyCommand none").proxy, Some(Proxy::None));
        let found = settings("h", "HostName %h.lab\n");
        assert_eq!(found.host("h").unwrap(), "h.lab");
    }

    #[test]
    fn faults_name_file_and_line() {
        for bad in [
            "Port 0",
            "Port x",
            "Host",
            "StrictHostKeyChecking maybe",
            "RequestTTY maybe",
            "SetEnv A",
            "User \"a",
            "Match host",
            "ConnectTimeout soon",
        ] {
            let error = settings_for(&asked("h"), &format!("\n{bad}\n")).unwrap_err();
            assert!(
                format!("{error:#}").starts_with("config line 2: "),
                "{error:#}"
            );
        }
        // What does not count is not looked at, as in ssh.
        assert_eq!(settings("h", "Host other\nPort x\n"), Settings::default());
    }

    #[test]
    fn includes_are_read_where_they_stand() {
        let home = tempfile::tempdir().unwrap();
        let ssh = home.path().join(".ssh");
        std::fs::create_dir_all(ssh.join("config.d")).unwrap();
        std::fs::write(ssh.join("config.d/b"), b"# caf\xe9\nPort 2\n").unwrap();
        std::fs::write(ssh.join("config.d/.a.swp"), "Port 3\n").unwrap();
        std::fs::create_dir(ssh.join("config.d/a.d")).unwrap();
        std::fs::write(ssh.join("config.d/a"), "Host board\nPort 1\n").unwrap();
        std::fs::write(ssh.join("loop"), "Include loop\n").unwrap();
        let asked = |host| Asked {
            home: home.path(),
            ..asked(host)
        };
        let text = "Host b*\nInclude config.d/*\nInclude ~/.ssh/missing\nUser x\n";
        let found = settings_for(&asked("board"), text).unwrap();
        assert_eq!((found.port, found.user.as_deref()), (Some(1), Some("x")));
        assert_eq!(settings_for(&asked("bread"), text).unwrap().port, Some(2));
        assert_eq!(
            settings_for(&asked("other"), text).unwrap(),
            Settings::default()
        );
        let empty = settings_for(&asked("x"), "Include /dev/null /dev").unwrap();
        assert_eq!(empty, Settings::default());
        let path = ssh.join("config.d/b");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        let error = settings_for(&asked("bread"), text).unwrap_err();
        assert!(format!("{error:#}").contains("chmod 600"), "{error:#}");
        let error = settings_for(&asked("x"), "Include loop").unwrap_err();
        assert!(format!("{error:#}").contains("16 deep"), "{error:#}");
    }

    // Of the criteria of Match not exec: that runs what it is given.
    proptest! {
        #[test]
        fn any_text_is_settings_or_an_error_that_names_its_line(text in "((Host|Match|Port|User|SetEnv|proxycommand)[ =!*a\"\\\\,#]{0,9}(all|host|user)?\n?){0,8}") {
            if let Err(error) = settings_for(&asked("a"), &text) {
                let told = format!("{error:#}");
                let mut lines = 1..=text.lines().count();
                prop_assert!(lines.any(|line| told.starts_with(&format!("config line {line}: "))), "{}", told);
            }
        }
    }
}
