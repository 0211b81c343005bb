//! A program in a terminal. The test types into it and reads the screen.

use std::io::{Read, Write};
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};

use crate::wait_until;

/// For a screen to show what is awaited.
const TIMEOUT: Duration = Duration::from_mins(2);

/// A program that runs in a terminal of its own.
pub struct Terminal {
    pty: Arc<Pty>,
    /// The program.
    pub child: Child,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Start a program in a terminal of `rows` by `columns`.
    pub fn start(command: Command, rows: u16, columns: u16) -> Result<Self> {
        let (pty, pts) = open().context("cannot make a terminal")?;
        pty.resize(Size::new(rows, columns))?;
        let child = command.spawn(pts).context("cannot start the program")?;
        let pty = Arc::new(pty);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (from, to) = (pty.clone(), screen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n) = (&*from).read(&mut buffer) {
                if n == 0 {
                    break;
                }
                to.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&buffer[..n]);
            }
        });
        Ok(Self { pty, child, screen })
    }

    /// Type.
    pub fn send(&self, text: &str) -> Result<()> {
        Ok((&*self.pty).write_all(text.as_bytes())?)
    }

    /// Change the size.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        Ok(self.pty.resize(Size::new(rows, columns))?)
    }

    /// All that has been shown.
    pub fn screen(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&screen).into_owned()
    }

    /// Wait until the text is shown, looking from byte `from` of all that has been shown; returns
    /// the byte after it.
    pub fn expect_from(&self, from: usize, text: &str) -> Result<usize> {
        wait_until(&format!("{text:?} on the terminal"), TIMEOUT, || {
            let screen = self.screen();
            let fresh = screen.get(from..).unwrap_or_default();
            Ok(fresh.find(text).map(|at| from + at + text.len()))
        })
        .with_context(|| format!("the screen:\n{}", self.screen()))
    }

    /// Wait for the program to end.
    pub fn wait(&mut self) -> Result<std::process::ExitStatus> {
        wait_until("the program ends", TIMEOUT, || Ok(self.child.try_wait()?))
            .with_context(|| format!("the screen:\n{}", self.screen()))
    }
}
