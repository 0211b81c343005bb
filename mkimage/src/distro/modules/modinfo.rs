//! What a module says of itself: the pairs of its section `.modinfo` (include/linux/module.h), and its name.

use std::path::Path;

use object::{Object as _, ObjectSection as _};

/// A module that has been read.
pub(super) struct Module {
    pub(super) bytes: Vec<u8>,
    /// What `.modinfo` says, such as `("depends", "mii,crc32")`.
    pub(super) info: Vec<(String, String)>,
}

impl Module {
    pub(super) fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let all = self.info.iter().filter(move |(found, _)| found == key);
        all.map(|(_, value)| value.as_str())
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

/// The pairs of `.modinfo`.
pub(super) fn info(module: &[u8]) -> Result<Vec<(String, String)>, object::Error> {
    let file = object::File::parse(module)?;
    let Some(section) = file.section_by_name(".modinfo") else {
        return Ok(Vec::new());
    };
    let data = section.data()?;
    Ok(data
        .split(|byte| *byte == 0)
        .filter_map(|pair| str::from_utf8(pair).ok()?.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.replace('\n', " ")))
        .collect())
}

/// `kernel/fs/9p/9p.ko.xz` is `9p`.
pub(super) fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, suffix) = file.split_once(".ko")?;
    matches!(suffix, "" | ".xz" | ".zst" | ".gz").then(|| normal(name))
}

pub(super) fn normal(name: impl AsRef<str>) -> String {
    name.as_ref().replace('-', "_")
}
