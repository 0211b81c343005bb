//! Tests of the export by a client that speaks 9P directly: what a peer can do, and what it cannot.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "what fails here fails the test; bytes are taken from numbers"
)]

mod confined;
mod contents;
mod contract;
mod devices;
mod directories;
mod files;
mod flags;
mod hostile;
mod links;
mod locks;
mod made;
mod names;
mod owners;
mod replays;
mod rights;
mod there;
mod told;
mod withheld;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use cpu_client::export::{Caching, Export, IdMap, prepare_process};
use ninep::errno::Errno;
use ninep::fs::OpenFlags;
use ninep::msg::{
    Attr, DirEntry, EXTENDED, Flock, NO_TAG, Qid, Reply, Request, SetAttr, Time, VERSION,
};
use ninep::server::Config;
use ninep::wire::{BodyReader, Data, Str, WalkVec, Wire};
use ninep_testing::{RawClient, RawReply, attach, name, text};
use tempfile::TempDir;

const RDONLY: u32 = OpenFlags::RDONLY;

const WRONLY: u32 = OpenFlags::WRONLY;

const RDWR: u32 = OpenFlags::RDWR;

/// Serves `TempDir/root`. `TempDir/secret` must stay out of reach.
struct ServedTree {
    dir: TempDir,
    export: Arc<Export>,
}

impl ServedTree {
    fn new() -> Self {
        Self::at(&std::env::temp_dir())
    }

    fn at(place: &Path) -> Self {
        prepare_process();
        let dir = TempDir::new_in(place).unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        let export = Arc::new(Export::new(&dir.path().join("root")).unwrap());
        Self { dir, export }
    }

    fn session(&self) -> RawClient {
        RawClient::attached(self.export.clone(), Config::default())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("root").join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    fn mkdir(&self, name: &str) {
        fs::create_dir(self.path(name)).unwrap();
    }
}

fn served() -> (ServedTree, RawClient) {
    let served = ServedTree::new();
    let raw = served.session();
    (served, raw)
}

fn create(
    raw: &mut RawClient,
    fid: u32,
    dir: &str,
    file: &str,
    flags: u32,
    mode: u32,
) -> Result<(), Errno> {
    raw.walk(0, fid, dir)?;
    let request = Request::Lcreate {
        fid,
        name: name(file),
        flags,
        mode,
        gid: 0,
    };
    let created = raw.ask(&request);
    if created.is_err() {
        raw.clunk(fid).unwrap();
    }
    created.map(drop)
}

fn getattr(raw: &mut RawClient, fid: u32) -> Attr {
    match raw
        .ask(&Request::Getattr {
            fid,
            mask: Attr::BASIC,
        })
        .unwrap()
        .reply()
    {
        Reply::Getattr { attr } => attr,
        other => panic!("{other:?}"),
    }
}

fn setattr(raw: &mut RawClient, fid: u32, attr: SetAttr) -> Result<(), Errno> {
    raw.ask(&Request::Setattr { fid, attr }).map(drop)
}

fn chmod(served: &ServedTree, modes: &[(&str, u32)]) {
    for (path, mode) in modes {
        fs::set_permissions(served.path(path), PermissionsExt::from_mode(*mode)).unwrap();
    }
}

/// chown(2) of the owner, the group or both, as `valid` says.
fn set_owner(raw: &mut RawClient, fid: u32, valid: u32, uid: u32, gid: u32) -> Result<(), Errno> {
    let attr = SetAttr {
        valid,
        uid,
        gid,
        ..SetAttr::default()
    };
    setattr(raw, fid, attr)
}

struct ListedEntry {
    name: Vec<u8>,
    offset: u64,
    qid: Qid,
    kind: u8,
}

fn readdir(
    raw: &mut RawClient,
    fid: u32,
    offset: u64,
    count: u32,
) -> Result<Vec<ListedEntry>, Errno> {
    let reply = raw.ask(&Request::Readdir { fid, offset, count })?;
    assert!(reply.data().len() <= count as usize);
    let mut rest = reply.data();
    let mut listed = Vec::new();
    while !rest.is_empty() {
        let entry = DirEntry::get(&mut BodyReader::new(rest)).unwrap();
        rest = &rest[DirEntry::FIXED + entry.name.bytes().len()..];
        listed.push(ListedEntry {
            name: entry.name.bytes().to_vec(),
            offset: entry.offset,
            qid: entry.qid,
            kind: entry.kind,
        });
    }
    Ok(listed)
}

/// All names in the directory, without `.` and `..`.
fn list(raw: &mut RawClient, fid: u32, count: u32) -> Vec<String> {
    let mut names = Vec::new();
    let mut offset = 0;
    loop {
        let entries = readdir(raw, fid, offset, count).unwrap();
        let Some(last) = entries.last() else { break };
        offset = last.offset;
        names.extend(
            entries
                .into_iter()
                .map(|entry| String::from_utf8(entry.name).unwrap()),
        );
    }
    names.retain(|name| name != "." && name != "..");
    names
}

/// Runs `what` on a thread of an unprivileged user: nobody, if the tests are run by root. The kernel has users per thread,
/// and the threads of a session inherit this one's.
fn as_nobody<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    let run = || {
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = (
                rustix::fs::Uid::from_raw(65534),
                rustix::fs::Gid::from_raw(65534),
            );
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        }
        what()
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap()
}

fn errno(result: Result<RawReply, Errno>) -> Option<Errno> {
    result.err()
}
