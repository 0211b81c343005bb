//! The grammar of `-namespace` (and `CPU_NAMESPACE`):
//!
//! ```text
//! namespace = [ element *( ":" element ) ]
//! element   = remote [ "=" local ] *( "," option )     ; split at the first "="
//! option    = "cache=" mode | "ro"
//! mode      = "none" | "mmap" | "loose"
//! ```
//!
//! `remote` is the directory on the machine, `local` the client's directory that appears there. The client converts the
//! namespace into fstab lines; the server sees only those.

use std::fmt::Write as _;

use crate::{CacheMode, fstab};

/// One directory of the client and where it appears on the machine. Both are absolute paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Path on the machine.
    pub remote: String,
    /// Path on the client, relative to what the client exports (`-root`).
    pub local: String,
    /// The cache mode, if it differs from the session's.
    pub cache: Option<CacheMode>,
    /// Whether the client refuses every change of it.
    pub read_only: bool,
}

/// Why a namespace is refused: the element, and what it should look like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Two colons in a row, or one at an end.
    #[error("namespace {0:?} has an empty element: write /dir[=/dir], separated by single colons")]
    Empty(String),
    /// `=x` or `x=`.
    #[error("namespace element {0:?} has nothing on one side of its \"=\": write /remote=/local")]
    EmptySide(String),
    /// A path that isn't absolute, or that has `..` in it.
    #[error("namespace element {0:?}: paths begin with / and contain no \"..\"")]
    Path(String),
    /// `,cache=` without a valid mode.
    #[error("namespace element {0:?} has an unknown cache mode: {1}")]
    Cache(String, &'static str),
}

/// Parses a namespace. The empty string is the empty namespace.
pub fn parse(namespace: &str) -> Result<Vec<Bind>, Error> {
    if namespace.is_empty() {
        return Ok(Vec::new());
    }
    namespace
        .split(':')
        .map(|element| {
            if element.is_empty() {
                return Err(Error::Empty(namespace.into()));
            }
            let (mut paths, mut cache, mut read_only) = (element, None, false);
            while let Some((rest, option)) = paths.rsplit_once(',') {
                if let Some(mode) = option.strip_prefix("cache=") {
                    let mode = mode.parse();
                    cache = Some(mode.map_err(|why| Error::Cache(element.into(), why))?);
                } else if option == "ro" {
                    read_only = true;
                } else {
                    break;
                }
                paths = rest;
            }
            let (remote, local) = paths.split_once('=').unwrap_or((paths, paths));
            if remote.is_empty() || local.is_empty() {
                return Err(Error::EmptySide(element.into()));
            }
            let clean = |path: &str| path.starts_with('/') && path.split('/').all(|c| c != "..");
            if !clean(remote) || !clean(local) {
                return Err(Error::Path(element.into()));
            }
            Ok(Bind {
                remote: remote.into(),
                local: local.into(),
                cache,
                read_only,
            })
        })
        .collect()
}

/// The fstab lines of these binds, in the form that u-root's client uses. `usual` is the cache mode of binds that
/// have none of their own.
pub fn to_fstab(binds: &[Bind], usual: CacheMode) -> String {
    let mut text = String::new();
    for bind in binds {
        let point = bind.cache.unwrap_or(usual).mount_point(usual);
        let (local, remote) = (fstab::escape(&bind.local), fstab::escape(&bind.remote));
        // This cannot fail: it writes to memory.
        let _ = writeln!(text, "{point}{local} {remote} none defaults,bind 0 0");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    #[test]
    fn default_becomes_six_lines() {
        let text = to_fstab(&parse(crate::DEFAULT_NAMESPACE).unwrap(), CacheMode::Mmap);
        assert_eq!(text.lines().count(), 6);
        assert_eq!(
            text.lines().next(),
            Some("/tmp/cpu/lib /lib none defaults,bind 0 0")
        );
    }

    #[test]
    fn remote_comes_first() {
        let binds = parse("/bin=/arm/bin:/home").unwrap();
        let first = Bind {
            remote: "/bin".into(),
            local: "/arm/bin".into(),
            cache: None,
            read_only: false,
        };
        assert_eq!(
            binds,
            [
                first,
                Bind {
                    remote: "/home".into(),
                    local: "/home".into(),
                    cache: None,
                    read_only: false,
                }
            ]
        );
        assert!(to_fstab(&binds, CacheMode::Mmap).starts_with("/tmp/cpu/arm/bin /bin none"));
        assert_eq!(parse("/a=/b=c").unwrap()[0].local, "/b=c");
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn an_entry_has_a_cache_mode_of_its_own() {
        let binds =
            parse("/usr,cache=loose:/bin=/arm/bin,cache=none:/a,b:/home,cache=mmap").unwrap();
        let text = |usual| to_fstab(&binds, usual);
        for (usual, sources) in [
            (
                CacheMode::Mmap,
                ["-loose/usr", "-none/arm/bin", "/a,b", "/home"],
            ),
            (
                CacheMode::Loose,
                ["/usr", "-none/arm/bin", "/a,b", "-mmap/home"],
            ),
        ] {
            for (line, source) in text(usual).lines().zip(sources) {
                assert!(line.starts_with(&format!("/tmp/cpu{source} /")), "{line}");
            }
        }
    }

    #[test]
    fn an_entry_may_be_read_only() {
        let binds =
            parse("/usr,ro:/bin=/arm/bin,cache=none,ro:/a,b:/c,ro,cache=loose:/ro").unwrap();
        let seen: Vec<_> = binds
            .iter()
            .map(|bind| (&*bind.local, bind.read_only))
            .collect();
        let wanted = [
            ("/usr", true),
            ("/arm/bin", true),
            ("/a,b", false),
            ("/c", true),
            ("/ro", false),
        ];
        assert_eq!(seen, wanted);
        assert_eq!(binds[3].cache, Some(CacheMode::Loose));
    }

    #[test]
    fn faults_are_named() {
        for bad in [":", "/bin:", ":/bin", "/a::/b"] {
            assert_eq!(parse(bad), Err(Error::Empty(bad.into())));
        }
        for bad in ["=/x", "/x=", "="] {
            assert_eq!(parse(bad), Err(Error::EmptySide(bad.into())));
        }
        for bad in ["bin", "/bin=arm", "/a/../b", "/a=/.."] {
            assert_eq!(parse(bad), Err(Error::Path(bad.into())));
        }
        for bad in ["/a,cache=", "/a=/b,cache=fscache"] {
            assert!(matches!(parse(bad), Err(Error::Cache(..))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_namespace_reads_back_as_mounts(text in "(/[a-z \\\\\t#.]{0,4}=?){0,6}(:/[ b]{1,3}(=/x y)?(,cache=(none|loose))?){0,3}") {
            if let Ok(binds) = parse(&text) {
                let lines = to_fstab(&binds, CacheMode::Mmap);
                let entries: Vec<_> = fstab::parse(lines.as_bytes()).map(Result::unwrap).collect();
                prop_assert_eq!(entries.len(), binds.len());
                for (entry, bind) in entries.iter().zip(&binds) {
                    prop_assert_eq!(&entry.target, Path::new(&bind.remote));
                    prop_assert_eq!(entry.source.to_str().unwrap(), format!("{}{}", bind.cache.unwrap_or_default().mount_point(CacheMode::Mmap), bind.local));
                    prop_assert!(entry.flags == fstab::BIND && entry.data.is_empty());
                }
            }
        }
    }
}
