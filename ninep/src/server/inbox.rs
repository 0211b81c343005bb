//! Reads messages off the stream, one at a time. Sizes are checked before memory is allocated.

use std::io::{self, BufRead, BufReader, Read};

use super::version::Negotiated;
use super::{Error, MIN_MSIZE};
use crate::msg::Header;
use crate::wire::HEADER;

/// One read gets many small requests; large ones bypass this buffer.
const BUFFER: usize = 32 * 1024;

type RawMessage<'b> = (Header, &'b [u8]);

pub(super) struct Inbox<R> {
    reader: BufReader<R>,
    open: bool,
    /// The result of the last version message.
    pub(super) negotiated: Option<Negotiated>,
}

impl<R: Read> Inbox<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader: BufReader::with_capacity(BUFFER, reader),
            open: true,
            negotiated: None,
        }
    }

    /// Ends the stream here.
    pub(super) fn close(&mut self) {
        self.open = false;
    }

    /// Reads a message, with its body at the front of `buf`, which grows and never shrinks. `None` at the end of
    /// the stream. An error closes the inbox.
    pub(super) fn next<'b>(
        &mut self,
        buf: &'b mut Vec<u8>,
    ) -> Result<Option<RawMessage<'b>>, Error> {
        if !self.open {
            return Ok(None);
        }
        let next = self.read(buf);
        self.open = matches!(next, Ok(Some(_)));
        next
    }

    fn read<'b>(&mut self, buf: &'b mut Vec<u8>) -> Result<Option<RawMessage<'b>>, Error> {
        if self.fill()? {
            return Ok(None);
        }
        let mut header = [0; HEADER];
        self.reader.read_exact(&mut header).map_err(read_error)?;
        let header = Header::decode(&header);
        let limit = self
            .negotiated
            .map_or(MIN_MSIZE, |negotiated| negotiated.msize);
        let size = usize::try_from(header.size).unwrap_or(usize::MAX);
        let size = match size.checked_sub(HEADER) {
            Some(size) if header.size <= limit => size,
            _ => {
                return Err(Error::Size {
                    size: header.size,
                    limit,
                });
            }
        };
        if buf.len() < size {
            buf.resize(size, 0);
        }
        let body = buf.get_mut(..size).unwrap_or_default();
        self.reader.read_exact(body).map_err(read_error)?;
        Ok(Some((header, body)))
    }

    /// Waits for input; true at the end of the stream.
    fn fill(&mut self) -> Result<bool, Error> {
        loop {
            match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read(error)),
                Ok(bytes) => return Ok(bytes.is_empty()),
            }
        }
    }
}

fn read_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Truncated,
        _ => Error::Read(error),
    }
}
