//! The isolations of all keys, which the server keeps: one for each key that has connections ([`crate::isolation`]).

use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::rc::{Rc, Weak};

use anyhow::{Context as _, Result};

use super::exec::socket_pair;
use crate::isolation::{Isolation, MAX_ISOLATIONS};
use crate::role::Role;

/// The most connections of an isolated key: a quarter of all, so that nobody takes the places of the others.
pub(super) const MAX_CONNECTIONS: usize = 64;

/// Isolations by fingerprint.
#[derive(Default)]
pub(super) struct Isolations {
    live: Vec<(String, Weak<Isolation>)>,
    /// How many have been made.
    made: u32,
}

impl Isolations {
    /// The isolation of a key. It lasts as long as the result, and until the sessions in it have ended.
    pub(super) fn of(&mut self, fingerprint: &str) -> Result<Rc<Isolation>> {
        self.live
            .retain(|(_, isolation)| isolation.strong_count() > 0);
        let known = self.live.iter().filter(|(key, _)| key == fingerprint);
        let mut known = known.filter_map(|(_, isolation)| isolation.upgrade());
        if let Some(isolation) = known.find(|isolation| isolation.is_alive()) {
            return Ok(isolation);
        }
        let root = self.free_root().context("there are too many isolations")?;
        let isolation = Rc::new(start(fingerprint, root)?);
        let entry = (fingerprint.to_owned(), Rc::downgrade(&isolation));
        self.live.push(entry);
        Ok(isolation)
    }

    /// Whether a key has as many connections as it may have.
    pub(super) fn is_full(&self, fingerprint: &str) -> bool {
        // It may have several isolations: its root can end one, as with reboot(2).
        let own = self.live.iter().filter(|(key, _)| key == fingerprint);
        let connections = own.map(|(_, isolation)| isolation.strong_count());
        connections.sum::<usize>() >= MAX_CONNECTIONS
    }

    /// A root that no other isolation has, and that none has had of late: processes of one may live on for a moment.
    fn free_root(&mut self) -> Option<u32> {
        let live = self.live.iter();
        let taken: Vec<u32> = live
            .filter_map(|(_, isolation)| Some(isolation.upgrade()?.root))
            .collect();
        let mut roots = (0..MAX_ISOLATIONS).map(|_| {
            self.made = self.made.wrapping_add(1);
            Isolation::nth_root(self.made)
        });
        roots.find(|root| !taken.contains(root))
    }
}

fn start(fingerprint: &str, root: u32) -> Result<Isolation> {
    let (ours, theirs) = socket_pair().context("cannot make a socket pair")?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("cpud")
        .args([Role::Isolation.name(), fingerprint, &root.to_string()])
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start a process")?;
    let isolation = Isolation::receive(ours.as_fd());
    // It ends at once, and the holder goes to init.
    let _ = child.wait();
    isolation.context("the process that makes the namespaces has failed")
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn one_key_cannot_have_all_connections() {
        let mut isolations = Isolations::default();
        let null = || File::open("/dev/null").unwrap().into();
        let mut add = |key: &str| {
            let isolation = Rc::new(Isolation {
                root: 0,
                holder: null(),
                life: null(),
            });
            let entry = (key.to_owned(), Rc::downgrade(&isolation));
            isolations.live.push(entry);
            (isolations.is_full(key), isolation)
        };
        // Some share an isolation, the others have lost theirs.
        let (_, shared) = add("alice");
        let mut kept = vec![shared.clone(); 40];
        kept.extend((1..MAX_CONNECTIONS - 41).map(|_| {
            let (is_full, isolation) = add("alice");
            assert!(!is_full);
            isolation
        }));
        assert!(add("alice").0 && !add("bob").0);
        drop(kept);
        assert!(!add("alice").0);
    }

    #[test]
    fn every_key_has_a_root_of_its_own_and_none_is_used_again_soon() {
        let mut isolations = Isolations::default();
        let mut roots = Vec::new();
        let null = || File::open("/dev/null").unwrap().into();
        let mut kept = Vec::new();
        for n in 0..600 {
            let root = isolations.free_root().unwrap();
            assert!(kept.iter().all(|other: &Rc<Isolation>| other.root != root));
            roots.push(root);
            if n % 3 == 0 {
                let isolation = Rc::new(Isolation {
                    root,
                    holder: null(),
                    life: null(),
                });
                let entry = (n.to_string(), Rc::downgrade(&isolation));
                isolations.live.push(entry);
                kept.push(isolation);
            }
        }
        let again = |n: usize| roots[n + 1..].iter().position(|root| *root == roots[n]);
        assert!((0..600).filter_map(again).all(|after| after > 50));
        // When all are taken there is none.
        while let Some(root) = isolations.free_root() {
            let isolation = Rc::new(Isolation {
                root,
                holder: null(),
                life: null(),
            });
            let entry = (String::new(), Rc::downgrade(&isolation));
            isolations.live.push(entry);
            kept.push(isolation);
        }
        assert_eq!(kept.len(), 255);
    }
}
