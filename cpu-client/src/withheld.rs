//! What of this machine's files and environment the other machine does not get: the rules for files, from a table, the
//! configuration and the flags, and the patterns for variables.

use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};
use cpu_client::export::{Rule, RuleKind};
use cpu_proto::glob;
use cpu_proto::namespace::Bind;
use cpu_proto::{printable, quote};

/// What is hidden unless the user shows it: private keys, and what logs in elsewhere; and what is read-only. Programs replace a
/// file by a new one that has a similar name before, hence the `*`.
const TABLE: [(RuleKind, &str); 56] = [
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
    /// The directories of the session.
    pub(crate) binds: &'a [Bind],
    /// The served directory.
    pub(crate) root: &'a Path,
    /// The user's home in it.
    pub(crate) home: &'a Path,
}

/// The rules, in the order in which they apply. An error if a path has `..`, which no rule would match.
pub(crate) fn rules(limits: &FileLimits<'_>) -> Result<Vec<Rule>> {
    let rule = |kind, path: String| Rule { path, kind };
    let mut rules = Vec::new();
    if limits.only {
        let here = std::env::current_dir().ok();
        let here = here.as_deref().and_then(|here| inside(limits.root, here));
        let locals = limits.binds.iter().map(|bind| bind.local.clone());
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
    rules.extend(read_only.map(|bind| rule(RuleKind::ReadOnly, bind.local.clone())));
    let all = |kind, path: &str| {
        let paths = absolute(path, limits.root, limits.home);
        paths.into_iter().map(move |path| rule(kind, path))
    };
    rules.extend(TABLE.iter().flat_map(|(kind, path)| all(*kind, path)));
    for key in &limits.keys {
        let mut pin = key.clone().into_os_string();
        pin.push(".hostkey");
        for file in [key.clone(), pin.into()] {
            // Rules have no `..`; the real path is there anyway.
            let is_plain = |path: &PathBuf| !path.components().any(|c| c == Component::ParentDir);
            let path = std::path::absolute(&file).ok().filter(is_plain);
            let real = file.canonicalize().ok();
            let paths = [path, real];
            let paths = paths.iter().flatten();
            rules.extend(
                paths.filter_map(|path| Some(rule(RuleKind::Hide, inside(limits.root, path)?))),
            );
        }
    }
    for (kind, path) in &limits.paths {
        if path.split('/').any(|name| name == "..") {
            bail!(
                "the path {path:?} that is to be hidden or shown has \"..\" in it; write where it leads"
            );
        }
        rules.extend(all(*kind, path));
    }
    Ok(rules)
}

/// A path of this machine, as the served tree has it.
fn inside(root: &Path, path: &Path) -> Option<String> {
    let root = root.canonicalize().ok()?;
    let rest = path.strip_prefix(root).ok()?.to_str()?;
    Some(format!("/{rest}"))
}

/// Absolute paths in the served tree. `~` is the home in it, and also this machine's if that is in it elsewhere, as with
/// `-root /home`; another relative path is one of the working directory.
fn absolute(path: &str, root: &Path, home: &Path) -> Vec<String> {
    match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let there = format!("{}{rest}", home.display());
            let real = home.canonicalize().unwrap_or_else(|_| home.into());
            let real = served(root, &format!("{}{rest}", real.display()));
            let real = real.filter(|real| *real != there);
            [there].into_iter().chain(real).collect()
        }
        _ if path.starts_with('/') => vec![path.to_owned()],
        _ => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
            served(root, &path.to_string_lossy()).into_iter().collect()
        }
    }
}

/// A path of this machine, whose names may be patterns, as the served tree has it. None if it is elsewhere, or if what is served
/// is part of it: that was asked for.
fn served(root: &Path, path: &str) -> Option<String> {
    let root = root.canonicalize().ok()?;
    let mut names = path.split('/').filter(|name| !name.is_empty());
    for part in root.components().skip(1) {
        let part = part.as_os_str().as_encoded_bytes();
        names
            .next()
            .filter(|name| glob::matches(name.as_bytes(), part))?;
    }
    let rest: Vec<_> = names.collect();
    (!rest.is_empty()).then(|| format!("/{}", rest.join("/")))
}

/// The rules about hidden files, as lines for the configuration.
pub(crate) fn list(rules: &[Rule]) -> String {
    let lines = rules.iter().filter_map(|rule| match rule.kind {
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
    let name = names.first()?;
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
    }

    #[test]
    fn a_path_that_no_rule_would_match_is_refused() {
        let limits = FileLimits {
            paths: vec![(RuleKind::Hide, "~/a/../b".into())],
            read_only: false,
            only: false,
            keys: Vec::new(),
            binds: &[],
            root: Path::new("/"),
            home: Path::new("/home/ann"),
        };
        let error = rules(&limits).unwrap_err().to_string();
        assert!(error.contains("~/a/../b"), "{error}");
    }

    #[test]
    fn the_home_is_found_beneath_another_root() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        let home = top.join("home/ann");
        std::fs::create_dir_all(home.join(".ssh/sub")).unwrap();
        let usual = format!("{}/.ssh/*", home.display());
        for (root, also) in [
            ("home/ann", Some("/.ssh/*")),
            ("home", Some("/ann/.ssh/*")),
            ("home/ann/.ssh", Some("/*")),
            ("home/ann/.ssh/sub", None),
        ] {
            let paths = absolute("~/.ssh/*", &top.join(root), &home);
            let wanted: Vec<_> = [usual.as_str()].into_iter().chain(also).collect();
            assert_eq!(paths, wanted, "{root}");
        }
        assert_eq!(absolute("~/.ssh/*", Path::new("/"), &home), [usual]);
        assert_eq!(absolute("/x", &home, &home), ["/x"]);
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute("x", &here, &home), ["/x"]);
    }

    #[test]
    fn the_alarm_is_one_line() {
        assert_eq!(alarm("board", &[]), None);
        let one = alarm("board", &[b"/home/a\n/.netrc".to_vec()]).unwrap();
        assert!(
            one.contains(".netrc', which is hidden") && !one.contains('\n'),
            "{one}"
        );
        let odd = alarm("board", &[b"/a; reboot".to_vec()]).unwrap();
        assert!(odd.contains("-show '/a; reboot' shows"), "{odd}");
        let two = alarm("board", &[b"/a".to_vec(), b"/b".to_vec()]).unwrap();
        assert!(two.starts_with("board asked for /a and 1 more"), "{two}");
    }
}
