//! A network of the test's own: a network namespace with a bridge, which machines are plugged into and
//! dnsmasq answers on. Needs root. Gone when dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::vm::Vm;

/// The addresses that dnsmasq gives out.
pub const RANGE: &str = "192.168.77.10,192.168.77.99";

/// What is in the ROM of a machine's network card.
#[derive(Clone, Copy)]
pub enum Card {
    /// iPXE.
    Ipxe,
    /// Nothing.
    Plain,
}

/// The network, with its server at 192.168.77.1.
pub struct Lan {
    name: String,
    machines: AtomicU32,
    dnsmasq: Option<Child>,
    directory: TempDir,
}

impl Lan {
    /// An empty one.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let lan = Self {
            name: format!("cpu-e2e-{}-{count}", std::process::id()),
            machines: AtomicU32::new(0),
            dnsmasq: None,
            directory: tempfile::tempdir()?,
        };
        run(Command::new("ip").args(["netns", "add", &lan.name]))?;
        for words in [
            "link set lo up",
            "link add br0 type bridge",
            "addr add 192.168.77.1/24 dev br0",
            "link set br0 up",
        ] {
            run(lan.command("ip").args(words.split(' ')))?;
        }
        Ok(lan)
    }

    /// A program on this network.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Serve with a configuration of dnsmasq.
    pub fn serve(&mut self, config: &Path) -> Result<()> {
        let log = File::create(self.log())?;
        let mut command = self.command("dnsmasq");
        command
            .args(["--no-daemon", "--dhcp-leasefile=/dev/null"])
            .arg(format!("--conf-file={}", config.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.dnsmasq = Some(command.spawn().context("cannot run dnsmasq")?);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("dnsmasq.log")
    }

    /// Boot a machine that is plugged in; `arguments` are QEMU's. Wait until it serves. A card with iPXE
    /// in it boots by that, one without by what the firmware has.
    pub fn boot(&self, card: Card, arguments: &[&str]) -> Result<Vm> {
        let number = self.machines.fetch_add(1, Ordering::Relaxed);
        let tap = format!("tap{number}");
        for words in [
            format!("tuntap add {tap} mode tap"),
            format!("link set {tap} master br0"),
            format!("link set {tap} up"),
        ] {
            run(self.command("ip").args(words.split(' ')))?;
        }
        let mut qemu = self.command("qemu-system-x86_64");
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
            .args(["-m", "512M", "-no-reboot", "-nographic", "-netdev"])
            .arg(format!("tap,id=net0,ifname={tap},script=no,downscript=no"))
            .arg("-device")
            .arg(format!(
                "virtio-net-pci,netdev=net0,mac=52:54:00:00:77:{:02x}{}",
                number + 1,
                match card {
                    Card::Ipxe => "",
                    Card::Plain => ",romfile=",
                }
            ))
            .args(arguments);
        Vm::start(qemu).with_context(|| {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            format!("dnsmasq said:\n{log}")
        })
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        if let Some(mut dnsmasq) = self.dnsmasq.take() {
            let _ = dnsmasq.kill();
            let _ = dnsmasq.wait();
        }
        let _ = run(Command::new("ip").args(["netns", "delete", &self.name]));
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(())
}
