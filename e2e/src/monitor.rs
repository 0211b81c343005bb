//! QEMU's monitor (QMP, docs/interop/qmp-spec.rst of QEMU): events such as a pulled cable, and pictures of the screen.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::screen::Picture;

/// A monitor that listens on a socket in this directory.
pub struct Monitor<'a>(&'a Path);

/// QEMU's arguments for one.
pub(crate) fn arguments(directory: &Path) -> [String; 2] {
    let socket = format!("unix:{},server=on,wait=off", socket(directory).display());
    ["-qmp".to_owned(), socket]
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("monitor")
}

impl<'a> Monitor<'a> {
    pub(crate) fn new(directory: &'a Path) -> Self {
        Self(directory)
    }

    /// Run a command; `arguments` is a JSON object.
    pub fn execute(&self, command: &str, arguments: &str) -> Result<()> {
        let socket = UnixStream::connect(socket(self.0)).context("cannot reach QEMU's monitor")?;
        let mut answers = BufReader::new(socket.try_clone()?).lines();
        let mut ask = |request: String| -> Result<()> {
            writeln!(&socket, "{request}")?;
            loop {
                // The greeting and events may come before the reply.
                let line = answers.next().context("QEMU's monitor has ended")??;
                if line.starts_with("{\"return\"") {
                    return Ok(());
                }
                if line.starts_with("{\"error\"") {
                    bail!("{request}: {line}");
                }
            }
        };
        ask("{\"execute\": \"qmp_capabilities\"}".to_owned())?;
        ask(format!(
            "{{\"execute\": {command:?}, \"arguments\": {arguments}}}"
        ))
    }

    /// What is on the screen now.
    pub fn screen(&self) -> Result<Picture> {
        let file = self.0.join("screen.ppm");
        self.execute(
            "screendump",
            &format!("{{\"filename\": \"{}\"}}", file.display()),
        )?;
        Picture::read(&file)
    }
}
