//! How many requests the relay has answered itself, which the server does not see otherwise.

use bytes::Bytes;

use super::Relay;
use crate::msg::{NO_TAG, Request};
use crate::wire::Data;

/// Requests by half their type, which is even.
#[derive(Debug)]
pub(super) struct Tally([[u8; 4]; 128]);

impl Default for Tally {
    fn default() -> Self {
        Self([[0; 4]; 128])
    }
}

impl Tally {
    pub(super) fn answered(&mut self, kind: u8) {
        if let Some(number) = self.0.get_mut(usize::from(kind / 2)) {
            *number = u32::from_le_bytes(*number).wrapping_add(1).to_le_bytes();
        }
    }
}

impl Relay {
    /// Appends the last messages for the server to `out`, if it wants one, and has not got only part of another: it would take this
    /// for data of a write.
    pub fn end(&mut self, out: &mut Vec<Bytes>) {
        if let Some(mirror) = self.mirror.as_ref().filter(|_| !self.requests.is_within()) {
            self.batch.take(out);
            let fetched = mirror.fetched;
            let answered = Data(self.tally.0.as_flattened());
            Request::Tally { fetched, answered }.encode(NO_TAG, &mut self.frame);
            out.push(Bytes::copy_from_slice(self.frame.finish()));
        }
    }
}
