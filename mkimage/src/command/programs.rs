//! `mkimage programs`: cpu and cpud, from mkimage itself, from beside it, or compiled.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::CommonOptions;
use crate::archive::decompress::{self, MAX_UNPACKED};
use crate::progress::Progress;
use crate::tools::{self, Tool};
use crate::{arch::Arch, carried, program, publish, read};

/// Permission bits of programs.
const EXECUTABLE: u32 = 0o755;

/// Get cpud for the machine and cpu for desktops, without a compiler if possible
#[derive(clap::Args)]
#[command(
    visible_alias = "cpud",
    after_help = "\
Example: mkimage programs --arch aarch64 -o board

Writes cpud and cpu. They are those that mkimage has inside, if it was made for a release; else those beside the
program mkimage; else, in a source tree, they are compiled for ARCH-unknown-linux-musl."
)]
pub(crate) struct ProgramsArgs {
    #[command(flatten)]
    common: CommonOptions,

    /// Compile them, whatever mkimage has inside
    #[arg(long)]
    compile: bool,
}

/// The bytes of each program, by its name.
type Programs = Vec<(&'static str, Vec<u8>)>;

impl ProgramsArgs {
    pub(crate) fn run(&self, progress: Progress) -> Result<()> {
        let started = Instant::now();
        let common = &self.common;
        let _lock = common.lock(progress)?;
        let (origin, programs) = self.find(progress)?;
        for (name, bytes) in &programs {
            program::check(bytes, common.arch)
                .with_context(|| format!("{name} of {origin} cannot run on every Linux"))?;
        }
        for (name, bytes) in programs {
            let path = common.path(name);
            publish::replace(&path, EXECUTABLE, &bytes)?;
            progress.made(&path, bytes.len(), started);
        }
        progress.say(format!("cpud and cpu: from {origin}"));
        Ok(())
    }

    /// Where the programs come from, and their bytes.
    fn find(&self, progress: Progress) -> Result<(String, Programs)> {
        let arch = self.common.arch;
        if !self.compile {
            if let Some(programs) = carried(arch)? {
                return Ok(("mkimage itself".to_owned(), programs));
            }
            let mkimage = std::env::current_exe().context("cannot find mkimage itself")?;
            let beside = mkimage.parent().unwrap_or(Path::new("/"));
            if let Some(programs) = beside_mkimage(arch, beside) {
                return Ok((beside.display().to_string(), programs));
            }
        }
        let here = std::env::current_dir().context("cannot find the working directory")?;
        let Some(source) = here.ancestors().find(|path| is_source(path)) else {
            let here = here.display();
            if self.compile {
                bail!("cannot compile cpud: {here} is in no source tree of it; run mkimage in one");
            }
            bail!(
                "there is no cpud for {arch}: mkimage has none inside (a release's has), cpud and cpu for {arch} are not \
                 both beside it, and {here} is in no source tree, where they would be compiled; take the mkimage of a \
                 release or of make carry, or put cpud and cpu into {}",
                self.common.output.display()
            );
        };
        let programs = compile(source, arch, progress)?;
        Ok((format!("the source in {}", source.display()), programs))
    }
}

/// The ones that mkimage has inside, if it has any.
fn carried(arch: Arch) -> Result<Option<Programs>> {
    let mut programs = Vec::new();
    for name in carried::PROGRAMS {
        let Some(packed) = carried::find(arch, name) else {
            return Ok(None);
        };
        let unpacked = decompress::unpack_first(packed, MAX_UNPACKED)
            .with_context(|| format!("mkimage's own {name} is damaged"))?
            .with_context(|| format!("mkimage's own {name} is not compressed"))?;
        programs.push((name, unpacked.bytes));
    }
    Ok(Some(programs))
}

/// The ones in mkimage's own directory, if both are there and run on the machine.
fn beside_mkimage(arch: Arch, directory: &Path) -> Option<Programs> {
    let program = |name: &'static str| {
        let bytes = read::whole(&directory.join(name), MAX_UNPACKED).ok()?;
        program::check(&bytes, arch).ok().map(|()| (name, bytes))
    };
    carried::PROGRAMS.into_iter().map(program).collect()
}

/// Whether a directory is the top of this project's source.
fn is_source(directory: &Path) -> bool {
    ["cpud", "cpu-client", "cpu-proto"]
        .iter()
        .all(|name| directory.join(name).join("Cargo.toml").is_file())
}

/// Compile the programs, cpud with the profile that makes it small.
fn compile(source: &Path, arch: Arch, progress: Progress) -> Result<Programs> {
    let cargo = Tool {
        program: "cargo",
        package: "rustup",
    };
    let mut needed = vec![cargo];
    if arch == Arch::HERE {
        needed.push(Tool {
            program: "musl-gcc",
            package: "musl-tools",
        });
    } else {
        needed.push(arch.facts().cross_compiler);
    }
    tools::require(&needed)?;
    let _task = progress.task("compiling", None);
    let mut programs = Vec::new();
    for name in carried::PROGRAMS {
        let (package, profile) = match name {
            "cpud" => ("cpud", "small"),
            _ => ("cpu-client", "release"),
        };
        let (cargo, directory) = cargo_build(source, arch, package, profile);
        tools::run_short(cargo, progress).with_context(|| format!("cannot compile {name}"))?;
        let path = directory.join(name);
        let bytes = read::whole(&path, MAX_UNPACKED)
            .with_context(|| format!("cannot read {}", path.display()))?;
        programs.push((name, bytes));
    }
    Ok(programs)
}

/// The command that compiles a package, and the directory to which it writes.
fn cargo_build(source: &Path, arch: Arch, package: &str, profile: &str) -> (Command, PathBuf) {
    let target = format!("{arch}-unknown-linux-musl");
    let built = source.join("target").join("mkimage");
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(source)
        .args(["build", "--quiet", "--profile", profile, "-p", package])
        .args(["--target", &target, "--target-dir"])
        .arg(&built);
    if arch != Arch::HERE {
        let prefix = arch.cross_prefix();
        let name = target.replace('-', "_");
        cargo
            .env(format!("CC_{name}"), format!("{prefix}gcc"))
            .env(format!("AR_{name}"), format!("{prefix}ar"))
            .env(
                format!("CARGO_TARGET_{}_LINKER", name.to_uppercase()),
                "rust-lld",
            );
    }
    (cargo, built.join(target).join(profile))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn programs_beside_mkimage_are_those_of_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("cpud"),
            program::tests::elf(Arch::X86_64, None),
        )
        .unwrap();
        assert!(beside_mkimage(Arch::X86_64, dir.path()).is_none());
        fs::write(
            dir.path().join("cpu"),
            program::tests::elf(Arch::X86_64, None),
        )
        .unwrap();
        assert!(beside_mkimage(Arch::X86_64, dir.path()).is_some());
        assert!(beside_mkimage(Arch::Aarch64, dir.path()).is_none());
    }

    #[test]
    fn the_source_is_recognised() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(is_source(here.parent().unwrap()));
        assert!(!is_source(here));
    }
}
