use std::net::IpAddr;

use cpu_proto::discovery::{all_services, instance, service};
use cpu_proto::dns::DomainName;
use proptest::prelude::*;

use super::super::records::MachineNames;
use super::*;

const ADDRESS: [u8; 4] = [192, 168, 77, 1];

fn records_of(name: &str, address: [u8; 4]) -> Vec<ResourceRecord> {
    let addresses = [IpAddr::from(address)];
    MachineNames::new(Some(name), [0; 6], 17010, 1).records(17010, &addresses, b"\x03a=b".to_vec())
}

/// One that has its names, and the time at which it is so.
fn settled(begin: Instant) -> (Responder, Instant) {
    let mut responder = Responder::new(records_of("board7", ADDRESS), begin, Duration::ZERO);
    let mut now = begin;
    while let Some(at) = responder.deadline() {
        now = at;
        responder.tick(now);
    }
    (responder, now + INTERVAL)
}

fn ask(name: DomainName, kind: u16, unicast: bool) -> Message {
    let questions = vec![Question {
        name,
        kind,
        unicast,
    }];
    Message {
        questions,
        ..Message::default()
    }
}

fn receive(
    responder: &mut Responder,
    message: &Message,
    port: u16,
    now: Instant,
) -> Result<Option<Message>, Conflict> {
    responder.receive(message, port, |_| false, now, 50)
}

fn kinds(records: &[ResourceRecord]) -> Vec<u16> {
    records.iter().map(|record| record.data.kind()).collect()
}

#[test]
fn names_are_probed_three_times_and_announced_twice() {
    let begin = Instant::now();
    let delay = Duration::from_millis(100);
    let mut responder = Responder::new(records_of("board7", ADDRESS), begin, delay);
    let mut sent = Vec::new();
    let mut last = begin;
    while let Some(at) = responder.deadline() {
        assert_eq!(responder.tick(last + Duration::from_millis(99)), None);
        last = at;
        sent.extend(
            responder
                .tick(at)
                .map(|message| ((at - begin).as_millis(), message)),
        );
    }
    let times: Vec<_> = sent.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [100, 350, 600, 850, 1850]);
    let probe = &sent[0].1;
    assert!(!probe.is_response && probe.questions.iter().all(|question| question.unicast));
    let names: Vec<_> = probe
        .questions
        .iter()
        .map(|question| question.name.to_string())
        .collect();
    assert_eq!(names, ["board7-cpud._ncpu._tcp.local", "board7.local"]);
    assert_eq!(kinds(&probe.authorities), [kind::SRV, kind::A]);
    let announcement = &sent[4].1;
    let all = [kind::PTR, kind::PTR, kind::SRV, kind::TXT, kind::A];
    assert!(announcement.is_response);
    assert_eq!(kinds(&announcement.answers), all);
    assert!(responder.has_names());
}

#[test]
fn the_service_is_answered_by_multicast_once_a_second() {
    let (mut responder, now) = settled(Instant::now());
    let query = ask(service(), kind::PTR, false);
    let answered = |responder: &mut Responder, asked: Instant| {
        assert_eq!(receive(responder, &query, PORT, asked), Ok(None));
        let at = responder.deadline().unwrap();
        let message = responder.tick(at).unwrap();
        assert_eq!(responder.deadline(), None);
        (at - asked, message)
    };
    let (after, message) = answered(&mut responder, now);
    assert_eq!(after.as_millis(), 70);
    assert_eq!(kinds(&message.answers), [kind::PTR]);
    assert_eq!(kinds(&message.additionals), [kind::SRV, kind::TXT, kind::A]);
    assert!(message.questions.is_empty() && message.id == 0);
    // Many who ask at the same time get one answer, a second after the one before.
    let (last, soon) = (now + after, Duration::from_millis(100));
    for asked in [last + soon, last + soon * 2] {
        assert_eq!(receive(&mut responder, &query, PORT, asked), Ok(None));
    }
    assert_eq!(responder.deadline(), Some(last + INTERVAL));
    let (after, message) = answered(&mut responder, last + soon * 3);
    assert_eq!((after.as_millis(), message.answers.len()), (700, 1));
}

#[test]
fn what_nobody_else_has_is_answered_at_once() {
    let (mut responder, now) = settled(Instant::now());
    let query = ask(instance(b"BOARD7-CPUD"), kind::ANY, false);
    assert_eq!(receive(&mut responder, &query, PORT, now), Ok(None));
    let message = responder.tick(now).unwrap();
    assert_eq!(kinds(&message.answers), [kind::SRV, kind::TXT]);
    assert_eq!(kinds(&message.additionals), [kind::A]);
    assert!(
        message
            .answers
            .iter()
            .all(|record| record.flush && record.ttl == 120)
    );
}

#[test]
fn an_answer_for_one_goes_to_that_one() {
    let (mut responder, now) = settled(Instant::now());
    let query = ask(service(), kind::PTR, true);
    let reply = receive(&mut responder, &query, PORT, now).unwrap().unwrap();
    assert!(reply.additionals[0].flush && reply.answers[0].ttl == 4500);
    assert_eq!((reply.id, reply.questions.len()), (0, 0));

    // A simple resolver gets what a name server would send.
    let query = Message {
        id: 7,
        ..ask(service(), kind::PTR, false)
    };
    let reply = receive(&mut responder, &query, 40_000, now)
        .unwrap()
        .unwrap();
    assert_eq!((reply.id, &reply.questions), (7, &query.questions));
    let mut records = reply.answers.iter().chain(&reply.additionals);
    assert!(records.all(|record| !record.flush && record.ttl <= LEGACY_TTL));
    assert_eq!(responder.deadline(), None);
}

#[test]
fn a_flood_of_questions_makes_no_flood_of_answers() {
    let (mut responder, now) = settled(Instant::now());
    let query = ask(service(), kind::PTR, true);
    let mut answers = |at| {
        let replies = (0..1000).map(|_| receive(&mut responder, &query, 40_000, at).unwrap());
        replies.flatten().count()
    };
    assert_eq!(answers(now), 250);
    assert_eq!(answers(now + INTERVAL / 2), 0);
    assert_eq!(answers(now + INTERVAL), 250);
}

#[test]
fn known_answers_are_not_repeated() {
    let (mut responder, now) = settled(Instant::now());
    let knowing = |ttl| {
        let mut query = ask(service(), kind::PTR, true);
        let known = records_of("board7", ADDRESS).swap_remove(1);
        query.answers = vec![ResourceRecord { ttl, ..known }];
        query
    };
    assert_eq!(receive(&mut responder, &knowing(2250), PORT, now), Ok(None));
    let reply = receive(&mut responder, &knowing(2249), PORT, now).unwrap();
    assert!(reply.is_some());
}

#[test]
fn only_own_names_are_answered_and_only_when_they_are_own() {
    let begin = Instant::now();
    let (mut responder, now) = settled(begin);
    let mut answers = |name, kind| {
        let reply = receive(&mut responder, &ask(name, kind, true), PORT, now).unwrap();
        reply.map(|reply| kinds(&reply.answers))
    };
    let host = || DomainName::new(["board7", "local"]);
    assert_eq!(answers(all_services(), kind::PTR), Some(vec![kind::PTR]));
    assert_eq!(answers(host(), kind::A), Some(vec![kind::A]));
    assert_eq!(answers(host(), kind::AAAA), None);
    assert_eq!(answers(DomainName::new(["board8", "local"]), kind::A), None);
    assert_eq!(answers(instance(b"board8-cpud"), kind::ANY), None);
    assert_eq!(answers(DomainName::new(["local"]), kind::ANY), None);

    let mut probing = Responder::new(records_of("board7", ADDRESS), begin, Duration::ZERO);
    let query = ask(service(), kind::PTR, true);
    assert_eq!(receive(&mut probing, &query, PORT, begin), Ok(None));
}

/// What a machine with a name and an address says.
fn told(name: &str, address: [u8; 4], ttl: u32) -> Message {
    let records = records_of(name, address).into_iter();
    Message {
        is_response: true,
        answers: records
            .map(|record| ResourceRecord { ttl, ..record })
            .collect(),
        ..Message::default()
    }
}

#[test]
fn a_name_that_another_machine_has_is_not_taken() {
    let begin = Instant::now();
    let other = [192, 168, 77, 2];
    let probing = || {
        let mut responder = Responder::new(records_of("board7", ADDRESS), begin, Duration::ZERO);
        assert!(responder.tick(begin).is_some());
        responder
    };
    let conflict = |message: &Message| receive(&mut probing(), message, PORT, begin);
    assert_eq!(conflict(&told("BOARD7", other, 120)), Err(Conflict));
    let elsewhere = receive(&mut probing(), &told("board7", other, 120), 40_000, begin);
    assert_eq!(elsewhere, Ok(None));
    for harmless in [
        told("board8", other, 120),
        told("board7", ADDRESS, 120),
        told("board7", other, 0),
    ] {
        assert_eq!(conflict(&harmless), Ok(None), "{harmless:?}");
    }
    // This machine's own answer on another link.
    let own = probing().receive(&told("board7", other, 120), PORT, |_| true, begin, 0);
    assert_eq!(own, Ok(None));

    // One that has been answered for is probed again, and meanwhile nobody gets an answer.
    let (mut responder, now) = settled(begin);
    let query = ask(service(), kind::PTR, false);
    assert_eq!(receive(&mut responder, &query, PORT, now), Ok(None));
    assert_eq!(
        receive(&mut responder, &told("board7", other, 120), PORT, now),
        Ok(None)
    );
    assert!(!responder.has_names());
    let probe = responder.tick(now).unwrap();
    assert!(!probe.authorities.is_empty());
    assert_eq!(responder.tick(now + PROBE_INTERVAL / 2), None);
}

#[test]
fn names_are_given_up_no_faster_than_probes_are_sent() {
    let now = Instant::now();
    let conflict = told("board7", [192, 168, 77, 2], 120);
    let mut responder = Responder::new(records_of("board7", ADDRESS), now, LOST);
    for _ in 0..3 {
        assert_eq!(receive(&mut responder, &conflict, PORT, now), Ok(None));
        assert_eq!(responder.deadline(), Some(now + LOST));
    }
    assert!(responder.tick(now + LOST).is_some());
    let after = receive(&mut responder, &conflict, PORT, now + LOST);
    assert_eq!(after, Err(Conflict));
}

#[test]
fn very_many_questions_and_known_answers_take_no_time() {
    let host = DomainName::new(["board7", "local"]);
    let addresses = (0..8).map(|number| IpAddr::from([10, 0, 0, number]));
    let addresses: Vec<_> = addresses.collect();
    let names = MachineNames::new(Some("board7"), [0; 6], 17010, 1);
    let now = Instant::now();
    let records = names.records(17010, &addresses, Vec::new());
    let mut responder = Responder::new(records, now, Duration::ZERO);
    responder.phase = Phase::Settled;
    // As many as a message of 9000 bytes can have.
    let mut query = ask(host.clone(), kind::ANY, true);
    query.questions = vec![query.questions.swap_remove(0); 750];
    let other = ResourceRecord {
        name: host,
        flush: false,
        ttl: 120,
        data: RecordData::A([10, 0, 1, 0].into()),
    };
    query.answers = vec![other; 280];
    let begin = Instant::now();
    for _ in 0..50 {
        let reply = receive(&mut responder, &query, 40_000, now).unwrap();
        assert_eq!(reply.unwrap().questions.len(), 1);
    }
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn of_two_that_probe_at_the_same_time_one_waits() {
    let now = Instant::now();
    let probing = |address| {
        let mut responder = Responder::new(records_of("board7", address), now, Duration::ZERO);
        let probe = responder.tick(now).unwrap();
        (responder, probe)
    };
    let (mut low, of_low) = probing([192, 168, 77, 1]);
    let (mut high, of_high) = probing([192, 168, 77, 2]);
    for (responder, probe, next) in [
        (&mut low, &of_high, LOST),
        (&mut high, &of_low, PROBE_INTERVAL),
    ] {
        assert_eq!(receive(responder, probe, PORT, now), Ok(None));
        assert_eq!(responder.deadline(), Some(now + next));
    }
    let (_, of_same) = probing([192, 168, 77, 2]);
    assert_eq!(receive(&mut high, &of_same, PORT, now), Ok(None));
    assert_eq!(high.deadline(), Some(now + PROBE_INTERVAL));
}

#[test]
fn changes_are_made_known() {
    let begin = Instant::now();
    let (mut responder, now) = settled(begin);
    responder.set_text(b"\x03a=c");
    responder.set_records(records_of("board7", ADDRESS), now);
    assert_eq!(responder.deadline(), None);
    responder.set_records(records_of("board7", [10, 0, 0, 1]), now);
    let message = responder.tick(now).unwrap();
    assert!(message.is_response && message.answers.last().unwrap().flush);
    responder.set_records(records_of("board8", [10, 0, 0, 1]), now);
    assert!(!responder.has_names());

    let (mut responder, now) = settled(begin);
    responder.set_text(b"\x03a=c");
    let query = ask(instance(b"board7-cpud"), kind::TXT, true);
    let reply = receive(&mut responder, &query, PORT, now).unwrap().unwrap();
    assert_eq!(reply.answers[0].data, RecordData::Txt(b"\x03a=c".to_vec()));
    let goodbye = responder.goodbye().unwrap();
    assert!(goodbye.answers.iter().all(|record| record.ttl == 0));
    assert!(
        goodbye
            .answers
            .iter()
            .all(|record| record.name != all_services())
    );
    let probing = Responder::new(records_of("x", ADDRESS), begin, Duration::ZERO);
    assert_eq!(probing.goodbye(), None);
}

fn own_name() -> impl Strategy<Value = DomainName> {
    prop_oneof![
        Just(service()),
        Just(all_services()),
        Just(instance(b"board7-cpud")),
        Just(DomainName::new(["board7", "local"])),
        Just(DomainName::new(["x", "local"])),
    ]
}

proptest! {
    /// What strangers send neither makes answers grow nor keeps the responder busy.
    #[test]
    fn any_messages_are_survived(messages in prop::collection::vec(
        (
            prop::collection::vec((own_name(), prop::sample::select(vec![1, 12, 16, 28, 33, 255, 7]), any::<bool>()), 0..40),
            prop::collection::vec((own_name(), any::<[u8; 4]>(), any::<u32>()), 0..4),
            any::<bool>(),
            any::<bool>(),
            prop::sample::select(vec![PORT, 40_000]),
            0..2000u64,
        ),
        0..20,
    )) {
        let (mut responder, mut now) = settled(Instant::now());
        let mut last: Option<Instant> = None;
        for (questions, records, is_response, is_probe, port, pause) in messages {
            let record = |(name, ip, ttl): (DomainName, [u8; 4], u32)| ResourceRecord {
                name,
                flush: true,
                ttl,
                data: RecordData::A(ip.into()),
            };
            let records: Vec<_> = records.into_iter().map(record).collect();
            let questions = questions.into_iter().map(|(name, kind, unicast)| Question { name, kind, unicast });
            let mut message = Message { is_response, questions: questions.collect(), ..Message::default() };
            if is_probe { message.authorities = records; } else { message.answers = records; }
            if let Ok(Some(reply)) = receive(&mut responder, &message, port, now) {
                prop_assert!(reply.write().len() < 9000);
            }
            now += Duration::from_millis(pause);
            if let Some(multicast) = responder.tick(now) {
                prop_assert!(multicast.write().len() < 1400);
                if multicast.is_response {
                    prop_assert!(responder.has_names());
                    prop_assert!(last.is_none_or(|last| now - last >= DEFENCE_INTERVAL));
                    last = Some(now);
                }
            }
        }
    }
}
