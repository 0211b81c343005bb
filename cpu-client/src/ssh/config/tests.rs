//! Tests of whole configurations.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use proptest::prelude::*;

use super::file::ConfigReader;
use super::{AddressFamily, Checking, NewHost, Proxy, Query, Settings, Tokens, read};
use crate::terminal::Tty;

fn settings_for(query: &Query<'_>, text: &str) -> Result<Settings> {
    let mut reader = ConfigReader::new(query);
    reader.text(text, Path::new("config"), true, true)?;
    Ok(reader.settings)
}

fn settings(host: &str, text: &str) -> Settings {
    settings_for(&query(host), text).unwrap()
}

fn query(host: &str) -> Query<'_> {
    Query {
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
                SetEnv A=3 C=4\n  ForwardX11 yes\n";
    let found = settings("board", text);
    assert_eq!(found.user.as_deref(), Some("early"));
    assert_eq!(found.port, Some(2222));
    assert_eq!(found.identity_files, ["~/a", "~/b"]);
    let set = [("A", "1"), ("B", "2")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(found.set_env, set);
    assert!(found.ignored.contains("forwardx11"));
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
    let mut other = query("short");
    other.user = Some("bob");
    assert_eq!(settings_for(&other, text).unwrap().port, None);
}

#[test]
fn every_keyword_that_has_an_effect() {
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
        family: Some(AddressFamily::Inet6),
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
fn errors_name_file_and_line() {
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
        let error = settings_for(&query("h"), &format!("\n{bad}\n")).unwrap_err();
        assert!(
            format!("{error:#}").starts_with("config line 2: "),
            "{error:#}"
        );
    }
    // As in ssh, values in sections that do not apply are not checked.
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
    let query = |host| Query {
        home: home.path(),
        ..query(host)
    };
    let text = "Host b*\nInclude config.d/*\nInclude ~/.ssh/missing\nUser x\n";
    let found = settings_for(&query("board"), text).unwrap();
    assert_eq!((found.port, found.user.as_deref()), (Some(1), Some("x")));
    assert_eq!(settings_for(&query("bread"), text).unwrap().port, Some(2));
    assert_eq!(
        settings_for(&query("other"), text).unwrap(),
        Settings::default()
    );
    let empty = settings_for(&query("x"), "Include /dev/null /dev").unwrap();
    assert_eq!(empty, Settings::default());
    let path = ssh.join("config.d/b");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    let error = settings_for(&query("bread"), text).unwrap_err();
    assert!(format!("{error:#}").contains("chmod 600"), "{error:#}");
    let error = settings_for(&query("x"), "Include loop").unwrap_err();
    assert!(format!("{error:#}").contains("16 deep"), "{error:#}");
}

#[test]
fn the_keys_of_every_host_are_known() {
    let text = "IdentityFile ~/a\nHost other\nidentityfile=/k/%h*\nIdentityFile ~/%d\n\
                Match user bob\nIdentityFile \"/with space\"\nIdentityFile /%%/%r\n";
    let found = settings("board", text);
    assert_eq!(found.identity_files, ["~/a"]);
    let tokens = Tokens {
        home: Path::new("/home/a*"),
        original_host: "board",
        alias: None,
        host: "board",
        port: 22,
        user: "ann",
        local_user: "ann",
    };
    let every = found.every_identity_file.iter();
    let patterns: Vec<_> = every.map(|file| tokens.pattern(file).unwrap()).collect();
    assert_eq!(
        patterns,
        [
            r"/home/a\*/a",
            r"/k/*\*",
            r"/home/a\*//home/a\*",
            "/with space",
            "/%/*"
        ]
    );
    assert_eq!(tokens.pattern("/%x"), None);
    assert_eq!(tokens.pattern("/${NO_SUCH_VARIABLE}"), None);
}

// Match without exec, which would run what it is given.
proptest! {
    #[test]
    fn any_text_is_settings_or_an_error_that_names_its_line(text in "((Host|Match|Port|User|SetEnv|proxycommand)[ =!*a\"\\\\,#]{0,9}(all|host|user)?\n?){0,8}") {
        if let Err(error) = settings_for(&query("a"), &text) {
            let told = format!("{error:#}");
            let mut lines = 1..=text.lines().count();
            prop_assert!(lines.any(|line| told.starts_with(&format!("config line {line}: "))), "{}", told);
        }
    }
}

#[test]
fn settings_of_the_command_line_come_before_the_files() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".ssh")).unwrap();
    let file = "Host board\nPort 1\nUser file\nIdentityFile ~/file\nProxyCommand none\n";
    std::fs::write(home.path().join(".ssh/config"), file).unwrap();
    let query = Query {
        home: home.path(),
        ..query("board")
    };
    let with = |settings: &[&str]| {
        let settings: Vec<_> = settings.iter().map(ToString::to_string).collect();
        read(&query, &settings)
    };
    let found = with(&[
        "Port=2",
        "identityfile ~/line",
        "ProxyCommand=nc -x \"a b\" %h",
    ])
    .unwrap();
    assert_eq!((found.port, found.user.as_deref()), (Some(2), Some("file")));
    assert_eq!(found.identity_files, ["~/line", "~/file"]);
    let command = Proxy::Command("nc -x \"a b\" %h".into());
    assert_eq!(found.proxy, Some(command));
    for wrong in ["", "Port", "Port=many", "Host=board", "Include=x", "\"Port"] {
        let error = format!("{:#}", with(&[wrong]).unwrap_err());
        assert!(error.starts_with(&format!("-o {wrong}")), "{error}");
    }
}
