//! Sits between Linux's 9P client and a distant server, and saves round trips.
//!
//! The kernel sends one request, waits for the reply, sends the next and waits again. With a server that speaks
//! [`EXTENDED`](crate::msg::EXTENDED), requests that belong together cost one round trip. With any other, every byte is passed on
//! unchanged. u-root's server is not offered the dialect, since it refuses what it does not know; of its replies,
//! inode numbers and the types in directory listings are corrected (`u_root.rs`).
//!
//! * **Walk and getattr.** The kernel walks one name, then asks for the attributes of the file that it found, and for
//!   stat(2) asks once more. The relay sends a Twalkgetattr instead of the walk. It caches the attributes for the
//!   first getattr ([`LOOKUP_TTL`]), and from then on [`ATTR_TTL`] for the second. They are dropped when the fid
//!   is used for anything else, and whenever a request that may change attributes is sent or has been answered, so
//!   that changes through this mount are seen in order.
//! * **Requests that cannot fail.** The relay itself answers the clone of a fid, and the clunk of one that was not
//!   opened or only for reading. It sends them to the server with the next request, or after [`BATCH_DELAY`]. The
//!   server performs both before it reads on, so a number that is reused refers to the right file. The clunk of a
//!   file that has locks is waited for. So is that of one that was open for writing, so that nobody finds the file busy after
//!   close(2), unless the server speaks [`WATCHED`]: then whoever shows what the program says next waits for it (`closes`).
//!   (A server that has run out of fids does refuse a clone; the requests that use it then fail. It runs out of
//!   descriptors before that.)
//! * **What was just changed.** With a server that speaks [`WATCHED`], the replies to a create and to a setattr bring the attributes
//!   of the file, for the getattr that follows, and for the walk to the new file (`made`).
//! * **What the server watches.** With a server that speaks [`WATCHED`], names, attributes and listings are answered from
//!   what it has said (`mirror`).
//! * **Missing attributes.** Of several writes in a row only the first asks for `security.capability`
//!   (`missing_xattr.rs`).
//!
//! For a mount in a user namespace it also translates the numbers of users and groups (`owners.rs`).
//!
//! No I/O and no clock: the caller passes in what has arrived, and the time.

mod batch;
mod changes;
mod closes;
mod dialect;
pub(crate) mod framer;
mod made;
mod mirror;
mod missing_xattr;
mod owners;
mod replies;
mod send;
mod tally;
mod u_root;

pub use mirror::ContentBudget;
pub use owners::IdRange;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::errno::Errno;
use crate::fs::OpenFlags;
use crate::msg::{Attr, EXTENDED, Header, Kind, Reply, Request, VERSION, WATCHED};
use crate::wire::{Frame, HEADER, Malformed, WalkVec};
use batch::Batch;
use changes::changes;
use closes::CloseCounts;
use framer::{Framer, MAX_WHOLE, Segment};
use made::MadeFile;
use mirror::Mirror;
use missing_xattr::{CAPABILITY, MissingXattr};
use tally::Tally;

/// How long cached attributes may answer a second getattr: as long as a busy machine may take between two requests of
/// one system call. A second system call can be that quick only if it needs no walk: stat(2) of the directory that
/// chdir(2) has just entered.
pub const ATTR_TTL: Duration = Duration::from_millis(10);

/// How long they may answer the first getattr, which is the next request that the kernel's lookup sends.
const LOOKUP_TTL: Duration = Duration::from_secs(1);

/// How long requests that nobody waits for are held back until another request takes them along. For that time a file
/// that was closed on the machine may still be open at the server, and a directory in use.
pub const BATCH_DELAY: Duration = Duration::from_millis(50);

/// Maximum number of cached attributes, and so of walks that are waiting for their getattr.
const MAX_ENTRIES: usize = 32;

/// Requests that are held back are sent when there are more bytes than this.
const BATCH_BYTES: usize = 8 * 1024;

/// Largest Rlist that is accepted; our server sends less.
const MAX_LIST: usize = 512 * 1024;

/// Why the relay cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An impossible size, after which the next message cannot be found.
    #[error("the header of a 9P message of type {kind} gives an impossible size of {size} bytes")]
    Size {
        /// Type byte.
        kind: u8,
        /// The size in its header.
        size: u32,
    },
    /// The server's reply cannot be decoded.
    #[error("the 9P server sent an invalid reply")]
    Reply(#[source] Malformed),
}

/// Which server is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// One that may be offered [`WATCHED`] and [`EXTENDED`](crate::msg::EXTENDED); ours speaks them.
    Any,
    /// The server of u-root's cpu.
    URoot,
}

/// The relay of one mount.
#[derive(Debug)]
pub struct Relay {
    server: Upstream,
    /// The users and groups of the mount, if it is in a user namespace.
    ids: Option<IdRange>,
    /// Whether the server agreed to [`EXTENDED`](crate::msg::EXTENDED) or [`WATCHED`].
    extended: bool,
    /// What is kept, if it agreed to [`WATCHED`].
    mirror: Option<Box<Mirror>>,
    /// What it may take for contents.
    contents: Arc<ContentBudget>,
    /// The version that was proposed to the server and is not answered yet.
    proposed: Option<&'static [u8]>,
    /// Requests of the relay itself.
    own_requests: Vec<Bytes>,
    requests: Framer,
    replies: Framer,
    /// By tag: the new fids of walks in flight whose attributes may be cached.
    walks: HashMap<u16, u32>,
    attrs: Vec<CachedAttr>,
    /// By tag: the fids of creates and setattrs in flight, whose replies bring attributes.
    changing: HashMap<u16, u32>,
    /// The file that was created last.
    made: Option<MadeFile>,
    missing: MissingXattr,
    /// Fids whose clunk must be waited for.
    sync_clunks: HashSet<u32>,
    /// Fids of files that are open for writing.
    writable: HashSet<u32>,
    closes: CloseCounts,
    /// Requests that need no reply, held back.
    batch: Batch,
    /// Replies made by the relay.
    local_replies: Vec<Bytes>,
    tally: Tally,
    /// See [`Relay::forgotten`].
    forgotten: u64,
    frame: Frame,
}

/// Attributes that came with a walk, a create or a setattr.
#[derive(Debug)]
struct CachedAttr {
    fid: u32,
    until: Instant,
    /// Whether they answer one getattr only.
    once: bool,
    attr: Attr,
}

impl Relay {
    /// A relay for a new connection.
    pub fn new(server: Upstream) -> Self {
        Self {
            server,
            ids: None,
            extended: false,
            mirror: None,
            contents: Arc::default(),
            proposed: None,
            own_requests: Vec::new(),
            requests: Framer::default(),
            replies: Framer::default(),
            walks: HashMap::new(),
            attrs: Vec::new(),
            changing: HashMap::new(),
            made: None,
            missing: MissingXattr::default(),
            sync_clunks: HashSet::new(),
            writable: HashSet::new(),
            closes: CloseCounts::default(),
            batch: Batch::default(),
            local_replies: Vec::new(),
            tally: Tally::default(),
            forgotten: 0,
            frame: Frame::default(),
        }
    }

    /// The same, which keeps contents of files within this budget.
    #[must_use]
    pub fn keeping(self, contents: Arc<ContentBudget>) -> Self {
        Self { contents, ..self }
    }

    /// Takes bytes from the kernel, and appends those for the server to `out`. There may be replies for the kernel
    /// afterwards: [`Relay::take_replies`].
    pub fn from_kernel(
        &mut self,
        mut chunk: Bytes,
        now: Instant,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Error> {
        // A write may be large, and its data does not matter here.
        let is_whole = |kind| kind != Kind::Write.number() && Kind::new(kind).is_ok();
        let whole = |header: Header| is_whole(header.kind).then_some(MAX_WHOLE);
        while let Some(segment) = self.requests.next(&mut chunk, whole)? {
            match segment {
                Segment::Whole(header, message) => {
                    if let Some(message) = self.with_servers_ids(header, message) {
                        let replies = self.local_replies.len();
                        self.request(header, message, now, out);
                        if self.local_replies.len() > replies {
                            self.tally.answered(header.kind);
                        }
                    }
                }
                Segment::Begin(header, bytes) => {
                    self.forget_all();
                    if self.extended {
                        self.missing.write_sent(header, &bytes);
                    }
                    let fid = bytes.get(HEADER..).and_then(<[u8]>::first_chunk);
                    if let (Some(mirror), Some(fid)) = (&mut self.mirror, fid) {
                        mirror.write(header.tag, u32::from_le_bytes(*fid));
                    }
                    self.pass(bytes, out);
                }
                Segment::More(bytes) => out.push(bytes),
            }
        }
        self.take_requests(out);
        if self.batch.bytes() > BATCH_BYTES {
            self.take_batch(out);
        }
        Ok(())
    }

    /// Takes bytes from the server, and appends those for the kernel to `out`. The relay's own replies go first, as
    /// soon as a message begins: the reply to a request must come before that to its flush.
    pub fn from_server(
        &mut self,
        mut chunk: Bytes,
        now: Instant,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Error> {
        let is = |kind: Kind, number: u8| number == kind.number() + 1;
        let kinds: &[Kind] = match self.server {
            Upstream::Any => &[Kind::Version, Kind::Walkgetattr, Kind::Lcreate],
            Upstream::URoot => u_root::CORRECTED,
        };
        let attr = self.ids.map(|_| Kind::Getattr);
        loop {
            let mirror = self.mirror.as_deref();
            let whole = |header: Header| match mirror {
                Some(mirror) => mirror.max_whole(header),
                None => {
                    let mut all = kinds.iter().chain(&attr);
                    let is_one = all.any(|&kind| is(kind, header.kind));
                    is_one.then_some(MAX_WHOLE)
                }
            };
            let Some(segment) = self.replies.next(&mut chunk, whole)? else {
                return Ok(());
            };
            if !matches!(segment, Segment::More(_)) {
                out.append(&mut self.local_replies);
            }
            match segment {
                Segment::Whole(header, message) => {
                    let message = self.with_kernels_ids(header, message)?;
                    match self.server {
                        Upstream::Any => self.reply(header, &message, now, out)?,
                        Upstream::URoot => out.push(u_root::correct(header.kind, message)),
                    }
                }
                Segment::Begin(header, bytes) => {
                    if let Some(mirror) = &mut self.mirror {
                        mirror.reply(header.tag, None, now);
                    }
                    self.passes(header, now);
                    out.push(bytes);
                }
                Segment::More(bytes) => out.push(bytes),
            }
        }
    }

    /// Appends the relay's own replies to `out`, unless the kernel has got only part of another message.
    pub fn take_replies(&mut self, out: &mut Vec<Bytes>) {
        if !self.replies.is_within() {
            out.append(&mut self.local_replies);
        }
    }

    /// How often the server has taken something back that was kept.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Whether there are replies for [`Relay::take_replies`], now or after the message that is in transit.
    pub fn has_replies(&self) -> bool {
        !self.local_replies.is_empty()
    }

    /// Whether there are requests for [`Relay::take_requests`], now or after the message that is in transit. There are some only
    /// after [`Relay::from_server`].
    pub fn has_requests(&self) -> bool {
        !self.own_requests.is_empty()
    }

    /// Appends requests of the relay itself to `out`, unless the server has got only part of another message. So whoever sends
    /// them must be who sends what [`Relay::from_kernel`] gives.
    pub fn take_requests(&mut self, out: &mut Vec<Bytes>) {
        if !self.requests.is_within() {
            out.append(&mut self.own_requests);
        }
    }

    /// Whether requests are being held back.
    pub fn has_batch(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Appends the requests that were held back to `out`.
    pub fn take_batch(&mut self, out: &mut Vec<Bytes>) {
        self.batch.take(out);
    }

    fn request(&mut self, header: Header, message: Bytes, now: Instant, out: &mut Vec<Bytes>) {
        let body = message.get(HEADER..).unwrap_or_default();
        let request = Kind::new(header.kind).and_then(|kind| Request::decode(kind, body));
        let tag = header.tag;
        match request {
            // The server will refuse it.
            Err(_) => {}
            Ok(Request::Version { msize, version })
                if self.server == Upstream::Any && version.bytes() == VERSION =>
            {
                self.extended = false;
                self.mirror = None;
                // What the mirror keeps has the server's numbers of users.
                let version = match self.ids {
                    None => WATCHED,
                    Some(_) => EXTENDED,
                };
                let message = self.propose(tag, msize, version);
                return self.pass(message, out);
            }
            Ok(_) if !self.extended => {}
            Ok(request) if self.walks_to_made(tag, &request, now, out) => return,
            Ok(request) if self.mirrored(tag, &request, out) => return,
            Ok(request) => match request {
                Request::Walk { fid, newfid, names } if newfid != fid => {
                    self.forget(fid);
                    self.forget(newfid);
                    self.missing.remove_fid(newfid);
                    let mut all = names.iter();
                    match (all.next(), all.next()) {
                        (None, _) => {
                            self.missing.clone_fid(fid, newfid);
                            self.defer(&request, newfid, Some(fid));
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
                    if let Some(attr) = self.cached_attr(fid, now) {
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
                    let is_writable = self.writable.remove(&fid);
                    if is_writable && self.mirror.is_some() && !self.sync_clunks.contains(&fid) {
                        self.forget_all();
                        self.close(fid, out);
                        return self.reply_locally(tag, &Reply::Clunk {});
                    }
                    if !self.sync_clunks.remove(&fid) && !is_writable {
                        if self.mirror.is_none() || !self.batch.cancel(fid) {
                            self.defer(&request, fid, None);
                        }
                        return self.reply_locally(tag, &Reply::Clunk {});
                    }
                }
                Request::Lopen { fid, flags } => {
                    self.forget(fid);
                    let flags = OpenFlags(flags);
                    if flags.access() != OpenFlags::RDONLY || flags.has(OpenFlags::TRUNC) {
                        self.writable.insert(fid);
                    }
                }
                Request::Lcreate { fid, flags, .. } => {
                    self.writable.insert(fid);
                    self.missing.create_sent(tag, fid, flags);
                }
                // What is written to this fid now is the attribute.
                Request::Xattrcreate { fid, .. } => {
                    self.sync_clunks.insert(fid);
                    self.missing.remove_fid(fid);
                }
                Request::Lock { fid, .. } => {
                    self.sync_clunks.insert(fid);
                }
                Request::Remove { fid } => {
                    self.sync_clunks.remove(&fid);
                    self.writable.remove(&fid);
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
        if let Ok(request) = request
            && let Some(request) = self.with_getattr(tag, &request)
        {
            return self.send(tag, &request, out);
        }
        self.pass(message, out);
    }
}
