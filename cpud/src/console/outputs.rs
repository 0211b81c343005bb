//! The kernel's consoles, as /sys/class/tty/console/active lists them. They are opened when they appear and written
//! to without ever waiting; what a console has not accepted yet is queued.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::makedev;
use nix::sys::termios::{InputFlags, LocalFlags, OutputFlags, SetArg, tcgetattr, tcsetattr};

use super::screen::{Screen, log_line};

const ACTIVE: &str = "/sys/class/tty/console/active";
/// The kernel's name for the virtual terminal that is visible at the moment, and the one that is visible at boot.
const CURRENT_VT: &str = "tty0";
const FIRST_VT: &str = "tty1";

/// The console that the kernel chooses, for where there is no list, or nothing in it can be opened.
const DEFAULT: &str = "console";

/// The most bytes that are queued for a console that accepts none.
const MAX_QUEUE: usize = 64 * 1024;

/// The list of the kernel's consoles.
pub(super) struct Active {
    /// poll(2) reports when the list has changed.
    file: Option<File>,
}

/// A console.
pub(super) struct Output {
    name: String,
    file: File,
    queue: VecDeque<u8>,
    pub(super) screen: Option<Screen>,
    /// The lines of before it was opened were written to it.
    pub(super) is_up_to_date: bool,
}

impl Active {
    pub(super) fn new() -> Self {
        // In a container /dev/console is another terminal, and the list is that of the host.
        let console = fs::metadata("/dev/console");
        let is_the_kernels = console.is_ok_and(|console| {
            console.file_type().is_char_device() && console.rdev() == makedev(5, 1)
        });
        let file = is_the_kernels.then(|| File::open(ACTIVE).ok()).flatten();
        Self { file }
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(File::as_fd)
    }

    /// The present names. Only after it has been read does poll(2) report the next change.
    fn names(&self) -> Vec<String> {
        use std::os::unix::fs::FileExt as _;
        let mut text = [0; 4096];
        let length = self.file.as_ref().map(|file| file.read_at(&mut text, 0));
        let length = length.and_then(Result::ok).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..length]);
        text.split_ascii_whitespace().map(str::to_owned).collect()
    }

    /// Closes the consoles that have gone and opens new ones. Those that could not be opened are tried again the next
    /// time.
    pub(super) fn update(&self, outputs: &mut Vec<Output>) {
        let names = self.names();
        outputs.retain(|output| names.contains(&output.name) || output.name == DEFAULT);
        for name in &names {
            if outputs.iter().all(|output| output.name != *name) {
                outputs.extend(Output::open(name));
            }
        }
        if outputs.is_empty() {
            outputs.extend(Output::open(DEFAULT));
        } else if outputs.len() > 1 {
            outputs.retain(|output| output.name != DEFAULT);
        }
    }
}

impl Output {
    fn open(name: &str) -> io::Result<Self> {
        let is_screen = name == CURRENT_VT;
        let device = Path::new("/dev").join(if is_screen { FIRST_VT } else { name });
        let mut options = File::options();
        // For the case that it is a file.
        options.append(true).read(is_screen);
        // A screen becomes the controlling terminal, so that SIGWINCH reports when its size changes.
        let noctty = if is_screen { 0 } else { libc::O_NOCTTY };
        let file = options
            .custom_flags(libc::O_NONBLOCK | noctty)
            .open(device)?;
        let mut output = Self {
            name: name.to_owned(),
            file,
            queue: VecDeque::new(),
            screen: None,
            is_up_to_date: false,
        };
        output.set_modes(is_screen);
        if is_screen {
            output.read_size();
        }
        Ok(output)
    }

    fn set_modes(&self, is_screen: bool) {
        // It may be something else than a terminal.
        let Ok(mut modes) = tcgetattr(&self.file) else {
            return;
        };
        // Ctrl-S must not stop the output.
        modes.input_flags.remove(InputFlags::IXON);
        if is_screen {
            // Nobody reads the keyboard, so what is typed must not be echoed, nor send a signal. And OPOST would split
            // a write(2), between whose parts the kernel may write.
            let local = LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG;
            modes.local_flags.remove(local);
            modes.output_flags.remove(OutputFlags::OPOST);
        }
        let _ = tcsetattr(&self.file, SetArg::TCSANOW, &modes);
    }

    /// Reads the size of a screen, all of which has to be drawn then.
    pub(super) fn read_size(&mut self) {
        let size = crate::sys::window_size(self.file.as_fd());
        let (rows, columns) = size.map_or((25, 80), |size| (size.ws_row, size.ws_col));
        self.screen = Some(Screen::new(rows.into(), columns.into()));
        self.is_up_to_date = false;
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether something is queued for this console.
    pub(super) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Writes a line of the log.
    pub(super) fn line(&mut self, line: &str) -> io::Result<()> {
        match self.screen {
            Some(_) => self.write(&log_line(line)),
            None => self.write(format!("{line}\n").as_bytes()),
        }
    }

    /// Writes bytes that belong together. If the queue is full, all of them are lost.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.queue.len() + bytes.len() <= MAX_QUEUE {
            self.queue.extend(bytes);
        }
        self.flush()
    }

    /// Writes what is queued, as far as the console accepts it. An error means that the console has gone.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.is_waiting() {
            match nix::unistd::write(&self.file, self.queue.make_contiguous()) {
                Ok(length) => drop(self.queue.drain(..length)),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
