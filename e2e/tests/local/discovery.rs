//! Machines that are found on their network: real programs on a network of the test's own.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::client::ended;
use e2e::daemon::keygen;
use e2e::lan::{Lan, LanHost};
use e2e::user::{User, fails, works};
use e2e::{out, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::Test;
use crate::interop::TIMEOUT;

pub(crate) const TESTS: &[Test] = &[
    ("discovery_finds_machines_by_what_they_are", finds),
    ("discovery_refuses_an_impostor", impostor),
    ("discovery_gives_two_machines_two_names", two_of_one_name),
    ("discovery_is_silent_without_the_flag", silent),
    ("discovery_needs_no_address_but_the_links", link_local),
    ("discovery_has_no_privileges", no_privileges),
    ("discovery_survives_hostile_answers", hostile),
    ("discovery_works_with_zeroconf", zeroconf),
];

/// A cpud on a computer of the network.
struct LanCpud {
    child: Child,
    directory: TempDir,
}

impl LanCpud {
    fn start(host: &LanHost, name: &str, flags: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let at = |name: &str| directory.path().join(name);
        keygen(&at("host_key"), &["-t", "ed25519"], "")?;
        fs::copy(out().join("cpu_rsa.pub"), at("keys"))?;
        // With a descriptor that the starter has left open.
        let script = "hostname $0 && exec \"$@\" 7</etc/passwd";
        let child = host
            .command("unshare")
            .args(["--uts", "sh", "-c", script, name])
            .arg(out().join("cpud"))
            .arg("-pk")
            .arg(at("keys"))
            .arg("-hk")
            .arg(at("host_key"))
            .args(flags)
            .stdin(Stdio::null())
            .stderr(File::create(at("log"))?)
            .spawn()?;
        let machine = Self { child, directory };
        machine.says("serving on")?;
        Ok(machine)
    }

    /// One that has made itself known.
    fn found(host: &LanHost, name: &str) -> Result<Self> {
        let machine = Self::start(host, name, &["-dnssd"])?;
        machine.says(" is found as ")?;
        Ok(machine)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn says(&self, what: &str) -> Result<()> {
        let says = wait_until(what, TIMEOUT, || {
            Ok(self.log().contains(what).then_some(()))
        });
        says.with_context(|| self.log())
    }

    fn host_key(&self) -> PathBuf {
        self.directory.path().join("host_key.pub")
    }
}

impl Drop for LanCpud {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

/// A script that runs beside the test.
struct Script(Child);

impl Script {
    /// Python of the system, which has its packages.
    fn start(host: &LanHost, text: &str) -> Result<Self> {
        let mut command = host.command("/usr/bin/python3");
        command.args(["-uc", text]).stdin(Stdio::null());
        command.stdout(Stdio::piped());
        let child = command.spawn().context("cannot run python3")?;
        Ok(Self(child))
    }

    /// Ends it; what it has printed.
    fn end(mut self) -> Result<String> {
        self.0.kill()?;
        let stdout = self.0.stdout.take().context("no output")?;
        Ok(std::io::read_to_string(stdout)?)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A user at a computer of the network, whose key and configuration are as usual.
struct DesktopFixture {
    host: LanHost,
    user: User,
}

impl DesktopFixture {
    fn new(lan: &Lan) -> Result<Self> {
        let (host, user) = (lan.plug("192.168.77.9/24")?, User::new()?);
        user.configure("Host *\nIdentityFile ~/.ssh/own\nHashKnownHosts no\n")?;
        Ok(Self { host, user })
    }

    /// `cpu -9p=false` with these words.
    fn cpu(&self, words: &[&str]) -> Result<Output> {
        let cpu = self.user.cpu(words);
        let mut command = self.host.command(cpu.get_program());
        command.args(cpu.get_args());
        for (name, value) in cpu.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        ended(&mut command)
    }

    fn prints(&self, words: &[&str]) -> Result<String> {
        works(&self.cpu(words)?).with_context(|| format!("{words:?}"))
    }

    /// The rows of `-hosts`, without the headings.
    fn table(&self) -> Result<Vec<Vec<String>>> {
        let table = self.prints(&["-hosts"])?;
        let rows = table.lines().skip(1);
        Ok(rows
            .map(|row| row.split_whitespace().map(str::to_owned).collect())
            .collect())
    }

    fn names(&self) -> Result<Vec<String>> {
        let rows = self.table()?.into_iter();
        let mut names: Vec<_> = rows.filter_map(|row| row.into_iter().next()).collect();
        names.sort();
        Ok(names)
    }
}

fn finds() -> Result<()> {
    let lan = Lan::new()?;
    let hosts = [lan.plug("192.168.77.7/24")?, lan.plug("192.168.77.8/24")?];
    let desktop = DesktopFixture::new(&lan)?;
    let _seven = LanCpud::found(&hosts[0], "board7")?;
    let eight = LanCpud::found(&hosts[1], "board8.lab.example")?;

    // Nobody is accepted unasked who was not named.
    fails(
        &desktop.cpu(&[".", "true"])?,
        &["is new", "there is no terminal"],
    )?;
    let name = desktop.prints(&["board7.local", "uname", "-n"])?;
    ensure!(name == "board7\n", "{name}");
    desktop.prints(&["board8.local", "true"])?;
    let any = desktop.prints(&[".", "uname", "-n"])?;
    ensure!(any.starts_with("board"), "{any}");
    let by_name = "dnssd://board8-cpud._ncpu._tcp";
    let name = desktop.prints(&[by_name, "uname", "-n"])?;
    ensure!(name == "board8.lab.example\n", "{name}");
    let arch = std::env::consts::ARCH;
    let here = format!("root@dnssd://?arch={arch}&cores=>1&tenants=<0&sort=load");
    desktop.prints(&[&here, "true"])?;
    let output = desktop.cpu(&["dnssd://?arch=sparc64", "true"])?;
    fails(&output, &["none of the 2 machine(s)"])?;
    let known = fs::read_to_string(desktop.user.ssh().join("known_hosts"))?;
    ensure!(known.contains("board8.local"), "{known}");

    // A session is counted as long as it lasts.
    let long = desktop.user.cpu(&[by_name, "sleep", "1000"]);
    let mut long = desktop
        .host
        .command(long.get_program())
        .args(long.get_args())
        .env("HOME", desktop.user.home())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let counted = wait_until("the session is counted", TIMEOUT, || {
        let rows = desktop.table()?;
        let row = rows.iter().find(|row| row[0] == "board8.local");
        let row = row.context("no row")?;
        ensure!(row.len() == 9 && row[1] == "192.168.77.8", "{rows:?}");
        ensure!(row[2] == "17010" && row[4] == "linux", "{rows:?}");
        // It is none of the other machine.
        let counts: Vec<_> = rows.iter().map(|row| row[8].as_str()).collect();
        Ok((row[8] == "1" && counts.contains(&"0")).then_some(()))
    });
    long.kill()?;
    long.wait()?;
    counted?;

    // Who ends says goodbye, and is not found any more.
    drop(eight);
    let names = desktop.names()?;
    ensure!(names == ["board7.local"], "{names:?}");
    Ok(())
}

fn impostor() -> Result<()> {
    let lan = Lan::new()?;
    let host = lan.plug("192.168.77.7/24")?;
    let desktop = DesktopFixture::new(&lan)?;
    let real = LanCpud::found(&host, "board7")?;
    desktop.prints(&["board7.local", "true"])?;
    desktop.prints(&[".", "true"])?;
    drop(real);
    let other = LanCpud::found(&host, "board7")?;
    let refused = ["board7.local port 17010", "known_hosts"];
    fails(&desktop.cpu(&[".", "true"])?, &refused)?;
    fails(&desktop.cpu(&["board7.local", "true"])?, &refused)?;
    let key = other.host_key().display().to_string();
    desktop.prints(&["-hk", &key, ".", "true"])?;
    // Nor is it accepted under a name that nobody has heard of, though those who are named are.
    drop(other);
    let _third = LanCpud::found(&host, "board8")?;
    fails(&desktop.cpu(&[".", "true"])?, &["board8.local", "is new"])?;
    let output = desktop.cpu(&["-o", "StrictHostKeyChecking=no", ".", "true"])?;
    fails(&output, &["board8.local", "is new"])?;
    desktop.prints(&["board8.local", "true"])?;
    Ok(())
}

fn two_of_one_name() -> Result<()> {
    let lan = Lan::new()?;
    let hosts = [lan.plug("192.168.77.7/24")?, lan.plug("192.168.77.8/24")?];
    let desktop = DesktopFixture::new(&lan)?;
    // At the same time.
    let [one, other] = hosts
        .each_ref()
        .map(|host| LanCpud::start(host, "board", &["-dnssd"]));
    let (one, other) = (one?, other?);
    one.says(" is found as ")?;
    other.says(" is found as ")?;
    wait_until("both have names", TIMEOUT, || {
        let names = desktop.names()?;
        Ok((names == ["board-2.local", "board.local"]).then_some(()))
    })
    .with_context(|| format!("{}{}", one.log(), other.log()))?;
    desktop.prints(&["board-2.local", "true"])?;
    Ok(())
}

/// Prints from where something is sent to the group.
const LISTENER: &str = "
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('224.0.0.251', 5353))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
             struct.pack('4s4s', socket.inet_aton('224.0.0.251'), socket.inet_aton('192.168.77.9')))
print('ready')
while True:
    print(s.recvfrom(9000)[1][0])
";

fn silent() -> Result<()> {
    let lan = Lan::new()?;
    let host = lan.plug("192.168.77.7/24")?;
    let desktop = DesktopFixture::new(&lan)?;
    let heard = |flags: &[&str]| -> Result<String> {
        let listener = Script::start(&desktop.host, LISTENER)?;
        let machine = LanCpud::start(&host, "board7", flags)?;
        // As long as one that makes itself known takes.
        std::thread::sleep(Duration::from_secs(3));
        let output = desktop.cpu(&["-hosts"])?;
        if flags.is_empty() {
            fails(&output, &["no machine on this network has answered"])?;
            fails(
                &desktop.cpu(&[".", "true"])?,
                &["no machine on this network"],
            )?;
            ensure!(!machine.log().contains("found"), "{}", machine.log());
        } else {
            machine.says("board7.local is found as board7-cpud._ncpu._tcp")?;
            works(&output)?;
        }
        listener.end()
    };
    let told = heard(&["-dnssd"])?;
    ensure!(told.contains("192.168.77.7"), "{told}");
    let told = heard(&[])?;
    ensure!(
        told.starts_with("ready") && !told.contains("192.168.77.7"),
        "{told}"
    );
    Ok(())
}

/// Two computers with a cable between them, where nobody gives out addresses.
fn link_local() -> Result<()> {
    let lan = Lan::new()?;
    let host = lan.plug("192.168.77.7/24")?;
    let desktop = DesktopFixture::new(&lan)?;
    for host in [&host, &desktop.host] {
        let mut flush = host.command("ip");
        works(&ended(flush.args(["-4", "addr", "flush", "dev", "eth0"]))?)?;
    }
    // Nobody has given it a name either.
    let _machine = LanCpud::found(&host, "cpu")?;
    // The desktop's address may be checked for duplicates until now.
    let row = wait_until("the machine is found", TIMEOUT, || {
        Ok(desktop.table().ok().and_then(|mut rows| rows.pop()))
    })?;
    ensure!(
        row[0].starts_with("cpu-") && row[0].contains(".local"),
        "{row:?}"
    );
    ensure!(row[1].starts_with("fe80::"), "{row:?}");
    let name = desktop.prints(&[&row[0], "uname", "-n"])?;
    ensure!(name == "cpu\n", "{name}");
    desktop.prints(&[".", "true"])?;
    Ok(())
}

fn no_privileges() -> Result<()> {
    let lan = Lan::new()?;
    let host = lan.plug("192.168.77.7/24")?;
    let machine = LanCpud::found(&host, "board7")?;
    let server = machine.child.id();
    let role = fs::read_to_string(format!("/proc/{server}/task/{server}/children"))?;
    let role = role.trim();
    let args = fs::read_to_string(format!("/proc/{role}/cmdline"))?;
    ensure!(args.starts_with("cpud\0dnssd\0"), "{args:?}");
    let status = fs::read_to_string(format!("/proc/{role}/status"))?;
    for line in [
        "Uid:\t65534\t65534\t65534\t65534",
        "Gid:\t65534\t65534\t65534\t65534",
        "Groups:\t ",
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        ensure!(status.lines().any(|its| its == line), "{line:?} {status}");
    }
    // Beyond the standard ones it has its sockets and what reports signals.
    for entry in fs::read_dir(format!("/proc/{role}/fd"))? {
        let entry = entry?;
        let what = fs::read_link(entry.path())?.display().to_string();
        let is_standard = ["0", "1", "2"]
            .iter()
            .any(|number| entry.file_name() == *number);
        let is_own = what.starts_with("socket:") || what == "anon_inode:[signalfd]";
        ensure!(is_standard || is_own, "{} {what}", entry.path().display());
    }
    // It ends with its server, however that ends.
    kill(Pid::from_raw(i32::try_from(server)?), Signal::SIGKILL)?;
    wait_until("it has ended", TIMEOUT, || {
        let args = fs::read(format!("/proc/{role}/cmdline")).unwrap_or_default();
        Ok(args.is_empty().then_some(()))
    })
}

/// Answers each question with what no machine would send, and sends it to the group, too.
const ATTACKER: &str = r"
import random, socket, struct
group = '224.0.0.251'
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((group, 5353))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
             struct.pack('4s4s', socket.inet_aton(group), socket.inet_aton('192.168.77.6')))
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton('192.168.77.6'))
def name(*labels):
    return b''.join(bytes([len(label)]) + label for label in labels) + b'\0'
service = (b'_ncpu', b'_tcp', b'local')
def record(name, kind, value, ttl=120):
    return name + struct.pack('>HHIH', kind, 1, ttl, len(value)) + value
def head(answers, flags=0x8400):
    return struct.pack('>HHHHHH', 0, flags, 0, answers, 0, 0)
def machine(label, host, text):
    instance = name(label, *service)
    return head(3) + record(name(*service), 12, instance) + \
        record(instance, 33, struct.pack('>HHH', 0, 0, 22) + host) + record(instance, 16, text)
escape = b'\x1b]0;owned\x07\x1b[2J\r\n'
text = b''.join(bytes([len(pair)]) + pair for pair in
                (b'arch=' + escape, b'os=\x9b1m', b'cores=' + b'9' * 200, b'load=nan', b'mem.total=1e999'))
hostile = [
    b'', b'\0' * 11, head(65535), head(1) + b'\xc0\x0c', head(1) + b'\xc0\xff', head(1) + b'\x3f' * 500,
    head(1) + record(b'\x01a\xc0\x0c', 12, b'\xc0\x0c'), head(1) + record(name(*service), 12, b'\xc0\x0c' * 9),
    machine(escape, name(b'escape', b'local'), text),
    machine(b'elsewhere', name(b'bank', b'example'), text),
    machine(b'option', name(b'-oProxyCommand=id', b'local'), text),
    machine(b'control', name(escape, b'local'), text),
    machine(b'cut', name(b'cut', b'local'), b'\xff' + b'x'),
]
print('ready')
while True:
    query, asker = s.recvfrom(9000)
    if asker[0] == '192.168.77.6':
        continue
    for message in hostile + [random.randbytes(random.randrange(400)) for _ in range(100)]:
        s.sendto(message, asker)
        s.sendto(message, (group, 5353))
";

fn hostile() -> Result<()> {
    let lan = Lan::new()?;
    let hosts = [lan.plug("192.168.77.7/24")?, lan.plug("192.168.77.6/24")?];
    let desktop = DesktopFixture::new(&lan)?;
    let machine = LanCpud::found(&hosts[0], "board7")?;
    let attacker = Script::start(&hosts[1], ATTACKER)?;
    wait_until("the attacker is heard", TIMEOUT, || {
        Ok(desktop
            .names()?
            .contains(&"escape.local".to_owned())
            .then_some(()))
    })?;
    let table = desktop.prints(&["-hosts"])?;
    ensure!(
        table.chars().all(|c| c == '\n' || !c.is_control()),
        "{table:?}"
    );
    // Names that are none of this network are left out.
    let names = desktop.names()?;
    ensure!(
        names == ["board7.local", "cut.local", "escape.local"],
        "{names:?}"
    );
    desktop.prints(&["board7.local", "true"])?;
    ensure!(!machine.log().contains("panicked"), "{}", machine.log());
    let told = attacker.end()?;
    ensure!(told == "ready\n", "{told}");
    Ok(())
}

/// Looks for machines with Debian's package python3-zeroconf.
const BROWSER: &str = "
import time
from zeroconf import IPVersion, ServiceBrowser, Zeroconf
class Listener:
    def add_service(self, z, kind, name):
        info = z.get_service_info(kind, name)
        text = {key.decode(): value.decode() for key, value in info.properties.items()}
        print('add', name, info.server, info.port, *info.parsed_addresses(IPVersion.V4Only), text['os'], *sorted(text))
    def remove_service(self, z, kind, name):
        print('remove', name)
    def update_service(self, z, kind, name):
        pass
z = Zeroconf(interfaces=['192.168.77.9'])
ServiceBrowser(z, '_ncpu._tcp.local.', Listener())
print('ready')
time.sleep(1000)
";

/// Makes a machine known as u-root's cpud does.
const RESPONDER: &str = "
import socket, time
from zeroconf import ServiceInfo, Zeroconf
z = Zeroconf(interfaces=['192.168.77.7'])
kind = '_ncpu._tcp.local.'
text = {'arch': 'ARCH', 'os': 'linux', 'cores': '4', 'cpu.pcnt': '12.500000', 'tenants': '3',
        'mem.avail': '1073741824', 'mem.total': '2147483648'}
z.register_service(ServiceInfo(kind, 'Board 7.' + kind, port=17010, server='uroot7.local.', properties=text,
                               addresses=[socket.inet_aton('192.168.77.7')]))
print('ready')
time.sleep(1000)
";

fn zeroconf() -> Result<()> {
    let lan = Lan::new()?;
    let host = lan.plug("192.168.77.7/24")?;
    let desktop = DesktopFixture::new(&lan)?;
    let browser = Script::start(&desktop.host, BROWSER)?;
    let machine = LanCpud::found(&host, "board7")?;
    std::thread::sleep(Duration::from_secs(5));
    drop(machine);
    std::thread::sleep(Duration::from_secs(3));
    let told = browser.end()?;
    let instance = "board7-cpud._ncpu._tcp.local.";
    let added = format!(
        "add {instance} board7.local. 17010 192.168.77.7 linux \
         arch cores cpu.pcnt load mem.avail mem.total os tenants\n"
    );
    ensure!(
        told.contains(&added) && told.contains(&format!("remove {instance}\n")),
        "python3-zeroconf: {told}"
    );

    let arch = cpu_proto::discovery::go_arch(std::env::consts::ARCH);
    let _responder = Script::start(&host, &RESPONDER.replace("ARCH", arch))?;
    let machine = LanCpud::start(&host, "board7", &[])?;
    let row = wait_until("the responder answers", TIMEOUT, || {
        Ok(desktop.table().ok().and_then(|mut rows| rows.pop()))
    })?;
    let expected = [
        "uroot7.local",
        "192.168.77.7",
        "17010",
        arch,
        "linux",
        "4",
        "1.0G/2.0G",
        "0.50",
        "3",
    ];
    ensure!(row == expected, "{row:?}");
    let key = machine.host_key().display().to_string();
    let by_name = "dnssd://Board+7._ncpu._tcp.local/";
    let name = desktop.prints(&["-hk", &key, by_name, "uname", "-n"])?;
    ensure!(name == "board7\n", "{name}");
    Ok(())
}
