//! Asks for what the program asked for when it ran before, and keeps it as the replies to its own requests. The client
//! remembers that, and says how much there is.
//!
//! What somebody waits for goes first: no more than [`MAX_IN_FLIGHT`] requests are under way, and each asks for no more than what
//! takes [`MAX_DELAY`] to arrive. Nothing has to make room for what they bring.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::contents::Contents;
use super::facts::{FileFacts, Moment};
use super::{Mirror, What};
use crate::msg::{KEEP_DATA, LACKS_XATTRS, ReplayRecord, Reply, Request};
use crate::wire::{BodyReader, Wire};

/// Maximum number of requests that are under way, when it is known that there is something.
const MAX_IN_FLIGHT: usize = 2;
/// How much one asks for: at first, and then as the path allows.
const FIRST_COUNT: u32 = 64 * 1024;
const MIN_COUNT: u32 = 16 * 1024;
const MAX_COUNT: u32 = 256 * 1024;
/// How long what somebody waits for may be held up by one of them. Half of it would leave the path idle where a round trip takes
/// 100 ms.
const MAX_DELAY: Duration = Duration::from_millis(50);
/// Maximum number of bytes in all.
const MAX_BYTES: usize = 64 << 20;
/// Longest name.
const MAX_NAME: usize = 255;

/// What is being asked for.
#[derive(Debug, Default)]
pub(super) struct Replaying {
    has_begun: bool,
    /// The directory beneath which there may be more.
    fid: Option<u32>,
    in_flight: usize,
    /// How much has arrived, and when the last of it.
    bytes: usize,
    last: Option<Instant>,
    /// What the last two brought for each of the seconds before them, in bytes.
    rates: [f64; 2],
}

impl Replaying {
    /// Some bytes have arrived.
    pub(super) fn measure(&mut self, bytes: usize, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            #[expect(clippy::cast_precision_loss, reason = "a reply is small")]
            let rate = bytes as f64 / (now - last).as_secs_f64().max(1e-6);
            self.rates = [self.rates[1], rate];
        }
    }

    /// How much the next one asks for. With two under way, every other reply has a round trip before it, and says nothing of the
    /// path's rate.
    fn count(&self) -> u32 {
        if self.rates[0] == 0.0 {
            return FIRST_COUNT;
        }
        let count = self.rates[0].max(self.rates[1]) * MAX_DELAY.as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is within the limits"
        )]
        let count = count.clamp(MIN_COUNT.into(), MAX_COUNT.into()) as u32;
        count
    }
}

impl Mirror {
    /// The first directory that the machine has.
    pub(super) fn begin_replay(&mut self, fid: u32) {
        if !std::mem::replace(&mut self.replaying.has_begun, true) {
            self.replaying.fid = Some(fid);
        }
    }

    /// Sends what may be under way now.
    pub(super) fn replay_more(&mut self, out: &mut Vec<Bytes>) {
        let count = self.replaying.count();
        // It may be that there is nothing.
        let most = if self.replaying.bytes == 0 {
            1
        } else {
            MAX_IN_FLIGHT
        };
        while let Some(fid) = self.replaying.fid
            && self.replaying.in_flight < most
            && self.store.budget.has_room(MAX_COUNT as usize)
            && let Some(tag) = self.own_tag()
        {
            self.push(tag, &Request::Replay { fid, count }, out);
            self.record(tag, What::Replay);
            self.replaying.in_flight += 1;
        }
    }

    pub(super) fn replayed(&mut self, sent: Moment, reply: &Reply<'_>) {
        self.replaying.in_flight = self.replaying.in_flight.saturating_sub(1);
        let data = match reply {
            Reply::Replay { data } => data.0,
            _ => &[],
        };
        self.replaying.bytes += data.len();
        if data.is_empty() || self.replaying.bytes > MAX_BYTES {
            self.replaying.fid = None;
        }
        let mut rest = BodyReader::new(data);
        while !rest.is_empty() {
            match ReplayRecord::get(&mut rest) {
                Ok(record) => self.keep_record(sent, &record),
                Err(_) => return self.replaying.fid = None,
            }
        }
    }

    fn keep_record(&mut self, sent: Moment, record: &ReplayRecord<'_>) {
        let (dir, name) = (record.dir, record.name.bytes());
        let is_kept = |what| record.kept & what != 0;
        if name.is_empty() {
            self.keep_listing(dir, is_kept(KEEP_DATA), sent, Some(record.data.0));
            return;
        }
        if name.len() > MAX_NAME {
            return;
        }
        let now = self.moment();
        let attr = record.attr;
        let facts = FileFacts::told(attr, now, is_kept(LACKS_XATTRS), record.target.bytes());
        let told = (record.kept, record.ecode, facts);
        self.keep_name((Some(dir), name), told, (sent, now));
        let data = record.data.0;
        if !is_kept(KEEP_DATA)
            || !self.store.is_fresh(dir, sent)
            || !self.store.budget.has_room(Contents::cost(data.len()))
        {
            return;
        }
        let place = (dir, name);
        let known = self.store.facts(attr.qid, Some(place));
        let used = known.and_then(|facts| facts.contents_are_used());
        let most = self.store.budget.max_file();
        // The attributes were told with them, which is as good as before.
        let moments = (now + 1, now);
        let read = (record.offset, data);
        self.store.keep(attr.qid, place, moments, read, |facts| {
            let known = &facts.attr;
            facts.is_regular()
                && (known.qid.version, known.size) == (attr.qid.version, attr.size)
                && known.size <= most
        });
        let bytes = data.len() as u64;
        let fetched = &mut self.fetched;
        fetched.bytes = fetched.bytes.wrapping_add(bytes);
        match used {
            Some(true) => fetched.used_bytes = fetched.used_bytes.wrapping_add(bytes),
            Some(false) => {}
            None => {
                fetched.files = fetched.files.wrapping_add(1);
                if let Some(facts) = self.store.facts(attr.qid, Some(place)) {
                    facts.set_fetched();
                }
            }
        }
    }
}
