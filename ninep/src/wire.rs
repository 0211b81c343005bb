//! Bytes to values and back: the little-endian primitives of messages (intro(5) of Plan 9). Decoding borrows from
//! the message; no length that a peer claims leads to an allocation.

/// `size[4] type[1] tag[2]`, before the body of every message.
pub const HEADER: usize = 7;
/// `size[4] type[1] tag[2] count[4]`, before the bytes of `Rread` and `Rreaddir`.
pub const DATA_HEADER: usize = HEADER + 4;
/// Maximum number of names in one walk (`P9_MAXWELEM`).
pub const MAX_WALK: usize = 16;

/// Why a message is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A field extends past the end.
    #[error("the message ends before its last field")]
    Short,
    /// Bytes after the last field.
    #[error("{0} bytes follow the last field of the message")]
    Long(usize),
    /// No message has this type.
    #[error("there is no message of type {0}")]
    Unknown(u8),
    /// An impossible file name.
    #[error("a file name is empty or contains a slash or NUL")]
    Name,
    /// More elements than [`MAX_WALK`].
    #[error("a walk has {0} elements, more than {MAX_WALK}")]
    TooMany(u16),
}

/// The part of a message's body that has not been decoded yet.
#[derive(Debug)]
pub struct BodyReader<'a>(&'a [u8]);

impl<'a> BodyReader<'a> {
    /// Reads from the first byte of `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(head)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An error if anything is left.
    pub fn finish(self) -> Result<(), Malformed> {
        match self.0.len() {
            0 => Ok(()),
            n => Err(Malformed::Long(n)),
        }
    }
}

/// A message that is being encoded. Its memory is reused from one message to the next, and never zeroed twice.
#[derive(Debug, Default)]
pub struct Frame {
    buf: Vec<u8>,
    len: usize,
}

impl Frame {
    /// Starts a new message.
    pub fn start(&mut self, kind: u8, tag: u16) {
        self.len = 0;
        self.put(&[0; 4]);
        self.put(&[kind]);
        self.put(&tag.to_le_bytes());
    }

    /// Appends bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        self.space(bytes.len()).copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Exactly `n` bytes after the end, with any contents. Fill them, then call [`Frame::grow`].
    pub fn space(&mut self, n: usize) -> &mut [u8] {
        let end = self.len.saturating_add(n);
        if self.buf.len() < end {
            self.buf.resize(end, 0);
        }
        self.buf.get_mut(self.len..end).unwrap_or_default()
    }

    /// Adds the first `n` bytes of the last [`Frame::space`] to the message.
    pub fn grow(&mut self, n: usize) {
        self.len = self.len.saturating_add(n).min(self.buf.len());
    }

    /// Drops what was appended after the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes so far, including the header.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True before [`Frame::start`].
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Overwrites the four bytes at `at`, which must exist already.
    pub fn patch(&mut self, at: usize, value: u32) {
        if let Some(bytes) = self.buf.get_mut(at..at.saturating_add(4)) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Fills in the size and returns the whole message.
    pub fn finish(&mut self) -> &[u8] {
        self.patch(0, u32::try_from(self.len).unwrap_or(u32::MAX));
        self.buf.get(..self.len).unwrap_or_default()
    }
}

/// A value that a message can contain.
pub trait Wire<'a>: Sized {
    /// Decodes it from the front of the body.
    fn get(from: &mut BodyReader<'a>) -> Result<Self, Malformed>;
    /// Appends it to a message.
    fn put(&self, to: &mut Frame);
}

macro_rules! integers {
    ($($int:ty),*) => {$(
        impl<'a> Wire<'a> for $int {
            fn get(from: &mut BodyReader<'a>) -> Result<Self, Malformed> {
                let bytes = from.take(size_of::<$int>())?;
                Ok(Self::from_le_bytes(bytes.try_into().map_err(|_| Malformed::Short)?))
            }
            fn put(&self, to: &mut Frame) {
                to.put(&self.to_le_bytes());
            }
        }
    )*};
}
integers!(u8, u16, u32, u64);

/// `s`: `size[2]`, then up to 65,535 bytes of any content.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Str<'a>(&'a [u8]);

impl<'a> Str<'a> {
    /// `None` if longer than 65,535 bytes.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        u16::try_from(bytes.len()).ok().map(|_| Self(bytes))
    }

    /// The bytes without their size.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Wire<'a> for Str<'a> {
    fn get(from: &mut BodyReader<'a>) -> Result<Self, Malformed> {
        let size = u16::get(from)?;
        from.take(size.into()).map(Self)
    }
    fn put(&self, to: &mut Frame) {
        // Neither `new` nor `get` accepts more.
        u16::try_from(self.0.len()).unwrap_or(u16::MAX).put(to);
        to.put(self.0);
    }
}

/// A name in a directory: not empty, without slash or NUL. May be `.` or `..`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name<'a>(Str<'a>);

impl<'a> Name<'a> {
    /// `None` if no file can have this name.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let clean = !bytes.is_empty() && !bytes.iter().any(|b| matches!(b, 0 | b'/'));
        Str::new(bytes).filter(|_| clean).map(Self)
    }

    /// The bytes of the name.
    pub fn bytes(self) -> &'a [u8] {
        self.0.0
    }
}

impl<'a> Wire<'a> for Name<'a> {
    fn get(from: &mut BodyReader<'a>) -> Result<Self, Malformed> {
        Self::new(Str::get(from)?.0).ok_or(Malformed::Name)
    }
    fn put(&self, to: &mut Frame) {
        self.0.put(to);
    }
}

/// `count[4] data[count]`: the bytes of a read, a write or a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Data<'a>(pub &'a [u8]);

impl<'a> Wire<'a> for Data<'a> {
    fn get(from: &mut BodyReader<'a>) -> Result<Self, Malformed> {
        let size = u32::get(from)?;
        let size = usize::try_from(size).map_err(|_| Malformed::Short)?;
        from.take(size).map(Self)
    }
    fn put(&self, to: &mut Frame) {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX).put(to);
        to.put(self.0);
    }
}

/// `n[2] n*(element)`: at most [`MAX_WALK`] names or qids, held without allocation.
#[derive(Clone, Copy)]
pub struct WalkVec<T> {
    items: [Option<T>; MAX_WALK],
    len: usize,
}

impl<T: Copy> WalkVec<T> {
    /// Appends an element; false if there is no space.
    pub fn push(&mut self, item: T) -> bool {
        let Some(slot) = self.items.get_mut(self.len) else {
            return false;
        };
        *slot = Some(item);
        self.len += 1;
        true
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// From first to last.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.items.iter().flatten().copied()
    }
}

impl<T: Copy> Default for WalkVec<T> {
    fn default() -> Self {
        Self {
            items: [None; MAX_WALK],
            len: 0,
        }
    }
}

impl<T: Copy + PartialEq> PartialEq for WalkVec<T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}
impl<T: Copy + Eq> Eq for WalkVec<T> {}

impl<'a, T: Wire<'a> + Copy> Wire<'a> for WalkVec<T> {
    fn get(from: &mut BodyReader<'a>) -> Result<Self, Malformed> {
        let count = u16::get(from)?;
        let mut list = Self::default();
        for _ in 0..count {
            if !list.push(T::get(from)?) {
                return Err(Malformed::TooMany(count));
            }
        }
        Ok(list)
    }
    fn put(&self, to: &mut Frame) {
        u16::try_from(self.len).unwrap_or(u16::MAX).put(to);
        self.iter().for_each(|item| item.put(to));
    }
}

mod debug {
    //! Readable forms of bytes.
    use super::{Data, Name, Str, WalkVec};
    use std::fmt::{Debug, Formatter, Result};

    impl Debug for Str<'_> {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            write!(f, "\"{}\"", self.0.escape_ascii())
        }
    }
    impl Debug for Name<'_> {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            self.0.fmt(f)
        }
    }
    impl Debug for Data<'_> {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            write!(f, "{} bytes", self.0.len())
        }
    }
    impl<T: Debug + Copy> Debug for WalkVec<T> {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            f.debug_list().entries(self.iter()).finish()
        }
    }
}

#[cfg(test)]
pub(crate) mod sample {
    //! Arbitrary values, made from the bytes that a property test supplies.
    use super::{Data, MAX_WALK, Name, Str, WalkVec};

    pub(crate) struct Entropy<'a>(&'a [u8]);

    impl<'a> Entropy<'a> {
        pub(crate) fn new(bytes: &'a [u8]) -> Self {
            Self(bytes)
        }

        /// Up to `n` bytes; fewer if they run out.
        fn take(&mut self, n: usize) -> &'a [u8] {
            let (head, rest) = self.0.split_at(n.min(self.0.len()));
            self.0 = rest;
            head
        }

        fn byte(&mut self) -> u8 {
            self.take(1).first().copied().unwrap_or(0)
        }
    }

    pub(crate) trait Sample<'a> {
        fn sample(from: &mut Entropy<'a>) -> Self;
    }

    macro_rules! integers {
        ($($int:ty),*) => {$(
            impl<'a> Sample<'a> for $int {
                fn sample(from: &mut Entropy<'a>) -> Self {
                    let mut bytes = [0; size_of::<$int>()];
                    bytes.fill_with(|| from.byte());
                    Self::from_le_bytes(bytes)
                }
            }
        )*};
    }
    integers!(u8, u16, u32, u64);

    impl<'a> Sample<'a> for Str<'a> {
        fn sample(from: &mut Entropy<'a>) -> Self {
            let n = from.byte();
            Self(from.take(n.into()))
        }
    }

    impl<'a> Sample<'a> for Name<'a> {
        fn sample(from: &mut Entropy<'a>) -> Self {
            let n = from.byte() % 32;
            Self::new(from.take(n.into())).unwrap_or(Self(Str(b"..")))
        }
    }

    impl<'a> Sample<'a> for Data<'a> {
        fn sample(from: &mut Entropy<'a>) -> Self {
            let n = from.byte();
            Self(from.take(n.into()))
        }
    }

    impl<'a, T: Sample<'a> + Copy> Sample<'a> for WalkVec<T> {
        fn sample(from: &mut Entropy<'a>) -> Self {
            let mut list = Self::default();
            for _ in 0..usize::from(from.byte()) % (MAX_WALK + 1) {
                list.push(T::sample(from));
            }
            list
        }
    }
}
