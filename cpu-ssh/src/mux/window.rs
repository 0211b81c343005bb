//! How far the windows of a foreign client are opened.
//!
//! russh's server opens a channel's window only when data arrives on it and less than half of it is left, to a size
//! that is the same for all channels; it asks what that is to be only when it has opened one. So bytes that are consumed
//! open nothing, a window that was shut would stay shut, and what is said counts for whichever channel sends next.
//!
//! While too much is queued, that size is therefore [`MIN_WINDOW`]. A channel that is *behind*, whose reader does not
//! take what there is, then sends two bytes at a time, and is told of the next two by and by
//! ([`Throttle::delay_next_write`](crate::Throttle)): the reader may come back at any time, and then they are what the window is
//! opened on. The others must not suffer: the channel of the client's files has its own window of [`MAX_WINDOW`], and when
//! half of that is gone it gets another. For that the size is [`MAX_WINDOW`] from the moment at which a channel that is
//! behind was heard, which is then silent for a round trip, to that at which the other's answer comes. If it
//! does not come in time, the one that is behind gets it: as much as its window was before.

/// What a channel has when not too much is queued.
pub const MAX_WINDOW: u32 = 2 * 1024 * 1024;

/// And otherwise: the least that russh opens again.
const MIN_WINDOW: u32 = 2;

/// Bytes queued of a channel that is behind: more than its reader takes at once.
pub(crate) const MAX_BACKLOG: usize = 256 * 1024;

/// What a foreign client may still send on one channel.
#[derive(Debug)]
pub(crate) struct Window {
    left: u32,
    /// What `left` says is without the bytes that come next: russh counts them before it asks.
    counts_ahead: bool,
    /// Something was sent, and nothing has come since.
    expects_reply: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            left: MAX_WINDOW,
            counts_ahead: false,
            expects_reply: false,
        }
    }
}

impl Window {
    /// So many bytes came.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.expects_reply = false;
        if !std::mem::take(&mut self.counts_ahead) {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            self.left = self.left.saturating_sub(bytes);
        }
    }

    /// It was opened.
    pub(crate) fn opened(&mut self, size: u32) {
        self.left = size;
        self.counts_ahead = true;
    }

    /// Something was sent.
    pub(crate) fn sent(&mut self) {
        self.expects_reply = true;
    }

    /// Whether bytes are expected that will open it.
    pub(crate) fn will_open(&self) -> bool {
        self.expects_reply && self.left < MAX_WINDOW / 2
    }
}

/// What the next window is to be while too much is queued, when one was opened to `opened`: of a channel that is
/// behind, while another's bytes are awaited that will open it, or not.
pub(crate) fn next(opened: u32, is_behind: bool, is_awaited: bool) -> u32 {
    // One that is not behind has run dry: the next bytes are probably its own.
    let is_for_another = is_awaited || !is_behind && opened <= MIN_WINDOW;
    if is_for_another {
        MAX_WINDOW
    } else {
        MIN_WINDOW
    }
}
