//! Between Linux's client and a server that is far away: the same files in fewer waits.
//!
//! The kernel asks for one thing and waits, asks for the next and waits. When the server speaks
//! [`EXTENDED`], one wait is enough for what belongs together. When it does not, every byte passes as it is.
//! u-root's is not asked, for it refuses what it does not know; of its replies only the types in directories are
//! mended (`dirent_type.rs`).
//!
//! * **A name and its attributes.** The kernel walks one name, then asks for the attributes of what it
//!   found, and once more if it was stat(2) that wanted them. The walk goes on as a Twalkgetattr; the
//!   attributes are cached here for the getattr that the walk brings, and [`ATTR_TTL`] longer for the other.
//!   They are forgotten when the fid is used for anything else, and whenever a request that may change
//!   attributes goes or has been answered: what happens on this mount is seen in its order.
//! * **What does not fail.** A clone of a fid is confirmed here, and so is the clunk of one that was not
//!   opened, or only to be read. The server is told with the next request, or after [`BATCH_DELAY`]. It
//!   does both before it reads on, so a number that is used again means what it should. The clunk of
//!   a file that can be written or has locks is waited for: after close(2) nobody finds it busy. (A server
//!   that has no more fids to give refuses the clone unheard, and then what was to be done with it; it
//!   runs out of descriptors before.)
//!
//! * **An attribute that is gone.** See `missing_xattr.rs`: of several writes in turn only the first asks for it.
//!
//! No I/O and no clock: [`Relay`] is told what arrived, and when.

mod dirent_type;
mod framer;
mod missing_xattr;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::errno::Errno;
use crate::fs::OpenFlags;
use crate::msg::{Attr, EXTENDED, Header, Kind, NO_TAG, Reply, Request, VERSION};
use crate::wire::{Frame, HEADER, Malformed, Str, WalkVec};
use framer::{Framer, Segment};
use missing_xattr::{CAPABILITY, MissingXattr};

/// How long attributes are good for a second getattr: what a busy machine may need between two requests of
/// one system call. Another system call may be so quick only if it has the file already: stat(2) of the
/// directory that chdir(2) has just gone to.
pub const ATTR_TTL: Duration = Duration::from_millis(10);

/// How long they are good for the first one, which the kernel's own look-up sends before it does anything else.
const LOOKUP_TTL: Duration = Duration::from_secs(1);

/// How long requests that nobody waits for may be held back for one that they can travel with: so long may a
/// file that was closed there still be open here, and a directory be in use.
pub const BATCH_DELAY: Duration = Duration::from_millis(50);

/// Attributes cached at a time: as many as walks may be between their name and their getattr.
const MAX_ENTRIES: usize = 32;

/// Bytes of held-back requests that need no company.
const BATCH_BYTES: usize = 8 * 1024;

/// Why nothing more can be relayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A size that no message has here, after which nothing can be found in the stream.
    #[error("a 9P message of type {kind} says it is of {size} bytes")]
    Size {
        /// Type byte.
        kind: u8,
        /// What it says.
        size: u32,
    },
    /// The server's reply can't be meant.
    #[error("a reply of the 9P server")]
    Reply(#[source] Malformed),
}

/// Who serves the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// May be asked for more than 9P2000.L; ours has it.
    Any,
    /// That of u-root's cpu.
    URoot,
}

/// The relay of one mount.
#[derive(Debug)]
pub struct Relay {
    server: ServerKind,
    /// Whether the server agreed to [`EXTENDED`].
    extended: bool,
    requests: Framer,
    replies: Framer,
    /// Tags of walks on their way whose attributes will be good, and the fids that they make.
    walks: HashMap<u16, u32>,
    attrs: Vec<CachedAttr>,
    missing: MissingXattr,
    /// Fids whose clunk is waited for.
    sync_clunks: HashSet<u32>,
    /// Requests without a reply, held back.
    batch: BytesMut,
    /// Replies made here.
    local_replies: Vec<Bytes>,
    frame: Frame,
}

/// Attributes that came with a walk.
#[derive(Debug)]
struct CachedAttr {
    fid: u32,
    until: Instant,
    attr: Attr,
}

impl Relay {
    /// Nothing has been relayed.
    pub fn new(server: ServerKind) -> Self {
        Self {
            server,
            extended: false,
            requests: Framer::default(),
            replies: Framer::default(),
            walks: HashMap::new(),
            attrs: Vec::new(),
            missing: MissingXattr::default(),
            sync_clunks: HashSet::new(),
            batch: BytesMut::new(),
            local_replies: Vec::new(),
            frame: Frame::default(),
        }
    }

    /// Takes bytes from the kernel and gives those for the server. [`Relay::take_replies`] may have more to give.
    pub fn from_kernel(
        &mut self,
        mut chunk: Bytes,
        now: Instant,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Error> {
        // The bytes of a write are many, and what they are does not matter.
        let whole = |kind| kind != Kind::Write.number() && Kind::new(kind).is_ok();
        while let Some(segment) = self.requests.next(&mut chunk, whole)? {
            match segment {
                Segment::Whole(header, message) => self.request(header, message, now, out),
                Segment::Begin(header, bytes) => {
                    self.forget_all();
                    if self.extended {
                        self.missing.write_sent(header, &bytes);
                    }
                    self.pass(bytes, out);
                }
                Segment::More(bytes) => out.push(bytes),
            }
        }
        if self.batch.len() > BATCH_BYTES {
            self.take_batch(out);
        }
        Ok(())
    }

    /// Takes bytes from the server and gives those for the kernel. Between two messages, what was answered here
    /// goes first: the reply to a request comes before that to its flush.
    pub fn from_server(
        &mut self,
        mut chunk: Bytes,
        now: Instant,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Error> {
        let is = |kind: Kind, number: u8| number == kind.number() + 1;
        let kinds: &[Kind] = match self.server {
            ServerKind::Any => &[Kind::Version, Kind::Walkgetattr, Kind::Lcreate],
            ServerKind::URoot => &[Kind::Readdir],
        };
        let whole = |number| kinds.iter().any(|&kind| is(kind, number));
        while let Some(segment) = self.replies.next(&mut chunk, whole)? {
            if !matches!(segment, Segment::More(_)) {
                out.append(&mut self.local_replies);
            }
            match segment {
                Segment::Whole(_, message) if self.server == ServerKind::URoot => {
                    out.push(dirent_type::correct(message));
                }
                Segment::Whole(header, message) => self.reply(header, message, now, out)?,
                Segment::Begin(header, bytes) => {
                    self.changed(header.kind);
                    if is(Kind::Write, header.kind) {
                        self.missing.write_done(header.tag, now);
                    } else {
                        self.missing.request_failed(header.tag);
                    }
                    out.push(bytes);
                }
                Segment::More(bytes) => out.push(bytes),
            }
        }
        Ok(())
    }

    /// Gives the kernel what was answered here, unless that would be within another message.
    pub fn take_replies(&mut self, out: &mut Vec<Bytes>) {
        if !self.replies.is_within() {
            out.append(&mut self.local_replies);
        }
    }

    /// Whether [`Relay::take_replies`] has something to give, now or soon.
    pub fn has_replies(&self) -> bool {
        !self.local_replies.is_empty()
    }

    /// Whether requests are held back.
    pub fn has_batch(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Lets them go.
    pub fn take_batch(&mut self, out: &mut Vec<Bytes>) {
        if self.has_batch() {
            out.push(self.batch.split().freeze());
        }
    }

    /// After the server's reply of this type.
    fn changed(&mut self, number: u8) {
        if let Some(Ok(kind)) = number.checked_sub(1).map(Kind::new)
            && changes(kind)
        {
            self.forget_all();
            // What these will bring may be from before the change.
            self.walks.clear();
            if kind != Kind::Write {
                self.missing.invalidate_pending();
            }
        }
    }

    fn request(&mut self, header: Header, message: Bytes, now: Instant, out: &mut Vec<Bytes>) {
        let body = message.get(HEADER..).unwrap_or_default();
        let request = Kind::new(header.kind).and_then(|kind| Request::decode(kind, body));
        let tag = header.tag;
        match request {
            // Whatever it is, the server will say so.
            Err(_) => {}
            Ok(Request::Version { msize, version })
                if self.server == ServerKind::Any && version.bytes() == VERSION =>
            {
                self.extended = false;
                let version = Str::new(EXTENDED).unwrap_or_default();
                return self.send(tag, &Request::Version { msize, version }, out);
            }
            Ok(_) if !self.extended => {}
            Ok(request) => match request {
                Request::Walk { fid, newfid, names } if newfid != fid => {
                    self.forget(fid);
                    self.forget(newfid);
                    self.missing.remove_fid(newfid);
                    let mut all = names.iter();
                    match (all.next(), all.next()) {
                        (None, _) => {
                            self.missing.clone_fid(fid, newfid);
                            self.defer(&request);
                            let qids = WalkVec::default();
                            return self.reply_locally(tag, &Reply::Walk { qids });
                        }
                        (Some(name), None) if !matches!(name.bytes(), b"." | b"..") => {
                            self.walks.insert(tag, newfid);
                            let walk = Request::Walkgetattr { fid, newfid, name };
                            return self.send(tag, &walk, out);
                        }
                        _ => {}
                    }
                }
                Request::Walk { fid, .. } => {
                    self.forget(fid);
                    self.missing.remove_fid(fid);
                }
                Request::Getattr { fid, .. } => {
                    let mut cached = self.attrs.iter_mut();
                    if let Some(cached) =
                        cached.find(|cached| cached.fid == fid && now < cached.until)
                    {
                        cached.until = cached.until.min(now + ATTR_TTL);
                        let attr = cached.attr;
                        return self.reply_locally(tag, &Reply::Getattr { attr });
                    }
                }
                Request::Xattrwalk { fid, name, .. }
                    if name.bytes() == CAPABILITY && self.missing.is_missing(fid, now) =>
                {
                    let ecode = Errno::ENODATA.raw();
                    return self.reply_locally(tag, &Reply::Error { ecode });
                }
                Request::Clunk { fid } => {
                    self.forget(fid);
                    self.missing.remove_fid(fid);
                    if !self.sync_clunks.remove(&fid) {
                        self.defer(&request);
                        return self.reply_locally(tag, &Reply::Clunk {});
                    }
                }
                Request::Lopen { fid, flags } => {
                    self.forget(fid);
                    let flags = OpenFlags(flags);
                    if flags.access() != OpenFlags::RDONLY || flags.has(OpenFlags::TRUNC) {
                        self.sync_clunks.insert(fid);
                    }
                }
                Request::Lcreate { fid, flags, .. } => {
                    self.sync_clunks.insert(fid);
                    self.missing.create_sent(tag, fid, flags);
                }
                // Its writes are of the attribute.
                Request::Xattrcreate { fid, .. } => {
                    self.sync_clunks.insert(fid);
                    self.missing.remove_fid(fid);
                }
                Request::Lock { fid, .. } => {
                    self.sync_clunks.insert(fid);
                }
                Request::Remove { fid } => {
                    self.sync_clunks.remove(&fid);
                    self.missing.remove_fid(fid);
                }
                _ => {}
            },
        }
        if let Ok(request) = request
            && changes(request.kind())
        {
            self.forget_all();
        }
        self.pass(message, out);
    }

    fn reply(
        &mut self,
        header: Header,
        message: Bytes,
        now: Instant,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Error> {
        let body = message.get(HEADER..).unwrap_or_default();
        match Reply::decode(header.kind, body).map_err(Error::Reply)? {
            Reply::Version { msize, version } if version.bytes() == EXTENDED => {
                self.extended = true;
                self.sync_clunks.clear();
                self.walks.clear();
                self.missing = MissingXattr::default();
                self.forget_all();
                let version = Str::new(VERSION).unwrap_or_default();
                out.push(self.reply_bytes(header.tag, &Reply::Version { msize, version }));
            }
            Reply::Walkgetattr { attr } if self.extended => {
                let wanted = attr.valid & Attr::BASIC == Attr::BASIC;
                let walked = self.walks.remove(&header.tag);
                if let Some(fid) = walked {
                    self.missing.set_file(fid, attr.qid.path);
                }
                if let Some(fid) = walked
                    && wanted
                {
                    self.attrs.retain(|cached| now < cached.until);
                    if self.attrs.len() >= MAX_ENTRIES {
                        self.attrs.remove(0);
                    }
                    let until = now + LOOKUP_TTL;
                    self.attrs.push(CachedAttr { fid, until, attr });
                }
                let mut qids = WalkVec::default();
                qids.push(attr.qid);
                out.push(self.reply_bytes(header.tag, &Reply::Walk { qids }));
            }
            Reply::Lcreate { qid, .. } => {
                self.changed(header.kind);
                self.missing.create_done(header.tag, qid.path, now);
                out.push(message);
            }
            _ => out.push(message),
        }
        Ok(())
    }

    fn forget(&mut self, fid: u32) {
        self.attrs.retain(|cached| cached.fid != fid);
    }

    fn forget_all(&mut self) {
        self.attrs.clear();
        self.missing.invalidate();
    }

    /// Keeps a request, without a reply, for the next that goes.
    fn defer(&mut self, request: &Request<'_>) {
        request.encode(NO_TAG, &mut self.frame);
        self.batch.extend_from_slice(self.frame.finish());
    }

    fn pass(&mut self, message: Bytes, out: &mut Vec<Bytes>) {
        self.take_batch(out);
        out.push(message);
    }

    fn send(&mut self, tag: u16, request: &Request<'_>, out: &mut Vec<Bytes>) {
        request.encode(tag, &mut self.frame);
        let message = Bytes::copy_from_slice(self.frame.finish());
        self.pass(message, out);
    }

    /// A reply to the kernel.
    fn reply_bytes(&mut self, tag: u16, reply: &Reply<'_>) -> Bytes {
        reply.encode(tag, &mut self.frame);
        Bytes::copy_from_slice(self.frame.finish())
    }

    fn reply_locally(&mut self, tag: u16, reply: &Reply<'_>) {
        let reply = self.reply_bytes(tag, reply);
        self.local_replies.push(reply);
    }
}

/// Whether attributes of any file may be others after such a request. An open may truncate; a clunk
/// sets the extended attribute that was written.
fn changes(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Lopen
            | Kind::Lcreate
            | Kind::Symlink
            | Kind::Mknod
            | Kind::Rename
            | Kind::Setattr
            | Kind::Link
            | Kind::Mkdir
            | Kind::Renameat
            | Kind::Unlinkat
            | Kind::Write
            | Kind::Clunk
            | Kind::Remove
    )
}
