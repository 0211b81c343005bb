//! The engine as its client sees it: versions, tags, flushes, fids, threads and limits.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "what fails here fails the test; bytes are taken from numbers"
)]

mod fids;
mod relay;
mod session;
mod stream;

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use ninep::errno::Errno;
use ninep::fs::{Attach, DirSink, FileSystem, OpenFlags, Result};
use ninep::msg::{Attr, Kind, NO_TAG, Qid, Reply, Request, SetAttr};
use ninep::observe::{CompletedRequest, Counts, Observer};
use ninep::server::{Config, Error};
use ninep_testing::{RawClient, attach, name, text, version, walk};

/// The files of [`MemFs`]: `/dir/deep`; `/file`, whose byte at n is n; and `/slow`, whose reads wait for
/// [`Mem::release`], as do its closes with `slow_close`.
#[derive(Default)]
struct Mem {
    open: AtomicUsize,
    reading: AtomicUsize,
    slow_close: AtomicBool,
    closing: AtomicUsize,
    released: Mutex<bool>,
    wake: Condvar,
    values: Mutex<Vec<SetXattr>>,
    /// The size of every file.
    size: AtomicU64,
    /// The files that have [`CAPABILITY`].
    capable: Mutex<Vec<MemNode>>,
}

/// The attribute that a write removes.
const CAPABILITY: &[u8] = b"security.capability";

/// The name of an attribute, and its new value or `None` if it was removed.
type SetXattr = (Vec<u8>, Option<Vec<u8>>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MemNode {
    Root,
    Dir,
    Deep,
    File,
    Slow,
}

impl MemNode {
    fn qid(self) -> Qid {
        let kind = match self {
            Self::Root | Self::Dir => Qid::DIR,
            _ => Qid::FILE,
        };
        Qid {
            kind,
            version: 1,
            path: self as u64,
        }
    }
}

/// An open file. Open files are counted to detect leaks.
struct Open(MemNode, Arc<Mem>);

impl Drop for Open {
    fn drop(&mut self) {
        if self.0 == MemNode::Slow && self.1.slow_close.load(Ordering::SeqCst) {
            self.1.closing.fetch_add(1, Ordering::SeqCst);
            self.1.wait();
        }
        self.1.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Mem {
    fn release(&self) {
        *self.released.lock().unwrap() = true;
        self.wake.notify_all();
    }

    fn wait(&self) {
        let mut released = self.released.lock().unwrap();
        while !*released {
            released = self.wake.wait(released).unwrap();
        }
    }
}

struct MemFs(Arc<Mem>);

impl FileSystem for MemFs {
    type Node = MemNode;
    type File = Open;

    fn attach(&self, _who: &Attach<'_>) -> Result<(MemNode, Qid)> {
        Ok((MemNode::Root, MemNode::Root.qid()))
    }

    fn walk(&self, dir: &MemNode, name: &[u8]) -> Result<(MemNode, Qid)> {
        let node = match (dir, name) {
            (MemNode::Root, b"dir") => MemNode::Dir,
            (MemNode::Root, b"file") => MemNode::File,
            (MemNode::Root, b"slow") => MemNode::Slow,
            (MemNode::Dir, b"deep") => MemNode::Deep,
            (MemNode::Root | MemNode::Dir, _) => return Err(Errno::ENOENT),
            _ => return Err(Errno::ENOTDIR),
        };
        Ok((node, node.qid()))
    }

    fn parent(&self, node: &MemNode) -> Result<(MemNode, Qid)> {
        let node = if *node == MemNode::Deep {
            MemNode::Dir
        } else {
            MemNode::Root
        };
        Ok((node, node.qid()))
    }

    fn getattr(&self, node: &MemNode, _mask: u64) -> Result<Attr> {
        Ok(Attr {
            valid: Attr::BASIC,
            qid: node.qid(),
            size: self.0.size.load(Ordering::SeqCst),
            ..Attr::default()
        })
    }

    fn setattr(&self, _node: &MemNode, _file: Option<&Open>, attr: &SetAttr) -> Result<()> {
        self.0.size.store(attr.size, Ordering::SeqCst);
        Ok(())
    }

    fn open(&self, node: &MemNode, _flags: OpenFlags) -> Result<(Open, Qid)> {
        self.0.open.fetch_add(1, Ordering::SeqCst);
        Ok((Open(*node, self.0.clone()), node.qid()))
    }

    fn read(&self, file: &Open, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if file.0 == MemNode::Slow {
            self.0.reading.fetch_add(1, Ordering::SeqCst);
            self.0.wait();
        }
        for (at, byte) in (0..).zip(&mut *buf) {
            *byte = offset.wrapping_add(at) as u8;
        }
        Ok(buf.len())
    }

    /// Removes the capability, as Linux does.
    fn write(&self, file: &Open, _: u64, bytes: &[u8]) -> Result<usize> {
        let mut capable = self.0.capable.lock().unwrap();
        capable.retain(|node| *node != file.0 || bytes.is_empty());
        Ok(bytes.len())
    }

    fn readdir(&self, _: &MemNode, _: &Open, _: u64, _: &mut DirSink<'_>) -> Result<()> {
        Ok(())
    }

    fn xattr(&self, node: &MemNode, name: Option<&[u8]>) -> Result<Vec<u8>> {
        if name == Some(CAPABILITY) && !self.0.capable.lock().unwrap().contains(node) {
            return Err(Errno::ENODATA);
        }
        Ok(name.unwrap_or(b"user.a\0").to_vec())
    }

    fn set_xattr(&self, node: &MemNode, name: &[u8], value: Option<&[u8]>, _: u32) -> Result<()> {
        if name == CAPABILITY {
            self.0.capable.lock().unwrap().push(*node);
        }
        let value = value.map(<[u8]>::to_vec);
        self.0.values.lock().unwrap().push((name.to_vec(), value));
        Ok(())
    }

    fn path(&self, node: &MemNode) -> Vec<u8> {
        format!("/{node:?}").to_lowercase().into_bytes()
    }
}

fn mem() -> (Arc<Mem>, RawClient) {
    with(Config::default())
}

fn with(config: Config<'static>) -> (Arc<Mem>, RawClient) {
    let mem = Arc::new(Mem::default());
    let raw = RawClient::attached(Arc::new(MemFs(mem.clone())), config);
    (mem, raw)
}

fn read(fid: u32, offset: u64, count: u32) -> Request<'static> {
    Request::Read { fid, offset, count }
}

fn start() -> (
    RawClient,
    std::thread::JoinHandle<std::result::Result<(), Error>>,
) {
    RawClient::start(Arc::new(MemFs(Arc::default())), Config::default())
}

/// Waits until another thread has done something, but not forever.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never: {what}");
}
