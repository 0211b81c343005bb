//! How far the windows of a foreign client are opened.
//!
//! russh's server opens a channel's window only when data arrives on the channel and less than half of the window is
//! left. The size is the same for all channels, and russh asks for the next size only after it has opened a window. So
//! consuming bytes opens nothing, a window of 0 would stay closed, and the size that we return applies to whichever
//! channel receives next.
//!
//! While too much is queued, the size is therefore [`MIN_WINDOW`]. A channel that is *behind*, because its reader
//! does not take what is queued, then receives two bytes at a time, and the window adjustment for the next two is
//! delayed ([`Throttle::delay_next_write`](crate::Throttle)). They must keep coming: the reader may continue at any
//! time, and then they are what opens the window. Other channels must not suffer. That of the client's files has a
//! window of [`MAX_WINDOW`], and needs a new one when half of it is used up. So the size is [`MAX_WINDOW`] from the
//! time at which a channel that is behind has received its two bytes, after which it is silent for a round trip, to
//! the time at which the awaited data of another channel arrives. If that takes longer, the channel that is behind
//! gets the window: as much as it had before.

/// The window of a channel while not too much is queued.
pub const MAX_WINDOW: u32 = 2 * 1024 * 1024;

/// The window of a channel otherwise: the smallest that russh opens again.
const MIN_WINDOW: u32 = 2;

/// A channel is behind when more bytes than this are queued, which is more than its reader takes at once.
pub(crate) const MAX_BACKLOG: usize = 256 * 1024;

/// The window of a foreign client on one channel.
#[derive(Debug)]
pub(crate) struct ForeignWindow {
    /// Bytes that the client may still send.
    left: u32,
    /// Whether `left` already excludes the bytes that arrive next: russh counts them before it asks.
    counts_ahead: bool,
    /// Whether something was sent and nothing has arrived since.
    expects_reply: bool,
}

impl Default for ForeignWindow {
    fn default() -> Self {
        Self {
            left: MAX_WINDOW,
            counts_ahead: false,
            expects_reply: false,
        }
    }
}

impl ForeignWindow {
    /// Bytes have arrived.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.expects_reply = false;
        if !std::mem::take(&mut self.counts_ahead) {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            self.left = self.left.saturating_sub(bytes);
        }
    }

    /// The window was opened to `size`.
    pub(crate) fn opened(&mut self, size: u32) {
        self.left = size;
        self.counts_ahead = true;
    }

    /// Something was sent on the channel.
    pub(crate) fn sent(&mut self) {
        self.expects_reply = true;
    }

    /// Whether data is expected whose arrival will open the window.
    pub(crate) fn will_open(&self) -> bool {
        self.expects_reply && self.left < MAX_WINDOW / 2
    }
}

/// The size of the next window while too much is queued. `opened` is the size to which one has just been opened,
/// `is_behind` whether its channel is behind, and `is_awaited` whether data of another channel is expected that
/// will open a window.
pub(crate) fn next(opened: u32, is_behind: bool, is_awaited: bool) -> u32 {
    // A channel that is not behind has used up a minimal window: the next bytes are probably its own.
    let is_for_another = is_awaited || !is_behind && opened <= MIN_WINDOW;
    if is_for_another {
        MAX_WINDOW
    } else {
        MIN_WINDOW
    }
}
