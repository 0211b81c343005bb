//! Kernel configuration: merges the fragments of `kernel-configs/` and compares them with the `.config` that the kernel's own
//! tool made of them. No I/O.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Why a fragment cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the kernel configuration {name} is not understood: {text:?}")]
pub(crate) struct Error {
    name: String,
    line: usize,
    text: String,
}

/// What every kernel of an appliance has, whoever built it.
pub(crate) const NEEDED: [&str; 10] = [
    "CONFIG_BLK_DEV_INITRD",
    "CONFIG_BINFMT_ELF",
    "CONFIG_DEVTMPFS",
    "CONFIG_TMPFS",
    "CONFIG_PROC_FS",
    "CONFIG_SYSFS",
    "CONFIG_NAMESPACES",
    "CONFIG_UNIX98_PTYS",
    "CONFIG_INET",
    "CONFIG_PACKET",
];

/// What cpud mounts the client's files by, in the order in which it tries.
const MOUNTS: [(&str, &[&str]); 2] = [
    ("CONFIG_9P_FS", &["CONFIG_NET_9P", "CONFIG_NET_9P_FD"]),
    ("CONFIG_FUSE_FS", &[]),
];

/// What is missing where there is neither.
const NO_MOUNT: &str = "CONFIG_FUSE_FS (or CONFIG_9P_FS with CONFIG_NET_9P_FD)";

/// Options with their values as written; `n` for those that are off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelConfig(BTreeMap<String, String>);

impl KernelConfig {
    /// Read `CONFIG_X=value` and `# CONFIG_X is not set`, as .config files have them. `name` is for
    /// the error.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, Error> {
        let mut options = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            let off = line
                .strip_prefix("# ")
                .and_then(|rest| rest.strip_suffix(" is not set"));
            let (option, value) = match (off, line.split_once('=')) {
                (Some(option), _) if is_option(option) => (option, "n"),
                _ if line.is_empty() || line.starts_with('#') => continue,
                (_, Some((option, value))) if is_option(option) && !value.is_empty() => {
                    (option, value)
                }
                _ => {
                    return Err(Error {
                        name: name.to_owned(),
                        line: index + 1,
                        text: line.to_owned(),
                    });
                }
            };
            options.insert(option.to_owned(), value.to_owned());
        }
        Ok(Self(options))
    }

    /// Add `other`, which wins where both say something.
    pub(crate) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Ask for a string option, quoted as Kconfig quotes.
    pub(crate) fn set_string(&mut self, option: &str, value: &str) {
        let escaped = value.replace('\\', r"\\").replace('"', "\\\"");
        self.0.insert(option.to_owned(), format!("\"{escaped}\""));
    }

    /// Ask for a boolean option.
    pub(crate) fn enable(&mut self, option: &str) {
        self.0.insert(option.to_owned(), "y".to_owned());
    }

    /// Whether an option is `y`.
    pub(crate) fn is_on(&self, option: &str) -> bool {
        self.0.get(option).is_some_and(|value| value == "y")
    }

    /// Options without which cpud cannot do its work, or not be started, that are off here.
    pub(crate) fn missing_for_cpud(&self) -> Vec<&'static str> {
        let is_missing =
            |option: &&str| !matches!(self.0.get(*option).map(String::as_str), Some("y" | "m"));
        let mut mounts = MOUNTS.iter();
        let mount: &[&str] = match mounts.find(|(file_system, _)| !is_missing(file_system)) {
            Some((_, needed)) => needed,
            None => &[NO_MOUNT],
        };
        let all = NEEDED.iter().chain(mount).copied();
        all.filter(is_missing).collect()
    }

    /// What `self` asks for and `made` does not have, one readable item each.
    pub(crate) fn dropped_by(&self, made: &Self) -> Vec<String> {
        self.0
            .iter()
            .filter_map(|(option, requested)| {
                let got = made.0.get(option).map_or("n", String::as_str);
                (got != requested).then(|| format!("{option} is {got} instead of {requested}"))
            })
            .collect()
    }
}

impl std::fmt::Display for KernelConfig {
    /// As a .config file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (option, value) in &self.0 {
            match value.as_str() {
                "n" => writeln!(f, "# {option} is not set")?,
                _ => writeln!(f, "{option}={value}")?,
            }
        }
        Ok(())
    }
}

fn is_option(text: &str) -> bool {
    text.strip_prefix("CONFIG_").is_some_and(|name| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

/// A list of dropped options for an error message.
pub(crate) fn list(dropped: &[String]) -> String {
    dropped.iter().fold(String::new(), |mut text, item| {
        let _ = write!(text, "\n  {item}");
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(text: &str) -> KernelConfig {
        KernelConfig::parse("test", text).unwrap()
    }

    #[test]
    fn the_later_fragment_wins() {
        let mut merged = config("# why\nCONFIG_A=y\nCONFIG_B=\"x=y\"\n\nCONFIG_C=64");
        merged.merge(config("# CONFIG_A is not set\nCONFIG_C=8"));
        assert_eq!(
            merged.to_string(),
            "# CONFIG_A is not set\nCONFIG_B=\"x=y\"\nCONFIG_C=8\n"
        );
    }

    #[test]
    fn every_lost_option_is_named() {
        let requested =
            config("CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=8\n# CONFIG_D is not set\nCONFIG_E=n");
        let made = config("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=64\nCONFIG_D=y\nCONFIG_F=y");
        assert_eq!(
            requested.dropped_by(&made),
            [
                "CONFIG_B is n instead of y",
                "CONFIG_C is 64 instead of 8",
                "CONFIG_D is y instead of n",
            ]
        );
        assert!(requested.dropped_by(&requested).is_empty());
    }

    #[test]
    fn the_files_are_mounted_by_9p_or_else_by_fuse() {
        let others = NEEDED.map(|option| format!("{option}=y\n")).concat();
        for (mounts, missing) in [
            ("9P_FS=m NET_9P=m NET_9P_FD=m", &[][..]),
            ("9P_FS=n FUSE_FS=m", &[]),
            ("FUSE_FS=y", &[]),
            // cpud mounts by 9P where the file system is there.
            ("9P_FS=y FUSE_FS=y", &["CONFIG_NET_9P", "CONFIG_NET_9P_FD"]),
            ("9P_FS=n NET_9P=y NET_9P_FD=y FUSE_FS=n", &[NO_MOUNT]),
            ("", &[NO_MOUNT]),
        ] {
            let mounts = mounts
                .split_whitespace()
                .map(|option| format!("CONFIG_{option}\n"));
            let config = config(&(others.clone() + &mounts.collect::<String>()));
            assert_eq!(config.missing_for_cpud(), missing, "{config}");
        }
    }

    #[test]
    fn nonsense_is_an_error_that_says_where() {
        for text in [
            "CONFIG_A=y\nCONFIG B=y",
            "CONFIG_A=y\nA=y",
            "\nCONFIG_A=",
            "\nCONFIG_A",
        ] {
            let error = KernelConfig::parse("x.config", text).unwrap_err();
            assert_eq!((error.name.as_str(), error.line), ("x.config", 2), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(strings in proptest::collection::btree_map("[A-Z0-9_]{1,9}", "[ -~]{0,20}", 0..9)) {
            let mut written = KernelConfig::default();
            for (name, value) in &strings {
                written.set_string(&format!("CONFIG_{name}"), value);
            }
            prop_assert_eq!(config(&written.to_string()), written);
        }

        #[test]
        fn any_text_that_is_read_is_written_the_same(
            text in "((CONFIG_[A-Z]{1,3}=?[ -~]{0,9}|# CONFIG_[A-Z] is not set|#.{0,9}|.{0,2})\n){0,5}",
        ) {
            if let Ok(read) = KernelConfig::parse("any", &text) {
                prop_assert_eq!(config(&read.to_string()), read);
            }
        }
    }
}
