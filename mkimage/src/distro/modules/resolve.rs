//! The modules of a list, and what these need in turn.

use std::collections::{BTreeMap, VecDeque};

use cpu_proto::printable;

use super::index::pack;
use super::modinfo::Module;
use super::{Error, ModuleSet, Selection};
use crate::archive::decompress::Sum;

impl ModuleSet<'_> {
    /// The modules of a list with all that they need, for the kernel of this release.
    pub(crate) fn choose(
        &self,
        list: &[String],
        release: &str,
        mut step: impl FnMut(),
    ) -> Result<Selection, Error> {
        let mut pending: VecDeque<String> = self.names(list)?.into_iter().collect();
        let mut chosen: BTreeMap<String, Module> = BTreeMap::new();
        let mut sum = Sum::default();
        while let Some(name) = pending.pop_front() {
            if chosen.contains_key(&name) {
                continue;
            }
            let module = self.read(&name, &mut sum)?;
            if let Some(magic) = module.values("vermagic").next()
                && magic.split(' ').next() != Some(release)
            {
                return Err(Error::OtherKernel {
                    path: self.origin.join(&self.paths[&name]),
                    got: printable(magic.split(' ').next().unwrap_or_default()),
                    wanted: release.to_owned(),
                });
            }
            for needed in module.needs() {
                if self.paths.contains_key(&needed) {
                    pending.push_back(needed);
                } else if !self.built_in.contains(&needed) {
                    return Err(Error::Needs(name, printable(&needed)));
                }
            }
            // Soft dependencies may be missing. ext4 and others name an algorithm (`pre: crc32c`), which is an
            // alias of several modules; the one that runs on every processor is called crc32c_generic.
            for soft in module.soft_needs() {
                let generic = format!("{soft}_generic");
                let names = [soft, generic].into_iter();
                pending.extend(names.filter(|name| self.paths.contains_key(name)));
            }
            chosen.insert(name, module);
            step();
        }
        Ok(pack(chosen, release))
    }
}
