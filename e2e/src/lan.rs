//! A test's own network: a network namespace with a bridge, to which machines are connected and on which dnsmasq answers.
//! Needs root. Everything is removed when the value is dropped.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::vm::Vm;

/// The addresses that dnsmasq gives out.
pub const RANGE: &str = "192.168.77.10,192.168.77.99";

/// A machine's network card, and what is in its ROM.
#[derive(Clone, Copy)]
pub enum Card {
    /// iPXE.
    Ipxe,
    /// Nothing.
    Plain,
    /// Nothing; and what comes to it is tagged with VLAN 0 and a priority (IEEE 802.1Q, 6.7), as by some switches.
    Tagged,
    /// Nothing; and the network is the VLAN with this number.
    Vlan(u16),
}

/// Takes frames between a TAP device and QEMU's UDP socket, and tags those to QEMU; with the number of a VLAN it takes only
/// frames from QEMU that are tagged so. Python, since the device is had by an ioctl(2) (tuntap.rst of the kernel).
const TAGGER: &str = "
import fcntl, os, select, socket, struct, sys
tap, mine, other, vlan = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
tag = struct.pack('>HH', 0x8100, vlan or 0xa000)
device = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(device, 0x400454ca, struct.pack('16sH22x', tap.encode(), 0x1002))  # TUNSETIFF: IFF_TAP | IFF_NO_PI
wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
wire.bind(('127.0.0.1', mine))
while True:
    for ready in select.select([device, wire], [], [])[0]:
        if ready is wire:
            frame = wire.recv(65536)
            if not vlan:
                os.write(device, frame)
            elif frame[12:16] == tag:
                os.write(device, frame[:12] + frame[16:])
        else:
            frame = os.read(device, 65536)
            wire.sendto(frame[:12] + tag + frame[12:], ('127.0.0.1', other))
";

/// The network, with its server at 192.168.77.1.
pub struct Lan {
    name: String,
    machines: AtomicU32,
    /// dnsmasq, and what else runs on it.
    children: Vec<Child>,
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
            children: Vec::new(),
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
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// A computer that is plugged in, with an address of the network and its length, as in 192.168.77.2/24.
    pub fn plug(&self, address: &str) -> Result<LanHost> {
        let number = self.machines.fetch_add(1, Ordering::Relaxed);
        let host = LanHost {
            name: format!("{}-{number}", self.name),
        };
        run(Command::new("ip").args(["netns", "add", &host.name]))?;
        let name = &host.name;
        for words in [
            format!("link add veth{number} type veth peer name eth0 netns {name}"),
            format!("link set veth{number} master br0"),
            format!("link set veth{number} up"),
        ] {
            run(self.command("ip").args(words.split(' ')))?;
        }
        for words in [
            "link set lo up".to_owned(),
            format!("addr add {address} dev eth0"),
            "link set eth0 up".to_owned(),
        ] {
            run(host.command("ip").args(words.split(' ')))?;
        }
        Ok(host)
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
        self.children
            .push(command.spawn().context("cannot run dnsmasq")?);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("dnsmasq.log")
    }

    /// Boot a machine that is plugged in; `arguments` are QEMU's. Wait until it serves. A card with iPXE
    /// in it boots by that, one without by what the firmware has.
    pub fn boot(&mut self, card: Card, arguments: &[impl AsRef<OsStr>]) -> Result<Vm> {
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
            .arg(match card {
                Card::Tagged => self.tag(&tap, 0)?,
                Card::Vlan(number) => self.tag(&tap, number)?,
                _ => format!("tap,id=net0,ifname={tap},script=no,downscript=no"),
            })
            .arg("-device")
            .arg(format!(
                "virtio-net-pci,netdev=net0,mac=52:54:00:00:77:{:02x}{}",
                number + 1,
                match card {
                    Card::Ipxe => "",
                    Card::Plain | Card::Tagged | Card::Vlan(_) => ",romfile=",
                }
            ))
            .args(arguments);
        Vm::start(qemu).with_context(|| {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            format!("dnsmasq said:\n{log}")
        })
    }

    /// Run the tagger on a TAP device; what QEMU is to be told.
    fn tag(&mut self, tap: &str, vlan: u16) -> Result<String> {
        // Nobody else is in this network namespace.
        let (mine, other) = ("7001", "7002");
        let mut command = self.command("python3");
        command.args(["-c", TAGGER, tap, mine, other, &vlan.to_string()]);
        self.children
            .push(command.spawn().context("cannot run python3")?);
        Ok(format!(
            "socket,id=net0,udp=127.0.0.1:{mine},localaddr=127.0.0.1:{other}"
        ))
    }
}

/// A computer on the network: a network namespace that shares everything else with this one.
pub struct LanHost {
    name: String,
}

impl LanHost {
    /// A program on this computer.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for LanHost {
    fn drop(&mut self) {
        let _ = run(Command::new("ip").args(["netns", "delete", &self.name]));
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
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
