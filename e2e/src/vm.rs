//! A machine in QEMU, booted by `qemu/run`, with its console in a file. It ends when the value is
//! dropped.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::monitor::{self, Monitor};
use crate::port::Port;
use crate::{out, root, wait_until};

/// Booting takes seconds; a busy machine without KVM may need much longer.
const BOOT: Duration = Duration::from_mins(3);

/// A booted machine that serves.
pub struct Vm {
    /// None for a machine that another process has booted and will end.
    qemu: Option<Child>,
    port: u16,
    /// If it was booted here.
    _reserved: Option<Port>,
    console: File,
    path: PathBuf,
    // Holds the console's file and the monitor's socket.
    directory: Option<TempDir>,
}

/// Where another process finds a booted machine.
#[derive(Debug, Clone)]
pub struct Booted {
    /// [`Vm::port`].
    pub port: u16,
    /// The file with its console's output.
    pub console: PathBuf,
}

impl Vm {
    /// Boot `out/x86_64/cpukernel` and wait until it serves.
    pub fn boot() -> Result<Self> {
        Self::boot_kernel(&out().join("cpukernel"), &[])
    }

    /// The same with one processor, which is emulated faster than two: none waits for the other.
    pub fn boot_uniprocessor() -> Result<Self> {
        let mut script = Command::new(root().join("qemu/run"));
        script
            .env("KERNEL", out().join("cpukernel"))
            .env("CPUS", "1");
        Self::start(script)
    }

    /// Boot a kernel image with more arguments for QEMU.
    pub fn boot_kernel(kernel: &Path, qemu_args: &[&str]) -> Result<Self> {
        let mut script = Command::new(root().join("qemu/run"));
        script.env("KERNEL", kernel).args(qemu_args);
        Self::start(script)
    }

    /// Boot what a script or QEMU itself boots; as the scripts do, it takes its port from $PORT and more arguments
    /// for QEMU, is QEMU in the end, and has the console on its output.
    pub fn start(mut command: Command) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("console");
        let port = Port::reserve()?;
        let mut qemu = command
            .args(monitor::arguments(directory.path()))
            .env("PORT", port.number().to_string())
            .stdin(Stdio::null())
            .stdout(File::create(&path)?)
            .stderr(File::options().append(true).open(&path)?)
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let console = File::open(&path)?;
        let ended = wait_until("the machine says that it serves", BOOT, || {
            if let Some(status) = qemu.try_wait()? {
                bail!("QEMU ended with {status}");
            }
            Ok(announcement(&read(&console)))
        });
        let vm = Self {
            qemu: Some(qemu),
            port: port.number(),
            _reserved: Some(port),
            console,
            path,
            directory: Some(directory),
        };
        ended.with_context(|| format!("its console:\n{}", vm.console()))?;
        Ok(vm)
    }

    /// For another process.
    pub fn booted(&self) -> Booted {
        Booted {
            port: self.port,
            console: self.path.clone(),
        }
    }

    /// A machine that another process has booted.
    pub fn of(booted: &Booted) -> Result<Self> {
        Ok(Self {
            qemu: None,
            port: booted.port,
            _reserved: None,
            console: File::open(&booted.console)?,
            path: booted.console.clone(),
            directory: None,
        })
    }

    /// QEMU's monitor, of a machine that was booted here.
    pub fn monitor(&self) -> Result<Monitor<'_>> {
        let directory = self.directory.as_ref();
        Ok(Monitor::new(
            directory.context("another process has booted it")?.path(),
        ))
    }

    /// The TCP port on 127.0.0.1 that is the machine's 17010.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// QEMU's process.
    pub fn pid(&self) -> Result<u32> {
        let qemu = self.qemu.as_ref();
        Ok(qemu.context("another process has booted it")?.id())
    }

    /// Whether QEMU has ended by itself, as when the machine powers off.
    pub fn has_ended(&mut self) -> Result<Option<()>> {
        let qemu = self.qemu.as_mut();
        let qemu = qemu.context("another process has booted it")?;
        Ok(qemu.try_wait()?.map(drop))
    }

    /// All that the machine has written on its console.
    pub fn console(&self) -> String {
        read(&self.console)
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
        announcement(&self.console())
    }
}

fn announcement(console: &str) -> Option<String> {
    console
        .lines()
        .find(|line| {
            line.contains("port 17010") && line.contains("SHA256:") && line.contains("; try:")
        })
        .map(str::to_owned)
}

/// All of a file, wherever it was read to: QEMU is writing it.
fn read(console: &File) -> String {
    let length = console.metadata().map_or(0, |meta| meta.len());
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let count = console.read_at(&mut bytes, 0).unwrap_or(0);
    String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).into_owned()
}

impl Drop for Vm {
    fn drop(&mut self) {
        let Some(qemu) = &mut self.qemu else { return };
        // The script execs QEMU, so this is QEMU's own pid.
        if let Ok(None) = qemu.try_wait()
            && let Ok(pid) = i32::try_from(qemu.id())
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let ended = wait_until(
            "QEMU ends",
            Duration::from_secs(10),
            || Ok(qemu.try_wait()?),
        );
        if ended.is_err() {
            let _ = qemu.kill();
            let _ = qemu.wait();
        }
    }
}
