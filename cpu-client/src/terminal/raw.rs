//! Puts the local terminal into raw mode while a remote one is shown in it, and restores it in every case.

use std::io::stdin;
use std::sync::OnceLock;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcsetattr};

/// The modes to restore. Global, since the panic hook needs them too.
static ORIGINAL: OnceLock<std::sync::Mutex<Termios>> = OnceLock::new();

/// The terminal is in raw mode as long as this lives.
pub(crate) struct RawMode(());

impl RawMode {
    /// Enters raw mode from these modes, which are restored at the end.
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

/// Restores the modes.
fn restore() {
    if let Some(Ok(original)) = ORIGINAL.get().map(std::sync::Mutex::lock) {
        // Fails only if the terminal is gone.
        let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &original);
    }
}
