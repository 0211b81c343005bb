//! The regular files of a newc archive (cpio(5)), or of one in rpm's own form, which is read as it comes: that of a kernel's package
//! is too large for memory.

use std::io::{self, Read};

use super::{Error, MAX_NAME, unread};
use crate::archive::newc::{HEADER, header_numbers};

/// Bytes of a header of rpm's own form, which has but the number of a file in the list of the package's header.
const MAGIC: usize = 6;
const STRIPPED: &[u8] = b"07070X";
const STRIPPED_HEADER: usize = MAGIC + 8;

/// A file as the header of a package lists it.
pub(super) struct RpmFile {
    pub(super) name: String,
    pub(super) mode: u32,
    pub(super) length: u64,
}

impl RpmFile {
    pub(super) fn is_regular(&self) -> bool {
        self.mode & 0o170_000 == 0o100_000
    }

    fn is_link(&self) -> bool {
        self.mode & 0o170_000 == 0o120_000
    }
}

/// Give each of them to `each`, with its name as it is written, or as it is in the list.
pub(super) fn read(
    mut from: impl Read,
    list: &[RpmFile],
    mut each: impl FnMut(&str, &mut dyn Read) -> Result<(), Error>,
) -> Result<(), Error> {
    loop {
        let mut header = [0; HEADER];
        from.read_exact(&mut header[..MAGIC]).map_err(unread)?;
        let is_stripped = header.starts_with(STRIPPED);
        let length = if is_stripped { STRIPPED_HEADER } else { HEADER };
        from.read_exact(&mut header[MAGIC..length])
            .map_err(unread)?;
        let damaged = || Error::Damaged(io::ErrorKind::InvalidData.into());
        let whole;
        let file = if is_stripped {
            skip_padding(&mut from, STRIPPED_HEADER as u64)?;
            let number = str::from_utf8(&header[MAGIC..STRIPPED_HEADER]).ok();
            let number = number.and_then(|digits| usize::from_str_radix(digits, 16).ok());
            number.and_then(|at| list.get(at)).ok_or_else(damaged)?
        } else {
            whole = whole_header(&mut from, &header)?;
            &whole
        };
        if file.name == "TRAILER!!!" {
            // The sum of the compression comes after it.
            return io::copy(&mut from, &mut io::sink())
                .map(drop)
                .map_err(unread);
        }
        // rpm's own form lists a size for directories too.
        let length = match file.length {
            length if !is_stripped || file.is_regular() || file.is_link() => length,
            _ => 0,
        };
        if file.is_regular() {
            let mut contents = (&mut from).take(length);
            each(&file.name, &mut contents)?;
            // What was not read of it. An end before its end is found there.
            let left = contents.limit();
            take(&mut from, left, |part| io::copy(part, &mut io::sink()))?;
        } else {
            take(&mut from, length, |part| io::copy(part, &mut io::sink()))?;
        }
        skip_padding(&mut from, length)?;
    }
}

/// What a header of newc says, and the name after it.
fn whole_header(from: &mut impl Read, header: &[u8; HEADER]) -> Result<RpmFile, Error> {
    let damaged = || Error::Damaged(io::ErrorKind::InvalidData.into());
    let numbers = header_numbers(header).ok_or_else(damaged)?;
    let name_length = u64::from(numbers[11]);
    if name_length > MAX_NAME {
        return Err(Error::LongName(name_length));
    }
    let mut name = Vec::new();
    take(&mut *from, name_length, |part| part.read_to_end(&mut name))?;
    skip_padding(from, HEADER as u64 + name_length)?;
    let name = String::from_utf8_lossy(&name);
    Ok(RpmFile {
        name: name.trim_end_matches('\0').to_owned(),
        mode: numbers[1],
        length: numbers[6].into(),
    })
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
