//! What the relay does in the dialects that save round trips.

use std::time::Instant;

use bytes::Bytes;

use super::mirror::{Mirror, RequestFate};
use super::{ATTR_TTL, CachedAttr, LOOKUP_TTL, MAX_ENTRIES, MissingXattr, Relay};
use crate::msg::{Attr, Reply, Request};
use crate::wire::{Str, WalkVec};

impl Relay {
    /// The server has agreed to a dialect.
    pub(super) fn agreed(&mut self, mirror: Option<Box<Mirror>>) {
        self.extended = true;
        self.mirror = mirror;
        self.sync_clunks.clear();
        self.writable.clear();
        self.walks.clear();
        self.changing.clear();
        self.missing = MissingXattr::default();
        self.forget_all();
    }

    /// A Tversion.
    pub(super) fn propose(&mut self, tag: u16, msize: u32, version: &'static [u8]) -> Bytes {
        self.proposed = Some(version);
        let version = Str::new(version).unwrap_or_default();
        Request::Version { msize, version }.encode(tag, &mut self.frame);
        Bytes::copy_from_slice(self.frame.finish())
    }

    /// Whether the mirror, if there is one, has taken care of a request.
    pub(super) fn mirrored(
        &mut self,
        tag: u16,
        request: &Request<'_>,
        out: &mut Vec<Bytes>,
    ) -> bool {
        let Some(mirror) = &mut self.mirror else {
            return false;
        };
        let verdict = mirror.request(tag, request);
        let is_first_use = std::mem::take(&mut mirror.is_first_use);
        let made = match &verdict {
            RequestFate::Pass => return false,
            RequestFate::Instead(made) => Some(made),
            RequestFate::Answer(_, made) => made.as_ref(),
            RequestFate::Data(_) | RequestFate::Wait => None,
        };
        if let Some(Request::Lookup { fid, newfid, .. } | Request::Bind { fid, newfid, .. }) = made
        {
            self.forget(*fid);
            self.forget(*newfid);
            self.missing.remove_fid(*newfid);
        }
        match verdict {
            RequestFate::Pass => return false,
            RequestFate::Data(reply) => {
                self.local_replies.extend(reply);
                self.read_on(request, out);
            }
            RequestFate::Wait => self.read_on(request, out),
            RequestFate::Instead(made) => {
                if let Request::Lopenread { fid, .. } = made {
                    self.forget(fid);
                }
                if let Request::Lookup { fid, newfid, .. } = made {
                    self.walks.insert(tag, newfid);
                    self.take_batch(out);
                    if let Some(mirror) = &mut self.mirror {
                        mirror.list_first(fid, out);
                    }
                }
                self.send(tag, &made, out);
                if let (Some(mirror), Request::Lopenread { fid, .. }) = (&mut self.mirror, made) {
                    mirror.fetch_others(fid, out);
                }
            }
            RequestFate::Answer(reply, made) => {
                if let Some(request) = made {
                    match request {
                        Request::Bind {
                            fid, newfid, path, ..
                        } => {
                            self.missing.set_file(newfid, path);
                            self.defer(&request, newfid, Some(fid));
                        }
                        Request::Lopen { fid, .. } => {
                            self.forget(fid);
                            // Of what was fetched the server is to learn that it was used, though it may be closed by then: as
                            // long as the batch has something from the fid, it is not cancelled.
                            let from = is_first_use.then_some(fid);
                            self.defer(&request, fid, from);
                        }
                        _ => {}
                    }
                }
                self.local_replies.push(reply);
            }
        }
        true
    }

    /// A read was answered here, or will be.
    fn read_on(&mut self, request: &Request<'_>, out: &mut Vec<Bytes>) {
        if let (Some(mirror), Request::Read { fid, .. }) = (&mut self.mirror, request) {
            mirror.read_on(*fid, out);
        }
    }

    /// Keeps attributes for the next getattr of the fid.
    pub(super) fn cache_attr(&mut self, fid: u32, attr: Attr, now: Instant) {
        if attr.valid & Attr::BASIC != Attr::BASIC {
            return;
        }
        self.attrs.retain(|cached| now < cached.until);
        if self.attrs.len() >= MAX_ENTRIES {
            self.attrs.remove(0);
        }
        let attr = self.ids.map_or(attr, |ids| ids.shown(attr));
        self.attrs.push(CachedAttr {
            fid,
            until: now + LOOKUP_TTL,
            once: false,
            attr,
        });
    }

    /// The same after a setattr, which need not be followed by a getattr, and of which the server does not say that it watches the
    /// file: only the next one is answered, and soon.
    pub(super) fn cache_attr_once(&mut self, fid: u32, attr: Attr, now: Instant) {
        self.forget(fid);
        self.cache_attr(fid, attr, now);
        if let Some(cached) = self.attrs.iter_mut().find(|cached| cached.fid == fid) {
            (cached.until, cached.once) = (now + ATTR_TTL, true);
        }
    }

    /// The attributes that answer a getattr.
    pub(super) fn cached_attr(&mut self, fid: u32, now: Instant) -> Option<Attr> {
        let is_it = |cached: &CachedAttr| cached.fid == fid && now < cached.until;
        let at = self.attrs.iter().position(is_it)?;
        let cached = self.attrs.get_mut(at)?;
        let attr = cached.attr;
        cached.until = cached.until.min(now + ATTR_TTL);
        if cached.once {
            self.attrs.remove(at);
        }
        Some(attr)
    }

    /// A walk and its getattr were answered together.
    pub(super) fn walked(&mut self, tag: u16, attr: Attr, now: Instant, out: &mut Vec<Bytes>) {
        let walked = self.walks.remove(&tag);
        if let Some(fid) = walked {
            self.missing.set_file(fid, attr.qid.path);
        }
        if let Some(fid) = walked {
            self.cache_attr(fid, attr, now);
        }
        let mut qids = WalkVec::default();
        qids.push(attr.qid);
        out.push(self.reply_bytes(tag, &Reply::Walk { qids }));
    }
}
