//! Extended attributes, through `/proc/self/fd`: the system calls take a path, or a descriptor that is not `O_PATH`; and
//! the file itself need not be readable.

use ninep::errno::Errno;
use ninep::fs::Result;
use rustix::fs::XattrFlags;
use rustix::io::Errno as Os;

use super::node::Node;
use super::{Export, os};

/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` of linux/limits.h.
const MAX_SIZE: usize = 64 * 1024;

impl Export {
    fn link(&self, node: &Node) -> Result<String> {
        match self.proc {
            Some(_) => Ok(format!("/proc/self/fd/{}", node.number().as_str())),
            None => Err(Errno::EOPNOTSUPP),
        }
    }

    pub(super) fn get_xattr(&self, node: &Node, name: Option<&[u8]>) -> Result<Vec<u8>> {
        let link = self.link(node)?;
        // Most values are small.
        let mut value = vec![0; 256];
        loop {
            let result = match name {
                Some(name) => rustix::fs::getxattr(&link, name, &mut value[..]),
                None => rustix::fs::listxattr(&link, &mut value[..]),
            };
            match result {
                Ok(n) => {
                    value.truncate(n);
                    if let Some(name) = name {
                        self.ids.xattr_to_peer(name, &mut value);
                    }
                    return Ok(value);
                }
                Err(Os::RANGE) if value.len() < MAX_SIZE => value.resize(MAX_SIZE, 0),
                Err(errno) => return Err(os(errno)),
            }
        }
    }

    /// Whether `name` in a directory has none. False if that cannot be told.
    pub(super) fn lacks_xattrs(&self, dir: &Node, name: &[u8]) -> bool {
        let path = self
            .link(dir)
            .map(|dir| [dir.as_bytes(), b"/", name].concat());
        // A list that is not empty does not fit.
        path.is_ok_and(|path| rustix::fs::llistxattr(&*path, &mut [0_u8; 1]) == Ok(0))
    }

    pub(super) fn change_xattr(
        &self,
        node: &Node,
        name: &[u8],
        value: Option<&[u8]>,
        flags: u32,
    ) -> Result<()> {
        let link = self.link(node)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        match value {
            Some(value) => {
                let mut value = value.to_vec();
                self.ids.xattr_from_peer(name, &mut value);
                rustix::fs::setxattr(&link, name, &value, flags)
            }
            None => rustix::fs::removexattr(&link, name),
        }
        .map_err(os)
    }
}
