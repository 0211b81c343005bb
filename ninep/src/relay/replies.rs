//! The replies of the server that the relay has to see as a whole.

use std::time::Instant;

use bytes::Bytes;

use super::changes::changes;
use super::closes::SYNC_TAG;
use super::made::without_attr;
use super::mirror::{Mirror, ReplyFate};
use super::{Error, Relay};
use crate::msg::{EXTENDED, Header, Kind, Reply, VERSION, WATCHED};
use crate::wire::{HEADER, Str};

impl Relay {
    /// A reply is passed on whose body does not matter.
    pub(super) fn passes(&mut self, header: Header, now: Instant) {
        self.changed(header.kind);
        if header.kind == Kind::Write.number() + 1 {
            self.missing.write_done(header.tag, now);
        } else {
            self.missing.request_failed(header.tag);
        }
    }

    /// Drops what a reply of this type may have made out of date.
    fn changed(&mut self, number: u8) {
        if let Some(Ok(kind)) = number.checked_sub(1).map(Kind::new)
            && changes(kind)
        {
            self.forget_all();
            // Their attributes may be from before the change.
            self.walks.clear();
            self.changing.clear();
            if kind != Kind::Write {
                self.missing.invalidate_pending();
            }
        }
    }

    pub(super) fn reply(
        &mut self,
        mut header: Header,
        message: &Bytes,
        now: Instant,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Error> {
        let body = message.get(HEADER..).unwrap_or_default();
        let mut reply = Reply::decode(header.kind, body).map_err(Error::Reply)?;
        if header.tag == SYNC_TAG && self.mirror.is_some() {
            self.synced();
            return Ok(());
        }
        let fid = self.changing.remove(&header.tag);
        let with_attr = without_attr(&reply);
        let mut plain = None;
        if let Some((without, _)) = with_attr {
            reply = without;
            header.kind = reply.number();
            plain = Some(self.reply_bytes(header.tag, &reply));
        }
        let message = plain.unwrap_or_else(|| message.clone());
        if let Some(mirror) = &mut self.mirror {
            let outcome = mirror.reply(header.tag, Some(&reply), now);
            mirror.end_waiting(header.tag, out, &mut self.own_requests);
            mirror.take_requests(&mut self.own_requests);
            if matches!(reply, Reply::Forget { .. }) {
                self.forgotten += 1;
                self.forget_all();
            }
            match outcome {
                ReplyFate::Pass => {}
                ReplyFate::Taken => return Ok(()),
                ReplyFate::Instead(message) => {
                    self.walks.remove(&header.tag);
                    out.push(message);
                    return Ok(());
                }
                ReplyFate::Walked(attr) => {
                    self.walked(header.tag, attr, now, out);
                    return Ok(());
                }
            }
        }
        match reply {
            Reply::Version { msize, version } => {
                match (self.proposed.take(), version.bytes()) {
                    (Some(WATCHED), WATCHED) => {
                        let mirror = Mirror::new(msize, self.contents.clone());
                        self.agreed(Some(Box::new(mirror)));
                    }
                    (Some(WATCHED | EXTENDED), EXTENDED) => self.agreed(None),
                    // It may be older, and know that one.
                    (Some(WATCHED), VERSION) => {
                        let again = self.propose(header.tag, msize, EXTENDED);
                        self.own_requests.push(again);
                        return Ok(());
                    }
                    _ => {
                        out.push(message);
                        return Ok(());
                    }
                }
                let version = Str::new(VERSION).unwrap_or_default();
                out.push(self.reply_bytes(header.tag, &Reply::Version { msize, version }));
            }
            Reply::Walkgetattr { attr } if self.extended => {
                self.walked(header.tag, attr, now, out);
            }
            Reply::Lcreate { qid, .. } => {
                self.changed(header.kind);
                self.missing.create_done(header.tag, qid.path, now);
                out.push(message);
            }
            _ => {
                self.passes(header, now);
                out.push(message);
            }
        }
        if let (Some(fid), Some((reply, attr))) = (fid, with_attr) {
            self.changed_with_attr(fid, &reply, attr, now);
        }
        Ok(())
    }
}
