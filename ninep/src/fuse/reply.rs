//! What the server's replies lead to: the next request of 9P, or the reply that the kernel waits for.

use bytes::Bytes;

use super::request::name;
use super::{FuseFront, FuseStep, Op, Pending, ROOT_FID};
use crate::errno::Errno;
use crate::fs::OpenFlags;
use crate::msg::{Header, NO_FID, NO_ID, NO_TAG, Reply, Request};
use crate::wire::{Data, HEADER, Str};

/// The part of a message of 9P that is not data, with some to spare (`P9_IOHDRSZ`).
const IO_HEADER: u32 = 24;
/// The pages in which the kernel reads and writes, at least.
pub(super) const PAGE: u32 = 4096;
impl FuseFront {
    /// Takes one reply.
    pub(super) fn reply(&mut self, header: Header, message: &Bytes, kept: bool) {
        self.is_kept = false;
        let op = match header.tag {
            NO_TAG => self.init.take(),
            tag => {
                let place = self.pending.get_mut(usize::from(tag));
                let pending = place.and_then(Option::take);
                if pending.is_some() {
                    self.free_tags.push(tag);
                }
                pending.map(|Pending { op, is_kept, .. }| {
                    self.is_kept = is_kept && kept;
                    op
                })
            }
        };
        // Nobody waits for it.
        let Some(Op { unique, step }) = op else {
            return;
        };
        let body = message.get(HEADER..).unwrap_or_default();
        match Reply::decode(header.kind, body) {
            Ok(Reply::Error { ecode }) => {
                let errno = i32::try_from(ecode).map_or(Errno::EIO, Errno::from_raw);
                self.failed(unique, &step, errno, false);
            }
            Ok(reply) => self.succeeded(unique, step, &reply, message),
            Err(_) => self.failed(unique, &step, Errno::EIO, true),
        }
    }

    fn succeeded(&mut self, unique: u64, step: FuseStep, reply: &Reply<'_>, message: &Bytes) {
        match (step, *reply) {
            (
                FuseStep::Version {
                    kernel_flags,
                    minor,
                    readahead,
                },
                Reply::Version { msize, version },
            ) => {
                let msize = msize.min(self.options.msize);
                self.payload = msize.saturating_sub(IO_HEADER) / PAGE * PAGE;
                if self.payload == 0 || version.bytes() != crate::msg::VERSION {
                    return self.fail(unique, Errno::EPROTO);
                }
                let uname = std::mem::take(&mut self.options.uname);
                let request = Request::Attach {
                    fid: ROOT_FID,
                    afid: NO_FID,
                    uname: Str::new(&uname).unwrap_or_default(),
                    aname: Str::default(),
                    n_uname: NO_ID,
                };
                let step = FuseStep::Attach {
                    kernel_flags,
                    minor,
                    readahead,
                };
                self.send(unique, step, &request);
            }
            (
                FuseStep::Attach {
                    kernel_flags,
                    minor,
                    readahead,
                },
                Reply::Attach { .. },
            ) => {
                self.nodes.set_root(ROOT_FID);
                self.initialized(unique, kernel_flags, minor, readahead);
            }
            (FuseStep::WalkAgain { node, fid, request }, Reply::Walk { qids }) => {
                self.found_again(unique, node, fid, qids.iter().next(), &request);
            }
            (FuseStep::Walk { place, fid, owner }, Reply::Walk { .. }) => match owner {
                None => self.entry_attr(unique, place, fid),
                Some(owner) => self.own(unique, FuseStep::Own { place, fid }, fid, owner),
            },
            (FuseStep::Own { place, fid }, Reply::Setattr {}) => {
                self.entry_attr(unique, place, fid);
            }
            (FuseStep::EntryAttr { place, fid }, Reply::Getattr { attr }) => {
                let node = self.enter(fid, attr, place);
                let ttl = self.ttl();
                self.answer(unique, |out| out.entry_out(node, &attr, ttl));
            }
            (
                FuseStep::Make { place, owner },
                Reply::Mkdir { .. } | Reply::Mknod { .. } | Reply::Symlink { .. } | Reply::Link {},
            ) => {
                if let Err(errno) = self.walk(unique, place, owner) {
                    self.fail(unique, errno);
                }
            }
            (
                FuseStep::CreateClone {
                    place,
                    fid,
                    flags,
                    mode,
                    gid,
                    owner,
                },
                Reply::Walk { .. },
            ) => {
                let called = place.name.clone();
                let exclusive = flags & OpenFlags::EXCL != 0;
                // The kernel checks the right to open a file that exists; and that is not to be given away.
                let flags = flags | OpenFlags::EXCL;
                let step = FuseStep::Create {
                    exclusive,
                    place,
                    fid,
                    owner,
                };
                match name(&called) {
                    Ok(name) => {
                        let request = Request::Lcreate {
                            fid,
                            name,
                            flags,
                            mode,
                            gid,
                        };
                        self.send(unique, step, &request);
                    }
                    Err(errno) => self.failed(unique, &step, errno, false),
                }
            }
            (
                FuseStep::Create {
                    place,
                    fid: open,
                    owner,
                    ..
                },
                Reply::Lcreate { qid, .. },
            ) => {
                let called = place.name.clone();
                let (Ok(name), Ok(dir)) = (name(&called), self.node_fid(place.dir)) else {
                    self.clunk(0, open);
                    return self.fail(unique, Errno::ESTALE);
                };
                let fid = self.fids.take();
                let path = qid.path;
                let mut names = crate::wire::WalkVec::default();
                names.push(name);
                let request = Request::Walk {
                    fid: dir,
                    newfid: fid,
                    names,
                };
                let step = FuseStep::CreateWalk {
                    place,
                    open,
                    fid,
                    path,
                    owner,
                };
                self.send(unique, step, &request);
            }
            (
                FuseStep::CreateWalk {
                    place,
                    open,
                    fid,
                    path,
                    owner,
                },
                Reply::Walk { .. },
            ) => match owner {
                None => self.create_attr(unique, place, (open, fid, path)),
                Some(owner) => {
                    let step = FuseStep::CreateOwn {
                        place,
                        open,
                        fid,
                        path,
                    };
                    self.own(unique, step, fid, owner);
                }
            },
            (
                FuseStep::CreateOwn {
                    place,
                    open,
                    fid,
                    path,
                },
                Reply::Setattr {},
            ) => self.create_attr(unique, place, (open, fid, path)),
            (
                FuseStep::CreateAttr {
                    place,
                    open,
                    fid,
                    path,
                },
                Reply::Getattr { attr },
            ) => {
                if attr.qid.path != path {
                    // Somebody has put another file in its place. The kernel looks the name up again.
                    self.clunk(0, open);
                    self.clunk(0, fid);
                    return self.fail(unique, Errno::ESTALE);
                }
                let node = self.enter(fid, attr, place);
                self.count_open(node, true);
                let (ttl, flags) = (self.ttl(), self.open_flags);
                self.answer(unique, |out| {
                    out.entry_out(node, &attr, ttl);
                    out.open_out(open.into(), flags);
                });
            }
            (FuseStep::Getattr { node }, Reply::Getattr { attr }) => {
                self.nodes.update(node, attr);
                let ttl = self.ttl();
                self.answer(unique, |out| out.attr_out(&attr, ttl));
            }
            // Of the same fid: they have come along.
            (FuseStep::Setattr { node, fid }, Reply::Setattr {}) => self.getattr(unique, node, fid),
            (
                FuseStep::OpenClone {
                    node,
                    fid,
                    flags,
                    is_dir,
                },
                Reply::Walk { .. },
            ) => {
                let step = FuseStep::Open { node, fid, is_dir };
                self.send(unique, step, &Request::Lopen { fid, flags });
            }
            (FuseStep::Open { node, fid, is_dir }, Reply::Lopen { .. }) => {
                self.count_open(node, true);
                let flags = if is_dir { 0 } else { self.open_flags };
                self.answer(unique, |out| out.open_out(fid.into(), flags));
            }
            (
                FuseStep::Read {
                    node,
                    fid,
                    offset,
                    size,
                    mut got,
                },
                Reply::Read { data: Data(data) },
            ) => {
                let so_far = got.len() + data.len();
                let end = offset.saturating_add(u64::try_from(so_far).unwrap_or(u64::MAX));
                // A server may return less. What the kernel gets less of is the end of the file to it.
                let known = self.nodes.get(node).map_or(0, |node| node.attr.size);
                let is_all = data.is_empty() || end >= known;
                if got.is_empty() && (is_all || so_far >= usize::try_from(size).unwrap_or(0)) {
                    let most = usize::try_from(size).unwrap_or(usize::MAX).min(data.len());
                    let data = data.get(..most).unwrap_or_default();
                    return self.answer_data(unique, message.slice_ref(data));
                }
                let missing = usize::try_from(size)
                    .unwrap_or(usize::MAX)
                    .saturating_sub(got.len());
                got.extend_from_slice(data.get(..missing.min(data.len())).unwrap_or_default());
                if is_all || got.len() >= usize::try_from(size).unwrap_or(usize::MAX) {
                    return self.answer_data(unique, got.freeze());
                }
                self.read(unique, node, fid, offset, size, got);
            }
            (FuseStep::Write, Reply::Write { count }) => self.answer(unique, |out| {
                out.u32(count);
                out.u32(0);
            }),
            (FuseStep::Readdir { max }, Reply::Readdir { data: Data(data) }) => {
                self.listing(unique, data, max);
            }
            (FuseStep::Readlink, Reply::Readlink { target }) => {
                self.answer_data(unique, message.slice_ref(target.bytes()));
            }
            (FuseStep::Statfs, Reply::Statfs { stat }) => {
                self.answer(unique, |out| out.statfs_out(&stat));
            }
            (FuseStep::Rename { from, to }, Reply::Renameat {}) => {
                self.nodes.rename(&from, &to);
                self.answer(unique, |_| {});
            }
            (FuseStep::Done, Reply::Unlinkat {} | Reply::Fsync {}) => {
                self.answer(unique, |_| {});
            }
            (FuseStep::Clunk { fid, unlocks }, Reply::Clunk {}) => {
                self.clunked(fid, unlocks);
                self.answer(unique, |_| {});
            }
            (FuseStep::XattrWalk { fid, size }, Reply::Xattrwalk { size: length }) => {
                self.xattr_found(unique, fid, size, length);
            }
            (
                FuseStep::XattrRead {
                    fid,
                    length,
                    mut got,
                },
                Reply::Read { data: Data(data) },
            ) => {
                got.extend_from_slice(data);
                let all = usize::try_from(length).unwrap_or(usize::MAX);
                if got.len() < all && !data.is_empty() {
                    return self.read_xattr(unique, fid, length, got);
                }
                self.clunk(0, fid);
                got.truncate(all);
                self.answer_data(unique, got.freeze());
            }
            (
                FuseStep::XattrClone {
                    fid,
                    name,
                    value,
                    flags,
                },
                Reply::Walk { .. },
            ) => {
                let size = u64::try_from(value.len()).unwrap_or(u64::MAX);
                let step = FuseStep::XattrCreate { fid, value };
                match Str::new(&name) {
                    Some(name) => {
                        let request = Request::Xattrcreate {
                            fid,
                            name,
                            size,
                            flags,
                        };
                        self.send(unique, step, &request);
                    }
                    None => self.failed(unique, &step, Errno::ERANGE, false),
                }
            }
            // The clunk sets or removes the attribute.
            (FuseStep::XattrCreate { fid, value }, Reply::Xattrcreate {}) if value.is_empty() => {
                self.clunk(unique, fid);
            }
            (FuseStep::XattrCreate { fid, value }, Reply::Xattrcreate {}) => {
                let data = Data(&value);
                let request = Request::Write {
                    fid,
                    offset: 0,
                    data,
                };
                self.send(unique, FuseStep::XattrWrite { fid }, &request);
            }
            (FuseStep::XattrWrite { fid }, Reply::Write { .. }) => self.clunk(unique, fid),
            (FuseStep::Lock { lock, waits }, Reply::Lock { status }) => {
                self.locked(unique, lock, waits, status);
            }
            (FuseStep::Getlock, Reply::Getlock { lock, .. }) => self.lock_found(unique, &lock),
            (FuseStep::Flush { of, tag, sequence }, Reply::Flush {}) => {
                self.flushed(of, tag, sequence);
            }
            // Not what was asked for.
            (step, _) => self.failed(unique, &step, Errno::EIO, true),
        }
    }
}
