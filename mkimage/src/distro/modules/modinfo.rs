//! What a module says of itself: the pairs of its section `.modinfo` (include/linux/module.h), and its name.

use std::ops::Range;
use std::path::Path;

use object::{Object as _, ObjectSection as _};

/// The longest name that the kernel takes (MODULE_NAME_LEN), without its final zero.
const MAX_NAME: usize = 55;
/// For a `.modinfo`, of which few have more than a hundred kilobytes.
const MAX_INFO: usize = 1 << 20;

/// A module that has been read.
pub(super) struct Module {
    pub(super) bytes: Vec<u8>,
    /// Where its `.modinfo` is, which says pairs such as `depends=mii,crc32`.
    info: Range<usize>,
}

impl Module {
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self, String> {
        let info = info(&bytes)?;
        Ok(Self { bytes, info })
    }

    /// The values of a key.
    pub(super) fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let info = self.bytes.get(self.info.clone()).unwrap_or_default();
        info.split(|byte| *byte == 0).filter_map(move |pair| {
            let value = str::from_utf8(pair).ok()?.strip_prefix(key)?;
            // A line of an index of modules has one value.
            value.strip_prefix('=').filter(|it| !it.contains('\n'))
        })
    }

    pub(super) fn needs(&self) -> Vec<String> {
        let names = self.values("depends").flat_map(|names| names.split(','));
        names.filter(|name| !name.is_empty()).map(normal).collect()
    }

    /// `softdep=pre: a b post: c`
    pub(super) fn soft_needs(&self) -> Vec<String> {
        let words = self.values("softdep").flat_map(str::split_whitespace);
        words
            .filter(|word| !word.ends_with(':'))
            .map(normal)
            .collect()
    }
}

/// Where a module's `.modinfo` is; nowhere if it has none.
fn info(module: &[u8]) -> Result<Range<usize>, String> {
    let file = object::File::parse(module).map_err(|error| error.to_string())?;
    let Some(section) = file.section_by_name(".modinfo") else {
        return Ok(0..0);
    };
    let length = section.data().map_err(|error| error.to_string())?.len();
    if length > MAX_INFO {
        return Err(format!("its .modinfo has {length} bytes"));
    }
    let start = section.file_range().map_or(0, |(start, _)| start);
    let start = usize::try_from(start).unwrap_or_default();
    Ok(start..start + length)
}

/// `kernel/fs/9p/9p.ko.xz` is `9p`.
pub(super) fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, suffix) = file.split_once(".ko")?;
    let is_module = name.len() <= MAX_NAME && matches!(suffix, "" | ".xz" | ".zst" | ".gz");
    is_module.then(|| normal(name))
}

pub(super) fn normal(name: impl AsRef<str>) -> String {
    name.as_ref().replace('-', "_")
}
