//! Requests that need no reply, held back until the next one is sent.

use bytes::{Bytes, BytesMut};

/// In the order in which the kernel made them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    requests: Vec<HeldRequest>,
    bytes: usize,
}

#[derive(Debug)]
struct HeldRequest {
    /// The fid that it makes, opens or clunks.
    fid: u32,
    /// The fid from which it walks, if it makes one.
    from: Option<u32>,
    message: Bytes,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, fid: u32, from: Option<u32>, message: &[u8]) {
        self.bytes += message.len();
        self.requests.push(HeldRequest {
            fid,
            from,
            message: Bytes::copy_from_slice(message),
        });
    }

    /// Appends all requests to `out`, as one piece.
    pub(super) fn take(&mut self, out: &mut Vec<Bytes>) {
        if self.is_empty() {
            return;
        }
        let mut all = BytesMut::with_capacity(self.bytes);
        for held in self.requests.drain(..) {
            all.extend_from_slice(&held.message);
        }
        self.bytes = 0;
        out.push(all.freeze());
    }

    /// The kernel clunks `fid`. If it was made by a request that is still here, the server need not know of it at all.
    pub(super) fn cancel(&mut self, fid: u32) -> bool {
        let is_maker = |held: &HeldRequest| held.fid == fid && held.from.is_some();
        let Some(made) = self.requests.iter().rposition(is_maker) else {
            return false;
        };
        let later = self.requests.get(made..).unwrap_or_default();
        if later.iter().any(|held| held.from == Some(fid)) {
            return false;
        }
        let mut number = 0;
        self.requests.retain(|held| {
            number += 1;
            number <= made || held.fid != fid
        });
        self.bytes = self.requests.iter().map(|held| held.message.len()).sum();
        true
    }
}
