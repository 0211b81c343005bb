//! The consoles that the kernel has, as /sys/class/tty/console/active lists them: opened when they
//! appear, written to without ever waiting, each with what it has not taken yet.

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
/// The kernel's word for the virtual terminal that is seen at the moment, and the one seen at boot.
const CURRENT_VT: &str = "tty0";
const FIRST_VT: &str = "tty1";

/// The kernel's own choice, for where it does not tell, or what it tells cannot be opened.
const DEFAULT: &str = "console";

/// Bytes that are kept for a console that takes none.
const MAX_QUEUE: usize = 64 * 1024;

/// The list of the kernel's consoles.
pub(super) struct Active {
    /// For poll(2), which says when the list has changed.
    file: Option<File>,
}

/// A console.
pub(super) struct Output {
    name: String,
    file: File,
    queue: VecDeque<u8>,
    pub(super) screen: Option<Screen>,
    /// What was said before it was opened was written to it.
    pub(super) is_up_to_date: bool,
}

impl Active {
    pub(super) fn new() -> Self {
        // /dev/console of a container is a terminal of its own, and the list would be the host's.
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

    /// The names as they are now. (Reading it is also what makes the next change readable.)
    fn names(&self) -> Vec<String> {
        use std::os::unix::fs::FileExt as _;
        let mut text = [0; 4096];
        let length = self.file.as_ref().map(|file| file.read_at(&mut text, 0));
        let length = length.and_then(Result::ok).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..length]);
        text.split_ascii_whitespace().map(str::to_owned).collect()
    }

    /// Closes what has gone and opens what has come. What could not be opened is tried the next time.
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
        // A file, where something has put one there, is added to.
        options.append(true).read(is_screen);
        // Of a screen that is the controlling terminal one hears when its size changes.
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
        // What is no terminal has none.
        let Ok(mut modes) = tcgetattr(&self.file) else {
            return;
        };
        // A Ctrl-S typed there must not stop what is said there.
        modes.input_flags.remove(InputFlags::IXON);
        if is_screen {
            // Nobody reads what is typed; it must not be shown, nor be a signal. And what is written in one
            // piece must stay in one, since the kernel writes there too.
            let local = LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG;
            modes.local_flags.remove(local);
            modes.output_flags.remove(OutputFlags::OPOST);
        }
        let _ = tcsetattr(&self.file, SetArg::TCSANOW, &modes);
    }

    /// Takes a screen's size; all of it is to be drawn.
    pub(super) fn read_size(&mut self) {
        let size = crate::sys::window_size(self.file.as_fd());
        let (rows, columns) = size.map_or((25, 80), |size| (size.ws_row, size.ws_col));
        self.screen = Some(Screen::new(rows.into(), columns.into()));
        self.is_up_to_date = false;
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether something waits for this console to take it.
    pub(super) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// A line for people.
    pub(super) fn line(&mut self, line: &str) -> io::Result<()> {
        match self.screen {
            Some(_) => self.write(&log_line(line)),
            None => self.write(format!("{line}\n").as_bytes()),
        }
    }

    /// Bytes that belong together; as a whole they are lost when too much waits already.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.queue.len() + bytes.len() <= MAX_QUEUE {
            self.queue.extend(bytes);
        }
        self.flush()
    }

    /// Writes what waits, as far as it is taken. An error means that the console is no more.
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
