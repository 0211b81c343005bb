//! The client against a clock and a server that are both made up.

use super::super::packet::tests::{SERVER, encoded, given, ia, reply};
use super::*;
use proptest::prelude::*;

mod changes;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OURS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);
const OTHER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 8);
const HOUR: u32 = 3600;

/// A client, a clock, and what the client has sent.
struct Dhcp6Bench {
    client: Dhcp6Client,
    begin: Instant,
    now: Instant,
}

impl Dhcp6Bench {
    fn new(advertised: RaFlag) -> Self {
        let begin = Instant::now();
        let mut client = Dhcp6Client::new(MAC, 42, begin);
        client.update(true, advertised, begin);
        Self {
            client,
            begin,
            now: begin,
        }
    }

    /// Lets time pass to the next deadline; seconds since the beginning, and what is done.
    fn next(&mut self) -> (f64, Vec<Dhcp6Action>) {
        self.now = self.now.max(self.client.deadline().unwrap());
        let actions = self.client.tick(self.now);
        ((self.now - self.begin).as_secs_f64(), actions)
    }

    /// The same, up to the next message, whose kind it is.
    fn sent(&mut self) -> (f64, u8) {
        loop {
            let (at, actions) = self.next();
            if let [Dhcp6Action::Multicast(message)] = &actions[..] {
                return (at, message[0]);
            }
        }
    }

    fn answer(&mut self, kind: u8, options: &[Vec<u8>]) -> Vec<Dhcp6Action> {
        let bytes = reply(kind, self.client.xid, MAC, options);
        self.client.receive(&bytes, self.now)
    }

    /// By rapid commit to a lease of an hour.
    fn bound() -> Self {
        let mut bench = Self::new(RaFlag::Managed);
        bench.next();
        let actions = bench.answer(REPLY, &[lease(OURS, HOUR), rapid()]);
        assert_eq!(added(&actions), Some(OURS));
        assert!(!bench.client.listens());
        bench
    }
}

/// An identity association with an address for so many seconds, whose other times are the client's to choose.
fn lease(address: Ipv6Addr, valid: u32) -> Vec<u8> {
    ia(MAC, 0, 0, &given(address, valid, valid))
}

fn rapid() -> Vec<u8> {
    encoded(14, &[])
}

/// The only action, which sends this.
fn message(actions: &[Dhcp6Action]) -> &[u8] {
    match actions {
        [Dhcp6Action::Multicast(message)] => message,
        other => panic!("{other:?}"),
    }
}

/// The address of a new lease.
fn added(actions: &[Dhcp6Action]) -> Option<Ipv6Addr> {
    actions.iter().find_map(|action| match action {
        Dhcp6Action::Add(lease) => Some(lease.address),
        _ => None,
    })
}

fn no_name_servers() -> Dhcp6Action {
    Dhcp6Action::NameServers(Vec::new(), Vec::new())
}

#[test]
fn nothing_is_asked_unless_a_router_says_so() {
    let mut bench = Dhcp6Bench::new(RaFlag::Neither);
    assert_eq!(bench.client.deadline(), None);
    assert!(!bench.client.listens());
    bench.client.update(false, RaFlag::Managed, bench.now);
    assert_eq!(bench.client.deadline(), None, "no carrier");
    bench.client.update(true, RaFlag::Managed, bench.now);
    assert_eq!(message(&bench.next().1)[0], SOLICIT);
    bench.client.update(true, RaFlag::Neither, bench.now);
    assert_eq!(
        (bench.client.deadline(), bench.client.listens()),
        (None, false)
    );
}

#[test]
fn silence_is_asked_into_more_and_more_seldom() {
    for (flag, kind) in [
        (RaFlag::Managed, SOLICIT),
        (RaFlag::Other, INFORMATION_REQUEST),
    ] {
        let mut bench = Dhcp6Bench::new(flag);
        let (mut last, actions) = bench.next();
        assert!(last < 1.0, "the random delay before the first: {last}");
        assert_eq!(message(&actions)[0], kind);
        for expected in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 64.0] {
            let (at, actions) = bench.next();
            assert_eq!(message(&actions)[0], kind);
            let waited = at - last;
            assert!(
                (expected * 0.74..expected * 1.26).contains(&waited),
                "{waited} {expected}"
            );
            last = at;
        }
    }
}

#[test]
fn elapsed_time_counts_from_the_first_message() {
    let mut bench = Dhcp6Bench::new(RaFlag::Managed);
    let elapsed =
        |actions: &[Dhcp6Action]| u16::from_be_bytes([22, 23].map(|at| message(actions)[at]));
    assert_eq!(elapsed(&bench.next().1), 0);
    assert!((74..=126).contains(&elapsed(&bench.next().1)), "hundredths");
    for _ in 0..20 {
        bench.next();
    }
    assert_eq!(elapsed(&bench.next().1), u16::MAX);
}

#[test]
fn advertise_request_reply() {
    let mut bench = Dhcp6Bench::new(RaFlag::Managed);
    bench.next();
    let actions = bench.answer(ADVERTISE, &[lease(OURS, HOUR)]);
    let request = message(&actions);
    assert_eq!(request[0], REQUEST);
    assert!(request.windows(10).any(|part| part == SERVER));
    assert!(request.windows(16).any(|part| part == OURS.octets()));
    let dns = Ipv6Addr::from([0xfd; 16]);
    let options = [
        lease(OURS, HOUR),
        encoded(23, &dns.octets()),
        encoded(24, b"\x03lab\x00"),
    ];
    let actions = bench.answer(REPLY, &options);
    let [Dhcp6Action::Add(lease), servers] = &actions[..] else {
        panic!("{actions:?}")
    };
    let end = Some(bench.now + Duration::from_hours(1));
    assert_eq!(
        (lease.address, lease.deprecated, lease.end),
        (OURS, end, end)
    );
    assert_eq!(
        *servers,
        Dhcp6Action::NameServers(vec![dns], vec!["lab".into()])
    );
    let (at, sent) = bench.sent();
    assert_eq!(sent, RENEW);
    assert!(
        (at - 1800.0).abs() < 2.0,
        "T1 is half the preferred lifetime: {at}"
    );
}

#[test]
fn an_offer_that_is_not_confirmed_is_forgotten() {
    let mut bench = Dhcp6Bench::new(RaFlag::Managed);
    bench.next();
    assert_eq!(
        message(&bench.answer(ADVERTISE, &[lease(OURS, HOUR)]))[0],
        REQUEST
    );
    let sent: Vec<_> = (0..4).map(|_| bench.sent().1).collect();
    assert_eq!(sent, [REQUEST, REQUEST, REQUEST, SOLICIT]);
}

#[test]
fn renewing_then_rebinding_then_the_end() {
    let mut bench = Dhcp6Bench::bound();
    let (mut renewals, mut rebindings) = (0, 0);
    loop {
        let (at, actions) = bench.next();
        match &actions[..] {
            [] => {}
            [Dhcp6Action::Multicast(message)] if message[0] == RENEW => {
                assert!((1799.0..2882.0).contains(&at), "{at}");
                assert!(message.windows(10).any(|part| part == SERVER));
                renewals += 1;
            }
            [Dhcp6Action::Multicast(message)] if message[0] == REBIND => {
                assert!((2879.0..3602.0).contains(&at), "{at}");
                assert!(!message.windows(10).any(|part| part == SERVER));
                rebindings += 1;
            }
            [removed, servers] => {
                assert_eq!(*removed, Dhcp6Action::Remove(OURS));
                assert_eq!(*servers, no_name_servers());
                assert!((3600.0..3602.0).contains(&at), "{at}");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    // After 10, 20, 40 … 600 seconds.
    assert!(
        (6..=8).contains(&renewals) && (5..=7).contains(&rebindings),
        "{renewals} {rebindings}"
    );
    assert_eq!(bench.sent().1, SOLICIT);
}

#[test]
fn a_renewed_lease_is_as_new() {
    let mut bench = Dhcp6Bench::bound();
    bench.sent();
    assert_eq!(
        added(&bench.answer(REPLY, &[lease(OURS, HOUR)])),
        Some(OURS)
    );
    let (at, sent) = bench.sent();
    assert!((at - 3600.0).abs() < 3.0 && sent == RENEW, "{at}");
}

#[test]
fn another_address_replaces_the_old_one() {
    let mut bench = Dhcp6Bench::bound();
    bench.sent();
    // As in renumbering: the old one is over.
    let both = [given(OURS, 0, 0), given(OTHER, HOUR, HOUR)].concat();
    let actions = bench.answer(REPLY, &[ia(MAC, 0, 0, &both)]);
    assert_eq!(actions[0], Dhcp6Action::Remove(OURS));
    assert_eq!(added(&actions), Some(OTHER));
}

#[test]
fn a_refused_renewal_looks_anew_and_the_lease_lasts_as_promised() {
    let mut bench = Dhcp6Bench::bound();
    bench.sent();
    let no_binding = encoded(13, &[0, 3]);
    let before = bench.now;
    assert_eq!(bench.answer(REPLY, &[ia(MAC, 0, 0, &no_binding)]), []);
    assert!(bench.client.deadline().unwrap() - before > FIRST_WAIT / 2);
    assert!(bench.client.has_address());
    let (_, actions) = bench.next();
    let message = message(&actions);
    assert_eq!(message[0], SOLICIT);
    assert!(
        message.windows(16).any(|part| part == OURS.octets()),
        "a hint"
    );

    // One that is over is over.
    let mut bench = Dhcp6Bench::bound();
    bench.sent();
    let actions = bench.answer(REPLY, &[lease(OURS, 0)]);
    assert_eq!(actions, [Dhcp6Action::Remove(OURS), no_name_servers()]);
    assert_eq!(bench.sent().1, SOLICIT);
}

#[test]
fn no_addresses_are_waited_for() {
    let none = [encoded(13, &[0, 2]), rapid()];
    let mut bench = Dhcp6Bench::new(RaFlag::Managed);
    let (mut last, _) = bench.next();
    for expected in [1.0, 2.0, 4.0] {
        assert_eq!(bench.answer(ADVERTISE, &none), []);
        assert_eq!(bench.answer(REPLY, &none), []);
        let (at, sent) = bench.sent();
        assert!(at - last > expected * 0.74 && sent == SOLICIT, "{at}");
        last = at;
    }
    bench.answer(ADVERTISE, &[lease(OURS, HOUR)]);
    assert_eq!(bench.answer(REPLY, &none), []);
    let (at, sent) = bench.sent();
    assert!(at - last > 0.74 && sent == SOLICIT, "{at}");
}

#[test]
fn after_the_cable_was_out_the_old_address_is_asked_for() {
    let mut bench = Dhcp6Bench::bound();
    bench.client.update(false, RaFlag::Managed, bench.now);
    assert!(bench.client.deadline().is_some(), "the lease still ends");
    bench.client.update(true, RaFlag::Managed, bench.now);
    let (_, actions) = bench.next();
    let message = message(&actions);
    assert!(message[0] == SOLICIT && message.windows(16).any(|part| part == OURS.octets()));
    let actions = bench.answer(REPLY, &[lease(OTHER, HOUR), rapid()]);
    assert_eq!(actions[0], Dhcp6Action::Remove(OURS));
    assert_eq!(added(&actions), Some(OTHER));
}

#[test]
fn a_lease_is_kept_while_routers_disagree() {
    let mut bench = Dhcp6Bench::bound();
    for flag in [
        RaFlag::Neither,
        RaFlag::Managed,
        RaFlag::Other,
        RaFlag::Neither,
    ] {
        bench.client.update(true, flag, bench.now);
    }
    assert_eq!(bench.sent().1, RENEW);
    loop {
        if bench.next().1.contains(&Dhcp6Action::Remove(OURS)) {
            break;
        }
    }
    assert_eq!(bench.client.deadline(), None, "nobody advertises another");
}

#[test]
fn information_alone_is_refreshed() {
    let mut bench = Dhcp6Bench::new(RaFlag::Other);
    bench.next();
    let dns = Ipv6Addr::from([0xfd; 16]);
    let servers = encoded(23, &dns.octets());
    let actions = bench.answer(REPLY, std::slice::from_ref(&servers));
    assert_eq!(actions, [Dhcp6Action::NameServers(vec![dns], vec![])]);
    assert!(!bench.client.listens());
    let day = bench.client.deadline().unwrap() - bench.now;
    assert_eq!(day, Duration::from_hours(24));
    assert_eq!(bench.sent().1, INFORMATION_REQUEST);
    bench.answer(REPLY, &[servers, encoded(32, &[0; 4])]);
    let soon = bench.client.deadline().unwrap() - bench.now;
    assert_eq!(soon, Duration::from_mins(10));
    bench.client.update(true, RaFlag::Managed, bench.now);
    assert_eq!(bench.sent().1, SOLICIT);
}

#[test]
fn a_lease_for_ever_and_one_for_hardly_any_time() {
    let mut bench = Dhcp6Bench::new(RaFlag::Managed);
    bench.next();
    let actions = bench.answer(REPLY, &[lease(OURS, u32::MAX), rapid()]);
    assert_eq!(
        (added(&actions), bench.client.deadline()),
        (Some(OURS), None)
    );

    let mut bench = Dhcp6Bench::new(RaFlag::Managed);
    bench.next();
    let one = ia(MAC, u32::MAX, 0, &given(OURS, 0, 1));
    let actions = bench.answer(REPLY, &[one, rapid()]);
    let wait = bench.client.deadline().unwrap() - bench.now;
    assert!(wait >= Duration::from_secs(2), "{wait:?}");
    assert!(matches!(&actions[0], Dhcp6Action::Add(lease) if lease.deprecated == Some(bench.now)));
}

#[test]
fn messages_for_others_are_ignored() {
    let mut bench = Dhcp6Bench::new(RaFlag::Managed);
    let options = [lease(OURS, HOUR), rapid()];
    assert_eq!(bench.answer(REPLY, &options), [], "nothing was asked");
    bench.next();
    let xid = bench.client.xid;
    for bytes in [
        reply(REPLY, xid ^ 1, MAC, &options),
        reply(REPLY, xid, [2; 6], &options),
        reply(REPLY, xid, MAC, &options[1..]),
        reply(REPLY, xid, MAC, &options[..1]),
        reply(
            REPLY,
            xid,
            MAC,
            &[ia([9; 6], 0, 0, &given(OURS, 1, 1)), rapid()],
        ),
        reply(SOLICIT, xid, MAC, &options),
        // Reconfigure.
        reply(10, xid, MAC, &options),
    ] {
        assert_eq!(bench.client.receive(&bytes, bench.now), []);
    }
    assert_eq!(added(&bench.answer(REPLY, &options)), Some(OURS));
    let xid = bench.client.xid;
    assert_eq!(
        bench
            .client
            .receive(&reply(10, xid, MAC, &options), bench.now),
        []
    );
}

proptest! {
    /// Whatever routers and servers say and whenever, the client neither panics nor spins.
    #[test]
    fn it_never_spins(steps in prop::collection::vec((0u8..12, any::<[u32; 4]>(), 0u8..6), 1..200)) {
        let mut bench = Dhcp6Bench::new(RaFlag::Managed);
        let mut sent = 0;
        for (kind, numbers, what) in steps {
            let [t1, t2, preferred, valid] = numbers.map(|number| number >> (number % 32));
            let address = if kind % 2 == 0 { OURS } else { OTHER };
            match what {
                0 => {
                    bench.client.update(false, RaFlag::Managed, bench.now);
                    bench.client.update(true, RaFlag::Managed, bench.now);
                }
                1 => {
                    let flags = [RaFlag::Neither, RaFlag::Other, RaFlag::Managed];
                    bench.client.update(true, flags[usize::from(kind % 3)], bench.now);
                }
                2 | 3 => {
                    let ia = ia(MAC, t1, t2, &given(address, preferred, valid));
                    let kind = if what == 2 { REPLY } else { kind };
                    let actions = bench.answer(kind, &[ia, rapid()]);
                    sent += actions.iter().filter(|a| matches!(a, Dhcp6Action::Multicast(_))).count();
                }
                4 => {
                    bench.answer(kind, &[encoded(13, &[0, kind]), rapid()]);
                }
                _ => {}
            }
            if bench.client.deadline().is_some() {
                let (_, actions) = bench.next();
                sent += actions.iter().filter(|a| matches!(a, Dhcp6Action::Multicast(_))).count();
            }
        }
        let seconds = (bench.now - bench.begin).as_secs();
        prop_assert!(sent as u64 <= 400 + seconds * 2);
    }
}
