//! A directory of object files in the cache, which the kernel's own make configures, compiles and links,
//! and in which it does only what has changed. The caller holds its lock.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::config::KernelConfig;
use super::{Error, failed};
use crate::arch::Arch;
use crate::epoch;
use crate::lock::Lock;
use crate::progress::Progress;
use crate::tools;

/// Steps that make prints for a whole build of the fragments here, for the first progress bar.
const USUAL_STEPS: u64 = 2000;

/// A source with the directory where its objects are.
pub(super) struct BuildTree {
    pub(super) source: PathBuf,
    pub(super) objects: PathBuf,
    pub(super) arch: Arch,
    pub(super) epoch: u32,
    pub(super) progress: Progress,
}

impl BuildTree {
    /// Make the `.config`, unless it is there already, and return it.
    pub(super) fn configure(
        &self,
        requested: &KernelConfig,
        lock: &Lock,
    ) -> Result<Vec<u8>, Error> {
        fs::create_dir_all(&self.objects).map_err(failed("make", &self.objects))?;
        let asked_file = self.objects.join("requested.config");
        let config_file = self.objects.join(".config");
        let text = requested.to_string();
        if !fs::read(&asked_file).is_ok_and(|old| old == text.as_bytes()) || !config_file.exists() {
            // A .config skips the check below only if it has passed it before.
            let unchecked = self.objects.join("unchecked.config");
            let _ = fs::remove_file(&asked_file);
            let _ = fs::remove_file(self.compiled());
            fs::write(&unchecked, &text).map_err(failed("write", &unchecked))?;
            let log = self.objects.join("configure.log");
            let mut make = self.command(lock)?;
            make.arg(format!("KCONFIG_ALLCONFIG={}", unchecked.display()));
            make.arg("allnoconfig");
            tools::run(make, &log, self.progress, |_| ()).map_err(Error::Configure)?;
            let made = read(&config_file)?;
            let dropped = requested.dropped_by(&KernelConfig::parse(
                ".config",
                &String::from_utf8_lossy(&made),
            )?);
            if !dropped.is_empty() {
                return Err(Error::Dropped(dropped));
            }
            fs::rename(&unchecked, &asked_file).map_err(failed("rename", &unchecked))?;
        }
        read(&config_file)
    }

    /// Compile what is not compiled yet, link, and return the image.
    pub(super) fn make(&self, initramfs: &[u8], lock: &Lock) -> Result<Vec<u8>, Error> {
        // CONFIG_INITRAMFS_SOURCE. Left alone when it is the same, and so is what depends on it.
        let archive = self.objects.join("initramfs.cpio");
        if !fs::read(&archive).is_ok_and(|old| old == initramfs) {
            fs::write(&archive, initramfs).map_err(failed("write", &archive))?;
        }
        let mut task = if self.compiled().exists() {
            self.progress.task("linking", None)
        } else {
            self.progress.task("compiling", Some(USUAL_STEPS))
        };
        let log = self.objects.join("build.log");
        let mut make = self.command(lock)?;
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        make.arg(format!("-j{jobs}"))
            .arg(self.arch.facts().kernel_target);
        tools::run(make, &log, self.progress, |line| {
            if is_step(line) {
                task.step();
            }
        })
        .map_err(Error::Make)?;
        drop(task);
        let compiled = self.compiled();
        fs::write(&compiled, "").map_err(failed("write", &compiled))?;
        read(&self.objects.join(self.arch.facts().kernel_image))
    }

    /// How large the parts are before compression, the largest first: of each top directory what is
    /// linked of it, and the initramfs.
    pub(super) fn parts(&self) -> Result<Vec<(u64, String)>, Error> {
        let archive = self.objects.join("initramfs.cpio");
        let initramfs = fs::metadata(&archive).map_err(failed("read", &archive))?;
        let mut parts = vec![(initramfs.len(), "the initramfs".to_owned())];
        // The architecture's code is one level further down.
        for beneath in ["", "arch"] {
            parts.extend(self.parts_beneath(beneath)?);
        }
        parts.sort_by(|a, b| b.cmp(a));
        Ok(parts)
    }

    fn parts_beneath(&self, directory: &str) -> Result<Vec<(u64, String)>, Error> {
        let mut parts = Vec::new();
        let path = self.objects.join(directory);
        for entry in fs::read_dir(&path)
            .map_err(failed("list", &path))?
            .flatten()
        {
            let built_in = entry.path().join("built-in.a");
            let name = Path::new(directory).join(entry.file_name());
            // The directory usr holds the initramfs.
            if name == Path::new("usr") || !built_in.exists() {
                continue;
            }
            let mut size = tools::command(format!("{}size", self.arch.cross_prefix()));
            size.arg("--totals").arg(&built_in);
            // Text, data and bss of all objects together, in the last line.
            let text = tools::output(size)?;
            let sum = text.lines().last().map(|line| {
                let numbers = line.split_whitespace().take(2);
                numbers
                    .filter_map(|number| number.parse::<u64>().ok())
                    .sum()
            });
            parts.push((sum.unwrap_or(0), name.display().to_string()));
        }
        Ok(parts)
    }

    /// A file that is there when all of this configuration is compiled.
    fn compiled(&self) -> PathBuf {
        self.objects.join("compiled")
    }

    fn command(&self, lock: &Lock) -> Result<Command, Error> {
        let mut make = tools::command("make");
        make.arg("-C")
            .arg(&self.source)
            .arg(format!("O={}", self.objects.display()))
            .arg(format!("ARCH={}", self.arch.facts().kernel_name))
            .arg(format!("CROSS_COMPILE={}", self.arch.cross_prefix()))
            // User, host, date and build number are in the banner, and so in the image.
            .env("KBUILD_BUILD_USER", "cpu")
            .env("KBUILD_BUILD_HOST", "appliance")
            .env("KBUILD_BUILD_VERSION", "1")
            .env("KBUILD_BUILD_TIMESTAMP", epoch::to_text(self.epoch))
            .stdin(lock.for_child()?);
        Ok(make)
    }
}

/// Kbuild prints `  CC      init/main.o` for every file that it makes.
fn is_step(line: &str) -> bool {
    line.strip_prefix("  ")
        .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_uppercase()))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(failed("read", path))
}

#[cfg(test)]
mod tests {
    use super::is_step;

    #[test]
    fn steps_are_what_kbuild_prints_for_each_file() {
        assert!(is_step("  CC      init/main.o"));
        assert!(is_step("  LD [M]  x.ko"));
        for line in [
            "make[1]: Entering directory '/x'",
            "",
            "  ",
            "Kernel: arch/x86/boot/bzImage is ready  (#1)",
        ] {
            assert!(!is_step(line), "{line}");
        }
    }
}
