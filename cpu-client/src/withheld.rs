//! What of this machine's files and environment the other machine does not get: the rules for files, from a table, the
//! configuration and the flags, and the patterns for variables.

use std::path::{Path, PathBuf};

use cpu_client::export::{Rule, RuleKind};
use cpu_proto::glob;
use cpu_proto::namespace::Bind;
use cpu_proto::printable;

/// What is hidden unless the user shows it: private keys, and what logs in elsewhere.
const TABLE: [(RuleKind, &str); 42] = [
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
    (RuleKind::Hide, "~/.docker/config.json"),
    (RuleKind::Hide, "~/.config/containers/auth.json"),
    (RuleKind::Hide, "~/.terraform.d/credentials.tfrc.json"),
    (RuleKind::Hide, "~/.vault-token"),
    (RuleKind::Hide, "~/.netrc"),
    (RuleKind::Hide, "~/.authinfo*"),
    (RuleKind::Hide, "~/.pgpass"),
    (RuleKind::Hide, "~/.my.cnf"),
    (RuleKind::Hide, "~/.git-credentials"),
    (RuleKind::Hide, "~/.config/git/credentials"),
    (RuleKind::Hide, "~/.config/gh"),
    (RuleKind::Hide, "~/.config/hub"),
    (RuleKind::Hide, "~/.config/glab-cli"),
    (RuleKind::Hide, "~/.pypirc"),
    (RuleKind::Hide, "~/.cargo/credentials*"),
    (RuleKind::Hide, "~/.gem/credentials"),
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
    (RuleKind::Hide, "~/.var/app/*"),
];

/// Names of variables that are not sent unless `-env` adds them: secrets, and sockets of this machine.
const SECRETS: [&str; 10] = [
    "*_TOKEN",
    "*_SECRET*",
    "*_PASSWORD",
    "*_API_KEY",
    "AWS_SECRET*",
    "AWS_SESSION*",
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

/// The rules, in the order in which they apply.
pub(crate) fn rules(limits: &FileLimits<'_>) -> Vec<Rule> {
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
    let table = TABLE.map(|(kind, path)| rule(kind, absolute(path, limits.home)));
    rules.extend(table);
    for key in &limits.keys {
        let mut pin = key.clone().into_os_string();
        pin.push(".hostkey");
        for file in [key.clone(), pin.into()] {
            let path = std::path::absolute(&file).ok();
            let real = file.canonicalize().ok();
            let paths = [path, real];
            let paths = paths.iter().flatten();
            rules.extend(
                paths.filter_map(|path| Some(rule(RuleKind::Hide, inside(limits.root, path)?))),
            );
        }
    }
    let chosen = limits.paths.iter();
    rules.extend(chosen.map(|(kind, path)| rule(*kind, absolute(path, limits.home))));
    rules
}

/// A path of this machine, as the served tree has it.
fn inside(root: &Path, path: &Path) -> Option<String> {
    let root = root.canonicalize().ok()?;
    let rest = path.strip_prefix(root).ok()?.to_str()?;
    Some(format!("/{rest}"))
}

/// An absolute path in the served tree: `~` is the home, and another relative path is one of the working directory.
fn absolute(path: &str, home: &Path) -> String {
    let home = home.to_string_lossy();
    match path.strip_prefix('~') {
        Some("") => home.into_owned(),
        Some(rest) if rest.starts_with('/') => format!("{home}{rest}"),
        _ => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
            path.to_string_lossy().into_owned()
        }
    }
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
    let example = names.first()?;
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
    let is_secret = |pattern: &&str| glob::matches(pattern.as_bytes(), name.as_bytes());
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
        ] {
            assert!(!sent(&[], secret), "{secret}");
            assert!(sent(&["*"], secret) && sent(&[secret], secret), "{secret}");
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
        let rules = rules(&limits);
        let last = rules.last().unwrap();
        assert_eq!((last.kind, &*last.path), (RuleKind::Show, "/home/ann/.aws"));
        let list = list(&rules);
        assert!(
            list.starts_with("Hide /home/ann/.ssh/*\nShow /home/ann/.ssh/config*\n"),
            "{list}"
        );
    }

    #[test]
    fn the_alarm_is_one_line() {
        assert_eq!(alarm("board", &[]), None);
        let one = alarm("board", &[b"/home/a\n/.netrc".to_vec()]).unwrap();
        assert!(
            one.contains(".netrc, which is hidden") && !one.contains('\n'),
            "{one}"
        );
        let two = alarm("board", &[b"/a".to_vec(), b"/b".to_vec()]).unwrap();
        assert!(two.starts_with("board asked for /a and 1 more"), "{two}");
    }
}
