//! What of the tree is kept from the peer: rules for paths, and which of them apply to a file.
//!
//! A rule is found by walking, not by comparing paths: each [`Node`](super::Node) has an [`Access`], which says what holds
//! for it and which rules may still match below. So no other name of a file gets around a rule: directories on the way to one,
//! and files that one names, are known by their identity too, whatever symbolic link, mount or hard link leads to them when
//! cpu starts. Where symbolic links lead, rules are added, since files are replaced there too. The peer can neither rename nor
//! link what a rule concerns.

mod learn;

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use cpu_proto::glob::NamePattern;
use ninep::errno::Errno;
use rustix::fs::Statx;

use super::kernel_fs;
use super::stat::FileId;

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
    /// An absolute path. Each name may be a [`NamePattern`].
    pub path: String,
    /// What holds there.
    pub kind: RuleKind,
}

/// The most links that a path leads through, as in the kernel.
const MAX_LINKS: usize = 40;

/// The most paths that are remembered for the user.
const MAX_REPORTED: usize = 16;

/// A rule, and the names of its path.
type Names = (Vec<NamePattern>, RuleKind);

/// The rules.
#[derive(Default)]
pub(super) struct Policy {
    rules: Vec<Names>,
    /// The access to files that exist when cpu starts.
    known: HashMap<FileId, KnownFile>,
    devices: kernel_fs::DevtmpfsDevices,
    requested: Mutex<BTreeSet<Vec<u8>>>,
}

struct KnownFile {
    access: Access,
    /// The time of birth: another file may get its inode number.
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
        let names = |path: &str| -> Vec<NamePattern> {
            let names = path.split('/').filter(|name| !name.is_empty());
            names
                .map(|name| NamePattern::new(name.as_bytes()))
                .collect()
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
                Some([pattern, rest @ ..]) if pattern.matches(name) => {
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
        if requested.len() < MAX_REPORTED {
            requested.insert(path);
        }
    }

    /// The hidden paths that the peer asked for: the first few.
    pub(super) fn requested(&self) -> Vec<Vec<u8>> {
        let requested = self
            .requested
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        requested.iter().cloned().collect()
    }
}

/// The time of birth, where the file system knows it.
fn birth(stat: &Statx) -> Option<(i64, u32)> {
    let is_known = stat.stx_mask & rustix::fs::StatxFlags::BTIME.bits() != 0;
    is_known.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec))
}
