//! The client's states of RFC 2131, 4.4, without I/O and without a clock of its own: time and
//! messages come in, what is to be done comes out.
//!
//! ```text
//! start ─▶ Selecting ─offer─▶ Requesting ─ack─▶ Bound ─T1─▶ Renewing ─T2─▶ Rebinding ─end─▶ Selecting
//!             ▲  ▲                │ nak             ▲──── ack ────┴──────────────┘
//!             │  └────────────────┘                 │
//!             └── nak, silence ── Rebooting ── ack ─┘     (the cable was out; we have a lease)
//! ```
//!
//! Left out on purpose: probing the address by ARP before use, DECLINE and RELEASE. A machine
//! without memory can't tell another's address from its own of five minutes ago.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::packet::{ACK, BootReply, BootRequest, DISCOVER, NAK, OFFER, REQUEST, Route};

/// A first wait of one second instead of RFC 2131's four: machines here boot in one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(64);
/// How often a request is repeated before the search begins anew: 1 + 2 + 4 + 8 seconds.
const MAX_REQUESTS: u32 = 4;
/// And for the lease from before the cable was out: 1 + 2 + 4 seconds.
const MAX_REBOOTS: u32 = 3;
/// RFC 2131, 4.4.5: no renewal is repeated sooner.
const MIN_RENEWAL: Duration = Duration::from_mins(1);
/// A lease shorter than this is taken as this, so that no server makes us spin.
const MIN_LEASE: u32 = 4;

/// What a server has given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Lease {
    pub(in super::super) address: Ipv4Addr,
    pub(in super::super) prefix: u8,
    pub(in super::super) server: Ipv4Addr,
    pub(in super::super) routes: Vec<Route>,
    pub(in super::super) dns: Vec<Ipv4Addr>,
    pub(in super::super) search: Vec<String>,
    pub(in super::super) hostname: Option<String>,
    pub(in super::super) mtu: Option<u16>,
    /// None is for ever.
    pub(in super::super) times: Option<Times>,
}

/// When to do what about a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Times {
    t1: Instant,
    t2: Instant,
    pub(in super::super) end: Instant,
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Action {
    /// To everybody on the link, from no address.
    Broadcast(Vec<u8>),
    /// To the server that gave the lease, from the leased address.
    Unicast {
        message: Vec<u8>,
        from: Ipv4Addr,
        to: Ipv4Addr,
    },
    /// Use this, instead of what was used before.
    Configure(Lease),
    /// The lease is over.
    Deconfigure,
}

/// How answers reach us now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Listen {
    /// None are expected.
    No,
    /// As frames, since we may have no address.
    Frames,
    /// At the leased address.
    Socket(Ipv4Addr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DhcpState {
    /// No carrier.
    Stopped,
    Selecting {
        tries: u32,
    },
    Requesting {
        address: Ipv4Addr,
        server: Ipv4Addr,
        tries: u32,
    },
    Bound,
    Renewing,
    Rebinding,
    Rebooting {
        tries: u32,
    },
}

/// The client of one link.
pub(in super::super) struct DhcpClient {
    mac: [u8; 6],
    hostname: Option<String>,
    random: u64,
    state: DhcpState,
    /// When the state has something to do by itself.
    next: Option<Instant>,
    xid: u32,
    /// Since when there is no usable answer.
    since: Instant,
    /// When the request was sent that an answer's times count from.
    sent: Instant,
    lease: Option<Lease>,
}

impl DhcpClient {
    /// `random` seeds what should differ between machines: transaction numbers and jitter.
    pub(in super::super) fn new(
        mac: [u8; 6],
        hostname: Option<String>,
        random: u64,
        now: Instant,
    ) -> Self {
        Self {
            mac,
            hostname,
            random,
            state: DhcpState::Stopped,
            next: None,
            xid: 0,
            since: now,
            sent: now,
            lease: None,
        }
    }

    /// There is a carrier: look for an address, or whether the old one is still good here.
    pub(in super::super) fn start(&mut self, now: Instant) {
        self.since = now;
        let state = if self.lease.is_some() {
            DhcpState::Rebooting { tries: 0 }
        } else {
            DhcpState::Selecting { tries: 0 }
        };
        self.enter(state, now);
    }

    /// The carrier is gone. The lease goes on.
    pub(in super::super) fn stop(&mut self) {
        self.state = DhcpState::Stopped;
        self.next = None;
    }

    /// When [`Self::tick`] is to be called.
    pub(in super::super) fn deadline(&self) -> Option<Instant> {
        [self.next, self.end()].into_iter().flatten().min()
    }

    pub(in super::super) fn listen(&self) -> Listen {
        match (self.state, &self.lease) {
            (DhcpState::Stopped | DhcpState::Bound, _) => Listen::No,
            (DhcpState::Renewing, Some(lease)) => Listen::Socket(lease.address),
            _ => Listen::Frames,
        }
    }

    fn end(&self) -> Option<Instant> {
        Some(self.lease.as_ref()?.times?.end)
    }

    /// Time has passed.
    pub(in super::super) fn tick(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.end().is_some_and(|end| end <= now) {
            self.lease = None;
            actions.push(Action::Deconfigure);
            if matches!(
                self.state,
                DhcpState::Bound
                    | DhcpState::Renewing
                    | DhcpState::Rebinding
                    | DhcpState::Rebooting { .. }
            ) {
                self.since = now;
                self.enter(DhcpState::Selecting { tries: 0 }, now);
            }
        }
        while self.next.is_some_and(|next| next <= now) {
            actions.extend(self.act(now));
        }
        actions
    }

    /// The state's own next step. Each sets a later time for the one after it.
    fn act(&mut self, now: Instant) -> Option<Action> {
        self.next = None;
        match self.state {
            DhcpState::Stopped => None,
            DhcpState::Selecting { tries } => {
                // The same transaction as before: a server may take longer than we wait, as
                // dnsmasq does when it pings the address first.
                self.state = DhcpState::Selecting {
                    tries: tries.saturating_add(1),
                };
                self.next = Some(now + self.backoff(tries));
                Some(Action::Broadcast(self.message(DISCOVER, now)))
            }
            DhcpState::Requesting {
                tries: MAX_REQUESTS..,
                ..
            }
            | DhcpState::Rebooting {
                tries: MAX_REBOOTS..,
            } => {
                self.enter(DhcpState::Selecting { tries: 0 }, now);
                None
            }
            DhcpState::Requesting {
                address,
                server,
                tries,
            } => {
                self.state = DhcpState::Requesting {
                    address,
                    server,
                    tries: tries + 1,
                };
                self.next = Some(now + self.backoff(tries));
                Some(Action::Broadcast(self.message(REQUEST, now)))
            }
            DhcpState::Rebooting { tries } => {
                self.state = DhcpState::Rebooting { tries: tries + 1 };
                self.next = Some(now + self.backoff(tries));
                Some(Action::Broadcast(self.message(REQUEST, now)))
            }
            DhcpState::Bound => {
                self.since = now;
                self.enter(DhcpState::Renewing, now);
                None
            }
            DhcpState::Renewing => {
                let lease = self.lease.as_ref()?;
                let (from, to, times) = (lease.address, lease.server, lease.times?);
                if times.t2 <= now {
                    self.enter(DhcpState::Rebinding, now);
                    return None;
                }
                self.next = Some(half_way(now, times.t2));
                Some(Action::Unicast {
                    message: self.message(REQUEST, now),
                    from,
                    to,
                })
            }
            DhcpState::Rebinding => {
                self.next = Some(half_way(now, self.end()?));
                Some(Action::Broadcast(self.message(REQUEST, now)))
            }
        }
    }

    /// A message has come, from whomever.
    pub(in super::super) fn receive(&mut self, bytes: &[u8], now: Instant) -> Vec<Action> {
        let reply =
            BootReply::decode(bytes).filter(|reply| reply.xid == self.xid && reply.mac == self.mac);
        let Some(reply) = reply else {
            return Vec::new();
        };
        // Who may answer, and about which address.
        let (server, address) = match self.state {
            DhcpState::Selecting { tries: 1.. } => {
                if let (OFFER, Some(address), Some(server)) =
                    (reply.kind, reply.yiaddr, reply.server)
                {
                    self.enter(
                        DhcpState::Requesting {
                            address,
                            server,
                            tries: 0,
                        },
                        now,
                    );
                    return self.tick(now);
                }
                return Vec::new();
            }
            DhcpState::Requesting {
                address, server, ..
            } => (Some(server), address),
            DhcpState::Renewing | DhcpState::Rebinding | DhcpState::Rebooting { tries: 1.. } => {
                let Some(lease) = &self.lease else {
                    return Vec::new();
                };
                let only = matches!(self.state, DhcpState::Renewing).then_some(lease.server);
                (only, lease.address)
            }
            _ => return Vec::new(),
        };
        if server.is_some() && reply.server.is_some() && server != reply.server {
            return Vec::new();
        }
        match reply.kind {
            NAK => {
                let had = self.lease.take();
                self.enter(DhcpState::Selecting { tries: 0 }, now);
                // Not at once, lest a server and we keep each other busy.
                self.next = Some(now + self.backoff(0));
                had.map(|_| Action::Deconfigure).into_iter().collect()
            }
            ACK if reply.yiaddr == Some(address) => {
                let Some(server) = reply
                    .server
                    .or(server)
                    .or(self.lease.as_ref().map(|l| l.server))
                else {
                    return Vec::new();
                };
                let Some(lease) = self.accept(reply, address, server) else {
                    return Vec::new();
                };
                self.state = DhcpState::Bound;
                self.next = lease.times.map(|times| times.t1);
                self.lease = Some(lease.clone());
                vec![Action::Configure(lease)]
            }
            _ => Vec::new(),
        }
    }

    /// The lease of an ACK; none if it doesn't say how long.
    fn accept(&self, reply: BootReply, address: Ipv4Addr, server: Ipv4Addr) -> Option<Lease> {
        let times = match reply.lease? {
            u32::MAX => None,
            seconds => {
                let seconds = seconds.max(MIN_LEASE);
                // Zero, or out of order, is not what a server means (RFC 2131, 4.4.5).
                let t2 = reply.t2.filter(|&t2| (1..seconds).contains(&t2));
                let t2 = t2.unwrap_or(seconds - seconds / 8);
                let t1 = reply
                    .t1
                    .filter(|&t1| (1..t2).contains(&t1))
                    .unwrap_or((seconds / 2).min(t2));
                let after = |seconds: u32| self.sent + Duration::from_secs(seconds.into());
                Some(Times {
                    t1: after(t1),
                    t2: after(t2),
                    end: after(seconds),
                })
            }
        };
        Some(Lease {
            address,
            prefix: reply.prefix.unwrap_or_else(|| class_prefix(address)),
            server,
            routes: reply.routes,
            dns: reply.dns,
            search: reply.search,
            hostname: reply.hostname,
            mtu: reply.mtu,
            times,
        })
    }

    /// Enters a state that acts at once.
    fn enter(&mut self, state: DhcpState, now: Instant) {
        if !matches!(state, DhcpState::Requesting { .. }) {
            // A request continues the offer's transaction; everything else is a new one.
            self.xid = self.random_below(u32::MAX);
        }
        self.state = state;
        self.next = Some(now);
    }

    /// What the present state says, RFC 2131, table 5.
    fn message(&mut self, kind: u8, now: Instant) -> Vec<u8> {
        self.sent = now;
        let leased = self.lease.as_ref().map(|lease| lease.address);
        let (ciaddr, requested, server) = match self.state {
            DhcpState::Requesting {
                address, server, ..
            } => (None, Some(address), Some(server)),
            DhcpState::Renewing | DhcpState::Rebinding => (leased, None, None),
            DhcpState::Rebooting { .. } => (None, leased, None),
            DhcpState::Stopped | DhcpState::Bound | DhcpState::Selecting { .. } => {
                (None, None, None)
            }
        };
        let secs = now.saturating_duration_since(self.since).as_secs();
        BootRequest {
            kind,
            xid: self.xid,
            secs: u16::try_from(secs).unwrap_or(u16::MAX),
            mac: self.mac,
            ciaddr: ciaddr.unwrap_or(Ipv4Addr::UNSPECIFIED),
            requested,
            server,
            hostname: self.hostname.as_deref(),
        }
        .encode()
    }

    /// 1, 2, 4 ... 64 seconds, each a quarter more or less, so that a rack that was switched on
    /// together does not ask together.
    fn backoff(&mut self, tries: u32) -> Duration {
        let whole = FIRST_WAIT.saturating_mul(1 << tries.min(6)).min(MAX_WAIT);
        whole * 3 / 4 + whole * self.random_below(1000) / 2000
    }

    /// splitmix64, Steele and others, OOPSLA 2014.
    fn random_below(&mut self, limit: u32) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = (z ^ (z >> 31)) >> 32;
        u32::try_from(high % u64::from(limit)).unwrap_or(0)
    }
}

/// Half of what is left until `end`, but at least the least, and never beyond.
fn half_way(now: Instant, end: Instant) -> Instant {
    let left = end.saturating_duration_since(now);
    now + (left / 2).max(MIN_RENEWAL).min(left)
}

/// The prefix length of an address's class, for a server that tells none.
pub(in super::super) fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        _ => 24,
    }
}

#[cfg(test)]
mod tests;
