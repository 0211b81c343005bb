//! After a second of waiting, a terminal shows what cpu waits for. Nothing is shown when standard error is a file or
//! a pipe.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

/// A person does not wonder about a shorter wait.
const DELAY: Duration = Duration::from_secs(1);

const INTERVAL: Duration = Duration::from_millis(120);

/// Shows the step that cpu waits for.
#[derive(Debug, Default)]
pub(crate) struct Spinner {
    text: RefCell<String>,
    /// Whether another program may be using the terminal; then nothing is shown, so as not to clear its lines.
    is_shared: Cell<bool>,
    is_shown: Cell<bool>,
}

impl Spinner {
    /// Sets the text for the step that begins.
    pub(crate) fn set(&self, text: impl Into<String>) {
        self.text.replace(text.into());
    }

    /// Sets whether another program may use the terminal from now on.
    pub(crate) fn share(&self, is_shared: bool) {
        self.is_shared.set(is_shared);
    }

    /// Clears the line, so that something else can be printed.
    pub(crate) fn hide(&self) {
        if self.is_shown.take() {
            let _ = stderr().write_all(b"\r\x1b[K");
        }
    }

    /// Runs `work`, and shows the step meanwhile.
    pub(crate) async fn shown_during<T>(&self, work: impl Future<Output = T>) -> T {
        if !stderr().is_terminal() {
            return work.await;
        }
        tokio::pin!(work);
        let mut frames = ['|', '/', '-', '\\'].into_iter().cycle();
        let mut wait = DELAY;
        loop {
            if let Ok(result) = tokio::time::timeout(wait, &mut work).await {
                self.hide();
                return result;
            }
            wait = INTERVAL;
            if self.is_shared.get() {
                continue;
            }
            let frame = frames.next().unwrap_or('|');
            let line = format!("\r\x1b[K{frame} {}", self.text.borrow());
            let _ = stderr().write_all(line.as_bytes());
            self.is_shown.set(true);
        }
    }
}
