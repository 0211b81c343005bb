//! The kernel with everything inside: configuration, initramfs, command line.
//!
//! In order: the source; the fragments merged, made into a `.config` by the kernel's own tool and
//! compared with what they asked for; the initramfs put beside it; make. The tree of objects stays in
//! the cache, one for each source and compiler, so that the next initramfs is a relink and the next
//! option compiles what depends on it; the finished image stays too, by the hash of all its inputs.

mod config;
pub(crate) mod source;
mod tree;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use crate::cache::{self, Cache};
use crate::progress::Progress;
use crate::tools::{self, Tool};
use config::Config;
use source::Source;
use tree::Tree;

/// The kernel's messages and cpud's go to a serial line and to a screen, whichever there is; a crash
/// ends in a reboot, since nobody sits beside the machine. A boot loader's own command line follows.
pub(crate) const COMMAND_LINE: &str = "console=tty0 console=ttyS0,115200 quiet panic=10";

/// Longer ones the kernel cuts off silently (COMMAND_LINE_SIZE of arch/x86/include/asm/setup.h).
const MAX_COMMAND_LINE: usize = 2047;

/// Finished kernels that are kept, of 3 MiB each.
const KEEP_IMAGES: usize = 16;

/// What differs from one architecture to another.
pub(crate) struct Arch {
    /// As the kernel's make names it.
    name: &'static str,
    /// The goal of make, and where it then lies in the tree of objects.
    goal: &'static str,
    image: &'static str,
    /// Name and text of the configuration fragments, later ones win.
    fragments: &'static [(&'static str, &'static str)],
}

/// 64-bit PCs.
pub(crate) const X86_64: Arch = Arch {
    name: "x86_64",
    goal: "bzImage",
    image: "arch/x86/boot/bzImage",
    fragments: &[
        (
            "common.config",
            include_str!("../../../kernel-configs/common.config"),
        ),
        (
            "x86_64.config",
            include_str!("../../../kernel-configs/x86_64.config"),
        ),
    ],
};

/// What to build.
pub(crate) struct Wanted<'a> {
    pub(crate) arch: &'static Arch,
    /// Built in.
    pub(crate) command_line: &'a str,
    /// A newc archive, not compressed: the image as a whole is, once.
    pub(crate) initramfs: &'a [u8],
    /// The time in the kernel's banner, in seconds since 1970.
    pub(crate) epoch: u32,
}

/// What was built.
pub(crate) struct Built {
    pub(crate) image: Vec<u8>,
    /// The whole `.config`.
    pub(crate) config: Vec<u8>,
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "the command line must be one line of at most {MAX_COMMAND_LINE} bytes of ASCII: {0:?}"
    )]
    CommandLine(String),
    #[error(transparent)]
    Source(#[from] source::Error),
    #[error(transparent)]
    Fragment(#[from] config::Error),
    #[error(
        "the kernel cannot have what the configuration asks for \
         (renamed, or something it depends on is off):{}", config::list(.0)
    )]
    Lost(Vec<String>),
    #[error("cannot configure the kernel")]
    Configure(#[source] tools::Error),
    #[error("cannot build the kernel")]
    Make(#[source] tools::Error),
    #[error(transparent)]
    Tools(#[from] tools::Error),
    #[error(transparent)]
    Cache(#[from] cache::Error),
    #[error("cannot {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Build it, or take it from the cache.
pub(crate) fn build(
    wanted: &Wanted<'_>,
    cache: &Cache,
    progress: Progress,
) -> Result<Built, Error> {
    let asked = configuration(wanted)?;
    check_tools()?;
    let source = Source::find(cache, progress)?;
    let compiler = tools::first_line(version_of("gcc"))? + &tools::first_line(version_of("ld"))?;
    let tree_key = digest(&[
        source.identity().as_bytes(),
        compiler.as_bytes(),
        wanted.arch.name.as_bytes(),
    ]);

    // A directory may change under the same name, so only make can tell what is still right.
    let finished = match source {
        Source::Tarball { .. } => {
            let asked = asked.to_string();
            let epoch = wanted.epoch.to_be_bytes();
            let key = digest(&[
                tree_key.as_bytes(),
                asked.as_bytes(),
                &epoch,
                wanted.initramfs,
            ]);
            Some(cache.directory("images")?.join(key))
        }
        Source::Directory(_) => None,
    };
    if let Some(built) = finished.as_deref().and_then(read_finished) {
        return Ok(built);
    }

    let tree = Tree {
        source: source.unpack(cache, progress)?,
        objects: cache.directory("objects")?.join(tree_key),
        arch: wanted.arch,
        epoch: wanted.epoch,
        progress,
    };
    let lock = Cache::lock(&tree.objects, progress)?;
    let config = tree.configure(&asked, &lock)?;
    let image = tree.make(wanted.initramfs, &lock)?;
    let built = Built { image, config };
    if let Some(path) = finished {
        keep_finished(&path, &built)?;
    }
    Ok(built)
}

/// The fragments, and what this build adds to them.
fn configuration(wanted: &Wanted<'_>) -> Result<Config, Error> {
    let line = wanted.command_line;
    if line.len() > MAX_COMMAND_LINE || !line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(Error::CommandLine(line.to_owned()));
    }
    let mut asked = Config::default();
    for (name, text) in wanted.arch.fragments {
        asked.merge(Config::parse(name, text)?);
    }
    if !line.is_empty() {
        asked.enable("CONFIG_CMDLINE_BOOL");
        asked.set_string("CONFIG_CMDLINE", line);
    }
    Ok(asked)
}

fn check_tools() -> Result<(), Error> {
    let programs = [
        ("make", "make"),
        ("gcc", "gcc"),
        ("ld", "binutils"),
        ("flex", "flex"),
        ("bison", "bison"),
        ("bc", "bc"),
        ("xz", "xz-utils"),
    ];
    tools::require(&programs.map(|(program, package)| Tool { program, package }))?;
    // objtool, which the kernel builds for itself, reads ELF.
    if !tools::has_header("gcc", "gelf.h")? {
        let tool = Tool {
            program: "gelf.h",
            package: "libelf-dev",
        };
        return Err(tools::Error::Missing(vec![tool]).into());
    }
    Ok(())
}

fn version_of(program: &str) -> Command {
    let mut command = tools::command(program);
    command.arg("--version");
    command
}

fn read_finished(path: &Path) -> Option<Built> {
    Some(Built {
        image: fs::read(path.join("cpukernel")).ok()?,
        config: fs::read(path.join("cpu.config")).ok()?,
    })
}

/// Put a finished kernel into the cache: both files or none.
fn keep_finished(path: &Path, built: &Built) -> Result<(), Error> {
    let images = crate::files::directory_of(path);
    let keep = failed("keep the kernel in", path);
    let write = || -> io::Result<()> {
        let directory = tempfile::tempdir_in(images)?;
        fs::write(directory.path().join("cpukernel"), &built.image)?;
        fs::write(directory.path().join("cpu.config"), &built.config)?;
        // Gone under this name after the move; else it is removed with all in it.
        fs::rename(directory.path(), path)
    };
    match write() {
        // Another mkimage was faster with the same bytes.
        Err(_) if read_finished(path).is_some() => Ok(()),
        result => result.map_err(keep),
    }?;
    Ok(Cache::keep_newest(images, KEEP_IMAGES)?)
}

/// SHA-256 in hex over parts that cannot run into one another.
fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    HEXLOWER.encode(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(command_line: &str) -> Wanted<'_> {
        Wanted {
            arch: &X86_64,
            command_line,
            initramfs: b"",
            epoch: 0,
        }
    }

    #[test]
    fn the_fragments_are_readable_and_hold_the_command_line() {
        let text = configuration(&wanted("a=\"b c\" quiet"))
            .unwrap()
            .to_string();
        assert!(
            text.contains("CONFIG_CMDLINE=\"a=\\\"b c\\\" quiet\"\n"),
            "{text}"
        );
        assert!(text.contains("CONFIG_9P_FS=y\n"));
    }

    #[test]
    fn a_command_line_that_the_kernel_would_cut_is_refused() {
        let long = "x".repeat(MAX_COMMAND_LINE + 1);
        for line in [long.as_str(), "two\nlines", "ümlaut"] {
            assert!(matches!(
                configuration(&wanted(line)),
                Err(Error::CommandLine(_))
            ));
        }
        assert!(configuration(&wanted(&long[1..])).is_ok());
    }

    #[test]
    fn a_finished_kernel_is_found_again_whole_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(read_finished(&path).is_none());
        let built = Built {
            image: b"image".to_vec(),
            config: b"config".to_vec(),
        };
        keep_finished(&path, &built).unwrap();
        keep_finished(&path, &built).unwrap();
        assert_eq!(read_finished(&path).unwrap().image, b"image");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::remove_file(path.join("cpu.config")).unwrap();
        assert!(read_finished(&path).is_none());
    }
}
