//! Tests of what is made of answers.

use cpu_proto::discovery::write_text;
use cpu_proto::dns::ResourceRecord;
use proptest::prelude::*;

use super::*;

fn record(name: DomainName, ttl: u32, data: RecordData) -> ResourceRecord {
    ResourceRecord {
        name,
        flush: false,
        ttl,
        data,
    }
}

/// What a machine answers.
fn told(label: &str, host: &str, ips: &[&str]) -> Message {
    let name = instance(label.as_bytes());
    let target = DomainName::new(host.split('.'));
    let text = write_text([("arch", "arm64".to_owned())]);
    let address = |ip: &&str| match ip.parse().unwrap() {
        IpAddr::V4(ip) => record(target.clone(), 120, RecordData::A(ip)),
        IpAddr::V6(ip) => record(target.clone(), 120, RecordData::Aaaa(ip)),
    };
    let mut additionals: Vec<_> = ips.iter().map(address).collect();
    let (port, host) = (17010, target.clone());
    additionals.push(record(
        name.clone(),
        120,
        RecordData::Srv { port, target: host },
    ));
    additionals.push(record(name.clone(), 120, RecordData::Txt(text)));
    Message {
        is_response: true,
        answers: vec![record(service(), 4500, RecordData::Ptr(name))],
        additionals,
        ..Message::default()
    }
}

fn add(heard: &mut Heard, message: &Message, from: &str) {
    heard.add(message, from.parse().unwrap(), Instant::now());
}

fn addresses(heard: &Heard) -> Vec<String> {
    let machines = heard.machines().into_iter();
    let all = machines.flat_map(|machine| machine.addresses);
    all.map(|address| address.to_string()).collect()
}

#[test]
fn what_several_messages_say_of_a_machine_is_put_together() {
    let from = "192.168.77.1:5353";
    let mut heard = Heard::default();
    let whole = told("Board 7", "board7.local", &["fec0::1", "192.168.77.1"]);
    let part = |records: &[ResourceRecord]| Message {
        is_response: true,
        answers: records.to_vec(),
        ..Message::default()
    };
    add(&mut heard, &part(&whole.answers), from);
    assert!(heard.machines().is_empty());
    // It is asked for the rest.
    let asked = heard.query().questions;
    let names: Vec<_> = asked.iter().map(|question| question.name.clone()).collect();
    assert_eq!(names, [service(), instance(b"BOARD 7")]);
    add(&mut heard, &part(&whole.additionals), from);
    let machines = heard.machines();
    let [machine] = &machines[..] else {
        panic!("{machines:?}")
    };
    assert_eq!(
        (machine.instance.as_str(), machine.host.as_str()),
        ("board 7", "board7.local")
    );
    assert_eq!(machine.fact("arch"), Some("arm64"));
    assert_eq!(addresses(&heard), ["192.168.77.1:17010", "[fec0::1]:17010"]);
    assert_eq!(heard.query().questions.len(), 1);

    let ended = record(service(), 0, RecordData::Ptr(instance(b"board 7")));
    add(&mut heard, &part(&[ended]), from);
    assert!(heard.machines().is_empty());
}

#[test]
fn addresses_are_those_of_other_machines_on_the_right_link() {
    let mut heard = Heard::default();
    let here = ["127.0.0.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1"];
    add(&mut heard, &told("a", "a.local", &here), "[fe80::1]:5353");
    assert_eq!(addresses(&heard), ["[fe80::1]:17010"]);
    // Of IPv4's message the link is not known, nor does it tell an IPv4 address in disguise.
    let mut heard = Heard::default();
    let disguised = ["fe80::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0"];
    add(
        &mut heard,
        &told("a", "a.local", &disguised),
        "192.168.77.1:5353",
    );
    assert_eq!(addresses(&heard), ["192.168.77.1:17010"]);

    let from = SocketAddrV6::new("fe80::2".parse().unwrap(), 5353, 0, 7);
    let mut heard = Heard::default();
    heard.add(
        &told("a", "a.local", &["fe80::1"]),
        from.into(),
        Instant::now(),
    );
    assert_eq!(addresses(&heard), ["[fe80::1%7]:17010"]);
    // Without an address it is where its answer has come from.
    let mut heard = Heard::default();
    heard.add(&told("a", "a.local", &[]), from.into(), Instant::now());
    assert_eq!(addresses(&heard), ["[fe80::2%7]:17010"]);
}

#[test]
fn a_stranger_is_not_at_an_address_of_this_computer() {
    let new = || Heard {
        own: ["192.168.77.9", "fec0::9"]
            .map(|ip| ip.parse().unwrap())
            .into(),
        ..Heard::default()
    };
    let here = ["192.168.77.9", "fec0::9", "::ffff:192.168.77.9"];
    let mut heard = new();
    add(
        &mut heard,
        &told("a", "a.local", &here),
        "192.168.77.1:5353",
    );
    assert_eq!(addresses(&heard), ["192.168.77.1:17010"]);
    // A cpud of this computer is.
    let mut heard = new();
    add(
        &mut heard,
        &told("a", "a.local", &here),
        "192.168.77.9:5353",
    );
    assert_eq!(addresses(&heard), ["192.168.77.9:17010", "[fec0::9]:17010"]);
}

#[test]
fn only_who_has_heard_the_question_can_answer() {
    let mut heard = Heard::new(7);
    assert_eq!(heard.query().id, 7);
    let from = "192.168.77.1:5353";
    let mut answer = told("a", "a.local", &[]);
    add(&mut heard, &answer, from);
    answer.id = 7;
    add(&mut heard, &answer, "192.168.77.1:5354");
    assert!(heard.machines().is_empty());
    add(&mut heard, &answer, from);
    assert_eq!(heard.machines().len(), 1);
}

#[test]
fn what_is_not_told_again_is_forgotten() {
    let earlier = Instant::now();
    let now = earlier + Duration::from_hours(1);
    let from = "192.168.77.1:5353".parse().unwrap();
    let mut heard = Heard::default();
    heard.add(&told("a", "a.local", &["10.0.0.1"]), from, earlier);
    heard.add(&told("b", "b.local", &["10.0.0.1"]), from, earlier);
    heard.add(&told("a", "a.local", &["10.0.0.2"]), from, now);
    heard.forget(Duration::from_nanos(1));
    assert_eq!(addresses(&heard), ["10.0.0.2:17010"]);
    // Nor does a new host have the addresses of the old one.
    heard.add(&told("a", "c.local", &[]), from, now);
    assert_eq!(addresses(&heard), ["192.168.77.1:17010"]);
}

#[test]
fn machines_do_not_take_all_memory() {
    let from = "192.168.77.1:5353";
    let mut heard = Heard::default();
    let mut message = told("a", "a.local", &[]);
    let long = RecordData::Txt(vec![0; MAX_TEXT + 1]);
    message.additionals.push(record(instance(b"a"), 120, long));
    add(&mut heard, &message, from);
    assert_eq!(heard.machines()[0].fact("arch"), Some("arm64"));
    for number in 0..2 * MAX_MACHINES {
        let address = format!("10.0.{}.{}", number / 256, number % 256);
        add(&mut heard, &told(&number.to_string(), "x.local", &[]), from);
        add(&mut heard, &told("a", "a.local", &[&address]), from);
    }
    assert_eq!(heard.instances.len(), MAX_MACHINES);
    assert_eq!(heard.instances[&b"a"[..]].addresses.len(), MAX_ADDRESSES);
}

#[test]
fn queries_and_names_of_elsewhere_are_no_machines() {
    let from = "192.168.77.1:5353";
    let mut heard = Heard::default();
    let query = Message {
        is_response: false,
        ..told("a", "a.local", &[])
    };
    add(&mut heard, &query, from);
    add(
        &mut heard,
        &told("b", "bank.example", &["192.168.77.1"]),
        from,
    );
    add(&mut heard, &told("c", "a b.local", &["192.168.77.1"]), from);
    assert!(heard.machines().is_empty());
}

proptest! {
    #[test]
    fn any_answers_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let label = String::from_utf8_lossy(&bytes).into_owned();
        let mut message = told(&label, "a.local", &["192.168.77.1"]).write();
        for (at, byte) in damage {
            let at = at.index(message.len());
            message[at] = byte;
        }
        let mut heard = Heard::default();
        if let Some(message) = Message::read(&message) {
            add(&mut heard, &message, "192.168.77.1:5353");
        }
        for machine in heard.machines() {
            prop_assert!(machine.host.contains(".local") && !machine.addresses.is_empty());
            prop_assert!(machine.host.bytes().all(|byte| byte.is_ascii_graphic()));
        }
        let _ = heard.query().write();
    }
}
