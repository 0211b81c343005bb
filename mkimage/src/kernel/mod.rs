//! The kernel with everything inside: configuration, initramfs, command line.
//!
//! In order: the source; the fragments merged, made into a `.config` by the kernel's own tool and
//! compared with what they asked for; the initramfs put beside it; make. The tree of objects stays in
//! the cache, one for each source and compiler, so that the next initramfs is a relink and the next
//! option compiles what depends on it; the finished image stays too, by the hash of all its inputs.

pub(crate) mod config;
pub(crate) mod fragments;
pub(crate) mod image;
pub(crate) mod packed;
mod patches;
pub(crate) mod source;
mod tree;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use crate::arch::Arch;
use crate::cache::{self, CacheDirectory};
use crate::lock::{self, Lock};
use crate::progress::Progress;
use crate::tools::{self, Tool};
use config::KernelConfig;
use source::KernelSource;
use tree::BuildTree;

/// Longer ones the kernel cuts off silently (COMMAND_LINE_SIZE of arch/x86/include/asm/setup.h).
const MAX_COMMAND_LINE: usize = 2047;

/// Finished kernels that are kept, of 3 MiB each.
const KEEP_IMAGES: usize = 16;

/// What to build.
pub(crate) struct BuildOptions<'a> {
    pub(crate) arch: Arch,
    /// Fragments of configuration, by name or path; later ones win.
    pub(crate) fragments: &'a [String],
    /// Options, `CONFIG_X=y`, that win over all fragments.
    pub(crate) settings: &'a [String],
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
    /// What is in it, the largest first: bytes before compression, and the part's name.
    pub(crate) parts: Vec<(u64, String)>,
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
    #[error("there is no kernel configuration {0}: neither a file nor one of {known}", known = fragments::known())]
    NoFragment(String),
    #[error(
        "with this configuration cpud could not run; also needed: {}", .0.join(", ")
    )]
    CannotRunCpud(Vec<&'static str>),
    #[error(
        "the kernel's configuration tool dropped options that were asked for \
         (renamed, or something they depend on is off):{}", config::list(.0)
    )]
    Dropped(Vec<String>),
    #[error("cannot configure the kernel")]
    Configure(#[source] tools::Error),
    #[error("cannot build the kernel")]
    Make(#[source] tools::Error),
    #[error(transparent)]
    Tools(#[from] tools::Error),
    #[error(transparent)]
    Cache(#[from] cache::Error),
    #[error(transparent)]
    Lock(#[from] lock::Error),
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
    options: &BuildOptions<'_>,
    cache: &CacheDirectory,
    progress: Progress,
) -> Result<Built, Error> {
    let requested = configuration(options)?;
    check_tools(options.arch)?;
    let source = KernelSource::find(cache, progress)?;
    let cross = options.arch.cross_prefix();
    let compiler = tools::first_line(version_of(&format!("{cross}gcc")))?
        + &tools::first_line(version_of(&format!("{cross}ld")))?;
    let tree_key = digest(&[
        source.identity().as_bytes(),
        compiler.as_bytes(),
        options.arch.facts().kernel_name.as_bytes(),
        // Otherwise two kernels built alternately would each recompile most of the other's objects.
        options.fragments.join(",").as_bytes(),
    ]);

    // A directory's contents may change, so only make can tell what is up to date.
    let finished = match source {
        KernelSource::Tarball { .. } => {
            let requested = requested.to_string();
            let epoch = options.epoch.to_be_bytes();
            let key = digest(&[
                tree_key.as_bytes(),
                requested.as_bytes(),
                &epoch,
                options.initramfs,
            ]);
            Some(cache.directory("images")?.join(key))
        }
        KernelSource::Directory(_) => None,
    };
    if let Some(built) = finished.as_deref().and_then(read_finished) {
        return Ok(built);
    }

    let tree = BuildTree {
        source: source.unpack(cache, progress)?,
        objects: cache.directory("objects")?.join(tree_key),
        arch: options.arch,
        epoch: options.epoch,
        progress,
    };
    let lock = Lock::beside(&tree.objects, progress)?;
    let config = tree.configure(&requested, &lock)?;
    let image = tree.make(options.initramfs, &lock)?;
    let parts = tree.parts()?;
    let built = Built {
        image,
        config,
        parts,
    };
    if let Some(path) = finished {
        keep_finished(&path, &built)?;
    }
    Ok(built)
}

/// Whether the cache has the objects of a kernel of the usual configuration, or of another that is close to it.
pub(crate) fn was_compiled(arch: Arch, cache: &CacheDirectory) -> bool {
    let trees = cache
        .directory("objects")
        .ok()
        .and_then(|path| fs::read_dir(path).ok());
    let image = arch.facts().kernel_image;
    trees.is_some_and(|mut trees| {
        trees.any(|tree| tree.is_ok_and(|tree| tree.path().join(image).exists()))
    }) && check_tools(arch).is_ok()
}

/// The fragments, and what this build adds to them.
fn configuration(options: &BuildOptions<'_>) -> Result<KernelConfig, Error> {
    let line = options.command_line;
    if line.len() > MAX_COMMAND_LINE || !line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(Error::CommandLine(line.to_owned()));
    }
    let mut requested = fragments::merge(options.arch, options.fragments)?;
    requested.merge(KernelConfig::parse("--set", &options.settings.join("\n"))?);
    if !line.is_empty() {
        for option in options.arch.facts().command_line_options {
            requested.enable(option);
        }
        requested.set_string("CONFIG_CMDLINE", line);
    }
    match requested.missing_for_cpud().as_slice() {
        [] => Ok(requested),
        missing => Err(Error::CannotRunCpud(missing.to_vec())),
    }
}

fn check_tools(arch: Arch) -> Result<(), Error> {
    let tool = |program, package| Tool { program, package };
    let mut tools = vec![
        tool("make", "make"),
        tool("gcc", "gcc"),
        tool("ld", "binutils"),
        tool("flex", "flex"),
        tool("bison", "bison"),
        tool("bc", "bc"),
        tool("xz", "xz-utils"),
    ];
    if arch != Arch::HERE {
        tools.push(arch.facts().cross_compiler);
    }
    tools::require(&tools)?;
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
        parts: read_parts(&fs::read_to_string(path.join("parts")).ok()?),
    })
}

fn read_parts(text: &str) -> Vec<(u64, String)> {
    text.lines()
        .filter_map(|line| {
            let (size, name) = line.split_once(' ')?;
            Some((size.parse().ok()?, name.to_owned()))
        })
        .collect()
}

/// Put a finished kernel into the cache: both files or none.
fn keep_finished(path: &Path, built: &Built) -> Result<(), Error> {
    let images = crate::publish::directory_of(path);
    let keep = failed("keep the kernel in", path);
    let write = || -> io::Result<()> {
        let directory = tempfile::tempdir_in(images)?;
        fs::write(directory.path().join("cpukernel"), &built.image)?;
        fs::write(directory.path().join("cpu.config"), &built.config)?;
        let parts: Vec<String> = built
            .parts
            .iter()
            .map(|(size, name)| format!("{size} {name}"))
            .collect();
        fs::write(directory.path().join("parts"), parts.join("\n"))?;
        // After the rename there is nothing under this name; otherwise the directory is removed with its contents.
        fs::rename(directory.path(), path)
    };
    match write() {
        // Another mkimage has just published the same bytes.
        Err(_) if read_finished(path).is_some() => Ok(()),
        result => result.map_err(keep),
    }?;
    Ok(CacheDirectory::keep_newest(images, KEEP_IMAGES)?)
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

    fn common() -> [String; 1] {
        ["common".to_owned()]
    }

    fn options<'a>(fragments: &'a [String], command_line: &'a str) -> BuildOptions<'a> {
        BuildOptions {
            arch: Arch::X86_64,
            fragments,
            settings: &[],
            command_line,
            initramfs: b"",
            epoch: 0,
        }
    }

    #[test]
    fn the_fragments_are_readable_and_hold_the_command_line() {
        let text = configuration(&options(&common(), "a=\"b c\" quiet"))
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
                configuration(&options(&common(), line)),
                Err(Error::CommandLine(_))
            ));
        }
        assert!(configuration(&options(&common(), &long[1..])).is_ok());
    }

    #[test]
    fn single_options_win_and_must_leave_cpud_what_it_needs() {
        let fragments = common();
        let with = |settings: &[String]| {
            configuration(&BuildOptions {
                settings,
                ..options(&fragments, "")
            })
        };
        let text = with(&["CONFIG_FUSE_FS=n".to_owned()]).unwrap().to_string();
        assert!(text.contains("# CONFIG_FUSE_FS is not set\n"), "{text}");
        let without = |options: &[&str]| {
            let settings: Vec<String> = options.iter().map(|name| format!("{name}=n")).collect();
            with(&settings)
        };
        assert!(without(&["CONFIG_9P_FS"]).is_ok());
        let error = without(&["CONFIG_9P_FS", "CONFIG_FUSE_FS"]).unwrap_err();
        let expected = "also needed: CONFIG_FUSE_FS (or CONFIG_9P_FS with CONFIG_NET_9P_FD)";
        assert!(error.to_string().ends_with(expected), "{error}");
        let error = without(&["CONFIG_NET_9P_FD"]).unwrap_err();
        assert!(error.to_string().ends_with(": CONFIG_NET_9P_FD"), "{error}");
        assert!(matches!(
            with(&["9P_FS=y".to_owned()]),
            Err(Error::Fragment(_))
        ));
    }

    #[test]
    fn a_finished_kernel_is_found_again_whole_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(read_finished(&path).is_none());
        let built = Built {
            image: b"image".to_vec(),
            config: b"config".to_vec(),
            parts: vec![(7, "net".to_owned())],
        };
        keep_finished(&path, &built).unwrap();
        keep_finished(&path, &built).unwrap();
        let found = read_finished(&path).unwrap();
        assert_eq!((found.image, found.parts), (built.image, built.parts));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::remove_file(path.join("cpu.config")).unwrap();
        assert!(read_finished(&path).is_none());
    }
}
