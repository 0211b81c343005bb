//! The version message: message size and dialect.

use super::MIN_MSIZE;
use crate::errno::Errno;
use crate::msg::{EXTENDED, VERSION, WATCHED};
use crate::wire::Str;

/// What client and server have agreed on.
#[derive(Clone, Copy)]
pub(super) struct Negotiated {
    /// Largest message in bytes.
    pub(super) msize: u32,
    /// Whether the dialect is [`EXTENDED`] or [`WATCHED`].
    pub(super) extended: bool,
    /// Whether it is [`WATCHED`].
    pub(super) watched: bool,
}

impl Negotiated {
    /// The version string of the dialect.
    pub(super) fn version(self) -> &'static [u8] {
        match self {
            Self { watched: true, .. } => WATCHED,
            Self { extended: true, .. } => EXTENDED,
            _ => VERSION,
        }
    }
}

/// What a Tversion leads to; `None` if the server does not speak the client's dialect. If the file system
/// does not report changes, [`WATCHED`] leads to [`EXTENDED`].
pub(super) fn negotiate(
    msize: u32,
    version: Str<'_>,
    max_msize: u32,
    can_watch: bool,
) -> Result<Option<Negotiated>, Errno> {
    if msize < MIN_MSIZE {
        return Err(Errno::EINVAL);
    }
    // version(5): the server may drop everything from a period on to find a version that both sides know.
    let known = match version.bytes().strip_prefix(VERSION) {
        Some(rest) => rest.is_empty() || rest.starts_with(b"."),
        None => false,
    };
    Ok(known.then_some(Negotiated {
        msize: msize.min(max_msize),
        extended: matches!(version.bytes(), EXTENDED | WATCHED),
        watched: version.bytes() == WATCHED && can_watch,
    }))
}
