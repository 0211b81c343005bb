//! The fragments of kernel configuration in `kernel-configs/`, which are part of the program, and those
//! in files of the user's.

use std::path::Path;

use super::Error;
use super::config::KernelConfig;
use crate::arch::Arch;

/// What `--hardened` adds to the configuration.
pub(crate) const HARDENED: &str = "hardened";

/// By the names that `--config` takes.
const KNOWN: [(&str, &str); 4] = [
    (
        "common",
        include_str!("../../../kernel-configs/common.config"),
    ),
    ("usb", include_str!("../../../kernel-configs/usb.config")),
    (
        "flash",
        include_str!("../../../kernel-configs/flash.config"),
    ),
    (
        HARDENED,
        include_str!("../../../kernel-configs/hardened.config"),
    ),
];

/// What fragments ask for together: names or files, of which later ones win. The architecture's comes
/// right after `common`.
pub(super) fn merge(arch: Arch, names: &[String]) -> Result<KernelConfig, Error> {
    let of_arch = &arch.facts().config;
    let mut all = KernelConfig::default();
    let has_common = names.iter().any(|name| name == "common");
    if !has_common {
        all.merge(KernelConfig::parse(of_arch.name, of_arch.text)?);
    }
    for name in names {
        match KNOWN.iter().find(|(known, _)| known == name) {
            Some((_, text)) => all.merge(KernelConfig::parse(&format!("{name}.config"), text)?),
            None if Path::new(name).is_file() => {
                let text = std::fs::read_to_string(name)
                    .map_err(super::failed("read the fragment", Path::new(name)))?;
                all.merge(KernelConfig::parse(name, &text)?);
            }
            None => return Err(Error::NoFragment(name.clone())),
        }
        if name == "common" {
            all.merge(KernelConfig::parse(of_arch.name, of_arch.text)?);
        }
        if name == HARDENED
            && let Some(more) = &arch.facts().hardened_config
        {
            all.merge(KernelConfig::parse(more.name, more.text)?);
        }
    }
    Ok(all)
}

/// The names, for a message.
pub(super) fn known() -> String {
    KNOWN.map(|(name, _)| name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(names: &[&str]) -> Result<String, Error> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        merge(Arch::X86_64, &names).map(|config| config.to_string())
    }

    #[test]
    fn every_fragment_is_readable_and_later_ones_win() {
        for (name, _) in KNOWN {
            for arch in [Arch::X86_64, Arch::Aarch64] {
                merge(arch, &["common".to_owned(), name.to_owned()]).unwrap();
            }
        }
        assert!(merged(&["common"]).unwrap().contains("CONFIG_DEVMEM=y\n"));
        let hardened = merged(&["common", "hardened"]).unwrap();
        assert!(hardened.contains("# CONFIG_DEVMEM is not set\n"));
        assert!(merged(&["flash"]).unwrap().contains("CONFIG_X86_MSR=y\n"));
    }

    #[test]
    fn a_file_is_a_fragment_and_what_is_neither_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "CONFIG_MINE=y\n").unwrap();
        let path = file.path().display().to_string();
        assert!(
            merged(&["common", &path])
                .unwrap()
                .contains("CONFIG_MINE=y\n")
        );
        let error = merged(&["common", "flahs"]).unwrap_err().to_string();
        assert!(
            error.contains("flahs") && error.contains("flash"),
            "{error}"
        );
    }
}
