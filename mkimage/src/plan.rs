//! What a command needs and does not find: the commands of mkimage that make it, in order. A file that is older than what it
//! is made of is made again, with the arguments of the first time, which [`record`] keeps.

mod keys;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::arch::Arch;
use crate::publish::{self, PUBLIC};

pub(crate) use keys::{forget_keys, record_keys};

/// Where the arguments are kept, in the directory of what they made.
const RECORDS: &str = ".mkimage";

/// What a command can make for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Product {
    /// The user's key and the machine's.
    Keys,
    /// cpu and cpud.
    Programs,
    Initramfs,
    Kernel,
}

impl Product {
    /// The command that makes it.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Programs => "programs",
            Self::Initramfs => "initramfs",
            Self::Kernel => "kernel",
        }
    }

    /// The files without which it is not there.
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::Keys => &["cpu_rsa.pub", "ssh_host_ed25519_key"],
            Self::Programs => &["cpu", "cpud"],
            Self::Initramfs => &["initramfs.cpio.xz"],
            Self::Kernel => &["cpukernel"],
        }
    }

    fn made_of(self) -> &'static [Self] {
        match self {
            Self::Keys | Self::Programs => &[],
            Self::Initramfs => &[Self::Keys, Self::Programs],
            Self::Kernel => &[Self::Initramfs],
        }
    }
}

/// A command to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PlannedStep {
    pub(crate) product: Product,
    pub(crate) reason: String,
    /// What follows `mkimage`.
    pub(crate) arguments: Vec<OsString>,
    /// Where to run it, if not here.
    pub(crate) directory: Option<PathBuf>,
}

/// What to do, and what to tell the user.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<PlannedStep>,
    /// Files that are out of date, but cannot be made again since nobody knows how they were made.
    pub(crate) warnings: Vec<String>,
}

/// The directory in which things are made, and for which machine.
pub(crate) struct Place<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) arch: Arch,
    /// `--kernel-from` of a kernel that is made for the first time.
    pub(crate) kernel_from: &'a str,
}

impl Plan {
    /// What must be done before these can be used.
    pub(crate) fn of(products: &[Product], place: &Place<'_>) -> io::Result<Self> {
        let mut plan = Self::default();
        for product in products {
            plan.add(*product, place)?;
        }
        Ok(plan)
    }

    fn add(&mut self, product: Product, place: &Place<'_>) -> io::Result<()> {
        if self.steps.iter().any(|step| step.product == product) {
            return Ok(());
        }
        let times = times(place.directory, product)?;
        let missing = times.iter().find(|(_, time)| time.is_none());
        if let Some((name, _)) = missing {
            for input in product.made_of() {
                self.add(*input, place)?;
            }
            self.steps.push(PlannedStep {
                product,
                reason: format!("there is no {name}"),
                arguments: place.arguments(product),
                directory: None,
            });
            return Ok(());
        }
        for input in product.made_of() {
            // An input that is not there was not needed for what is.
            if self::times(place.directory, *input)?
                .iter()
                .all(|(_, time)| time.is_some())
            {
                self.add(*input, place)?;
            }
        }
        let made = times.iter().filter_map(|(_, time)| *time).min();
        if let Some(reason) = self.newer_input(product, made, place)? {
            match recorded(place.directory, product)? {
                Some((directory, arguments)) => self.steps.push(PlannedStep {
                    product,
                    reason,
                    arguments,
                    directory: Some(directory),
                }),
                None => self.warnings.push(format!(
                    "{} is used as it is, though {reason}; mkimage {} makes it again",
                    product.files()[0],
                    product.command()
                )),
            }
        }
        Ok(())
    }

    /// Why a product is out of date, if it is.
    fn newer_input(
        &self,
        product: Product,
        made: Option<SystemTime>,
        place: &Place<'_>,
    ) -> io::Result<Option<String>> {
        for input in product.made_of() {
            if self.steps.iter().any(|step| step.product == *input) {
                return Ok(Some(format!("{} is new", input.files()[0])));
            }
            for (name, time) in times(place.directory, *input)? {
                if time > made {
                    return Ok(Some(format!("{name} is newer")));
                }
            }
        }
        Ok(None)
    }
}

impl Place<'_> {
    fn arguments(&self, product: Product) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = [product.command(), "-o"].map(OsString::from).to_vec();
        arguments.push(self.directory.into());
        if product != Product::Keys {
            arguments.extend(["--arch".into(), self.arch.to_string().into()]);
        }
        if product == Product::Kernel {
            arguments.extend(["--kernel-from".into(), self.kernel_from.into()]);
        }
        arguments
    }
}

/// When each file of a product was changed; `None` if it is not there.
fn times(
    directory: &Path,
    product: Product,
) -> io::Result<Vec<(&'static str, Option<SystemTime>)>> {
    let time = |name| match fs::metadata(directory.join(name)) {
        Ok(file) => file.modified().map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let files = product.files().iter();
    files.map(|name| Ok((*name, time(name)?))).collect()
}

/// Keep the arguments of this process, by which `product` was made in `directory`.
pub(crate) fn record(directory: &Path, product: Product) -> Result<(), publish::Error> {
    let path = directory.join(RECORDS).join(product.command());
    let here = std::env::current_dir().unwrap_or_default();
    let mut words = vec![here.into_os_string()];
    let words_here = std::env::args_os().skip(1);
    words.extend(words_here.filter(|word| word != "--again"));
    publish::replace(&path, PUBLIC, &join(&words))
}

/// The plan that makes a product with the arguments of the last time, if they are known.
pub(crate) fn again(directory: &Path, product: Product) -> io::Result<Option<Plan>> {
    let step = |(directory, arguments)| PlannedStep {
        product,
        reason: "as the last time".to_owned(),
        arguments,
        directory: Some(directory),
    };
    let recorded = recorded(directory, product)?.filter(|(directory, _)| directory.is_dir());
    Ok(recorded.map(step).map(|step| Plan {
        steps: vec![step],
        warnings: Vec::new(),
    }))
}

/// The directory and the arguments of [`record`].
fn recorded(directory: &Path, product: Product) -> io::Result<Option<(PathBuf, Vec<OsString>)>> {
    let bytes = match fs::read(directory.join(RECORDS).join(product.command())) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut words = split(&bytes).into_iter();
    Ok(words
        .next()
        .map(|directory| (directory.into(), words.collect())))
}

/// Each word is ended by a zero byte, as in /proc/PID/cmdline.
fn join(words: &[OsString]) -> Vec<u8> {
    words
        .iter()
        .flat_map(|word| [word.as_bytes(), b"\0"].concat())
        .collect()
}

fn split(bytes: &[u8]) -> Vec<OsString> {
    let words = bytes.split_inclusive(|byte| *byte == 0);
    words
        .filter_map(|word| word.strip_suffix(b"\0"))
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect()
}

/// A step as a line of a shell, for people.
pub(crate) fn shown(arguments: &[OsString]) -> String {
    let quoted = |word: &OsString| {
        let text = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
        if !text.is_empty() && text.chars().all(plain) {
            text.into_owned()
        } else {
            format!("'{}'", text.replace('\'', "'\\''"))
        }
    };
    let words: Vec<String> = arguments.iter().map(quoted).collect();
    format!("mkimage {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    fn place(directory: &Path) -> Place<'_> {
        Place {
            directory,
            arch: Arch::X86_64,
            kernel_from: "auto",
        }
    }

    /// Files of so many seconds of age.
    fn files(of: &[(&str, u64)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, age) in of {
            let file = File::create(dir.path().join(name)).unwrap();
            let time = SystemTime::now() - Duration::from_secs(*age);
            file.set_modified(time).unwrap();
        }
        dir
    }

    fn products(plan: &Plan) -> Vec<Product> {
        plan.steps.iter().map(|step| step.product).collect()
    }

    const ALL: [(&str, u64); 6] = [
        ("cpu_rsa.pub", 60),
        ("ssh_host_ed25519_key", 60),
        ("cpu", 60),
        ("cpud", 60),
        ("initramfs.cpio.xz", 50),
        ("cpukernel", 40),
    ];

    #[test]
    fn from_nothing_everything_is_made_in_order() {
        let dir = files(&[]);
        let plan = Plan::of(&[Product::Kernel], &place(dir.path())).unwrap();
        let all = [
            Product::Keys,
            Product::Programs,
            Product::Initramfs,
            Product::Kernel,
        ];
        assert_eq!(products(&plan), all);
        assert_eq!(plan.steps[3].reason, "there is no cpukernel");
        let line = shown(&plan.steps[3].arguments);
        assert!(line.ends_with("--arch x86_64 --kernel-from auto"), "{line}");
    }

    #[test]
    fn what_is_there_is_used() {
        let dir = files(&ALL);
        let plan = Plan::of(&[Product::Kernel], &place(dir.path())).unwrap();
        assert!(
            plan.steps.is_empty() && plan.warnings.is_empty(),
            "{plan:?}"
        );
        // A kernel alone, as somebody else made it.
        let dir = files(&ALL[5..]);
        let plan = Plan::of(&[Product::Kernel], &place(dir.path())).unwrap();
        assert!(
            plan.steps.is_empty() && plan.warnings.is_empty(),
            "{plan:?}"
        );
    }

    #[test]
    fn what_is_older_than_its_input_is_made_again_as_it_was_made() {
        let dir = files(&ALL);
        File::create(dir.path().join("cpud")).unwrap();
        let plan = Plan::of(&[Product::Kernel], &place(dir.path())).unwrap();
        assert!(plan.steps.is_empty());
        let warning = "initramfs.cpio.xz is used as it is, though cpud is newer; mkimage initramfs makes it again";
        assert_eq!(plan.warnings, [warning]);

        let words = ["/here", "initramfs", "--file", "a b:/c"].map(OsString::from);
        let records = dir.path().join(RECORDS);
        fs::create_dir(&records).unwrap();
        fs::write(records.join("initramfs"), join(&words)).unwrap();
        let plan = Plan::of(&[Product::Kernel], &place(dir.path())).unwrap();
        assert_eq!(products(&plan), [Product::Initramfs]);
        assert_eq!(plan.steps[0].directory.as_deref(), Some(Path::new("/here")));
        assert_eq!(
            shown(&plan.steps[0].arguments),
            "mkimage initramfs --file 'a b:/c'"
        );
        // The kernel's arguments are not known.
        assert!(plan.warnings[0].starts_with("cpukernel is used as it is"));
        fs::write(records.join("kernel"), join(&words)).unwrap();
        let plan = Plan::of(&[Product::Kernel], &place(dir.path())).unwrap();
        assert_eq!(products(&plan), [Product::Initramfs, Product::Kernel]);
    }

    #[test]
    fn words_of_a_record_may_be_anything() {
        let words = [&b""[..], b"a\nb", b"\xff"].map(|word| OsString::from_vec(word.to_vec()));
        assert_eq!(split(&join(&words)), words);
        assert!(split(b"cut short").is_empty());
    }
}
