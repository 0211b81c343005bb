//! The client against a clock and a server that are both made up.

use super::super::packet::tests::reply;
use super::*;
use proptest::prelude::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OURS: [u8; 4] = [10, 0, 0, 7];
const SERVER: &[u8] = &[10, 0, 0, 1];
const HOUR: &[u8] = &[0, 0, 14, 16];

/// A client, a clock, and what the client has sent.
struct Bench {
    client: DhcpClient,
    begin: Instant,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let begin = Instant::now();
        let mut client = DhcpClient::new(MAC, None, 42, begin);
        client.start(begin);
        Self {
            client,
            begin,
            now: begin,
        }
    }

    /// Lets time pass to the next deadline; seconds since the beginning, and what is done.
    fn next(&mut self) -> (f64, Vec<Action>) {
        self.now = self.client.deadline().unwrap();
        let actions = self.client.tick(self.now);
        ((self.now - self.begin).as_secs_f64(), actions)
    }

    fn answer(&mut self, kind: u8, options: &[(u8, &[u8])]) -> Vec<Action> {
        let bytes = reply(kind, self.client.xid, MAC, OURS, options);
        self.client.receive(&bytes, self.now)
    }

    /// Through offer and acknowledgement to a lease of an hour.
    fn bound() -> Self {
        let mut bench = Self::new();
        bench.next();
        bench.answer(OFFER, &[(54, SERVER), (51, HOUR)]);
        let actions = bench.answer(ACK, &[(54, SERVER), (51, HOUR), (1, &[255, 255, 255, 0])]);
        assert!(
            matches!(&actions[..], [Action::Configure(lease)] if lease.address == Ipv4Addr::from(OURS))
        );
        assert_eq!(bench.client.listen(), Listen::No);
        bench
    }
}

fn kind(action: &Action) -> u8 {
    match action {
        Action::Broadcast(message) | Action::Unicast { message, .. } => message[242],
        other => panic!("{other:?}"),
    }
}

#[test]
fn silence_is_asked_into_more_and_more_seldom() {
    let mut bench = Bench::new();
    let mut last = 0.0;
    for expected in [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 64.0] {
        let (at, actions) = bench.next();
        assert_eq!(actions.iter().map(kind).collect::<Vec<_>>(), [DISCOVER]);
        let waited = at - last;
        assert!(
            waited >= expected * 0.74 && waited <= expected * 1.26,
            "{waited} {expected}"
        );
        last = at;
    }
}

/// While a switch looks for loops (IEEE 802.1D), and without a server.
#[test]
fn what_is_lost_for_minutes_delays_it_by_one_question() {
    for lost in [45.0, 300.0] {
        let mut bench = Bench::new();
        let (at, actions) = loop {
            let (at, actions) = bench.next();
            if at >= lost {
                break (at, actions);
            }
        };
        assert_eq!(actions.iter().map(kind).collect::<Vec<_>>(), [DISCOVER]);
        assert!(at < lost + 80.0, "{at}");
        bench.answer(OFFER, &[(54, SERVER), (51, HOUR)]);
        let actions = bench.answer(ACK, &[(54, SERVER), (51, HOUR)]);
        assert!(matches!(&actions[..], [Action::Configure(_)]));
    }
}

#[test]
fn offer_request_ack() {
    let mut bench = Bench::new();
    bench.next();
    assert_eq!(bench.client.listen(), Listen::Frames);
    let actions = bench.answer(OFFER, &[(54, SERVER), (51, HOUR)]);
    assert_eq!(actions.iter().map(kind).collect::<Vec<_>>(), [REQUEST]);
    let actions = bench.answer(ACK, &[(54, SERVER), (51, HOUR), (1, &[255, 255, 0, 0])]);
    let [Action::Configure(lease)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!((lease.address, lease.prefix), (Ipv4Addr::from(OURS), 16));
    let (at, actions) = bench.next();
    assert!((at - 1800.0).abs() < 2.0, "T1 is half the lease: {at}");
    assert!(matches!(&actions[..], [Action::Unicast { .. }]));
}

#[test]
fn an_offer_that_is_not_confirmed_is_forgotten() {
    let mut bench = Bench::new();
    bench.next();
    bench.answer(OFFER, &[(54, SERVER)]);
    let sent: Vec<_> = (0..6)
        .flat_map(|_| bench.next().1)
        .map(|a| kind(&a))
        .collect();
    assert_eq!(sent[..4], [REQUEST, REQUEST, REQUEST, DISCOVER]);
}

#[test]
fn renewing_then_rebinding_then_the_end() {
    let mut bench = Bench::bound();
    let (mut unicasts, mut broadcasts) = (0, 0);
    loop {
        let (at, actions) = bench.next();
        for action in &actions {
            match action {
                Action::Unicast { from, to, .. } => {
                    assert_eq!((from.octets(), to.octets()), (OURS, [10, 0, 0, 1]));
                    assert!((1798.0..3150.0).contains(&at));
                    assert_eq!(bench.client.listen(), Listen::Socket(*from));
                    unicasts += 1;
                }
                Action::Broadcast(_) if at < 3599.0 => {
                    assert!(at >= 3148.0);
                    broadcasts += 1;
                }
                Action::Deconfigure => assert!(at >= 3599.0),
                Action::Broadcast(message) => assert_eq!(message[242], DISCOVER),
                Action::Configure(_) => panic!(),
            }
        }
        if at > 3605.0 {
            break;
        }
    }
    assert!(
        (3..=6).contains(&unicasts) && (2..=5).contains(&broadcasts),
        "{unicasts} {broadcasts}"
    );
}

#[test]
fn a_renewed_lease_is_as_new() {
    let mut bench = Bench::bound();
    bench.next();
    let actions = bench.answer(ACK, &[(54, SERVER), (51, HOUR)]);
    assert!(matches!(&actions[..], [Action::Configure(_)]));
    let (at, _) = bench.next();
    assert!((at - 3600.0).abs() < 3.0, "{at}");
}

#[test]
fn a_refused_lease_is_given_up() {
    let mut bench = Bench::bound();
    bench.next();
    assert_eq!(bench.answer(NAK, &[(54, SERVER)]), [Action::Deconfigure]);
    let (_, actions) = bench.next();
    assert_eq!(actions.iter().map(kind).collect::<Vec<_>>(), [DISCOVER]);
    // And so is an offer, without a loop that burns the link.
    bench.answer(OFFER, &[(54, SERVER)]);
    let before = bench.now;
    assert_eq!(bench.answer(NAK, &[(54, SERVER)]), []);
    assert!(bench.client.deadline().unwrap() - before > FIRST_WAIT / 2);
}

#[test]
fn after_the_cable_was_out_the_old_address_is_asked_for() {
    let mut bench = Bench::bound();
    bench.client.stop();
    assert!(bench.client.deadline().is_some(), "the lease still ends");
    bench.client.start(bench.now);
    let (_, actions) = bench.next();
    let [Action::Broadcast(message)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert!(message.windows(6).any(|w| w == [50, 4, 10, 0, 0, 7]) && message[12..16] == [0; 4]);
    let sent: Vec<_> = (0..4)
        .flat_map(|_| bench.next().1)
        .map(|a| kind(&a))
        .collect();
    assert_eq!(
        sent,
        [REQUEST, REQUEST, DISCOVER, DISCOVER],
        "silence: look anew, keep the lease"
    );
    bench.answer(OFFER, &[(54, SERVER)]);
    assert!(matches!(
        &bench.answer(ACK, &[(54, SERVER), (51, HOUR)])[..],
        [Action::Configure(_)]
    ));
}

#[test]
fn a_lease_for_ever_and_one_for_no_time() {
    let mut bench = Bench::new();
    bench.next();
    bench.answer(OFFER, &[(54, SERVER)]);
    assert_eq!(bench.answer(ACK, &[(54, SERVER)]), [], "no lease time");
    bench.answer(ACK, &[(54, SERVER), (51, &[255; 4])]);
    assert_eq!(bench.client.deadline(), None);

    let mut bench = Bench::new();
    bench.next();
    bench.answer(OFFER, &[(54, SERVER)]);
    bench.answer(
        ACK,
        &[(54, SERVER), (51, &[0; 4]), (58, &[0; 4]), (59, &[0; 4])],
    );
    let wait = bench.client.deadline().unwrap() - bench.now;
    assert!(wait >= Duration::from_secs(2), "{wait:?}");
}

#[test]
fn messages_for_others_are_ignored() {
    let mut bench = Bench::new();
    bench.next();
    let xid = bench.client.xid;
    let options: &[(u8, &[u8])] = &[(54, SERVER), (51, HOUR)];
    for bytes in [
        reply(OFFER, xid ^ 1, MAC, OURS, options),
        reply(OFFER, xid, [2, 0, 0, 0, 0, 2], OURS, options),
        reply(OFFER, xid, MAC, [0; 4], options),
        reply(OFFER, xid, MAC, OURS, &[]),
        reply(ACK, xid, MAC, OURS, options),
        reply(NAK, xid, MAC, OURS, options),
    ] {
        assert_eq!(bench.client.receive(&bytes, bench.now), []);
    }
    bench.answer(OFFER, options);
    for (kind, yiaddr, server) in [
        (ACK, [10, 0, 0, 8], SERVER),
        (ACK, OURS, &[10, 0, 0, 2]),
        (NAK, OURS, &[10, 0, 0, 2]),
    ] {
        let bytes = reply(
            kind,
            bench.client.xid,
            MAC,
            yiaddr,
            &[(54, server), (51, HOUR)],
        );
        assert_eq!(bench.client.receive(&bytes, bench.now), []);
    }
    assert!(matches!(
        &bench.answer(ACK, options)[..],
        [Action::Configure(_)]
    ));
}

proptest! {
    /// Whatever a server answers and whenever, the client neither panics nor spins.
    #[test]
    fn it_never_spins(steps in prop::collection::vec((0u8..8, any::<u32>(), any::<u32>(), 0u8..4), 1..200)) {
        let mut bench = Bench::new();
        let mut sent = 0;
        for (kind, lease, t1, what) in steps {
            match what {
                0 => { bench.client.stop(); bench.client.start(bench.now); }
                1 | 2 => {
                    let (lease, t1) = ((lease >> (lease % 32)).to_be_bytes(), (t1 >> (t1 % 32)).to_be_bytes());
                    bench.answer(kind, &[(54, SERVER), (51, &lease), (58, &t1), (59, &t1)]);
                }
                _ => {}
            }
            if bench.client.deadline().is_some() {
                let before = bench.now;
                let (_, actions) = bench.next();
                bench.now = bench.now.max(before);
                sent += actions.len();
            }
        }
        let seconds = (bench.now - bench.begin).as_secs();
        prop_assert!(sent as u64 <= 800 + seconds * 2);
    }
}
