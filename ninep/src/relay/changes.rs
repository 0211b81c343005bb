//! What changes something, and what is dropped then.

use super::Relay;
use crate::msg::Kind;

impl Relay {
    pub(super) fn forget(&mut self, fid: u32) {
        self.attrs.retain(|cached| cached.fid != fid);
    }

    /// Drops the attributes that are kept for a moment only, which the server need not take back. What the user types comes after
    /// what has changed at the server: whoever passes it on calls this before.
    pub fn forget_unwatched(&mut self) {
        self.attrs.clear();
        self.made = None;
    }

    /// Drops the contents that were used least recently until the rest fits into its budget, whose limit may have become lower.
    pub fn give_back(&mut self) {
        if let Some(mirror) = &mut self.mirror {
            mirror.give_back();
        }
    }

    pub(super) fn forget_all(&mut self) {
        self.attrs.clear();
        self.made = None;
        self.missing.invalidate();
    }
}

/// Whether such a request may change attributes of any file. An open may truncate; a clunk sets an extended
/// attribute.
pub(super) fn changes(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Lopen
            | Kind::Lcreate
            | Kind::Lcreategetattr
            | Kind::Symlink
            | Kind::Mknod
            | Kind::Rename
            | Kind::Setattr
            | Kind::Setgetattr
            | Kind::Link
            | Kind::Mkdir
            | Kind::Renameat
            | Kind::Unlinkat
            | Kind::Write
            | Kind::Clunk
            | Kind::Remove
    )
}
