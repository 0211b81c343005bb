//! Whoever pretends to be another machine, and whatever a stranger can send.

use std::fs;

use anyhow::{Result, ensure};
use e2e::lan::Lan;
use e2e::user::fails;
use e2e::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::fixture::{DesktopFixture, LanCpud, Script};
use crate::interop::TIMEOUT;

pub(super) fn impostor() -> Result<()> {
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
    drop(other);
    // Nor is it a new machine at another port, unless it is named.
    let flags = ["-dnssd", "-port", "17011"];
    let other = LanCpud::start(&host, "board7", &flags)?;
    other.says(" is found as ")?;
    let refused = ["board7.local port 17011", "known_hosts", "another port"];
    fails(&desktop.cpu(&[".", "true"])?, &refused)?;
    desktop.prints(&["-sp", "17011", "board7.local", "true"])?;
    desktop.prints(&[".", "true"])?;
    // Nor is it accepted under a name that nobody has heard of, though those who are named are.
    drop(other);
    let _third = LanCpud::found(&host, "board8")?;
    fails(&desktop.cpu(&[".", "true"])?, &["board8.local", "is new"])?;
    let output = desktop.cpu(&["-o", "StrictHostKeyChecking=no", ".", "true"])?;
    fails(&output, &["board8.local", "is new"])?;
    desktop.prints(&["board8.local", "true"])?;
    Ok(())
}

pub(super) fn no_privileges() -> Result<()> {
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
def machine(label, host, text, *more):
    instance = name(label, *service)
    return head(3 + len(more)) + b''.join(more) + record(name(*service), 12, instance) + \
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
    machine(b'here', name(b'here', b'local'), b'',
            record(name(b'here', b'local'), 28, socket.inet_pton(socket.AF_INET6, '::ffff:127.0.0.1')),
            record(name(b'here', b'local'), 1, socket.inet_aton('192.168.77.9'))),
]
print('ready')
while True:
    query, asker = s.recvfrom(9000)
    if asker[0] == '192.168.77.6':
        continue
    for message in hostile + [random.randbytes(random.randrange(400)) for _ in range(100)]:
        s.sendto(query[:2] + message[2:], asker)
        s.sendto(message, (group, 5353))
";

pub(super) fn hostile() -> Result<()> {
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
    let is_plain = |c: char| c == '\n' || c == ' ' || c.is_ascii_graphic();
    ensure!(table.chars().all(is_plain), "{table:?}");
    // Names that are none of this network are left out.
    let names = desktop.names()?;
    ensure!(
        names == ["board7.local", "cut.local", "escape.local", "here.local"],
        "{names:?}"
    );
    // Nobody is at an address of this computer.
    let rows = desktop.table()?;
    let here = rows.iter().find(|row| row[0] == "here.local");
    ensure!(here.is_some_and(|row| row[1] == "192.168.77.6"), "{rows:?}");
    desktop.prints(&["board7.local", "true"])?;
    ensure!(!machine.log().contains("panicked"), "{}", machine.log());
    let told = attacker.end()?;
    ensure!(told == "ready\n", "{told}");
    Ok(())
}
