//! What exists when cpu starts: where symbolic links on the paths of rules lead, and the identity of files that rules are about.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use cpu_proto::glob::NamePattern;
use rustix::fs::{AtFlags, Dir, FileType, OFlags, Statx};

use super::{Access, Inner, KnownFile, Names, Policy, RuleKind, birth};
use crate::export::open_in_root;
use crate::export::stat::{self, FileId};

/// The most entries of a directory that are examined, and the most directories beneath a hidden one.
const MAX_ENTRIES: usize = 10_000;

impl Policy {
    /// Adds rules for the paths to which symbolic links lead. Returns whether there were any.
    pub(super) fn follow_links(&mut self, root: &OwnedFd) -> bool {
        let mut found = Vec::new();
        self.find_links(root, &[], &self.root(), &mut found);
        found.retain(|(_, rule)| !self.rules.contains(rule));
        // Each applies where the one does that it comes from.
        found.sort_by_key(|(index, _)| *index);
        found.dedup();
        let is_new = !found.is_empty();
        for (index, rule) in found.into_iter().rev() {
            self.rules.insert(index + 1, rule);
        }
        is_new
    }

    /// Finds the links on the paths of rules beneath a directory, and the rules for where they lead, each with the number of
    /// the rule that it comes from.
    fn find_links(
        &self,
        root: &OwnedFd,
        dir: &[Vec<u8>],
        access: &Access,
        found: &mut Vec<(usize, Names)>,
    ) {
        let Some(inner) = access.0.as_deref() else {
            return;
        };
        let dir_path = joined(dir);
        for name in self.next_names(root, &dir_path, inner) {
            let below = self.child(access, &name);
            let path: Vec<_> = dir.iter().chain([&name]).cloned().collect();
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let Some(fd) = open(root, &joined(&path), flags) else {
                continue;
            };
            let kind = stat::stat(&fd).map(|stat| FileType::from_raw_mode(stat.stx_mode.into()));
            if kind == Ok(FileType::Directory) {
                self.find_links(root, &path, &below, found);
            }
            let target = match rustix::fs::readlinkat(&fd, c"", Vec::new()) {
                Ok(target) if kind == Ok(FileType::Symlink) => target,
                _ => continue,
            };
            let target = resolved(dir, target.as_bytes());
            // What leads to a directory above itself would hide that.
            if path.starts_with(&target) {
                continue;
            }
            for &(index, depth) in &inner.pending {
                let Some((names, kind)) = self.rules.get(index) else {
                    continue;
                };
                let Some([pattern, rest @ ..]) = names.get(depth..) else {
                    continue;
                };
                let applies = match kind {
                    RuleKind::Hide => !rest.is_empty() || below.is(|inner| inner.is_hidden),
                    RuleKind::ReadOnly => true,
                    // A link to something hidden does not show it.
                    RuleKind::Show => !rest.is_empty(),
                    RuleKind::Only => false,
                };
                if applies && pattern.matches(&name) {
                    let target = target.iter().map(|name| NamePattern::of_name(name));
                    let names = target.chain(rest.iter().cloned()).collect();
                    found.push((index, (names, *kind)));
                }
            }
        }
    }

    /// The names in a directory, existing or not, that the next names of rules match.
    fn next_names(&self, root: &OwnedFd, path: &[u8], dir: &Inner) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        for &(index, depth) in &dir.pending {
            let Some(name) = self
                .rules
                .get(index)
                .and_then(|(names, _)| names.get(depth))
            else {
                continue;
            };
            match name.name() {
                Some(name) => names.push(name),
                None => names.extend(entries(root, path, name)),
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// Records the identity of what exists beneath `path` and is on the way to a rule, or is named by one.
    pub(super) fn learn(&mut self, root: &OwnedFd, path: &[u8], dir: &Access) {
        let Some(inner) = dir.0.clone() else {
            return;
        };
        for name in self.next_names(root, path, &inner) {
            let path = [path, b"/", &name].concat();
            let access = self.child(dir, &name);
            let Some(stat) = find(root, &path) else {
                continue;
            };
            self.record(&stat, &access);
            if !is_directory(&stat) {
                continue;
            }
            if access.is_hidden() {
                self.learn_links(root, path.clone(), &access);
            }
            self.learn(root, &path, &access);
        }
    }

    /// Records the files in a hidden directory that have several names, and those elsewhere to which symbolic links in it
    /// lead, unless everybody may read them.
    fn learn_links(&mut self, root: &OwnedFd, path: Vec<u8>, access: &Access) {
        if access.is(|inner| !inner.is_hidden) {
            return;
        }
        let all = NamePattern::new(b"*");
        let mut directories = vec![(path, access.clone())];
        let mut seen = 0;
        while let Some((path, access)) = directories.pop() {
            seen += 1;
            if seen > MAX_ENTRIES {
                return;
            }
            for name in entries(root, &path, &all) {
                let path = [&path, &b"/"[..], &name].concat();
                let access = self.child(&access, &name);
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                let relative = path.get(1..).unwrap_or_default();
                let Ok(stat) = rustix::fs::statx(root, relative, flags, stat::WANTED) else {
                    continue;
                };
                match FileType::from_raw_mode(stat.stx_mode.into()) {
                    FileType::Directory => directories.push((path, access)),
                    FileType::Symlink => {
                        let target = find(root, &path);
                        let is_private = |target: &Statx| {
                            let kind = FileType::from_raw_mode(target.stx_mode.into());
                            kind == FileType::RegularFile && target.stx_mode & 0o004 == 0
                        };
                        if let Some(target) = target.filter(is_private) {
                            self.record(&target, &access);
                        }
                    }
                    _ if stat.stx_nlink > 1 => self.record(&stat, &access),
                    _ => {}
                }
            }
        }
    }

    fn record(&mut self, stat: &Statx, access: &Access) {
        let known = self
            .known
            .entry(FileId::new(stat))
            .or_insert_with(|| KnownFile {
                access: access.clone(),
                born: birth(stat),
            });
        known.access = known.access.and(access);
    }
}

fn is_directory(stat: &Statx) -> bool {
    FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory
}

/// What a path of the tree leads to. Symbolic links are followed as on the machine: within the tree.
fn open(root: &OwnedFd, path: &[u8], flags: OFlags) -> Option<OwnedFd> {
    let path = if path.is_empty() { b"/" } else { path };
    open_in_root(root, Path::new(OsStr::from_bytes(path)), flags).ok()
}

fn find(root: &OwnedFd, path: &[u8]) -> Option<Statx> {
    stat::stat(open(root, path, OFlags::PATH)?).ok()
}

/// The path of names.
fn joined(names: &[Vec<u8>]) -> Vec<u8> {
    let names = names.iter().flat_map(|name| [&b"/"[..], name.as_slice()]);
    names.collect::<Vec<_>>().concat()
}

/// The path to which a symbolic link in a directory leads.
fn resolved(dir: &[Vec<u8>], target: &[u8]) -> Vec<Vec<u8>> {
    let mut names = if target.starts_with(b"/") {
        Vec::new()
    } else {
        dir.to_vec()
    };
    for name in target.split(|&b| b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name.to_vec()),
        }
    }
    names
}

/// The first names in a directory that a pattern matches.
fn entries(root: &OwnedFd, path: &[u8], pattern: &NamePattern) -> Vec<Vec<u8>> {
    let Some(fd) = open(root, path, OFlags::RDONLY | OFlags::DIRECTORY) else {
        return Vec::new();
    };
    let Ok(dir) = Dir::new(fd) else {
        return Vec::new();
    };
    let names = dir.filter_map(|entry| Some(entry.ok()?.file_name().to_bytes().to_vec()));
    names
        .filter(|name| name != b"." && name != b".." && pattern.matches(name))
        .take(MAX_ENTRIES)
        .collect()
}
