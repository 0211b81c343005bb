//! What rules keep from a peer, whatever it asks for: hidden, read-only and unnamed files, under every name they have.

use cpu_client::export::{Rule, RuleKind};

use super::*;

/// A home with a key, and rules that hide `/h/.ssh` but for the configuration and public keys.
fn home(more: &[(RuleKind, &str)]) -> (ServedTree, Arc<Export>) {
    let served = ServedTree::new();
    for directory in ["h", "h/.ssh", "h/.aws", "h/.aws/sub", "h/work"] {
        served.mkdir(directory);
    }
    for file in ["h/.ssh/id", "h/.ssh/id.pub", "h/.ssh/config", "h/.netrc"] {
        served.write(file, file);
    }
    served.write("h/.aws/sub/key", "key");
    served.write("h/work/file", "file");
    // Other names that exist when cpu starts.
    fs::hard_link(served.path("h/.ssh/id"), served.path("h/work/linked")).unwrap();
    fs::hard_link(served.path("h/.netrc"), served.path("h/work/netrc")).unwrap();
    symlink(".ssh", served.path("h/link")).unwrap();
    let export = rules(&served, more);
    (served, export)
}

/// The usual rules, and then these.
fn rules(served: &ServedTree, more: &[(RuleKind, &str)]) -> Arc<Export> {
    let usual = [
        (RuleKind::Hide, "/h/.ssh/*"),
        (RuleKind::Show, "/h/.ssh/config"),
        (RuleKind::Show, "/h/.ssh/*.pub"),
        (RuleKind::Hide, "/h/.aws"),
        (RuleKind::Hide, "/h/.netrc"),
        (RuleKind::Hide, "/h/.new/token"),
    ];
    let rules: Vec<_> = usual
        .iter()
        .chain(more)
        .map(|(kind, path)| Rule {
            path: (*path).to_owned(),
            kind: *kind,
        })
        .collect();
    let export = Export::new(&served.path("")).unwrap();
    Arc::new(export.with_rules(&rules))
}

fn session(export: &Arc<Export>) -> RawClient {
    RawClient::attached(export.clone(), Config::default())
}

/// The result of opening the fid of `path` itself.
fn opened(raw: &mut RawClient, path: &str, flags: u32) -> Option<Errno> {
    let names = path.matches('/').count() + 1;
    match raw.walk(0, 9, path) {
        Ok(walked) if walked == names => {}
        Ok(_) => return Some(Errno::ENOENT),
        Err(errno) => return Some(errno),
    }
    let result = raw.ask(&Request::Lopen { fid: 9, flags });
    raw.clunk(9).unwrap();
    errno(result)
}

fn rename(raw: &mut RawClient, from: (&str, &str), to: (&str, &str)) -> Option<Errno> {
    raw.walk(0, 10, from.0).unwrap();
    raw.walk(0, 11, to.0).unwrap();
    let result = raw.ask(&Request::Renameat {
        olddirfid: 10,
        oldname: name(from.1),
        newdirfid: 11,
        newname: name(to.1),
    });
    raw.clunk(10).unwrap();
    raw.clunk(11).unwrap();
    errno(result)
}

#[test]
fn what_is_hidden_can_be_seen_and_not_opened() {
    let (served, export) = home(&[]);
    let mut raw = session(&export);
    for hidden in [
        "h/.ssh/id",
        "h/.aws",
        "h/.aws/sub",
        "h/.aws/sub/key",
        "h/.netrc",
    ] {
        assert_eq!(
            opened(&mut raw, hidden, RDONLY),
            Some(Errno::EACCES),
            "{hidden}"
        );
        assert_eq!(raw.walk(0, 1, hidden), Ok(hidden.matches('/').count() + 1));
        assert!(getattr(&mut raw, 1).nlink > 0);
        raw.clunk(1).unwrap();
    }
    for shown in [
        "h/.ssh",
        "h/.ssh/config",
        "h/.ssh/id.pub",
        "h/work/file",
        "h",
    ] {
        assert_eq!(opened(&mut raw, shown, RDONLY), None, "{shown}");
    }
    assert_eq!(opened(&mut raw, "h/.ssh/config", RDWR), None);
    let asked = export.requested_hidden();
    assert!(asked.contains(&b"/h/.ssh/id".to_vec()) && asked.contains(&b"/h/.netrc".to_vec()));
    assert!(!asked.contains(&b"/h/.ssh/config".to_vec()));
    assert_eq!(fs::read(served.path("h/.netrc")).unwrap(), b"h/.netrc");
}

#[test]
fn no_other_name_leads_to_what_is_hidden() {
    let (served, export) = home(&[]);
    let mut raw = session(&export);
    // Names that were there before.
    for other in [
        "h/work/linked",
        "h/work/netrc",
        "h/work/../.netrc",
        "h/.ssh/../.ssh/id",
    ] {
        assert_eq!(
            opened(&mut raw, other, RDONLY),
            Some(Errno::EACCES),
            "{other}"
        );
    }
    // Names that a peer would make.
    raw.walk(0, 1, "h/.ssh/id").unwrap();
    raw.walk(0, 2, "h/work").unwrap();
    let link = Request::Link {
        dfid: 2,
        fid: 1,
        name: name("x"),
    };
    assert_eq!(errno(raw.ask(&link)), Some(Errno::EACCES));
    let rename_fid = Request::Rename {
        fid: 1,
        dfid: 2,
        name: name("x"),
    };
    assert_eq!(errno(raw.ask(&rename_fid)), Some(Errno::EACCES));
    for (from, to) in [
        (("h/.ssh", "id"), ("h/.ssh", "x.pub")),
        (("h/.ssh", "id"), ("h/work", "x")),
        (("h/.aws", "sub"), ("h/work", "sub")),
        (("h", ".aws"), ("h/work", "aws")),
        (("h", ".ssh"), ("h/work", "ssh")),
        (("", "h"), ("", "home")),
        (("h/work", "file"), ("h/.ssh", "id")),
        (("h/work", "file"), ("h", ".netrc")),
        (("h/work", "netrc"), ("h/work", "other")),
    ] {
        assert_eq!(
            rename(&mut raw, from, to),
            Some(Errno::EACCES),
            "{from:?} {to:?}"
        );
    }
    assert_eq!(rename(&mut raw, ("h/work", "file"), ("h", "file")), None);
    // Places that the user will fill. An empty directory there is what programs make, and it stays there.
    raw.walk(0, 3, "h").unwrap();
    for made in [".aws2", ".new"] {
        let mkdir = Request::Mkdir {
            dfid: 3,
            name: name(made),
            mode: 0o700,
            gid: 0,
        };
        assert_eq!(errno(raw.ask(&mkdir)), None, "{made}");
    }
    assert_eq!(
        rename(&mut raw, ("h", ".aws2"), ("h", ".new")),
        Some(Errno::EACCES)
    );
    let in_it = create(&mut raw, 12, "h/.new", "token", WRONLY, 0o600);
    assert_eq!(in_it, Err(Errno::EACCES));
    fs::remove_dir(served.path("h/.new")).unwrap();
    assert_eq!(
        rename(&mut raw, ("h", ".aws2"), ("h", ".new")),
        Some(Errno::EACCES)
    );
    fs::remove_file(served.path("h/.netrc")).unwrap();
    let symlink = Request::Symlink {
        dfid: 3,
        name: name(".netrc"),
        target: text("work/file"),
        gid: 0,
    };
    assert_eq!(errno(raw.ask(&symlink)), Some(Errno::EACCES));
    // What appears later is hidden by its name.
    served.mkdir("h/.new");
    served.write("h/.new/token", "t");
    assert_eq!(
        opened(&mut raw, "h/.new/token", RDONLY),
        Some(Errno::EACCES)
    );
    assert_eq!(opened(&mut raw, "h/.new", RDONLY), None);
    assert_eq!(
        rename(&mut raw, ("h", ".new"), ("h", "seen")),
        Some(Errno::EACCES)
    );
    assert_eq!(fs::read(served.path("h/.ssh/id")).unwrap(), b"h/.ssh/id");
}

#[test]
fn where_symbolic_links_lead_is_hidden_whatever_is_there_later() {
    let (served, _) = home(&[]);
    for directory in ["h/dot", "h/dot/new", "h/dot/ssh"] {
        served.mkdir(directory);
    }
    for file in ["h/dot/netrc", "h/dot/key", "h/dot/public", "h/dot/aws"] {
        served.write(file, "old");
    }
    chmod(&served, &[("h/dot/aws", 0o600)]);
    fs::remove_file(served.path("h/.netrc")).unwrap();
    for (link, target) in [
        ("h/.netrc", "dot/a"),
        ("h/dot/a", "netrc"),
        ("h/.new", "dot/new"),
        ("h/.ssh/key", "../dot/key"),
        ("h/.ssh/x.pub", "../dot/public"),
        ("h/.ssh/config_key", "id"),
        ("h/.aws/credentials", "../dot/aws"),
    ] {
        symlink(target, served.path(link)).unwrap();
    }
    let export = rules(&served, &[]);
    let mut raw = session(&export);
    // As most programs write files.
    for file in ["h/dot/netrc", "h/dot/key"] {
        served.write("h/tmp", "new");
        fs::rename(served.path("h/tmp"), served.path(file)).unwrap();
    }
    served.write("h/dot/new/token", "t");
    for hidden in [
        "h/dot/netrc",
        "h/dot/key",
        "h/dot/new/token",
        "h/dot/aws",
        "h/.ssh/id",
    ] {
        let got = opened(&mut raw, hidden, RDONLY);
        assert_eq!(got, Some(Errno::EACCES), "{hidden}");
    }
    for shown in ["h/dot/public", "h/dot", "h/dot/new"] {
        assert_eq!(opened(&mut raw, shown, RDONLY), None, "{shown}");
    }
    // Nothing else is put where the user's programs will write.
    for (from, to) in [
        (("h", "dot"), ("h", "x")),
        (("h/dot", "a"), ("h/dot", "b")),
        (("h/dot", "new"), ("h/dot", "b")),
        (("h/work", "file"), ("h/dot", "netrc")),
    ] {
        let got = rename(&mut raw, from, to);
        assert_eq!(got, Some(Errno::EACCES), "{from:?} {to:?}");
    }
    // A link to something hidden can be seen, without an alarm.
    let asked = export.requested_hidden().len();
    raw.walk(0, 1, "h/.netrc").unwrap();
    assert_eq!(errno(raw.ask(&Request::Readlink { fid: 1 })), None);
    assert_eq!(export.requested_hidden().len(), asked);
}

#[test]
fn a_lock_opens_nothing_read_only_for_writing() {
    let (served, export) = home(&[(RuleKind::ReadOnly, "/h/work")]);
    let mut raw = session(&export);
    raw.open(1, "h/work/file", RDONLY).unwrap();
    let lock = |kind| Request::Lock {
        fid: 1,
        kind,
        flags: 0,
        start: 0,
        length: 0,
        proc_id: 1,
        client_id: text("c"),
    };
    assert_eq!(errno(raw.ask(&lock(Flock::WRITE))), Some(Errno::EBADF));
    assert_eq!(errno(raw.ask(&lock(Flock::READ))), None);
    assert_eq!(fs::read(served.path("h/work/file")).unwrap(), b"file");
}

#[test]
fn what_is_hidden_is_not_changed() {
    let (served, export) = home(&[]);
    let mut raw = session(&export);
    let size = SetAttr {
        valid: SetAttr::SIZE,
        ..SetAttr::default()
    };
    let mode = SetAttr {
        valid: SetAttr::MODE,
        mode: 0o777,
        ..SetAttr::default()
    };
    for hidden in ["h/.ssh/id", "h/.aws", "h/.netrc", "h/work/linked"] {
        raw.walk(0, 1, hidden).unwrap();
        for change in [size, mode] {
            assert_eq!(setattr(&mut raw, 1, change), Err(Errno::EACCES), "{hidden}");
        }
        let remove = Request::Remove { fid: 1 };
        assert_eq!(errno(raw.ask(&remove)), Some(Errno::EACCES), "{hidden}");
        let _ = raw.clunk(1);
    }
    assert_eq!(
        create(&mut raw, 1, "h/.ssh", "id", WRONLY, 0o600),
        Err(Errno::EACCES)
    );
    assert_eq!(
        create(&mut raw, 1, "h/.ssh", "new", WRONLY, 0o600),
        Err(Errno::EACCES)
    );
    // An existing file that is shown may be opened by a create.
    create(&mut raw, 1, "h/.ssh", "config", RDWR, 0o600).unwrap();
    raw.clunk(1).unwrap();
    let unlink = |dfid, file| Request::Unlinkat {
        dfid,
        name: name(file),
        flags: 0,
    };
    raw.walk(0, 1, "h/.ssh").unwrap();
    assert_eq!(errno(raw.ask(&unlink(1, "id"))), Some(Errno::EACCES));
    assert_eq!(errno(raw.ask(&unlink(1, "id.pub"))), None);
    assert!(served.path("h/.ssh/id").exists() && served.path("h/.aws/sub/key").exists());
}

#[test]
fn a_later_rule_shows() {
    for show in ["/h/.aws", "/h", "/"] {
        let (_served, export) = home(&[(RuleKind::Show, show)]);
        let mut raw = session(&export);
        assert_eq!(opened(&mut raw, "h/.aws/sub/key", RDONLY), None, "{show}");
        let key = (show == "/h/.aws").then_some(Errno::EACCES);
        assert_eq!(opened(&mut raw, "h/.ssh/id", RDONLY), key, "{show}");
    }
    let more = [(RuleKind::Show, "/h/.aws"), (RuleKind::Hide, "/h/.aws/sub")];
    let (_served, export) = home(&more);
    let mut raw = session(&export);
    assert_eq!(opened(&mut raw, "h/.aws", RDONLY), None);
    assert_eq!(
        opened(&mut raw, "h/.aws/sub/key", RDONLY),
        Some(Errno::EACCES)
    );
}

#[test]
fn a_backslash_makes_a_star_a_character() {
    let served = ServedTree::new();
    served.mkdir("h");
    served.mkdir("h/a*b");
    for file in ["h/a*b/key", "h/axb", "h/a\\b"] {
        served.write(file, file);
    }
    for (path, hidden) in [
        (r"/h/a\*b", [true, false, false]),
        ("/h/a*b", [true, true, true]),
        (r"/h/a\\b", [false, false, true]),
        (r"/h/a\*b/*", [true, false, false]),
    ] {
        let export = rules(&served, &[(RuleKind::Hide, path)]);
        let mut raw = session(&export);
        let found = ["h/a*b/key", "h/axb", "h/a\\b"]
            .map(|file| opened(&mut raw, file, RDONLY) == Some(Errno::EACCES));
        assert_eq!(found, hidden, "{path}");
    }
    // The directory that a link leads to has a star in its name, which is no pattern.
    symlink("a*b", served.path("h/to")).unwrap();
    let export = rules(&served, &[(RuleKind::Hide, "/h/to/key")]);
    let mut raw = session(&export);
    assert_eq!(opened(&mut raw, "h/a*b/key", RDONLY), Some(Errno::EACCES));
    assert_eq!(opened(&mut raw, "h/axb", RDONLY), None);
}

#[test]
fn what_is_read_only_is_not_changed() {
    for (rule, outside) in [("/h/work", None), ("/", Some(Errno::EROFS))] {
        let (served, export) = home(&[(RuleKind::ReadOnly, rule)]);
        let mut raw = session(&export);
        assert_eq!(opened(&mut raw, "h/work/file", RDONLY), None);
        for flags in [WRONLY, RDWR, RDONLY | OpenFlags::TRUNC] {
            assert_eq!(opened(&mut raw, "h/work/file", flags), Some(Errno::EROFS));
        }
        assert_eq!(opened(&mut raw, "h/.ssh/config", RDWR), outside);
        for file in ["file", "new"] {
            let created = create(&mut raw, 1, "h/work", file, WRONLY, 0o600);
            assert_eq!(created, Err(Errno::EROFS), "{file}");
        }
        let mode = SetAttr {
            valid: SetAttr::MODE,
            ..SetAttr::default()
        };
        raw.walk(0, 1, "h/work/file").unwrap();
        assert_eq!(setattr(&mut raw, 1, mode), Err(Errno::EROFS));
        raw.walk(0, 2, "h").unwrap();
        // Neither a second name nor another place makes it writable.
        let link = Request::Link {
            dfid: 2,
            fid: 1,
            name: name("x"),
        };
        assert_eq!(errno(raw.ask(&link)), Some(Errno::EROFS));
        let out = rename(&mut raw, ("h/work", "file"), ("h", "file"));
        assert_eq!(out, Some(Errno::EROFS));
        let in_ = rename(&mut raw, ("h/.ssh", "config"), ("h/work", "config"));
        assert_eq!(in_, Some(Errno::EROFS));
        let whole = rename(&mut raw, ("h", "work"), ("h", "play"));
        assert_eq!(whole, Some(Errno::EROFS));
        assert_eq!(fs::read(served.path("h/work/file")).unwrap(), b"file");
        assert!(export.requested_hidden().is_empty());
    }
}

#[test]
fn only_what_is_named_exists() {
    let only = [(RuleKind::Only, "/h/work"), (RuleKind::Only, "/h/.ssh")];
    let (served, export) = home(&only);
    let mut raw = session(&export);
    assert_eq!(opened(&mut raw, "h/work/file", RDWR), None);
    create(&mut raw, 1, "h/work", "new", WRONLY, 0o600).unwrap();
    raw.clunk(1).unwrap();
    for absent in ["h/.aws", "h/.netrc", "h/link"] {
        assert_eq!(
            opened(&mut raw, absent, RDONLY),
            Some(Errno::ENOENT),
            "{absent}"
        );
    }
    // What leads there can be walked through, and nothing more.
    assert_eq!(opened(&mut raw, "h", RDONLY), Some(Errno::EACCES));
    assert_eq!(
        create(&mut raw, 1, "h", "new", WRONLY, 0o600),
        Err(Errno::EACCES)
    );
    assert_eq!(
        rename(&mut raw, ("h/work", "file"), ("h", "file")),
        Some(Errno::EACCES)
    );
    // That is no alarm: no rule hides it.
    assert!(export.requested_hidden().is_empty());
    // What is hidden stays hidden there.
    assert_eq!(opened(&mut raw, "h/.ssh/id", RDONLY), Some(Errno::EACCES));
    assert_eq!(opened(&mut raw, "h/.ssh/config", RDONLY), None);
    assert!(served.path("h/work/new").exists());
}

#[test]
fn file_systems_of_the_kernel_are_empty_directories() {
    let export = Arc::new(Export::new("/".as_ref()).unwrap());
    let mut raw = session(&export);
    for path in ["proc", "sys"] {
        assert_eq!(
            opened(&mut raw, &format!("{path}/self"), RDONLY),
            Some(Errno::ENOENT)
        );
        raw.walk(0, 1, path).unwrap();
        let flags = RDONLY;
        raw.ask(&Request::Lopen { fid: 1, flags }).unwrap();
        assert!(list(&mut raw, 1, 8192).is_empty(), "{path}");
        raw.clunk(1).unwrap();
        let created = create(&mut raw, 1, path, "x", WRONLY, 0o600);
        assert_eq!(created, Err(Errno::EACCES), "{path}");
    }
    // Served by itself, it is shown.
    let export = Arc::new(Export::new("/proc/self".as_ref()).unwrap());
    assert_eq!(opened(&mut session(&export), "status", RDONLY), None);
}
