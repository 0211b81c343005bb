//! A machine in QEMU: booted by the same script that `make qemu` uses, its console in a file,
//! gone when this value is dropped.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{out, root, wait_until};

/// Booting takes seconds; a busy machine without KVM may need much longer.
const BOOT: Duration = Duration::from_mins(3);

/// A booted machine that serves.
pub struct Vm {
    qemu: Child,
    port: u16,
    console: PathBuf,
    // Holds the console's file.
    _directory: TempDir,
}

impl Vm {
    /// Boot `out/x86_64/cpukernel` and wait until it serves.
    pub fn boot() -> Result<Self> {
        Self::boot_kernel(&out().join("cpukernel"), &[])
    }

    /// Boot a kernel image with more arguments for QEMU.
    pub fn boot_kernel(kernel: &Path, qemu_args: &[&str]) -> Result<Self> {
        let mut script = Command::new(root().join("qemu/run"));
        script.env("KERNEL", kernel).args(qemu_args);
        Self::start(script)
    }

    /// Boot what a script or QEMU itself boots; as the scripts do, it takes its port from $PORT, is QEMU
    /// in the end, and has the console on its output.
    pub fn start(mut command: Command) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let console = directory.path().join("console");
        let port = free_port()?;
        let qemu = command
            .env("PORT", port.to_string())
            .stdin(Stdio::null())
            .stdout(File::create(&console)?)
            .stderr(File::options().append(true).open(&console)?)
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let mut vm = Self {
            qemu,
            port,
            console,
            _directory: directory,
        };
        wait_until("the machine says that it serves", BOOT, || {
            if let Some(status) = vm.qemu.try_wait()? {
                bail!("QEMU ended with {status}; its console:\n{}", vm.console());
            }
            Ok(vm.announcement())
        })
        .with_context(|| format!("its console:\n{}", vm.console()))?;
        Ok(vm)
    }

    /// The TCP port on 127.0.0.1 that is the machine's 17010.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// QEMU's process.
    pub fn pid(&self) -> u32 {
        self.qemu.id()
    }

    /// All that the machine has written on its console.
    pub fn console(&self) -> String {
        let bytes = std::fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The machine's address on its first network card.
    pub fn address(&self) -> Result<String> {
        self.announcement()
            .and_then(|line| {
                let (_, rest) = line.split_once("eth0 ")?;
                Some(rest.split_once(' ')?.0.to_owned())
            })
            .context("no address was announced")
    }

    /// The line that says address, port and host key.
    pub fn announcement(&self) -> Option<String> {
        self.console()
            .lines()
            .find(|line| {
                line.contains("port 17010") && line.contains("SHA256:") && line.contains("; try:")
            })
            .map(str::to_owned)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // The script execs QEMU, so this is QEMU's own pid.
        if let Ok(pid) = i32::try_from(self.qemu.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let ended = wait_until("QEMU ends", Duration::from_secs(10), || {
            Ok(self.qemu.try_wait()?)
        });
        if ended.is_err() {
            let _ = self.qemu.kill();
            let _ = self.qemu.wait();
        }
    }
}

/// A port that nobody listens on. Another process could take it before QEMU does; QEMU then says
/// so and the test fails with its words.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
