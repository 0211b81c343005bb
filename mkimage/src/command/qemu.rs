//! `mkimage qemu`.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::IntoRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::fs::{MemfdFlags, memfd_create};

use super::CommonOptions;
use super::login_hint::date_command;
use super::prepare::PrepareArgs;
use crate::media::inputs;
use crate::plan::Product;
use crate::progress::Progress;
use crate::tools::{self, Tool};

/// Boot the machine in this terminal; Ctrl-C ends it
#[derive(clap::Args)]
#[command(after_help = "\
Example: mkimage qemu -o board
Then, in another terminal: cd board && ./cpu -key cpu_rsa localhost date

Boots DIR/cpukernel, which is made first if it is not there. The environment variables PORT, NIC, MEMORY, CPUS and QEMU_ACCEL
change the machine.")]
pub(crate) struct QemuArgs {
    #[command(flatten)]
    common: CommonOptions,

    #[command(flatten)]
    prepare: PrepareArgs,

    /// Passed on to QEMU
    #[arg(last = true, value_name = "ARGUMENT")]
    more: Vec<OsString>,
}

impl QemuArgs {
    pub(crate) fn run(&self, progress: Progress) -> Result<()> {
        let common = &self.common;
        let program = match common.arch.to_string().as_str() {
            "aarch64" => Tool {
                program: "qemu-system-aarch64",
                package: "qemu-system-arm",
            },
            _ => Tool {
                program: "qemu-system-x86_64",
                package: "qemu-system-x86",
            },
        };
        tools::require(&[program])?;
        if !self.prepare.run(&[Product::Kernel], common, progress)? {
            return Ok(());
        }
        let kernel = common.path("cpukernel");
        inputs::read("the kernel (mkimage kernel)", &kernel)?;
        let mut command = Command::new("bash");
        command.arg(script()?).arg("-kernel").arg(&kernel).args([
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-monitor",
            "none",
        ]);
        let initrd = common.path("cpuinitrd");
        if initrd.exists() {
            command.arg("-initrd").arg(initrd);
        }
        if let Ok(line) = std::fs::read_to_string(common.path("cpukernel.cmdline")) {
            command.args(["-append", line.trim_end()]);
        }
        command.args(&self.more);
        command.env("ARCH", common.arch.to_string());
        let host = match std::env::var("PORT") {
            Ok(port) if !port.is_empty() && port != "17010" => format!("-sp {port} localhost"),
            _ => "localhost".to_owned(),
        };
        progress.say(format!(
            "When it serves, in another terminal: cd {} && {}",
            common.output.display(),
            date_command(
                &kernel,
                &common.path("cpu_rsa.pub"),
                "cpu_rsa",
                "./cpu",
                &host
            )
        ));
        Err(command.exec()).context("cannot run bash")
    }
}

/// The name of the script that starts QEMU, which is inside mkimage. The name is valid after exec(2).
fn script() -> Result<String> {
    let text = include_str!("../../../qemu/QEMU");
    // Without close-on-exec: bash opens it by this name.
    let mut file = File::from(
        memfd_create("QEMU", MemfdFlags::empty()).context("cannot make a file in memory")?,
    );
    file.write_all(text.as_bytes())?;
    Ok(format!("/proc/self/fd/{}", file.into_raw_fd()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_script_is_read_by_its_name() {
        let read = std::fs::read_to_string(super::script().unwrap()).unwrap();
        assert_eq!(read, include_str!("../../../qemu/QEMU"));
    }
}
