//! Raw mode of the local terminal while a remote one is shown in it, and back as it was in every case.

use std::io::stdin;
use std::sync::OnceLock;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcsetattr};

/// The modes to go back to. Global, because a panic must find them too.
static ORIGINAL: OnceLock<std::sync::Mutex<Termios>> = OnceLock::new();

/// Raw mode for as long as this lives.
pub(crate) struct RawMode(());

impl RawMode {
    /// From these modes, which come back at the end.
    pub(crate) fn enter(original: Termios) -> nix::Result<Self> {
        let mut raw = original.clone();
        cfmakeraw(&mut raw);
        if ORIGINAL.set(original.into()).is_ok() {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                previous(info);
            }));
        }
        tcsetattr(stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Put the terminal back as it was.
fn restore() {
    if let Some(Ok(original)) = ORIGINAL.get().map(std::sync::Mutex::lock) {
        // A terminal that has gone needs no restoring.
        let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &original);
    }
}
