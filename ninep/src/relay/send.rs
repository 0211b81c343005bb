//! What the relay sends besides what it passes on: requests, perhaps held back, and replies of its own.

use bytes::Bytes;

use super::Relay;
use crate::msg::{NO_TAG, Reply, Request};

impl Relay {
    /// Holds back a request, which will get no reply, until the next one is sent. It concerns `fid`, and walks `from` another
    /// if it makes that.
    pub(super) fn defer(&mut self, request: &Request<'_>, fid: u32, from: Option<u32>) {
        request.encode(NO_TAG, &mut self.frame);
        self.batch.push(fid, from, self.frame.finish());
    }

    /// Appends a message or its beginning to `out`, and before it what else there is.
    pub(super) fn pass(&mut self, message: Bytes, out: &mut Vec<Bytes>) {
        self.take_batch(out);
        out.append(&mut self.own_requests);
        out.push(message);
    }

    pub(super) fn send(&mut self, tag: u16, request: &Request<'_>, out: &mut Vec<Bytes>) {
        request.encode(tag, &mut self.frame);
        let message = Bytes::copy_from_slice(self.frame.finish());
        self.pass(message, out);
    }

    /// An encoded reply.
    pub(super) fn reply_bytes(&mut self, tag: u16, reply: &Reply<'_>) -> Bytes {
        reply.encode(tag, &mut self.frame);
        Bytes::copy_from_slice(self.frame.finish())
    }

    pub(super) fn reply_locally(&mut self, tag: u16, reply: &Reply<'_>) {
        let reply = self.reply_bytes(tag, reply);
        self.local_replies.push(reply);
    }
}
