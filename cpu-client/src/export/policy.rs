//! What of the tree is kept from the peer: rules for paths, and which of them apply to a file.
//!
//! A rule is found by walking, not by comparing paths: each [`Node`](super::Node) has a [`Access`], which says what holds
//! for it and which rules may still match below. So no other name of a file gets around a rule: directories on the way to one,
//! and files that one names, are known by their identity too, whatever symbolic link, mount or hard link leads to them when
//! cpu starts. Where symbolic links lead, rules are added, since files are replaced there too. The peer can neither rename nor
//! link what a rule concerns.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use cpu_proto::glob;
use ninep::errno::Errno;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Statx};

use super::kernel_fs;
use super::stat::{self, FileId};

/// What a rule says of its path, and of everything beneath.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleKind {
    /// It can be seen, but neither opened nor changed.
    Hide,
    /// A later exception to [`RuleKind::Hide`].
    Show,
    /// It cannot be changed.
    ReadOnly,
    /// What no such rule names does not exist. Without one, everything does.
    Only,
}

/// A path of the served tree, and what holds there. Of [`RuleKind::Hide`] and [`RuleKind::Show`], the later rule counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// An absolute path. Each name may be a pattern ([`cpu_proto::glob`]).
    pub path: String,
    /// What holds there.
    pub kind: RuleKind,
}

/// The most entries of a directory that are examined when cpu starts, and the most directories beneath a hidden one.
const MAX_ENTRIES: usize = 10_000;

/// The most links that a path leads through, as in the kernel.
const MAX_LINKS: usize = 40;

/// The most paths that are remembered for the user.
const MAX_REPORTED: usize = 16;

/// A rule, and the names of its path.
type Names = (Vec<Vec<u8>>, RuleKind);

/// The rules.
#[derive(Default)]
pub(super) struct Policy {
    rules: Vec<Names>,
    /// The access to files that exist when cpu starts.
    known: HashMap<FileId, KnownFile>,
    devices: kernel_fs::DevtmpfsDevices,
    requested: Mutex<BTreeMap<Vec<u8>, u64>>,
}

struct KnownFile {
    access: Access,
    /// The time of birth of a file that is no directory: another file may get its inode number.
    born: Option<(i64, u32)>,
}

/// What holds for a file, and which rules may match below it.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(super) struct Access(Option<Arc<Inner>>);

#[derive(Clone, Default, Debug, PartialEq, Eq)]
struct Inner {
    is_hidden: bool,
    is_read_only: bool,
    is_outside: bool,
    /// Rules, each with the number of its names that have matched.
    pending: Vec<(usize, usize)>,
}

impl Inner {
    fn apply(&mut self, kind: RuleKind) {
        match kind {
            RuleKind::Hide => self.is_hidden = true,
            RuleKind::Show => self.is_hidden = false,
            RuleKind::ReadOnly => self.is_read_only = true,
            RuleKind::Only => self.is_outside = false,
        }
    }
}

impl Access {
    fn new(inner: Inner) -> Self {
        Self((inner != Inner::default()).then(|| Arc::new(inner)))
    }

    fn is(&self, test: impl Fn(&Inner) -> bool) -> bool {
        self.0.as_deref().is_some_and(test)
    }

    /// Whether it may be seen only.
    pub(super) fn is_hidden(&self) -> bool {
        self.is(|inner| inner.is_hidden || inner.is_outside)
    }

    /// Whether a rule hides it, so that it is of interest to the user that the peer wants it.
    pub(super) fn is_secret(&self) -> bool {
        self.is(|inner| inner.is_hidden)
    }

    /// Whether it only leads to what the peer may have.
    pub(super) fn is_outside(&self) -> bool {
        self.is(|inner| inner.is_outside)
    }

    /// Whether it may not be changed.
    pub(super) fn is_read_only(&self) -> bool {
        self.is(|inner| inner.is_read_only)
    }

    /// Whether the peer cannot even see it.
    pub(super) fn is_absent(&self) -> bool {
        self.is(|inner| inner.is_outside && inner.pending.is_empty())
    }

    /// Whether a rule may match below, so that it must keep its name.
    fn is_on_the_way(&self) -> bool {
        self.is(|inner| !inner.pending.is_empty())
    }

    /// An error if the file may not be changed.
    pub(super) fn check_change(&self) -> Result<(), Errno> {
        match () {
            () if self.is_hidden() => Err(Errno::EACCES),
            () if self.is_read_only() => Err(Errno::EROFS),
            () => Ok(()),
        }
    }

    /// An error if the file may not get another name, or a second one.
    pub(super) fn check_move(&self) -> Result<(), Errno> {
        self.check_change()?;
        if self.is_on_the_way() {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// What holds for a file that is reached in two ways: the stricter of both.
    fn and(&self, other: &Self) -> Self {
        let mut both = self.0.as_deref().cloned().unwrap_or_default();
        let b = other.0.as_deref().cloned().unwrap_or_default();
        both.is_hidden |= b.is_hidden;
        both.is_read_only |= b.is_read_only;
        both.is_outside &= b.is_outside;
        both.pending.extend(b.pending);
        both.pending.sort_unstable();
        both.pending.dedup();
        Self::new(both)
    }
}

impl Policy {
    /// Rules for the tree beneath `root`.
    pub(super) fn new(root: &OwnedFd, rules: &[Rule]) -> Self {
        let names = |path: &str| -> Vec<Vec<u8>> {
            let names = path.split('/').filter(|name| !name.is_empty());
            names.map(|name| name.as_bytes().to_vec()).collect()
        };
        let mut policy = Self {
            rules: rules
                .iter()
                .map(|rule| (names(&rule.path), rule.kind))
                .collect(),
            devices: kernel_fs::DevtmpfsDevices::mounted(),
            ..Self::default()
        };
        for _ in 0..MAX_LINKS {
            if !policy.follow_links(root) {
                break;
            }
        }
        let start = policy.root();
        if start.0.is_some() {
            policy.learn(root, b"", &start);
        }
        policy
    }

    /// Adds rules for the paths to which symbolic links lead. Returns whether there were any.
    fn follow_links(&mut self, root: &OwnedFd) -> bool {
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
                if applies && glob::matches(pattern, &name) {
                    let names = target.iter().chain(rest).cloned().collect();
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
            if glob::is_pattern(name) {
                names.extend(entries(root, path, name));
            } else {
                names.push(name.clone());
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// The devices of devtmpfs.
    pub(super) fn devices(&self) -> &kernel_fs::DevtmpfsDevices {
        &self.devices
    }

    /// The access of the root.
    pub(super) fn root(&self) -> Access {
        let is_only = |rule: &(Vec<_>, RuleKind)| rule.1 == RuleKind::Only;
        let mut inner = Inner {
            is_outside: self.rules.iter().any(is_only),
            ..Inner::default()
        };
        let mut last = None;
        for (index, (names, kind)) in self.rules.iter().enumerate() {
            if names.is_empty() {
                inner.apply(*kind);
                last = self.is_about_hiding(index).then_some(index).or(last);
            } else {
                inner.pending.push((index, 0));
            }
        }
        self.drop_earlier(&mut inner, last);
        Access::new(inner)
    }

    /// The access of `name` in a directory.
    pub(super) fn child(&self, dir: &Access, name: &[u8]) -> Access {
        let Some(dir) = &dir.0 else {
            return Access::default();
        };
        let mut inner = Inner {
            pending: Vec::new(),
            ..Inner::clone(dir)
        };
        let mut last = None;
        for &(index, depth) in &dir.pending {
            let Some((names, kind)) = self.rules.get(index) else {
                continue;
            };
            match names.get(depth..) {
                Some([pattern, rest @ ..]) if glob::matches(pattern, name) => {
                    if rest.is_empty() {
                        inner.apply(*kind);
                        last = self.is_about_hiding(index).then_some(index).or(last);
                    } else {
                        inner.pending.push((index, depth + 1));
                    }
                }
                _ => {}
            }
        }
        self.drop_earlier(&mut inner, last);
        Access::new(inner)
    }

    fn is_about_hiding(&self, index: usize) -> bool {
        let kind = self.rules.get(index).map(|(_, kind)| kind);
        matches!(kind, Some(RuleKind::Hide | RuleKind::Show))
    }

    /// After a rule has hidden or shown a directory, earlier rules about what is below do not count any more.
    fn drop_earlier(&self, inner: &mut Inner, last: Option<usize>) {
        let Some(last) = last else { return };
        let counts = |&(index, _): &(usize, usize)| index > last || !self.is_about_hiding(index);
        inner.pending.retain(counts);
    }

    /// The access of a file that was found under `name` in a directory.
    pub(super) fn found(&self, dir: &Access, name: &[u8], stat: &Statx) -> Access {
        let named = self.child(dir, name);
        match self.known.get(&FileId::new(stat)) {
            Some(known) if known.born.is_none_or(|born| Some(born) == birth(stat)) => {
                named.and(&known.access)
            }
            _ => named,
        }
    }

    /// Remembers that the peer asked for something hidden.
    pub(super) fn report(&self, path: Vec<u8>) {
        let mut requested = self
            .requested
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if requested.len() < MAX_REPORTED || requested.contains_key(&path) {
            *requested.entry(path).or_default() += 1;
        }
    }

    /// The hidden paths that the peer asked for: the first few.
    pub(super) fn requested(&self) -> Vec<Vec<u8>> {
        let requested = self
            .requested
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        requested.keys().cloned().collect()
    }

    /// Records the identity of what exists beneath `path` and is on the way to a rule, or is named by one.
    fn learn(&mut self, root: &OwnedFd, path: &[u8], dir: &Access) {
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
        let mut directories = vec![(path, access.clone())];
        let mut seen = 0;
        while let Some((path, access)) = directories.pop() {
            seen += 1;
            if seen > MAX_ENTRIES {
                return;
            }
            for name in entries(root, &path, b"*") {
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
        let born = if is_directory(stat) {
            None
        } else {
            birth(stat)
        };
        let known = self
            .known
            .entry(FileId::new(stat))
            .or_insert_with(|| KnownFile {
                access: access.clone(),
                born,
            });
        known.access = known.access.and(access);
    }
}

/// The time of birth, where the file system knows it.
fn birth(stat: &Statx) -> Option<(i64, u32)> {
    let is_known = stat.stx_mask & rustix::fs::StatxFlags::BTIME.bits() != 0;
    is_known.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec))
}

fn is_directory(stat: &Statx) -> bool {
    FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory
}

/// What a path of the tree leads to. Symbolic links are followed as on the machine: within the tree.
fn open(root: &OwnedFd, path: &[u8], flags: OFlags) -> Option<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let path = if path.is_empty() { b"/" } else { path };
    rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()
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
fn entries(root: &OwnedFd, path: &[u8], pattern: &[u8]) -> Vec<Vec<u8>> {
    let Some(fd) = open(root, path, OFlags::RDONLY | OFlags::DIRECTORY) else {
        return Vec::new();
    };
    let Ok(dir) = Dir::new(fd) else {
        return Vec::new();
    };
    let names = dir.filter_map(|entry| Some(entry.ok()?.file_name().to_bytes().to_vec()));
    names
        .filter(|name| name != b"." && name != b".." && glob::matches(pattern, name))
        .take(MAX_ENTRIES)
        .collect()
}
