//! Servers and routers that change their minds, and addresses that another machine has.

use super::*;

#[test]
fn a_deprecated_address_is_used_only_where_there_is_no_other() {
    let old = given(OURS, 0, HOUR);
    let both = [old.clone(), given(OTHER, HOUR, HOUR)].concat();
    let both = ia(MAC, 0, 0, &both);
    let mut bench = Dhcp6Bench::new(RaFlag::Managed);
    bench.next();
    let actions = bench.answer(REPLY, &[both.clone(), rapid()]);
    assert_eq!(added(&actions), Some(OTHER));

    let mut bench = Dhcp6Bench::bound();
    bench.sent();
    assert_eq!(added(&bench.answer(REPLY, &[both])), Some(OTHER));

    // Its lifetime says nothing about when to ask again.
    let mut bench = Dhcp6Bench::new(RaFlag::Managed);
    bench.next();
    let actions = bench.answer(REPLY, &[ia(MAC, 0, 0, &old), rapid()]);
    assert_eq!(added(&actions), Some(OURS));
    let wait = bench.client.deadline().unwrap() - bench.now;
    assert!(wait > Duration::from_mins(29), "{wait:?}");
}

#[test]
fn the_present_address_is_kept_wherever_it_is_in_the_reply() {
    let mut bench = Dhcp6Bench::bound();
    bench.sent();
    let both = [given(OTHER, HOUR, HOUR), given(OURS, HOUR, HOUR)].concat();
    let actions = bench.answer(REPLY, &[ia(MAC, 0, 0, &both)]);
    assert_eq!(added(&actions), Some(OURS));
    assert!(!actions.contains(&Dhcp6Action::Remove(OURS)));
}

#[test]
fn the_end_of_a_lease_leaves_the_name_servers_of_the_next_network() {
    let mut bench = Dhcp6Bench::bound();
    // The cable is put into a network of SLAAC, whose router is heard a little later.
    bench.client.update(false, RaFlag::Managed, bench.now);
    bench.client.update(true, RaFlag::Managed, bench.now);
    bench.client.update(true, RaFlag::Other, bench.now);
    assert_eq!(bench.sent().1, INFORMATION_REQUEST);
    let dns = encoded(23, &[0xfd; 16]);
    assert_eq!(bench.answer(REPLY, &[dns]).len(), 1);
    assert_eq!(bench.next().1, [Dhcp6Action::Remove(OURS)]);
}

#[test]
fn an_address_of_another_machine_is_declined_and_another_asked_for_later() {
    for is_answered in [true, false] {
        let mut bench = Dhcp6Bench::bound();
        assert!(!bench.client.decline(OTHER, bench.now));
        assert!(bench.client.decline(OURS, bench.now));
        assert!(!bench.client.decline(OURS, bench.now), "once is enough");
        let (_, actions) = bench.next();
        let [given_up @ .., Dhcp6Action::Multicast(message)] = &actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(given_up, [Dhcp6Action::Remove(OURS), no_name_servers()]);
        let has = |part: &[u8]| message.windows(part.len()).any(|there| there == part);
        assert!(message[0] == 9 && has(SERVER) && has(&OURS.octets()));
        if is_answered {
            assert_eq!(bench.answer(REPLY, &[]), []);
        } else {
            assert_eq!([bench.sent().1, bench.sent().1, bench.sent().1], [9; 3]);
        }
        let before = bench.now;
        let (_, actions) = bench.next();
        let (_, actions) = if actions.is_empty() {
            bench.next()
        } else {
            (0.0, actions)
        };
        let solicit = super::message(&actions);
        assert_eq!(solicit[0], SOLICIT);
        assert!(!solicit.windows(16).any(|part| part == OURS.octets()));
        assert!(bench.now - before > Duration::from_secs(10));
    }
}

#[test]
fn without_a_carrier_nothing_is_declined() {
    let mut bench = Dhcp6Bench::bound();
    bench.client.update(false, RaFlag::Managed, bench.now);
    assert!(!bench.client.decline(OURS, bench.now));
}

#[test]
fn a_server_that_fails_is_asked_for_information_again() {
    let mut bench = Dhcp6Bench::new(RaFlag::Other);
    bench.next();
    assert_eq!(bench.answer(REPLY, &[encoded(13, &[0, 1])]), []);
    let (at, sent) = bench.sent();
    assert!(at < 4.0 && sent == INFORMATION_REQUEST, "{at}");
}
