//! Which machine is wanted: `.`, or u-root's `dnssd://[INSTANCE._ncpu._tcp.][local]/?KEY=VALUE&sort=KEY`.

use std::cmp::Ordering;

use anyhow::{Result, bail, ensure};
use cpu_proto::discovery::{go_arch, key};

use super::FoundMachine;

/// What is wanted of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MachineQuery {
    instance: Option<String>,
    host: Option<String>,
    /// A key, and values of which it must have one.
    wanted: Vec<(String, Vec<Wanted>)>,
    /// The best come first; the first criterion counts most.
    sort: Vec<(Order, String)>,
}

/// What is wanted of a value.
#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    /// `*`
    Any,
    Is(String),
    /// `!VALUE`
    IsNot(String),
    /// `<NUMBER`, or equal to it, as in u-root's cpu.
    AtMost(f64),
    /// `>NUMBER`, or equal to it.
    AtLeast(f64),
}

impl Eq for Wanted {}

/// How machines are sorted by a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// `KEY` or `<KEY`
    Least,
    /// `>KEY`
    Greatest,
    /// `=KEY`
    Present,
    /// `!KEY`
    Absent,
}

impl MachineQuery {
    /// All machines, the least busy first.
    pub(crate) fn all() -> Self {
        // The number of sessions decides between those that have nothing to do.
        let sort = [key::BUSY, key::SESSIONS].map(|key| (Order::Least, key.to_owned()));
        Self {
            instance: None,
            host: None,
            wanted: Vec::new(),
            sort: sort.to_vec(),
        }
    }

    /// The one with this host name.
    pub(crate) fn host(name: &str) -> Self {
        Self {
            host: Some(name.to_owned()),
            ..Self::all()
        }
    }

    /// The user and the query, if this is no host but a query.
    pub(crate) fn parse(host: &str) -> Result<Option<(Option<&str>, Self)>> {
        let is_query = |text: &str| text == "." || text.starts_with("dnssd:");
        let (user, text) = match host.split_once('@') {
            Some((user, text)) if is_query(text) => (Some(user), text),
            _ if is_query(host) => (None, host),
            _ => return Ok(None),
        };
        let text = text.strip_prefix("dnssd:").unwrap_or_default();
        let text = text.strip_prefix("//").unwrap_or(text);
        let (place, conditions) = text.split_once('?').unwrap_or((text, ""));
        let mut query = Self::all();
        query.instance = instance(&decode(place.trim_end_matches('/'))?)?;
        let mut sort = Vec::new();
        for condition in conditions
            .split('&')
            .filter(|condition| !condition.is_empty())
        {
            let Some((key, value)) = condition.split_once('=') else {
                bail!("{condition:?} in {host:?}: write KEY=VALUE");
            };
            let (key, value) = (decode(key)?.to_ascii_lowercase(), decode(value)?);
            match key.as_str() {
                "sort" => sort.push(order(&value)?),
                _ => query.want(&key, wanted(&key, &value)?),
            }
        }
        if !sort.is_empty() {
            query.sort = sort;
        }
        // Programs of this machine run there.
        for (key, own) in [
            (key::ARCH, go_arch(std::env::consts::ARCH)),
            (key::OS, std::env::consts::OS),
        ] {
            if query.wanted.iter().all(|(wanted, _)| wanted != key) {
                query.want(key, Wanted::Is(own.to_owned()));
            }
        }
        Ok(Some((user, query)))
    }

    fn want(&mut self, key: &str, value: Wanted) {
        match self.wanted.iter_mut().find(|(wanted, _)| wanted == key) {
            Some((_, values)) => values.push(value),
            None => self.wanted.push((key.to_owned(), vec![value])),
        }
    }

    /// The machines that are wanted, the best first.
    pub(super) fn select(&self, mut machines: Vec<FoundMachine>) -> Vec<FoundMachine> {
        machines.retain(|machine| self.admits(machine));
        machines.sort_by(|one, other| {
            let by = |(order, key): &(Order, String)| order.compare(one, other, key);
            let orders = self.sort.iter().map(by);
            let order = orders.fold(Ordering::Equal, Ordering::then);
            order.then_with(|| one.instance.cmp(&other.instance))
        });
        machines
    }

    fn admits(&self, machine: &FoundMachine) -> bool {
        let is = |name: &Option<String>, its: &str| {
            name.as_ref()
                .is_none_or(|name| name.eq_ignore_ascii_case(its))
        };
        is(&self.instance, &machine.instance)
            && is(&self.host, &machine.host)
            && self
                .wanted
                .iter()
                .all(|(key, values)| values.iter().any(|wanted| wanted.admits(machine, key)))
    }
}

impl Wanted {
    fn admits(&self, machine: &FoundMachine, key: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Is(value) => machine.fact(key).unwrap_or_default() == value,
            Self::IsNot(value) => machine.fact(key).unwrap_or_default() != value,
            Self::AtMost(most) => machine.number(key).is_some_and(|number| number <= *most),
            Self::AtLeast(least) => machine.number(key).is_some_and(|number| number >= *least),
        }
    }
}

impl Order {
    /// Machines that do not say it come last.
    fn compare(self, one: &FoundMachine, other: &FoundMachine, key: &str) -> Ordering {
        let is_absent = |machine: &FoundMachine| machine.fact(key).is_none_or(str::is_empty);
        let number = |machine: &FoundMachine, sign: f64| {
            machine
                .number(key)
                .map_or(f64::INFINITY, |number| sign * number)
        };
        match self {
            Self::Least => number(one, 1.0).total_cmp(&number(other, 1.0)),
            Self::Greatest => number(one, -1.0).total_cmp(&number(other, -1.0)),
            Self::Present => is_absent(one).cmp(&is_absent(other)),
            Self::Absent => is_absent(other).cmp(&is_absent(one)),
        }
    }
}

/// The instance in `INSTANCE._ncpu._tcp.local`, whose parts may be missing.
fn instance(place: &str) -> Result<Option<String>> {
    let place = place.trim_end_matches('.');
    let rest = place.strip_suffix(".local").unwrap_or(place);
    let name = match rest {
        "" | "local" | "_ncpu._tcp" => None,
        rest => rest.strip_suffix("._ncpu._tcp"),
    };
    ensure!(
        name.is_some() || matches!(rest, "" | "local" | "_ncpu._tcp"),
        "dnssd://{place}: machines are found as NAME._ncpu._tcp.local only; for any, write dnssd://, and for one with a known host name only \
         that name, such as board7.local"
    );
    Ok(name.map(str::to_owned))
}

fn wanted(key: &str, value: &str) -> Result<Wanted> {
    let number = |text: &str| match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => bail!("{key}={value}: write a number after < or >"),
    };
    Ok(match value.as_bytes().first() {
        Some(b'*') => Wanted::Any,
        Some(b'<') => Wanted::AtMost(number(&value[1..])?),
        Some(b'>') => Wanted::AtLeast(number(&value[1..])?),
        Some(b'!') => Wanted::IsNot(normal(key, &value[1..])),
        _ => Wanted::Is(normal(key, value)),
    })
}

/// A value as machines have it.
fn normal(key: &str, value: &str) -> String {
    match key {
        key::ARCH => go_arch(value),
        _ => value,
    }
    .to_owned()
}

fn order(text: &str) -> Result<(Order, String)> {
    let (order, key) = match text.as_bytes().first() {
        Some(b'<') => (Order::Least, &text[1..]),
        Some(b'>') => (Order::Greatest, &text[1..]),
        Some(b'=') => (Order::Present, &text[1..]),
        Some(b'!') => (Order::Absent, &text[1..]),
        _ => (Order::Least, text),
    };
    ensure!(!key.is_empty(), "sort={text}: write the key to sort by");
    Ok((order, key.to_ascii_lowercase()))
}

/// Decodes a part of a URL.
fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let value = digit(rest.next()).zip(digit(rest.next()));
                let value = value.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                match value {
                    Some(value) => value,
                    None => bail!("{text:?}: write two hexadecimal digits after %"),
                }
            }
            other => other,
        });
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(_) => bail!("{text:?} is not UTF-8"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(instance: &str, facts: &[(&str, &str)]) -> FoundMachine {
        let facts = facts
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let host = format!("{instance}.local");
        FoundMachine::new(instance.into(), host, Vec::new(), facts.collect())
    }

    fn selected(query: &str) -> Vec<String> {
        let arch = std::env::consts::ARCH;
        let fleet = [
            machine(
                "a-cpud",
                &[
                    ("arch", arch),
                    ("os", "linux"),
                    ("cpu.pcnt", "50"),
                    ("load", "4"),
                    ("cores", "8"),
                    ("tenants", "2"),
                ],
            ),
            machine(
                "b-cpud",
                &[
                    ("arch", arch),
                    ("os", "linux"),
                    ("cpu.pcnt", "80"),
                    ("load", "0.8"),
                    ("cores", "1"),
                    ("tenants", "0"),
                    ("gpu", "true"),
                ],
            ),
            machine(
                "c-cpud",
                &[
                    ("arch", "sparc64"),
                    ("os", "linux"),
                    ("cpu.pcnt", "0"),
                    ("load", "0"),
                    ("cores", "64"),
                ],
            ),
            machine("d-cpud", &[("arch", arch), ("os", "plan9")]),
        ];
        let (_, query) = MachineQuery::parse(query).unwrap().unwrap();
        let names = query.select(fleet.to_vec()).into_iter();
        names
            .map(|machine| machine.instance[..1].to_owned())
            .collect()
    }

    #[test]
    fn the_least_busy_that_runs_the_same_programs_is_the_first() {
        for same in [
            ".",
            "dnssd:",
            "dnssd://",
            "dnssd://local",
            "dnssd://local/?",
            "dnssd://_ncpu._tcp",
        ] {
            assert_eq!(selected(same), ["a", "b"], "{same}");
        }
        assert_eq!(selected("dnssd://?arch=*"), ["c", "a", "b"]);
        assert_eq!(selected("dnssd://?arch=*&os=*"), ["c", "a", "b", "d"]);
    }

    #[test]
    fn values_are_compared_as_u_roots_cpu_does() {
        assert_eq!(selected("dnssd://?arch=sparc64"), ["c"]);
        assert_eq!(
            selected("dnssd://?arch=sparc64&arch=x86_64&arch=aarch64"),
            ["c", "a", "b"]
        );
        assert_eq!(selected("dnssd://?cores=>8"), ["a"]);
        assert_eq!(selected("dnssd://?cores=%3C7.5"), ["b"]);
        assert_eq!(selected("dnssd://?sessions=<1"), ["b"]);
        assert_eq!(selected("dnssd://?arch=!sparc64&os=*"), ["a", "b", "d"]);
        assert_eq!(selected("dnssd://?gpu=true"), ["b"]);
        assert_eq!(selected("dnssd://?gpu=!true"), ["a"]);
        assert_eq!(selected("dnssd://b-cpud._ncpu._tcp.local/"), ["b"]);
        assert_eq!(selected("dnssd://B%2Dcpud._ncpu._tcp"), ["b"]);
        assert!(selected("dnssd://x._ncpu._tcp").is_empty());
        let board = machine("board", &[("arch", "sparc64")]);
        let selected = |host| MachineQuery::host(host).select(vec![board.clone()]).len();
        assert_eq!((selected("Board.local"), selected("b.local")), (1, 0));
    }

    #[test]
    fn machines_are_sorted_as_u_roots_cpu_does() {
        assert_eq!(selected("dnssd://?sort=load"), ["b", "a"]);
        assert_eq!(selected("dnssd://?sort=>load"), ["a", "b"]);
        assert_eq!(selected("dnssd://?sort==gpu&sort=load"), ["b", "a"]);
        assert_eq!(selected("dnssd://?sort=!gpu"), ["a", "b"]);
        assert_eq!(
            selected("dnssd://?arch=*&os=*&sort=tenants"),
            ["b", "a", "c", "d"]
        );
    }

    #[test]
    fn hosts_are_no_queries_and_mistakes_are_told() {
        for host in [
            "board",
            "root@board",
            "..",
            "board.",
            "@board",
            "x.dnssd:",
            "fe80::1",
        ] {
            assert_eq!(MachineQuery::parse(host).unwrap(), None, "{host}");
        }
        let (user, _) = MachineQuery::parse("ann@.").unwrap().unwrap();
        assert_eq!(user, Some("ann"));
        let (user, _) = MachineQuery::parse("dnssd://?x=a@b").unwrap().unwrap();
        assert_eq!(user, None);
        for (wrong, told) in [
            ("dnssd://?arch", "KEY=VALUE"),
            ("dnssd://?load=<x", "number"),
            ("dnssd://?sort=", "key to sort by"),
            ("dnssd://example.com", "_ncpu._tcp.local"),
            ("dnssd://x._ssh._tcp", "_ncpu._tcp.local"),
            ("dnssd://?a=%4", "hexadecimal"),
            ("dnssd://?a=%ff", "UTF-8"),
        ] {
            let error = MachineQuery::parse(wrong).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
