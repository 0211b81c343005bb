//! The states of a DHCPv6 client (RFC 8415, 18.2), without I/O and without a clock: the time and received messages go
//! in, and actions come out.
//!
//! ```text
//! M ─▶ Soliciting ─advertise─▶ Requesting ─reply─▶ Bound ─T1─▶ Renewing ─T2─▶ Rebinding ─end─▶ Soliciting
//!        ▲    │                    │                ▲ ▲             │             │
//!        │    └────── reply ───────┼────────────────┘ └─── reply ───┴─────────────┘
//!        └──── refusal, silence ───┘
//!                                      (an address of another machine) ─▶ Declining ─reply, silence─▶ Soliciting
//! O ─▶ Informing ─reply─▶ Informed ─refresh─▶ Informing
//! ```
//!
//! It begins when a router's advertisement has the flag M or O (RFC 4861, 4.2), and again when the carrier returns,
//! where RFC 8415 has CONFIRM: the old address is in the new SOLICIT, and stays in use until another replaces it.
//!
//! Deliberately absent, besides: RELEASE, as in DHCPv4; Reconfigure; a wait for more than the first server
//! that has an address; SOL_MAX_RT, since a machine that cannot be reached asks once a minute, not once an hour.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::super::jitter::{FIRST_WAIT, Jitter, MAX_WAIT};
use super::super::netlink::RaFlag;
use super::packet::{
    ADVERTISE, DECLINE, Dhcp6Reply, Dhcp6Request, INFORMATION_REQUEST, IaAddress, REBIND, RENEW,
    REPLY, REQUEST, SOLICIT,
};

/// The limit of a random delay before the first message, in milliseconds (SOL_MAX_DELAY, INF_MAX_DELAY): all machines
/// of a network hear the same advertisement.
const MAX_DELAY: u32 = 1000;
/// How often an offer is requested before the client starts again: for 1 + 2 + 4 + 8 seconds.
const MAX_REQUESTS: u32 = 4;
/// REN_TIMEOUT and REB_TIMEOUT, REN_MAX_RT and REB_MAX_RT.
const RENEWAL_WAIT: Duration = Duration::from_secs(10);
const RENEWAL_MAX_WAIT: Duration = Duration::from_mins(10);
/// IRT_DEFAULT and IRT_MINIMUM, in seconds.
const REFRESH: u32 = 86_400;
const MIN_REFRESH: u32 = 600;
/// The least number of seconds that a lease is taken to last, so that no server can make the client spin.
const MIN_LEASE: u32 = 4;
/// How long to wait after an address has been declined (as in RFC 2131, 3.1): somebody who answers for every address
/// would soon have all of them declined.
const DECLINE_WAIT: Duration = Duration::from_secs(10);

/// An address that a server has given. None of a time is for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dhcp6Lease {
    pub(super) address: Ipv6Addr,
    /// The DUID of the server.
    server: Vec<u8>,
    t1: Option<Instant>,
    t2: Option<Instant>,
    /// When it should no longer be used for new connections.
    pub(super) deprecated: Option<Instant>,
    pub(super) end: Option<Instant>,
}

/// Something to do. Actions are to be done in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dhcp6Action {
    /// Send to all servers and relay agents on the link.
    Multicast(Vec<u8>),
    /// Use this address, or use it for longer.
    Add(Dhcp6Lease),
    /// The lease of this address is over.
    Remove(Ipv6Addr),
    /// Use these name servers and search domains in place of those before.
    NameServers(Vec<Ipv6Addr>, Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Dhcp6State {
    /// No carrier, or no router says that there is something to ask for.
    Stopped,
    Soliciting,
    Requesting {
        address: Ipv6Addr,
        server: Vec<u8>,
    },
    Bound,
    Renewing,
    Rebinding,
    Declining {
        address: Ipv6Addr,
        server: Vec<u8>,
    },
    Informing,
    Informed,
}

/// The DHCPv6 client of one link.
pub(super) struct Dhcp6Client {
    mac: [u8; 6],
    jitter: Jitter,
    running: bool,
    advertised: RaFlag,
    state: Dhcp6State,
    /// How often the message of the state has been sent.
    tries: u32,
    /// When the state has something to do without a message.
    next: Option<Instant>,
    xid: u32,
    /// When the first and the last message of the state were sent. The times of a lease count from the last.
    since: Instant,
    sent: Instant,
    lease: Option<Dhcp6Lease>,
}

impl Dhcp6Client {
    /// `random` seeds what has to differ between machines: transaction numbers and jitter.
    pub(super) fn new(mac: [u8; 6], random: u64, now: Instant) -> Self {
        Self {
            mac,
            jitter: Jitter::new(random),
            running: false,
            advertised: RaFlag::Neither,
            state: Dhcp6State::Stopped,
            tries: 0,
            next: None,
            xid: 0,
            since: now,
            sent: now,
            lease: None,
        }
    }

    /// Whether the link can be used, and what its routers advertise. Without a carrier a lease stays valid. Without M it
    /// is renewed all the same, since the routers of a link need not agree.
    pub(super) fn update(&mut self, running: bool, advertised: RaFlag, now: Instant) {
        let is_renewed = matches!(
            self.state,
            Dhcp6State::Bound | Dhcp6State::Renewing | Dhcp6State::Rebinding
        );
        let begins = running && !self.running || advertised != self.advertised && !is_renewed;
        (self.running, self.advertised) = (running, advertised);
        if !running {
            self.state = Dhcp6State::Stopped;
            self.next = None;
        } else if begins {
            self.begin(now);
        }
    }

    pub(super) fn has_address(&self) -> bool {
        self.lease.is_some()
    }

    /// Whether it asks for an address and has none.
    pub(super) fn seeks_address(&self) -> bool {
        self.listens() && self.advertised == RaFlag::Managed && !self.has_address()
    }

    /// When to call [`Self::tick`].
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.next, self.end()].into_iter().flatten().min()
    }

    /// Whether an answer is expected.
    pub(super) fn listens(&self) -> bool {
        !matches!(
            self.state,
            Dhcp6State::Stopped | Dhcp6State::Bound | Dhcp6State::Informed
        )
    }

    fn end(&self) -> Option<Instant> {
        self.lease.as_ref()?.end
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Dhcp6Action> {
        let mut actions = Vec::new();
        if self.end().is_some_and(|end| end <= now) {
            actions = self.give_up();
            if matches!(
                self.state,
                Dhcp6State::Bound | Dhcp6State::Renewing | Dhcp6State::Rebinding
            ) {
                self.begin(now);
            }
        }
        while self.next.is_some_and(|next| next <= now) {
            actions.extend(self.act(now));
        }
        actions
    }

    fn give_up(&mut self) -> Vec<Dhcp6Action> {
        let Some(lease) = self.lease.take() else {
            return Vec::new();
        };
        let mut actions = vec![Dhcp6Action::Remove(lease.address)];
        // Information alone has been asked for since, and brought others.
        if !matches!(self.state, Dhcp6State::Informing | Dhcp6State::Informed) {
            actions.push(Dhcp6Action::NameServers(Vec::new(), Vec::new()));
        }
        actions
    }

    /// The address to use of those in a reply: the present one, unless it is deprecated and another is not.
    fn chosen(&self, reply: &Dhcp6Reply) -> Option<IaAddress> {
        let present = self.lease.as_ref().map(|lease| lease.address);
        let valid = reply.addresses.iter().filter(|given| given.valid > 0);
        valid
            .min_by_key(|given| (given.preferred == 0, Some(given.address) != present))
            .copied()
    }

    /// The next step of the present state. It sets the time of the one after it.
    fn act(&mut self, now: Instant) -> Option<Dhcp6Action> {
        self.next = None;
        let t2 = self.lease.as_ref().and_then(|lease| lease.t2);
        let kind = match self.state {
            Dhcp6State::Stopped => return None,
            Dhcp6State::Bound => {
                self.enter(Dhcp6State::Renewing, now);
                return None;
            }
            Dhcp6State::Informed => {
                self.begin(now);
                return None;
            }
            Dhcp6State::Requesting { .. } if self.tries == MAX_REQUESTS => {
                self.begin(now);
                return None;
            }
            Dhcp6State::Declining { .. } if self.tries == MAX_REQUESTS => {
                self.begin(now + DECLINE_WAIT);
                return None;
            }
            Dhcp6State::Renewing if t2.is_some_and(|t2| t2 <= now) => {
                self.enter(Dhcp6State::Rebinding, now);
                return None;
            }
            Dhcp6State::Soliciting => SOLICIT,
            Dhcp6State::Requesting { .. } => REQUEST,
            Dhcp6State::Renewing => RENEW,
            Dhcp6State::Rebinding => REBIND,
            Dhcp6State::Declining { .. } => DECLINE,
            Dhcp6State::Informing => INFORMATION_REQUEST,
        };
        let (first, max) = match kind {
            RENEW | REBIND => (RENEWAL_WAIT, RENEWAL_MAX_WAIT),
            _ => (FIRST_WAIT, MAX_WAIT),
        };
        let next = now + self.jitter.backoff(first, max, self.tries);
        self.next = Some(match t2 {
            Some(t2) if kind == RENEW => next.min(t2),
            _ => next,
        });
        if self.tries == 0 {
            self.since = now;
        }
        self.tries = self.tries.saturating_add(1);
        self.sent = now;
        Some(Dhcp6Action::Multicast(self.message(kind)))
    }

    fn message(&self, kind: u8) -> Vec<u8> {
        let lease = self.lease.as_ref();
        let (address, server) = match &self.state {
            Dhcp6State::Requesting { address, server }
            | Dhcp6State::Declining { address, server } => (Some(*address), Some(server)),
            Dhcp6State::Renewing => (None, lease.map(|lease| &lease.server)),
            _ => (None, None),
        };
        let elapsed = self.sent.saturating_duration_since(self.since).as_millis() / 10;
        Dhcp6Request {
            kind,
            xid: self.xid,
            elapsed: u16::try_from(elapsed).unwrap_or(u16::MAX),
            mac: self.mac,
            server: server.map(Vec::as_slice),
            address: address.or(lease.map(|lease| lease.address)),
        }
        .encode()
    }

    /// Handles a message, whoever has sent it.
    pub(super) fn receive(&mut self, bytes: &[u8], now: Instant) -> Vec<Dhcp6Action> {
        let is_ours = self.tries > 0 && bytes.get(1..4) == self.xid.to_be_bytes().get(1..);
        let reply = is_ours.then(|| Dhcp6Reply::decode(bytes, self.mac));
        let Some(reply) = reply.flatten() else {
            return Vec::new();
        };
        let chosen = self.chosen(&reply);
        match (&self.state, reply.kind) {
            (Dhcp6State::Soliciting, ADVERTISE) => {
                if let Some(given) = chosen {
                    let (address, server) = (given.address, reply.server);
                    self.enter(Dhcp6State::Requesting { address, server }, now);
                    return self.tick(now);
                }
            }
            // The server has nothing, or nothing yet.
            (Dhcp6State::Soliciting, REPLY) if chosen.is_none() || !reply.rapid_commit => {}
            (Dhcp6State::Declining { .. }, REPLY) => self.begin(now + DECLINE_WAIT),
            (Dhcp6State::Informing, REPLY) if reply.succeeded => {
                self.state = Dhcp6State::Informed;
                let refresh = reply.refresh.unwrap_or(REFRESH).max(MIN_REFRESH);
                self.next = Some(now + Duration::from_secs(refresh.into()));
                return vec![Dhcp6Action::NameServers(reply.dns, reply.search)];
            }
            (
                Dhcp6State::Soliciting
                | Dhcp6State::Requesting { .. }
                | Dhcp6State::Renewing
                | Dhcp6State::Rebinding,
                REPLY,
            ) => return self.accept(reply, now),
            _ => {}
        }
        Vec::new()
    }

    /// Handles a reply that gives an address, or refuses it.
    fn accept(&mut self, reply: Dhcp6Reply, now: Instant) -> Vec<Dhcp6Action> {
        let Some(given) = self.chosen(&reply) else {
            let old = self.lease.as_ref().map(|lease| lease.address);
            // Not sooner, or the server and this client could keep each other busy.
            self.begin(now + FIRST_WAIT);
            // Lifetimes of zero say that the address is over. After other refusals it lasts as long as it was promised to.
            let is_over = reply.addresses.iter().any(|zero| Some(zero.address) == old);
            return if is_over { self.give_up() } else { Vec::new() };
        };
        let valid = given.valid.max(MIN_LEASE);
        // Times that are zero or out of order are replaced by the defaults of RFC 8415, 21.4.
        let preferred = match given.preferred {
            0 => valid,
            preferred => preferred.max(MIN_LEASE),
        };
        let all_but = |share: u32| match preferred {
            u32::MAX => u32::MAX,
            preferred => preferred - preferred / share,
        };
        let t2 = Some(reply.t2).filter(|t2| (1..valid).contains(t2));
        let t2 = t2.unwrap_or_else(|| all_but(5));
        let t1 = Some(reply.t1).filter(|t1| (1..t2).contains(t1));
        let t1 = t1.unwrap_or_else(|| all_but(2).min(t2));
        let after = |seconds: u32| {
            (seconds != u32::MAX).then(|| self.sent + Duration::from_secs(seconds.into()))
        };
        let lease = Dhcp6Lease {
            address: given.address,
            server: reply.server,
            t1: after(t1),
            t2: after(t2),
            deprecated: after(given.preferred),
            end: after(valid),
        };
        self.state = Dhcp6State::Bound;
        self.next = lease.t1;
        let old = self.lease.replace(lease.clone());
        let old = old
            .map(|old| old.address)
            .filter(|old| *old != lease.address);
        let mut actions: Vec<_> = old.map(Dhcp6Action::Remove).into_iter().collect();
        actions.push(Dhcp6Action::Add(lease));
        actions.push(Dhcp6Action::NameServers(reply.dns, reply.search));
        actions
    }

    /// Another machine has this address. If it is leased, it is declined and given up, and the result is true.
    pub(super) fn decline(&mut self, address: Ipv6Addr, now: Instant) -> bool {
        let is_new = self.running && !matches!(self.state, Dhcp6State::Declining { .. });
        let lease = self.lease.as_mut().filter(|lease| lease.address == address);
        let Some(lease) = lease.filter(|_| is_new) else {
            return false;
        };
        lease.end = Some(now);
        let server = lease.server.clone();
        self.enter(Dhcp6State::Declining { address, server }, now);
        true
    }

    /// Begins with what the routers advertise, at `at` or a little later.
    fn begin(&mut self, at: Instant) {
        let delay = Duration::from_millis(self.jitter.below(MAX_DELAY).into());
        match self.advertised {
            RaFlag::Managed => self.enter(Dhcp6State::Soliciting, at + delay),
            RaFlag::Other => self.enter(Dhcp6State::Informing, at + delay),
            RaFlag::Neither => {
                self.state = Dhcp6State::Stopped;
                self.next = None;
            }
        }
    }

    /// Enters a state, in a new transaction. Its first step is due at `at`.
    fn enter(&mut self, state: Dhcp6State, at: Instant) {
        self.xid = self.jitter.below(1 << 24);
        self.state = state;
        self.tries = 0;
        self.next = Some(at);
    }
}

#[cfg(test)]
mod tests;
