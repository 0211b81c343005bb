//! What of this machine's files and environment the other machine does not get: the rules for files, from a table, the
//! configuration and the flags, and the patterns for variables.

mod paths;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use cpu_client::export::{Rule, RuleKind};
use cpu_proto::glob;
use cpu_proto::namespace::Bind;
use cpu_proto::{printable, quote};

use paths::{ServedHome, inside, keys};
pub(crate) use paths::{homes_but, is_missing};

/// What is hidden unless the user shows it: private keys, and what logs in elsewhere; and what is read-only. Programs replace a
/// file by a new one that has a similar name before, hence the `*`.
const TABLE: [(RuleKind, &str); 57] = [
    // What ssh and cpu on this machine do next time. A key in a .pub file is one that the user may let in elsewhere.
    (RuleKind::ReadOnly, "~/.config/cpu"),
    (RuleKind::ReadOnly, "~/.ssh/config*"),
    (RuleKind::ReadOnly, "~/.ssh/known_hosts*"),
    (RuleKind::ReadOnly, "~/.ssh/*.pub"),
    (RuleKind::Hide, "/run/user/*/containers/auth.json*"),
    (RuleKind::Hide, "/run/secrets*"),
    (RuleKind::Hide, "/tmp/krb5cc_*"),
    (RuleKind::Hide, "~/.ssh/*"),
    (RuleKind::Show, "~/.ssh/config*"),
    (RuleKind::Show, "~/.ssh/known_hosts*"),
    (RuleKind::Show, "~/.ssh/*.pub"),
    (RuleKind::Hide, "~/.gnupg"),
    (RuleKind::Hide, "~/.password-store"),
    (RuleKind::Hide, "~/.local/share/keyrings"),
    (RuleKind::Hide, "~/.local/share/kwalletd"),
    (RuleKind::Hide, "~/.aws"),
    (RuleKind::Hide, "~/.azure"),
    (RuleKind::Hide, "~/.config/gcloud"),
    (RuleKind::Hide, "~/.config/rclone"),
    (RuleKind::Hide, "~/.kube"),
    (RuleKind::Hide, "~/.docker/config.json*"),
    (RuleKind::Hide, "~/.config/containers/auth.json*"),
    (RuleKind::Hide, "~/.terraform.d/credentials.tfrc.json*"),
    (RuleKind::Hide, "~/.vault-token*"),
    (RuleKind::Hide, "~/.netrc*"),
    (RuleKind::Hide, "~/.authinfo*"),
    (RuleKind::Hide, "~/.pgpass*"),
    (RuleKind::Hide, "~/.my.cnf*"),
    (RuleKind::Hide, "~/.git-credentials*"),
    (RuleKind::Hide, "~/.config/git/credentials*"),
    (RuleKind::Hide, "~/.config/gh"),
    (RuleKind::Hide, "~/.config/hub"),
    (RuleKind::Hide, "~/.config/glab-cli"),
    (RuleKind::Hide, "~/.pypirc*"),
    (RuleKind::Hide, "~/.cargo/credentials*"),
    (RuleKind::Hide, "~/.gem/credentials*"),
    (RuleKind::Hide, "~/.mozilla"),
    (RuleKind::Hide, "~/.thunderbird"),
    (RuleKind::Hide, "~/.config/chromium"),
    (RuleKind::Hide, "~/.config/google-chrome*"),
    (RuleKind::Hide, "~/.config/microsoft-edge*"),
    (RuleKind::Hide, "~/.config/BraveSoftware"),
    (RuleKind::Hide, "~/.config/vivaldi*"),
    (RuleKind::Hide, "~/.config/opera*"),
    (RuleKind::Hide, "~/.config/Bitwarden*"),
    (RuleKind::Hide, "~/.config/op"),
    (RuleKind::Hide, "~/snap/firefox"),
    (RuleKind::Hide, "~/snap/chromium"),
    (RuleKind::Hide, "~/.librewolf"),
    (RuleKind::Hide, "~/.s3cfg*"),
    (RuleKind::Hide, "~/.boto*"),
    (RuleKind::Hide, "~/.oci"),
    (RuleKind::Hide, "~/.msmtprc*"),
    (RuleKind::Hide, "~/.kaggle"),
    (RuleKind::Hide, "~/.pki"),
    (RuleKind::Hide, "~/.electrum"),
    // What was run on other machines (`learned`). Not the directory, so that find(1) in a home is silent.
    (RuleKind::Hide, "~/.cache/cpu/traces/*"),
];

/// Names of variables that are not sent unless `-env` adds them, in either case: secrets, and sockets of this machine.
const SECRETS: [&str; 22] = [
    "*TOKEN",
    "*SECRET*",
    "*PASSWORD",
    "*PASSWD",
    "*PASSPHRASE",
    "*_PASS",
    "SSHPASS",
    "MYSQL_PWD",
    "*APIKEY",
    "*API_KEY",
    "*ACCESS_KEY",
    "*PRIVATE_KEY",
    "*CREDENTIAL",
    "*_PAT",
    "*_JWT",
    "AWS_SESSION*",
    "OP_SESSION*",
    "BW_SESSION",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "GPG_AGENT_INFO",
    "DBUS_SESSION_BUS_ADDRESS",
];

/// What the flags and the configuration say about files.
#[derive(Debug)]
pub(crate) struct FileLimits<'a> {
    /// Paths that are hidden or shown, in order: those of the configuration, then those of the flags.
    pub(crate) paths: Vec<(RuleKind, String)>,
    /// Whether nothing may be changed.
    pub(crate) read_only: bool,
    /// Whether only the namespace and the working directory can be reached.
    pub(crate) only: bool,
    /// The private keys of this login. Their pin files are hidden too.
    pub(crate) keys: Vec<PathBuf>,
    /// The private keys for other hosts, as paths with patterns, and their pin files.
    pub(crate) other_keys: Vec<String>,
    /// The directories of the session.
    pub(crate) binds: &'a [Bind],
    /// The served directory.
    pub(crate) root: &'a Path,
    /// The user's home in it.
    pub(crate) home: &'a Path,
    /// The homes of others whose files this user may read.
    pub(crate) other_homes: Vec<PathBuf>,
}

/// The rules, in the order in which they apply. An error if a path has `..`, which no rule would match.
pub(crate) fn rules(limits: &FileLimits<'_>) -> Result<Vec<Rule>> {
    let rule = |kind, path: String| Rule { path, kind };
    let mut rules = Vec::new();
    if limits.only {
        let here = std::env::current_dir().ok();
        let here = here.as_deref().and_then(|here| inside(limits.root, here));
        let locals = limits.binds.iter().map(|bind| glob::quote(&bind.local));
        rules.extend(locals.chain(here).map(|path| rule(RuleKind::Only, path)));
        if rules.is_empty() {
            // A path that nothing has: nothing is served.
            rules.push(rule(RuleKind::Only, "/\0".into()));
        }
    }
    if limits.read_only {
        rules.push(rule(RuleKind::ReadOnly, "/".into()));
    }
    let read_only = limits.binds.iter().filter(|bind| bind.read_only);
    rules.extend(read_only.map(|bind| rule(RuleKind::ReadOnly, glob::quote(&bind.local))));
    let all = |home: &ServedHome, kind, path: &str| {
        let paths = home.absolute(path).into_iter();
        paths.map(move |path| rule(kind, path))
    };
    let served_home = |home: &Path| ServedHome::new(limits.root, home);
    let own_home = served_home(limits.home);
    let other_homes: Vec<_> = limits
        .other_homes
        .iter()
        .map(|it| served_home(it))
        .collect();
    for (kind, path) in &TABLE {
        rules.extend(all(&own_home, *kind, path));
        if path.starts_with('~') {
            for home in &other_homes {
                rules.extend(all(home, *kind, path));
            }
        }
    }
    let hidden = keys(limits).into_iter();
    rules.extend(hidden.map(|path| rule(RuleKind::Hide, path)));
    for (kind, path) in &limits.paths {
        if path.split('/').any(|name| name == "..") {
            bail!(
                "the path {path:?} that is to be hidden or shown has \"..\" in it; write where it leads"
            );
        }
        rules.extend(all(&own_home, *kind, path));
    }
    Ok(rules)
}

/// The rules about hidden files, as lines for the configuration. One that comes again later says nothing here.
pub(crate) fn list(rules: &[Rule]) -> String {
    let lines = rules
        .iter()
        .enumerate()
        .filter(|(index, rule)| !rules[index + 1..].contains(rule));
    let lines = lines.filter_map(|(_, rule)| match rule.kind {
        RuleKind::Hide => Some(format!("Hide {}\n", printable(&rule.path))),
        RuleKind::Show => Some(format!("Show {}\n", printable(&rule.path))),
        RuleKind::ReadOnly | RuleKind::Only => None,
    });
    lines.collect()
}

/// The message about hidden files that the machine asked for; `None` if there were none.
pub(crate) fn alarm(host: &str, requested: &[Vec<u8>]) -> Option<String> {
    let names: Vec<_> = requested
        .iter()
        .map(|path| printable(&String::from_utf8_lossy(path)))
        .collect();
    let name = glob::quote(names.first()?);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@~".contains(c);
    // The name may be the machine's choice, and people copy the line into a shell.
    let example = if name.chars().all(is_plain) {
        name.clone()
    } else {
        String::from_utf8_lossy(&quote::join([name])).into_owned()
    };
    let more = match names.len() {
        1 => String::new(),
        many => format!(" and {} more", many - 1),
    };
    Some(format!(
        "{host} asked for {example}{more}, which is hidden; -show {example} shows it, cpu -hidden lists all"
    ))
}

/// Whether a list of patterns includes a name: the last one that matches decides, and one with a `-` excludes. `None` if
/// none matches.
pub(crate) fn includes<'a>(
    patterns: impl IntoIterator<Item = &'a str>,
    name: &str,
) -> Option<bool> {
    let mut included = None;
    for pattern in patterns {
        let (adds, pattern) = match pattern.strip_prefix('-') {
            Some(pattern) => (false, pattern),
            None => (true, pattern),
        };
        if glob::matches(pattern.as_bytes(), name.as_bytes()) {
            included = Some(adds);
        }
    }
    included
}

/// Whether a variable is sent. `patterns` are those of `-env` and the configuration.
pub(crate) fn is_sent(patterns: &[String], name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let is_secret = |pattern: &&str| glob::matches(pattern.as_bytes(), upper.as_bytes());
    includes(patterns.iter().map(String::as_str), name)
        .unwrap_or_else(|| !SECRETS.iter().any(is_secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_sent_unless_they_are_named() {
        let sent = |patterns: &[&str], name| {
            let patterns: Vec<_> = patterns.iter().map(ToString::to_string).collect();
            is_sent(&patterns, name)
        };
        for secret in [
            "GITHUB_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "DB_PASSWORD",
            "MY_SECRET_X",
            "OPENAI_API_KEY",
            "SSH_AUTH_SOCK",
            "SECRET_KEY_BASE",
            "PGPASSWORD",
            "SSHPASS",
            "TF_VAR_db_password",
            "BORG_PASSPHRASE",
            "BW_SESSION",
        ] {
            assert!(!sent(&[], secret), "{secret}");
            assert!(sent(&["*"], secret) && sent(&[secret], secret), "{secret}");
        }
        for plain in [
            "PWD",
            "OLDPWD",
            "SSH_ASKPASS",
            "GIT_ASKPASS",
            "XDG_SESSION_ID",
            "PATH",
        ] {
            assert!(sent(&[], plain), "{plain}");
        }
        assert!(sent(&[], "LANG") && sent(&["GITHUB_TOKEN"], "LANG"));
        assert!(!sent(&["-LANG"], "LANG") && !sent(&["-*"], "LANG"));
        assert!(sent(&["-*", "LANG"], "LANG") && !sent(&["LANG", "-*"], "LANG"));
    }

    #[test]
    fn the_later_rule_is_the_users() {
        let home = Path::new("/home/ann");
        let limits = FileLimits {
            paths: vec![(RuleKind::Show, "~/.aws".into())],
            read_only: false,
            only: false,
            keys: Vec::new(),
            other_keys: Vec::new(),
            other_homes: Vec::new(),
            binds: &[],
            root: Path::new("/"),
            home,
        };
        let rules = rules(&limits).unwrap();
        let last = rules.last().unwrap();
        assert_eq!((last.kind, &*last.path), (RuleKind::Show, "/home/ann/.aws"));
        let list = list(&rules);
        assert!(
            list.contains("Hide /home/ann/.ssh/*\nShow /home/ann/.ssh/config*\n"),
            "{list}"
        );
        // The last one counts.
        let hide = |path: &str| Rule {
            path: path.to_owned(),
            kind: RuleKind::Hide,
        };
        let rules = ["/a", "/b", "/a"].map(hide);
        assert_eq!(super::list(&rules), "Hide /b\nHide /a\n");
    }

    #[test]
    fn a_path_that_no_rule_would_match_is_refused() {
        let limits = FileLimits {
            paths: vec![(RuleKind::Hide, "~/a/../b".into())],
            read_only: false,
            only: false,
            keys: Vec::new(),
            other_keys: Vec::new(),
            other_homes: Vec::new(),
            binds: &[],
            root: Path::new("/"),
            home: Path::new("/home/ann"),
        };
        let error = rules(&limits).unwrap_err().to_string();
        assert!(error.contains("~/a/../b"), "{error}");
    }

    #[test]
    fn the_keys_for_other_hosts_are_hidden_and_so_are_other_homes() {
        let limits = FileLimits {
            paths: Vec::new(),
            read_only: false,
            only: false,
            keys: vec!["/keys/own*".into()],
            other_keys: ["/mnt/*_key", "/opt/a\\*/b.pub", "/a/../b"]
                .map(str::to_owned)
                .to_vec(),
            binds: &[],
            root: Path::new("/"),
            home: Path::new("/root"),
            other_homes: vec!["/home/a*".into()],
        };
        let list = list(&rules(&limits).unwrap());
        for line in [
            "Hide /keys/own\\*",
            "Hide /keys/own\\*.hostkey",
            "Hide /mnt/*_key",
            "Hide /mnt/*_key.hostkey",
            "Hide /opt/a\\*/b.pub",
            "Hide /opt/a\\*/b",
            "Hide /root/.ssh/*",
            "Hide /home/a\\*/.ssh/*",
            "Show /home/a\\*/.ssh/config*",
        ] {
            assert!(list.lines().any(|found| found == line), "{line}: {list}");
        }
        assert!(!list.contains(".."), "{list}");
    }

    #[test]
    fn the_alarm_is_one_line() {
        assert_eq!(alarm("board", &[]), None);
        let one = alarm("board", &[b"/home/a\n/.netrc".to_vec()]).unwrap();
        assert!(
            one.contains(".netrc', which is hidden") && !one.contains('\n'),
            "{one}"
        );
        let star = alarm("board", &[b"/a*".to_vec()]).unwrap();
        assert!(star.contains("-show '/a\\*' shows"), "{star}");
        let odd = alarm("board", &[b"/a; reboot".to_vec()]).unwrap();
        assert!(odd.contains("-show '/a; reboot' shows"), "{odd}");
        let two = alarm("board", &[b"/a".to_vec(), b"/b".to_vec()]).unwrap();
        assert!(two.starts_with("board asked for /a and 1 more"), "{two}");
    }
}
