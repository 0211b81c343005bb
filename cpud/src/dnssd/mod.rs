//! The role that makes the machine known on its links, by DNS service discovery over multicast DNS (RFC 6762, 6763), if `-dnssd`
//! was given. It reads what strangers send, so it gives up root first, and has neither keys nor connections. One thread sleeps in
//! poll(2) until a message arrives, an address changes, or something is due.

mod link;
mod records;
mod responder;
mod text;

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io};

use anyhow::{Context as _, Result, bail};
use cpu_proto::dns::{GROUP_V4, GROUP_V6, MAX_MESSAGE, Message, PORT, RecordData};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

use crate::console::say;
use crate::flags::ServerOptions;
use crate::init;
use crate::listen_addr::ListenAddr;
use crate::netup::netlink::{Netlink, NetlinkEvent};
use crate::netup::{host_name, random};
use crate::poll;
use crate::role::Role;
use crate::sys::{inherit, multicast_socket, set_nice};
use link::{Family, LinkState};
use records::MachineNames;
use responder::{Conflict, Responder};
use text::MachineText;

/// The user and group of the role: nobody's.
const NOBODY: u32 = 65534;
/// Work for strangers comes after that for users.
const NICE: i32 = 10;
/// The most messages that are read from a socket before others get their turn.
const BATCH: usize = 32;
/// After so many names that others have, the next is tried so much later (RFC 6762, 8.1).
const MANY_CONFLICTS: u32 = 15;
const AFTER_MANY: Duration = Duration::from_secs(5);
/// The first probe is sent a random time, less than this, after a link has come up.
const FIRST_PROBE: u64 = 250;

/// Starts the role beside a server that has no init. It ends with its parent.
pub(crate) fn start() -> Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("cpud")
        .arg(Role::Dnssd.name())
        .args(env::args_os().skip(1));
    let spawned = command.stdin(Stdio::null()).spawn();
    spawned.map(drop).context("cannot start dnssd")
}

/// Runs the role until it is told to end.
pub(crate) fn run(options: &ServerOptions) -> Result<()> {
    let ListenAddr::Tcp(only, port) = options.listen else {
        bail!("-dnssd needs a TCP port");
    };
    close_inherited();
    init::limits::reset();
    let _ = set_nice(NICE);
    give_up_root();
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block().context("cannot block signals")?;
    let ends = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("cannot make a signalfd")?;
    let mut role = DnssdRole {
        netlink: Netlink::new().context("cannot open a netlink socket")?,
        only,
        port,
        links: Vec::new(),
        channels: Vec::new(),
        base: None,
        names: None,
        number: 1,
        text: MachineText::default(),
        reported: None,
        failed: Vec::new(),
    };
    role.read_links(true)?;
    loop {
        role.work();
        role.sleep(&ends)?;
        if let Ok(Some(_)) = ends.read_signal() {
            role.say_goodbye();
            return Ok(());
        }
        role.read_links(false)?;
        role.receive_all();
    }
}

/// Closes what the starter has left open, such as the log of connections. Nothing in this process has opened anything yet.
fn close_inherited() {
    let entries = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for number in numbers.collect::<Vec<_>>() {
        // The standard ones are refused, and the directory's own is closed by now.
        drop(inherit(number));
    }
}

/// What this role needs, everybody may do: read numbers in /proc, and use a port above 1023.
fn give_up_root() {
    let _ = nix::sys::prctl::set_no_new_privs();
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let given_up = setgroups(&[])
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid));
    if let Err(errno) = given_up
        && geteuid().is_root()
    {
        say(format_args!(
            "dnssd runs as root: cannot become user {NOBODY}: {}",
            errno.desc()
        ));
    }
    // After that, since a change of the user takes it back.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM);
}

/// The state of the role.
struct DnssdRole {
    netlink: Netlink,
    /// The address that the server listens at, if it is not all.
    only: Option<IpAddr>,
    port: u16,
    /// In the order of their indices. (There are few, and lists make a smaller program than trees.)
    links: Vec<LinkState>,
    channels: Vec<Channel>,
    /// The names without a number.
    base: Option<MachineNames>,
    names: Option<MachineNames>,
    /// Tells machines apart that have the same name.
    number: u32,
    text: MachineText,
    /// The names that have been reported.
    reported: Option<MachineNames>,
    /// Channels that could not be opened, which has been reported.
    failed: Vec<(u32, Family)>,
}

/// A link in one address family.
struct Channel {
    key: (u32, Family),
    socket: UdpSocket,
    group: SocketAddr,
    responder: Responder,
}

impl Channel {
    fn open(key: (u32, Family), responder: Responder) -> io::Result<Self> {
        let (link, family) = key;
        Ok(Self {
            key,
            socket: multicast_socket(link, family == Family::V6)?,
            group: match family {
                Family::V4 => SocketAddrV4::new(GROUP_V4, PORT).into(),
                Family::V6 => SocketAddrV6::new(GROUP_V6, PORT, 0, link).into(),
            },
            responder,
        })
    }

    /// What cannot be sent is like what is lost.
    fn multicast(&self, message: &Message) {
        let _ = self.socket.send_to(&message.write(), self.group);
    }
}

impl DnssdRole {
    /// Reads which links and addresses there are: what has changed, or all.
    fn read_links(&mut self, all: bool) -> Result<()> {
        let lost = "cannot read from the netlink socket";
        let events = if all {
            None
        } else {
            self.netlink.read_events().context(lost)?
        };
        let events = match events {
            Some(events) if events.is_empty() => return Ok(()),
            Some(events) => events,
            None => {
                self.links.clear();
                self.netlink.dump().context(lost)?
            }
        };
        for event in events {
            match event {
                NetlinkEvent::Link(link) => {
                    let known = self.link(link.index);
                    known.link = Some(link);
                }
                NetlinkEvent::Advertised(..) | NetlinkEvent::RouterOption(..) => {}
                NetlinkEvent::LinkGone(index) => self.links.retain(|link| link.index != index),
                NetlinkEvent::Address(address) => {
                    let link = self.link(address.link);
                    link.addresses.retain(|known| known.ip != address.ip);
                    link.addresses.push(address);
                }
                NetlinkEvent::AddressGone(address) => {
                    let link = self.link(address.link);
                    link.addresses.retain(|known| known.ip != address.ip);
                }
            }
        }
        self.update();
        Ok(())
    }

    /// The link with an index, which is added if it is not known.
    fn link(&mut self, index: u32) -> &mut LinkState {
        let place = self.links.partition_point(|link| link.index < index);
        if self.links.get(place).is_none_or(|link| link.index != index) {
            let new = LinkState {
                index,
                ..LinkState::default()
            };
            self.links.insert(place, new);
        }
        &mut self.links[place]
    }

    /// Adapts names and channels to the links.
    fn update(&mut self) {
        let now = Instant::now();
        let found = |link: &LinkState| {
            let mac = link.mac()?;
            (!link.addresses(self.only).is_empty()).then_some(mac)
        };
        let Some(mac) = self.links.iter().find_map(found) else {
            self.channels.clear();
            return;
        };
        let base = MachineNames::new(host_name().as_deref(), mac, self.port, 1);
        if self.base.as_ref() != Some(&base) {
            self.say_goodbye();
            self.base = Some(base);
            self.number = 1;
        }
        let names = MachineNames::new(host_name().as_deref(), mac, self.port, self.number);
        let text = self.text.get(now).to_vec();
        let mut wanted = Vec::new();
        for link in &self.links {
            let addresses = link.addresses(self.only);
            if link.mac().is_none() || addresses.is_empty() {
                continue;
            }
            for family in [Family::V4, Family::V6] {
                if link.has(family) {
                    let records = names.records(self.port, &addresses, text.clone());
                    wanted.push(((link.index, family), records));
                }
            }
        }
        self.channels
            .retain(|channel| wanted.iter().any(|(key, _)| *key == channel.key));
        for (key, records) in wanted {
            if let Some(channel) = self.channels.iter_mut().find(|channel| channel.key == key) {
                channel.responder.set_records(records, now);
                continue;
            }
            let delay = Duration::from_millis(random() % FIRST_PROBE);
            match Channel::open(key, Responder::new(records, now, delay)) {
                Ok(channel) => {
                    self.failed.retain(|failed| *failed != key);
                    self.channels.push(channel);
                }
                // The kernel has no IPv6.
                Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {}
                Err(error) if !self.failed.contains(&key) => {
                    self.failed.push(key);
                    let link = self.link(key.0).link.as_ref();
                    let link = link.map_or("?", |link| &link.name);
                    say(format_args!("cannot use multicast DNS on {link}: {error}"));
                }
                Err(_) => {}
            }
        }
        self.names = Some(names);
    }

    /// Takes the next name, since another machine has this one.
    fn rename(&mut self) {
        self.number = self.number.saturating_add(1);
        let old = self.names.take();
        for channel in &mut self.channels {
            if let Some(goodbye) = channel.responder.goodbye() {
                channel.multicast(&goodbye);
            }
        }
        self.update();
        if self.number > MANY_CONFLICTS {
            for channel in &mut self.channels {
                channel.responder.wait(Instant::now() + AFTER_MANY);
            }
        }
        if let (Some(old), Some(new)) = (old, &self.names) {
            say(format_args!(
                "another machine is {}.local, so this one tries {}.local",
                old.host, new.host
            ));
        }
    }

    /// Sends what is due.
    fn work(&mut self) {
        let now = Instant::now();
        let mut is_known = false;
        for channel in &mut self.channels {
            if channel.responder.deadline().is_some_and(|at| at <= now) {
                channel.responder.set_text(self.text.get(now));
                if let Some(message) = channel.responder.tick(now) {
                    channel.multicast(&message);
                }
            }
            is_known |= channel.responder.has_names();
        }
        if is_known && self.reported != self.names {
            self.reported.clone_from(&self.names);
            if let Some(names) = &self.names {
                say(format_args!(
                    "{}.local is found as {}._ncpu._tcp",
                    names.host, names.instance
                ));
            }
        }
    }

    fn sleep(&self, ends: &SignalFd) -> Result<()> {
        let deadlines = self.channels.iter();
        let deadlines = deadlines.filter_map(|channel| channel.responder.deadline());
        let sockets = self.channels.iter().map(|channel| channel.socket.as_fd());
        let fds = [ends.as_fd(), self.netlink.as_fd()];
        poll::sleep(fds.into_iter().chain(sockets), deadlines.min())
    }

    fn receive_all(&mut self) {
        for number in 0..self.channels.len() {
            for _ in 0..BATCH {
                match self.receive(number) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(Conflict) => return self.rename(),
                }
            }
        }
    }

    /// Reads a message from a channel. False if there is none.
    fn receive(&mut self, number: usize) -> Result<bool, Conflict> {
        let mut bytes = [0; MAX_MESSAGE];
        let channel = &mut self.channels[number];
        let Some(link) = self.links.iter().find(|link| link.index == channel.key.0) else {
            return Ok(false);
        };
        let (length, from) = match channel.socket.recv_from(&mut bytes) {
            Ok(received) => received,
            Err(error) => return Ok(error.kind() == io::ErrorKind::Interrupted),
        };
        let Some(mut message) = Message::read(&bytes[..length]).filter(|_| link.reaches(from.ip()))
        else {
            return Ok(true);
        };
        let is_own = |ip: &IpAddr| self.links.iter().any(|link| link.has_address(*ip));
        if is_own(&from.ip()) {
            // Multicasts come back, also from another link. But a client of this machine asks, too.
            if message.is_response {
                return Ok(true);
            }
            message.authorities.clear();
        }
        let is_own_data = |data: &RecordData| match *data {
            RecordData::A(ip) => is_own(&ip.into()),
            RecordData::Aaaa(ip) => is_own(&ip.into()),
            _ => false,
        };
        let now = Instant::now();
        channel.responder.set_text(self.text.get(now));
        let reply = channel
            .responder
            .receive(&message, from.port(), is_own_data, now, random())?;
        if let Some(reply) = reply {
            let _ = channel.socket.send_to(&reply.write(), from);
        }
        Ok(true)
    }

    fn say_goodbye(&self) {
        for channel in &self.channels {
            if let Some(goodbye) = channel.responder.goodbye() {
                channel.multicast(&goodbye);
            }
        }
    }
}

#[cfg(test)]
mod tests;
