//! Which directories of this machine are bound in the session, and what else is mounted there: from `-namespace`,
//! `-fstab`, and the variables with the same meaning.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use cpu_client::export::open_in_root;
use cpu_proto::fstab::{self, Reason};
use cpu_proto::namespace::{self, Bind};
use cpu_proto::{CacheMode, DEFAULT_NAMESPACE, ENV_FSTAB, ENV_NAMESPACE};
use rustix::fs::{Mode, OFlags};

/// What the command line says about the session's mounts.
#[derive(Debug)]
pub(crate) struct Mounts<'a> {
    /// `-namespace`, if given.
    pub(crate) namespace: Option<&'a str>,
    /// `-fstab`, if given.
    pub(crate) fstab: Option<&'a Path>,
    /// Whether files are served at all.
    pub(crate) ninep: bool,
    /// The directory that is served as `/`.
    pub(crate) root: &'a Path,
    /// `-cache`, if given: the mode of everything for which the namespace does not name another.
    pub(crate) cache: Option<CacheMode>,
}

/// Which directories of the session come from here. Directories of the default namespace that this tree lacks are left
/// out (Alpine has no `/lib64`). A directory that the user named is kept, and its absence is reported there.
pub(crate) fn binds(mounts: &Mounts<'_>, variable: Option<&str>, home: &Path) -> Result<Vec<Bind>> {
    match (mounts.namespace, variable, mounts.ninep) {
        (Some(text), _, false) if !text.is_empty() => bail!(
            "9p is false but the namespace is non-empty; to force an empty namespace use -namespace=\"\""
        ),
        (_, _, false) => Ok(Vec::new()),
        (Some(text), _, true) => {
            let binds = namespace::parse(text)?;
            refuse_other_separators(&binds, mounts.root)?;
            Ok(binds)
        }
        (None, Some(text), true) => {
            namespace::parse(text).with_context(|| format!("{ENV_NAMESPACE}={text:?}"))
        }
        (None, None, true) => {
            let mut binds = namespace::parse(DEFAULT_NAMESPACE)?;
            // A home outside /home (root's, or on many clusters) is added, and if it is a link, also its target.
            let real = real_home(mounts.root, home);
            for home in [home.to_str(), real.as_deref()].into_iter().flatten() {
                let path = Path::new(home);
                let is_covered = binds.iter().any(|bind| path.starts_with(&bind.remote));
                if !is_covered && path.components().count() > 1 {
                    binds.push(Bind {
                        remote: home.to_owned(),
                        local: home.to_owned(),
                        cache: None,
                        read_only: false,
                    });
                }
            }
            binds.retain(|bind| {
                let here = mounts.root.join(bind.local.trim_start_matches('/'));
                here.symlink_metadata().is_ok()
            });
            Ok(binds)
        }
    }
}

/// Refuse `/usr,/etc` and `/usr /etc`, unless there is a directory of that name.
fn refuse_other_separators(binds: &[Bind], root: &Path) -> Result<()> {
    for Bind { local, .. } in binds {
        let is_list = local.contains(",/") || local.contains(" /");
        if is_list
            && root
                .join(local.trim_start_matches('/'))
                .symlink_metadata()
                .is_err()
        {
            bail!(
                "namespace element {local:?}: there is no such directory here; separate directories by colons, as in /usr:/etc"
            );
        }
    }
    Ok(())
}

/// The target of a home that is a link. Links above it are followed when its directory is mounted.
fn real_home(root: &Path, home: &Path) -> Option<String> {
    let real = real_path(root, home.to_str()?)?;
    let above = real_path(root, home.parent()?.to_str()?)?;
    (Path::new(&above).join(home.file_name()?) != Path::new(&real)).then_some(real)
}

/// The path in the tree beneath `root` to which the symbolic links of `path` lead. Followed here, since the machine
/// takes two round trips for each link. None if it cannot be found out (no /proc, no such file).
pub(crate) fn real_path(root: &Path, path: &str) -> Option<String> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let path = path.trim_matches('/');
    let file = open_in_root(&root, Path::new(path), OFlags::PATH).ok()?;
    let name = |fd: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
    let (real, root) = (name(&file)?, name(&root)?);
    let inside = real.strip_prefix(root).ok()?.to_str()?;
    Some(format!("/{inside}"))
}

/// The mounts besides those of the namespace: from the file of `-fstab` if there is one, else from the variable. The
/// server reports a line with a mistake and mounts the others. Only lines that a shell has joined into one are refused
/// here, since none of them would be mounted.
pub(crate) fn own_fstab(file: Option<&Path>, variable: Option<String>) -> Result<String> {
    let (name, text) = match file {
        Some(file) => {
            let name = format!("-fstab {}", file.display());
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read the file of {name}"))?;
            (name, text)
        }
        None => (ENV_FSTAB.to_owned(), variable.unwrap_or_default()),
    };
    for line in fstab::parse(text.as_bytes()) {
        if let Err(error) = line
            && matches!(error.reason, Reason::TooMany(_))
        {
            bail!("{name}: {error}");
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts<'a>(namespace: Option<&'a str>, ninep: bool, root: &'a Path) -> Mounts<'a> {
        Mounts {
            namespace,
            fstab: None,
            ninep,
            root,
            cache: None,
        }
    }

    fn remotes(mounts: &Mounts<'_>, variable: Option<&str>, home: &str) -> Vec<String> {
        let binds = binds(mounts, variable, Path::new(home)).unwrap();
        binds.into_iter().map(|bind| bind.remote).collect()
    }

    #[test]
    fn a_list_separated_by_something_else_is_refused_unless_it_is_a_name() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a, /b")).unwrap();
        let parse = |text| {
            binds(
                &mounts(Some(text), true, root.path()),
                None,
                Path::new("/home/a"),
            )
        };
        for text in ["/usr,/etc", "/bin:/usr, /etc", "/usr /etc,ro"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("by colons"), "{error}");
        }
        for text in ["/a, /b", "/usr:/etc", "/no, such"] {
            assert!(parse(text).is_ok());
        }
    }

    #[test]
    fn the_default_is_limited_to_what_this_tree_has() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["usr", "root"] {
            std::fs::create_dir(root.path().join(directory)).unwrap();
        }
        // Absolute links lead somewhere in the served tree.
        for (link, to) in [
            ("bin", "/usr/bin"),
            ("homes", "usr"),
            ("usr/ann", "/data/ann"),
            ("usr/bob", "root"),
        ] {
            std::os::unix::fs::symlink(to, root.path().join(link)).unwrap();
        }
        std::fs::create_dir_all(root.path().join("data/ann")).unwrap();
        let default = mounts(None, true, root.path());
        assert_eq!(remotes(&default, None, "/root"), ["/usr", "/bin", "/root"]);
        assert_eq!(remotes(&default, None, "/nosuch"), ["/usr", "/bin"]);
        assert_eq!(remotes(&default, None, "/"), ["/usr", "/bin"]);
        // A home that is a link, and one whose link leads nowhere.
        assert_eq!(
            remotes(&default, None, "/homes/ann"),
            ["/usr", "/bin", "/homes/ann", "/data/ann"]
        );
        assert_eq!(
            remotes(&default, None, "/usr/ann"),
            ["/usr", "/bin", "/data/ann"]
        );
        assert_eq!(remotes(&default, None, "/usr/bob"), ["/usr", "/bin"]);
        // Directories that the user named are kept.
        let named = mounts(Some("/lib64"), true, root.path());
        assert_eq!(remotes(&named, Some("/usr"), "/root"), ["/lib64"]);
        assert_eq!(remotes(&default, Some("/lib64"), "/root"), ["/lib64"]);
        assert_eq!(remotes(&default, Some(""), "/root"), Vec::<String>::new());
    }

    #[test]
    fn links_are_followed_in_the_served_tree() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/lib")).unwrap();
        for (link, to) in [
            ("lib", "usr/lib"),
            ("abs", "/lib"),
            ("out", "../../usr"),
            ("gone", "no"),
        ] {
            std::os::unix::fs::symlink(to, root.path().join(link)).unwrap();
        }
        let seen_as = root.path().join("self");
        std::os::unix::fs::symlink(".", &seen_as).unwrap();
        for (path, real) in [
            ("/lib", Some("/usr/lib")),
            ("/abs", Some("/usr/lib")),
            ("//out/lib/", Some("/usr/lib")),
            ("/usr", Some("/usr")),
            ("/", None),
            ("/gone", None),
            ("/nosuch", None),
        ] {
            assert_eq!(real_path(&seen_as, path).as_deref(), real, "{path}");
        }
    }

    #[test]
    fn without_9p_a_namespace_is_refused_only_if_it_was_asked_for() {
        let root = Path::new("/");
        let none = Vec::<String>::new();
        assert_eq!(remotes(&mounts(None, false, root), None, "/root"), none);
        assert_eq!(remotes(&mounts(Some(""), false, root), None, "/root"), none);
        let set = Some("/home");
        assert_eq!(remotes(&mounts(None, false, root), set, "/root"), none);
        let error = binds(&mounts(set, false, root), None, Path::new("/root"));
        assert_eq!(
            error.unwrap_err().to_string(),
            "9p is false but the namespace is non-empty; to force an empty namespace use -namespace=\"\""
        );
    }

    #[test]
    fn the_fstab_file_wins_and_a_joined_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("fstab");
        let line = "myfs /mnt virtiofs rw 0 0";
        std::fs::write(&file, format!("{line}\n")).unwrap();
        let variable = || Some("other /other tmpfs rw 0 0".to_owned());
        assert_eq!(
            own_fstab(Some(&file), variable()).unwrap(),
            format!("{line}\n")
        );
        assert!(own_fstab(None, variable()).unwrap().starts_with("other"));
        assert_eq!(own_fstab(None, None).unwrap(), "");

        let joined = Some(format!("{line} {line}"));
        let error = own_fstab(None, joined).unwrap_err().to_string();
        assert!(
            error.starts_with("CPU_FSTAB: fstab line") && error.contains("separated by newlines"),
            "{error}"
        );
        std::fs::remove_file(&file).unwrap();
        let error = own_fstab(Some(&file), variable()).unwrap_err().to_string();
        assert!(
            error.contains("-fstab") && error.contains("fstab"),
            "{error}"
        );
    }
}
