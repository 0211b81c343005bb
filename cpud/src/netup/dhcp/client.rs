//! The states of a DHCP client (RFC 2131, 4.4), without I/O and without a clock: the time and received messages go in,
//! and actions come out.
//!
//! ```text
//! start ─▶ Selecting ─offer─▶ Requesting ─ack─▶ Bound ─T1─▶ Renewing ─T2─▶ Rebinding ─end─▶ Selecting
//!             ▲  ▲                │ nak             ▲──── ack ────┴──────────────┘
//!             │  └────────────────┘                 │
//!             └── nak, silence ── Rebooting ── ack ─┘     (the cable was unplugged; there is a lease)
//! ```
//!
//! Whoever uses the lease looks first whether another machine has the address ([`probe`](super::probe)), and declines it then. RELEASE is
//! deliberately absent: a machine that is switched off sends nothing.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::super::jitter::{FIRST_WAIT, Jitter, MAX_WAIT};
use super::network::{class_prefix, next_address};
use super::packet::{ACK, BootReply, BootRequest, DECLINE, DISCOVER, NAK, OFFER, REQUEST, Route};

/// How often an offer is requested before the client starts again: for 1 + 2 + 4 + 8 seconds.
const MAX_REQUESTS: u32 = 4;
/// How often a lease from before a cable was unplugged is requested: for 1 + 2 + 4 seconds.
const MAX_REBOOTS: u32 = 3;
/// No renewal is repeated sooner (RFC 2131, 4.4.5).
const MIN_RENEWAL: Duration = Duration::from_mins(1);
/// How long to wait after an address was declined (RFC 2131, 3.1).
const DECLINE_WAIT: Duration = Duration::from_secs(10);
/// The least number of seconds that a lease is taken to last, so that no server can make the client spin.
const MIN_LEASE: u32 = 4;

/// A lease that a server has given.
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
    /// None for a lease without end.
    pub(in super::super) times: Option<Times>,
}

/// The times of a lease: renewal, rebinding, and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Times {
    t1: Instant,
    t2: Instant,
    pub(in super::super) end: Instant,
}

/// Something to do. Actions are to be done in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Action {
    /// Send to all on the link, from 0.0.0.0.
    Broadcast(Vec<u8>),
    /// Send to the server that gave the lease, from the leased address.
    Unicast {
        message: Vec<u8>,
        from: Ipv4Addr,
        to: Ipv4Addr,
    },
    /// Use this lease in place of the one before.
    Configure(Lease),
    /// The lease is over.
    Deconfigure,
}

/// How answers arrive in the present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Listen {
    /// None is expected.
    No,
    /// On a packet socket, since there may be no address.
    Frames,
    /// On a UDP socket at the leased address.
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

/// The DHCP client of one link.
pub(in super::super) struct DhcpClient {
    mac: [u8; 6],
    hostname: Option<String>,
    jitter: Jitter,
    state: DhcpState,
    /// When the state has something to do without a message.
    next: Option<Instant>,
    xid: u32,
    /// When the client began to look for an address, for the field `secs`.
    since: Instant,
    /// When the last request was sent; the times of a lease count from there.
    sent: Instant,
    lease: Option<Lease>,
    /// What to ask for after an address was declined: a server may have no other idea than to give that again.
    wanted: Option<Ipv4Addr>,
}

impl DhcpClient {
    /// `random` seeds what has to differ between machines: transaction numbers and jitter.
    pub(in super::super) fn new(
        mac: [u8; 6],
        hostname: Option<String>,
        random: u64,
        now: Instant,
    ) -> Self {
        Self {
            mac,
            hostname,
            jitter: Jitter::new(random),
            state: DhcpState::Stopped,
            next: None,
            xid: 0,
            since: now,
            sent: now,
            lease: None,
            wanted: None,
        }
    }

    /// There is a carrier: ask for an address, or whether the old one may still be used.
    pub(in super::super) fn start(&mut self, now: Instant) {
        self.since = now;
        let state = if self.lease.is_some() {
            DhcpState::Rebooting { tries: 0 }
        } else {
            DhcpState::Selecting { tries: 0 }
        };
        self.enter(state, now);
    }

    /// The carrier has gone. The lease stays valid.
    pub(in super::super) fn stop(&mut self) {
        self.state = DhcpState::Stopped;
        self.next = None;
    }

    /// When to call [`Self::tick`].
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

    /// Does what is due.
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

    /// The next step of the present state. It sets the time of the one after it.
    fn act(&mut self, now: Instant) -> Option<Action> {
        self.next = None;
        match self.state {
            DhcpState::Stopped => None,
            DhcpState::Selecting { tries } => {
                // In the same transaction: a server may take longer to answer than this, such as dnsmasq, which
                // pings the address first.
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

    /// Handles a message, whoever has sent it.
    pub(in super::super) fn receive(&mut self, bytes: &[u8], now: Instant) -> Vec<Action> {
        let reply =
            BootReply::decode(bytes).filter(|reply| reply.xid == self.xid && reply.mac == self.mac);
        let Some(reply) = reply else {
            return Vec::new();
        };
        // The server that may answer, if only one may, and the address in question.
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
                // Not at once, or the server and this client could keep each other busy.
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
                self.wanted = None;
                self.next = lease.times.map(|times| times.t1);
                self.lease = Some(lease.clone());
                vec![Action::Configure(lease)]
            }
            _ => Vec::new(),
        }
    }

    /// Another machine has the address of the lease: give it up, and look for another one a little later.
    pub(in super::super) fn decline(&mut self, now: Instant) -> Option<Action> {
        let lease = self.lease.take()?;
        self.wanted = Some(next_address(lease.address, lease.prefix));
        self.enter(DhcpState::Selecting { tries: 0 }, now);
        self.next = Some(now + DECLINE_WAIT);
        let message = BootRequest {
            kind: DECLINE,
            xid: self.xid,
            secs: 0,
            mac: self.mac,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            requested: Some(lease.address),
            server: Some(lease.server),
            hostname: None,
        };
        Some(Action::Broadcast(message.encode()))
    }

    /// The lease in an ACK; none if it has no lease time.
    fn accept(&self, reply: BootReply, address: Ipv4Addr, server: Ipv4Addr) -> Option<Lease> {
        let times = match reply.lease? {
            u32::MAX => None,
            seconds => {
                let seconds = seconds.max(MIN_LEASE);
                // Times that are zero or out of order are replaced by the defaults of RFC 2131, 4.4.5.
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

    /// Enters a state, whose first step is due at once.
    fn enter(&mut self, state: DhcpState, now: Instant) {
        if !matches!(state, DhcpState::Requesting { .. }) {
            // A request belongs to the transaction of the offer; every other state begins a new one.
            self.xid = self.jitter.below(u32::MAX);
        }
        self.state = state;
        self.next = Some(now);
    }

    /// The message of the present state (RFC 2131, table 5).
    fn message(&mut self, kind: u8, now: Instant) -> Vec<u8> {
        self.sent = now;
        let leased = self.lease.as_ref().map(|lease| lease.address);
        let (ciaddr, requested, server) = match self.state {
            DhcpState::Requesting {
                address, server, ..
            } => (None, Some(address), Some(server)),
            DhcpState::Renewing | DhcpState::Rebinding => (leased, None, None),
            DhcpState::Rebooting { .. } => (None, leased, None),
            DhcpState::Selecting { .. } => (None, self.wanted, None),
            DhcpState::Stopped | DhcpState::Bound => (None, None, None),
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

    /// 1, 2, 4 … 64 seconds.
    fn backoff(&mut self, tries: u32) -> Duration {
        self.jitter.backoff(FIRST_WAIT, MAX_WAIT, tries)
    }
}

/// Half of the time until `end` from now, but not less than the minimum, and not after `end`.
fn half_way(now: Instant, end: Instant) -> Instant {
    let left = end.saturating_duration_since(now);
    now + (left / 2).max(MIN_RENEWAL).min(left)
}

#[cfg(test)]
mod tests;
