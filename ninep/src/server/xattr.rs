//! Extended attributes, whose values are read and written through fids of their own.

use std::sync::{Mutex, PoisonError};

use crate::errno::Errno;
use crate::fs::FileSystem;

/// Largest value of an extended attribute (`XATTR_SIZE_MAX`), and of a list of names.
const MAX_SIZE: u64 = 64 * 1024;
/// The flag of setxattr(2) with which Linux's client asks for a removal.
const XATTR_REPLACE: u32 = 2;

/// A value on its way: announced, and written in part.
pub(super) struct XattrWrite {
    name: Vec<u8>,
    flags: u32,
    /// Bytes that were announced.
    size: usize,
    value: Mutex<Vec<u8>>,
}

impl XattrWrite {
    pub(super) fn new(name: &[u8], size: u64, flags: u32) -> Result<Self, Errno> {
        if name.is_empty() {
            return Err(Errno::EINVAL);
        }
        if size > MAX_SIZE {
            return Err(Errno::E2BIG);
        }
        Ok(Self {
            name: name.to_vec(),
            flags,
            size: usize::try_from(size).map_err(|_| Errno::E2BIG)?,
            value: Mutex::default(),
        })
    }

    /// Appends to the value. Writes must be in order, and no more than was announced.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        if offset != value.len() as u64 || value.len() + data.len() > self.size {
            return Err(Errno::EINVAL);
        }
        value.extend_from_slice(data);
        Ok(data.len())
    }

    /// Sets the attribute of `node`, or removes it.
    pub(super) fn set<F: FileSystem>(&self, fs: &F, node: &F::Node) -> Result<(), Errno> {
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        if value.len() != self.size {
            return Err(Errno::EINVAL);
        }
        // Linux's client has no other way to ask for a removal.
        let remove = value.is_empty() && self.flags == XATTR_REPLACE;
        let value = (!remove).then_some(value.as_slice());
        fs.set_xattr(node, &self.name, value, self.flags)
    }
}

/// Copies the part of a value from `offset` on that fits into `buf`; returns its length.
pub(super) fn read(value: &[u8], offset: u64, buf: &mut [u8]) -> usize {
    let rest = usize::try_from(offset).ok().and_then(|at| value.get(at..));
    let rest = rest.unwrap_or_default();
    let n = rest.len().min(buf.len());
    buf.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    n
}
