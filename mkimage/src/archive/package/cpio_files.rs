//! The regular files of a newc archive (cpio(5)) that is read as it comes: that of a kernel's package is too large for memory.

use std::io::{self, Read};

use super::{Error, MAX_NAME, unread};
use crate::archive::newc::{HEADER, header_numbers};

/// Give each of them to `each`, with its name as it is written.
pub(super) fn read(
    mut from: impl Read,
    mut each: impl FnMut(&str, &mut dyn Read) -> Result<(), Error>,
) -> Result<(), Error> {
    loop {
        let mut header = [0; HEADER];
        from.read_exact(&mut header).map_err(unread)?;
        if header.starts_with(b"07070X") {
            return Err(Error::Member("files of more than 4 GiB".to_owned()));
        }
        let damaged = || Error::Damaged(io::ErrorKind::InvalidData.into());
        let numbers = header_numbers(&header).ok_or_else(damaged)?;
        let [mode, length, name_length] = [numbers[1], numbers[6], numbers[11]].map(u64::from);
        if name_length > MAX_NAME {
            return Err(Error::LongName(name_length));
        }
        let mut name = Vec::new();
        take(&mut from, name_length, |part| part.read_to_end(&mut name))?;
        skip_padding(&mut from, HEADER as u64 + name_length)?;
        let name = String::from_utf8_lossy(&name);
        let name = name.trim_end_matches('\0');
        if name == "TRAILER!!!" {
            // The sum of the compression comes after it.
            return io::copy(&mut from, &mut io::sink())
                .map(drop)
                .map_err(unread);
        }
        if mode & 0o170_000 == 0o100_000 {
            let mut contents = (&mut from).take(length);
            each(name, &mut contents)?;
            // What was not read of it. An end before its end is found there.
            let left = contents.limit();
            take(&mut from, left, |part| io::copy(part, &mut io::sink()))?;
        } else {
            take(&mut from, length, |part| io::copy(part, &mut io::sink()))?;
        }
        skip_padding(&mut from, length)?;
    }
}

/// Read the next bytes, all of which must be there.
fn take<R: Read, N>(
    from: &mut R,
    length: u64,
    read: impl FnOnce(&mut io::Take<&mut R>) -> io::Result<N>,
) -> Result<(), Error> {
    let mut part = from.take(length);
    read(&mut part).map_err(unread)?;
    match part.limit() {
        0 => Ok(()),
        _ => Err(Error::Damaged(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// Header with name, and contents, are filled up to a multiple of four bytes.
fn skip_padding(from: &mut impl Read, length: u64) -> Result<(), Error> {
    let padding = length.next_multiple_of(4) - length;
    take(from, padding, |part| io::copy(part, &mut io::sink()))
}
