//! What is added to the namespace of an ordinary user's session because its commands run as root: his home in place of
//! root's, and cpud's sudo in place of this machine's, which could not read its configuration.

use std::path::Path;

use cpu_proto::namespace::Bind;

use crate::binds::real_path;

/// Root's home if passwd(5) does not name one.
const ROOTS_HOME: &str = "/root";

/// The paths of sudo(8) that scripts use.
const SUDO: [&str; 2] = ["/usr/bin/sudo", "/bin/sudo"];

/// The bind of the user's home on root's home. With it `~` is the same directory for programs that read `$HOME` and
/// for those that ask passwd(5), such as ssh. None if the namespace has something else there or lacks his home.
pub(crate) fn home(binds: &[Bind], root: &Path, home: &Path) -> Option<Bind> {
    let local = real_path(root, &local(binds, home)?.1)?;
    let passwd = self::local(binds, Path::new("/etc/passwd")).and_then(|(_, passwd)| {
        std::fs::read(root.join(real_path(root, &passwd)?.strip_prefix('/')?)).ok()
    });
    let remote = passwd.as_deref().and_then(roots_home).unwrap_or(ROOTS_HOME);
    let is_taken = binds.iter().any(|bind| {
        let (there, remote) = (Path::new(&bind.remote), Path::new(remote));
        // If the whole tree is bound on `/`, this machine's root's home is there, and may be covered.
        there.starts_with(remote) || (remote.starts_with(there) && there != Path::new("/"))
    });
    (!is_taken && Path::new(remote) != home).then(|| Bind {
        remote: remote.to_owned(),
        local,
        cache: None,
        read_only: false,
    })
}

/// The home of user 0 in the text of a passwd(5), if it is a path that can be mounted on.
fn roots_home(passwd: &[u8]) -> Option<&str> {
    let lines = passwd.split(|&byte| byte == b'\n');
    let mut entries = lines.map(|line| line.split(|&byte| byte == b':').collect::<Vec<_>>());
    let home = entries.find_map(|fields| match fields[..] {
        [_, _, b"0", _, _, home, _] => Some(home),
        _ => None,
    })?;
    let home = str::from_utf8(home).ok()?;
    let is_usable =
        home.len() > 1 && home.starts_with('/') && home.split('/').all(|name| name != "..");
    is_usable.then_some(home)
}

/// The paths at which the session has a sudo(8).
pub(crate) fn sudo(binds: &[Bind], root: &Path) -> Vec<&'static str> {
    let mut found: Vec<(&Bind, String)> = Vec::new();
    let mut places = SUDO.to_vec();
    places.retain(|place| {
        let Some((bind, local)) = local(binds, Path::new(place)) else {
            return false;
        };
        let Some(real) = real_path(root, &local) else {
            return false;
        };
        // The same file may have two paths.
        let is_new = !found.contains(&(bind, real.clone()));
        found.push((bind, real));
        is_new
    });
    places
}

/// What the session has at a path: the bind that it comes from, and its path in this tree.
fn local<'a>(binds: &'a [Bind], path: &Path) -> Option<(&'a Bind, String)> {
    binds.iter().rev().find_map(|bind| {
        let rest = path.strip_prefix(&bind.remote).ok()?;
        let local = Path::new(&bind.local).join(rest);
        Some((bind, local.to_str()?.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpu_proto::DEFAULT_NAMESPACE;
    use cpu_proto::namespace::parse;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A tree with merged /usr, a home and a passwd(5).
    fn tree(passwd: &str) -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        for directory in ["usr/bin", "etc", "home/ann"] {
            fs::create_dir_all(tree.path().join(directory)).unwrap();
        }
        symlink("usr/bin", tree.path().join("bin")).unwrap();
        fs::write(tree.path().join("etc/passwd"), passwd).unwrap();
        tree
    }

    fn at(namespace: &str, tree: &Path, home: &str) -> Option<(String, String)> {
        let bind = super::home(&parse(namespace).unwrap(), tree, Path::new(home))?;
        Some((bind.remote, bind.local))
    }

    #[test]
    fn roots_home_is_the_users() {
        let tree = tree("# x\nann:x:1:1::/home/ann:/bin/sh\nroot:x:0:0:root:/r:/bin/sh\n");
        let tree = tree.path();
        symlink("ann", tree.join("home/link")).unwrap();
        let ann = Some(("/r".to_owned(), "/home/ann".to_owned()));
        assert_eq!(at(DEFAULT_NAMESPACE, tree, "/home/ann"), ann);
        assert_eq!(at(DEFAULT_NAMESPACE, tree, "/home/link"), ann);
        assert_eq!(at("/", tree, "/home/ann"), ann);
        // Without /etc the machine's own passwd counts, which is not known here.
        let usual = Some(("/root".to_owned(), "/home/ann".to_owned()));
        assert_eq!(at("/home", tree, "/home/ann"), usual);
        assert_eq!(at("/h=/home", tree, "/h/ann"), usual);
        for (namespace, home) in [
            // The namespace lacks the home.
            ("/usr:/etc", "/home/ann"),
            (DEFAULT_NAMESPACE, "/home/bob"),
            // Root's home is something else.
            ("/etc:/home:/r=/usr", "/home/ann"),
            ("/etc:/home:/r/x=/usr", "/home/ann"),
            ("/etc:/r=/home/ann", "/r"),
        ] {
            assert_eq!(at(namespace, tree, home), None, "{namespace} {home}");
        }
    }

    #[test]
    fn an_unusable_home_of_root_is_the_default_one() {
        for home in ["", "/", "r", "/a/../etc", "\u{fffd}"] {
            let tree = tree(&format!("root:x:0:0:root:{home}:/bin/sh\n"));
            let (remote, _) = at(DEFAULT_NAMESPACE, tree.path(), "/home/ann").unwrap();
            assert_eq!(remote, "/root", "{home}");
        }
        for passwd in [
            &b""[..],
            b"root:x:0\n",
            b"root:x:0:0::/\xff:/bin/sh",
            b":::::::",
        ] {
            assert_eq!(roots_home(passwd), None);
        }
    }

    #[test]
    fn sudo_is_where_the_namespace_has_it() {
        let tree = tree("");
        let places = |namespace| sudo(&parse(namespace).unwrap(), tree.path());
        assert_eq!(places(DEFAULT_NAMESPACE), [""; 0]);
        fs::write(tree.path().join("usr/bin/sudo"), "").unwrap();
        assert_eq!(places(DEFAULT_NAMESPACE), ["/usr/bin/sudo", "/bin/sudo"]);
        assert_eq!(places("/usr"), ["/usr/bin/sudo"]);
        // There, /bin is a link to /usr/bin.
        assert_eq!(places("/"), ["/usr/bin/sudo"]);
        assert_eq!(places("/etc:/home"), [""; 0]);
        assert_eq!(places("/usr:/usr/bin=/home"), [""; 0]);
    }
}
