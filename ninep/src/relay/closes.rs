//! Files that were open for writing are closed without a wait. Whoever shows what a program has said waits until the server has closed
//! the files that the program closed before, so that nobody at the server finds them busy after that.

use bytes::Bytes;

use super::Relay;
use crate::msg::{NO_TAG, Request};

/// The tag of a Tsync. The kernel takes the lowest that are free, and the mirror others.
pub(super) const SYNC_TAG: u16 = 0xfeff;

/// How many closes there were.
#[derive(Debug, Default)]
pub(super) struct CloseCounts {
    /// Those that were sent.
    sent: u64,
    /// Those that a wait needs.
    wanted: u64,
    /// Those before the Tsync that is under way.
    asked: Option<u64>,
    /// Those that the server has completed.
    done: u64,
}

impl Relay {
    /// Sends the clunk of a file that was open for writing.
    pub(super) fn close(&mut self, fid: u32, out: &mut Vec<Bytes>) {
        self.closes.sent += 1;
        self.send(NO_TAG, &Request::Clunk { fid }, out);
    }

    /// How many files have been closed without a wait. If the server has not completed all of these, there is a request for it
    /// afterwards ([`Relay::has_requests`]), and [`Relay::closed`] gets there.
    pub fn sync(&mut self) -> u64 {
        self.closes.wanted = self.closes.sent;
        self.ask_closed();
        self.closes.wanted
    }

    /// How many of the files that were closed without a wait the server has certainly closed.
    pub fn closed(&self) -> u64 {
        self.closes.done
    }

    /// The server has completed those that it was asked for.
    pub(super) fn synced(&mut self) {
        if let Some(asked) = self.closes.asked.take() {
            self.closes.done = asked;
            self.ask_closed();
        }
    }

    fn ask_closed(&mut self) {
        let CloseCounts {
            sent,
            wanted,
            asked,
            done,
        } = &mut self.closes;
        if *wanted > *done && asked.is_none() {
            *asked = Some(*sent);
            Request::Sync {}.encode(SYNC_TAG, &mut self.frame);
            let message = Bytes::copy_from_slice(self.frame.finish());
            self.own_requests.push(message);
        }
    }
}
