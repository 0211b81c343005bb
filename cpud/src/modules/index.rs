//! The index of modules: which there are, what they need and what they are for. Parsed from the text files that mkimage
//! writes, modules.dep(5) and the others of depmod(8).

use std::collections::BTreeMap;

/// The modules of the running kernel, by their names, in which `-` is replaced by `_`.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The file of each module, and the names of the modules that must be loaded before it.
    modules: BTreeMap<String, (String, Vec<String>)>,
    /// Patterns of what modules are for, such as `pci:v00008086d*`, each with the name of its module.
    aliases: Vec<(String, String)>,
    /// Names of modules, and of their devices in /dev.
    names: Vec<(String, String)>,
    /// Names of modules, and the numbers of their devices.
    numbers: Vec<(String, Number)>,
}

/// The type and the numbers of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) is_block: bool,
    pub(super) major: u64,
    pub(super) minor: u64,
}

impl Number {
    /// Parses an alias such as `char-major-10-200`. One for many devices, such as `block-major-7-*`, has no number.
    fn parse(alias: &str) -> Option<Self> {
        let (kind, numbers) = alias.split_once("-major-")?;
        let (major, minor) = numbers.split_once('-')?;
        Some(Self {
            is_block: match kind {
                "char" => false,
                "block" => true,
                _ => return None,
            },
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl Index {
    /// Parses the three texts. Lines that make no sense are left out.
    pub(super) fn parse(dep: &str, alias: &str, softdep: &str) -> Self {
        let mut index = Self::default();
        for line in dep.lines() {
            let Some((file, needed)) = line.split_once(':') else {
                continue;
            };
            let needed = needed.split_whitespace().map(module_name).collect();
            let entry = (file.to_owned(), needed);
            index.modules.insert(module_name(file), entry);
        }
        for line in alias.lines() {
            let mut fields = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) =
                (fields.next(), fields.next(), fields.next())
            {
                if let Some(file) = pattern.strip_prefix("devname:") {
                    index.names.push((normalize(name), file.to_owned()));
                } else if let Some(number) = Number::parse(pattern) {
                    index.numbers.push((normalize(name), number));
                }
                index.aliases.push((normalize(pattern), normalize(name)));
            }
        }
        // "pre" and "post" alike are loaded before the module.
        for line in softdep.lines() {
            let mut fields = line.split_whitespace().skip(1);
            let Some(entry) = fields
                .next()
                .and_then(|name| index.modules.get_mut(&normalize(name)))
            else {
                continue;
            };
            let names = fields.filter(|field| !field.ends_with(':')).map(normalize);
            entry.1.extend(names);
        }
        index
    }

    /// The files to load for a name or an alias, in the order in which to load them. Empty if there is no such module.
    pub(super) fn files_for(&self, name: &str) -> Vec<&str> {
        let wanted = normalize(name);
        let (mut files, mut seen) = (Vec::new(), Vec::new());
        if self.modules.contains_key(&wanted) {
            self.collect(&wanted, &mut files, &mut seen);
        } else {
            for (pattern, name) in &self.aliases {
                if matches(pattern.as_bytes(), wanted.as_bytes()) {
                    self.collect(name, &mut files, &mut seen);
                }
            }
        }
        files
    }

    /// The devices whose modules are loaded when they are opened, with their names in /dev (modules.devname of depmod(8)).
    pub(super) fn devices(&self) -> impl Iterator<Item = (&str, Number)> {
        self.names.iter().filter_map(|(module, file)| {
            let mut numbers = self.numbers.iter();
            let (_, number) = numbers.find(|(of, _)| of == module)?;
            Some((file.as_str(), *number))
        })
    }

    fn collect<'a>(&'a self, name: &str, files: &mut Vec<&'a str>, seen: &mut Vec<String>) {
        if seen.iter().any(|old| old == name) {
            return;
        }
        seen.push(name.to_owned());
        // Modules that are built into the kernel are not in the index.
        if let Some((file, needed)) = self.modules.get(name) {
            for name in needed {
                self.collect(name, files, seen);
            }
            files.push(file);
        }
    }
}

fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    normalize(name.split_once(".ko").map_or(name, |(name, _)| name))
}

/// Replaces `-` by `_`, which mean the same in names, but not within the brackets of a pattern, where `-` is a range.
fn normalize(name: &str) -> String {
    let mut inside = false;
    name.chars()
        .map(|character| {
            match character {
                '[' => inside = true,
                ']' => inside = false,
                '-' if !inside => return '_',
                _ => {}
            }
            character
        })
        .collect()
}

/// Whether a pattern with `*`, `?` and `[...]` matches a text (fnmatch(3)), in a time bounded by the product of their
/// lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let length = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(_) => match_one(&pattern[p..], text[t]),
            None => None,
        };
        match (length, star) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((at, taken))) => {
                star = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// If the beginning of a pattern matches a byte, the length of that part of the pattern.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => {
            let end = pattern.iter().position(|byte| *byte == b']')?;
            let mut set = &pattern[1..end];
            while let Some(first) = set.first() {
                let (last, length) = match set.get(1..3) {
                    Some([b'-', last]) => (*last, 3),
                    _ => (*first, 1),
                };
                if (*first..=last).contains(&byte) {
                    return Some(end + 1);
                }
                set = &set[length..];
            }
            None
        }
        literal => (*literal == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index() -> Index {
        Index::parse(
            "core.ko:\nmii.ko: core.ko\nmy_card.ko: mii.ko built_in.ko\n9p.ko: 9pnet.ko\n9pnet.ko:\n\
             loop_a.ko: loop_b.ko\nloop_b.ko: loop_a.ko\nnonsense\n",
            "alias pci:v00008086d000010D3sv*sd*bc*sc*i* my_card\nalias fs-9p 9p\n\
             alias usb:v0BDAp815[0-3]d* core\nalias broken\n\
             alias devname:net/my-dev my-card\nalias char-major-10-200 my-card\n\
             alias devname:unnumbered core\nalias char-major-4-* mii\nalias devname:other mii\n",
            "softdep mii pre: helper 9pnet\nsoftdep nobody pre: x\n",
        )
    }

    #[test]
    fn what_is_needed_comes_first() {
        let index = index();
        assert_eq!(
            index.files_for("my-card"),
            ["core.ko", "9pnet.ko", "mii.ko", "my_card.ko"]
        );
        assert_eq!(index.files_for("loop_a"), ["loop_b.ko", "loop_a.ko"]);
        assert!(index.files_for("absent").is_empty());
    }

    #[test]
    fn devices_and_file_systems_are_found_by_alias() {
        let index = index();
        assert_eq!(index.files_for("fs-9p"), ["9pnet.ko", "9p.ko"]);
        let device = "pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00";
        assert_eq!(index.files_for(device).last(), Some(&"my_card.ko"));
        assert_eq!(index.files_for("usb:v0BDAp8152d2000dc00"), ["core.ko"]);
        assert!(index.files_for("usb:v0BDAp8154d2000dc00").is_empty());
    }

    #[test]
    fn a_device_has_a_name_and_one_number() {
        let number = Number {
            is_block: false,
            major: 10,
            minor: 200,
        };
        let index = index();
        let devices: Vec<_> = index.devices().collect();
        assert_eq!(devices, [("net/my-dev", number)]);
    }

    proptest! {
        #[test]
        fn patterns_fit_as_fnmatch_says(
            pattern in "[ab*?]{0,8}|[ab]{0,3}\\[[ab-]{0,3}\\]?[*]?",
            text in "[ab]{0,8}",
        ) {
            // Tries every possibility.
            fn slow(pattern: &[u8], text: &[u8]) -> bool {
                match pattern.first() {
                    None => text.is_empty(),
                    Some(b'*') => (0..=text.len()).any(|at| slow(&pattern[1..], &text[at..])),
                    Some(_) => text.first().is_some_and(|byte| {
                        match_one(pattern, *byte).is_some_and(|length| slow(&pattern[length..], &text[1..]))
                    }),
                }
            }
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(matches(pattern, text), slow(pattern, text));
        }

        #[test]
        fn a_file_is_one_of_the_modules_and_comes_once(
            dep in "([ab]{1,2}:( [ab]{1,2}){0,3}\n){0,6}|.{0,99}",
            alias in "(alias [ab*]{1,2} [ab]{1,2}\n){0,3}|.{0,99}",
            softdep in "(softdep [ab]{1,2} pre: [ab]{1,2}\n){0,3}|.{0,99}",
            name in "[ab]{1,2}|.{0,20}",
        ) {
            let index = Index::parse(&dep, &alias, &softdep);
            let files = index.files_for(&name);
            for (at, file) in files.iter().enumerate() {
                let mut modules = dep.lines().filter_map(|line| line.split_once(':'));
                prop_assert!(modules.any(|(module, _)| module == *file), "{}", file);
                prop_assert!(!files[..at].contains(file), "{}", file);
            }
        }
    }
}
