//! The layout of the page: the facts in the rows that a screen has, with the host key's picture at the right.

use super::facts::{Facts, LinkFacts};
use super::roster::Login;
use super::row::{Row, Style, ascii};
use crate::listen_addr::ListenAddr;
use crate::ssh::example_command;

/// A label and a text.
type PageEntry = (String, String);

/// The rows and columns of the smallest screen that has a page. A smaller one shows only the log.
const MIN_SIZE: (usize, usize) = (20, 60);
/// The entries of a page on a screen of 25 rows: as many as the picture has lines.
const ENTRIES: usize = 11;
/// The widths of a label, a fingerprint and the picture. Where they do not fit beside each other, there is no picture.
const LABEL: usize = 9;
const FINGERPRINT: usize = 50;
const PICTURE: usize = 19;
/// The most columns between the labels and the picture.
const MAX_TEXT: usize = 90;

/// The page for a screen with this many rows and columns.
pub(super) fn page(facts: &Facts, host: &str, rows: usize, columns: usize) -> Vec<Row> {
    if rows < MIN_SIZE.0 || columns < MIN_SIZE.1 {
        return Vec::new();
    }
    let whole = columns - LABEL - 1;
    let (has_picture, text) = match whole.checked_sub(PICTURE + 1) {
        Some(beside) if beside >= FINGERPRINT => (true, beside.min(MAX_TEXT)),
        _ => (false, whole),
    };
    let picture = facts.host_key.iter().flat_map(|key| &key.randomart);
    let mut picture = picture.filter(|_| has_picture);

    let version = format!("cpud {}, {} ", env!("CARGO_PKG_VERSION"), facts.kernel);
    let gap = columns.saturating_sub(version.len());
    let title = format!("{:gap$.gap$}{version}", format!(" {host}"));
    let mut page = vec![Row::new(columns, vec![(Style::Title, title)])];
    let mut entries = entries(facts, ENTRIES + rows.saturating_sub(25) / 3, text);
    let last = entries.pop();
    let entries = entries.into_iter().map(|entry| (entry, Style::Plain));
    let last = last.map(|entry| (entry, Style::Bold));
    page.extend(entries.chain(last).map(|((label, value), style)| {
        let value = truncate(&value, text);
        let gap = " ".repeat(text - value.len() + 1);
        let drawn = picture.next().cloned().unwrap_or_default();
        let parts = vec![
            (Style::Label, format!("{label:>LABEL$}")),
            (style, format!(" {value}")),
            (Style::Plain, gap + &drawn),
        ];
        Row::new(columns, parts)
    }));
    page.push(Row::new(columns, vec![(Style::Label, "-".repeat(columns))]));
    page
}

/// Exactly `count` entries, with texts of up to about `width` columns. The last is the command to type.
fn entries(facts: &Facts, count: usize, width: usize) -> Vec<PageEntry> {
    let links: Vec<&LinkFacts> = facts.links.iter().filter(|seen| is_shown(seen)).collect();
    let address = links.iter().flat_map(|link| &link.addresses).next();
    let try_it = match (facts.listen_addr(), address) {
        (ListenAddr::Tcp(_, port), Some(address)) => example_command(*address, *port),
        (ListenAddr::Tcp(..), None) => "no address yet".into(),
        _ => String::new(),
    };
    let links: Vec<PageEntry> = links
        .iter()
        .flat_map(|link| labelled(&link.name, describe_link(link, width), ""))
        .collect();
    let links = if links.is_empty() {
        vec![entry("links", "none")]
    } else {
        links
    };
    let logins = facts.logins.iter().map(describe_login).collect();
    let nobody = "nobody: no key was read";
    let lists = [
        links,
        labelled("logins", facts.keys.clone(), nobody),
        labelled("sessions", logins, "none"),
    ];
    let [links, keys, logins] = share(lists, count.saturating_sub(4));
    let key = facts.host_key.as_ref().map(|key| key.fingerprint.as_str());
    let server = [
        entry("serving", &facts.listen_addr().to_string()),
        entry("host key", key.unwrap_or("none yet")),
    ];
    let all = links.into_iter().chain(server).chain(keys).chain(logins);
    let filled = all.chain(std::iter::repeat(entry("", "")));
    let mut entries: Vec<PageEntry> = filled.take(count.saturating_sub(1)).collect();
    entries.push(entry("try", &try_it));
    entries
}

/// Whether a link is on the page: Ethernet links, and others that have an address.
fn is_shown(link: &LinkFacts) -> bool {
    link.is_ethernet || !link.addresses.is_empty()
}

/// The addresses of a link, as many in a row as fit.
fn describe_link(link: &LinkFacts, width: usize) -> Vec<String> {
    let mut rows: Vec<String> = Vec::new();
    for address in link.addresses.iter().map(ToString::to_string) {
        match rows.last_mut() {
            Some(row) if row.len() + 1 + address.len() <= width => {
                row.push(' ');
                row.push_str(&address);
            }
            _ => rows.push(address),
        }
    }
    match (rows.last_mut(), link.running) {
        (Some(_), true) => {}
        (Some(last), false) => last.push_str(" (no carrier)"),
        (None, true) => rows.push("no address yet".into()),
        (None, false) => rows.push("no carrier".into()),
    }
    rows
}

fn describe_login(login: &Login) -> String {
    let part = |before: &str, text: &str, after: &str| match text {
        "" => String::new(),
        text => format!("{before}{text}{after}"),
    };
    [
        login.user.clone(),
        part(" from ", &login.from, ""),
        part(" (", &login.key, ")"),
        part(": ", &login.commands.join(", "), ""),
    ]
    .concat()
}

fn entry(label: &str, text: &str) -> PageEntry {
    (label.to_owned(), text.to_owned())
}

/// Entries for a list of texts, the first with a label. An empty list has the one text `none`.
fn labelled(label: &str, texts: Vec<String>, none: &str) -> Vec<PageEntry> {
    if texts.is_empty() {
        return vec![entry(label, none)];
    }
    let labels = std::iter::once(label).chain(std::iter::repeat(""));
    labels
        .zip(texts)
        .map(|(label, text)| (label.to_owned(), text))
        .collect()
}

/// Shortens the lists to `count` entries in all. Each gets one; the others go one by one to the list that has the
/// fewest of those that are not complete. The last entry of a shortened list says how many are missing.
fn share(mut lists: [Vec<PageEntry>; 3], count: usize) -> [Vec<PageEntry>; 3] {
    let mut shares = [1; 3];
    for _ in shares.len()..count {
        let incomplete = lists.iter().zip(&mut shares);
        let incomplete = incomplete.filter(|(list, share)| **share < list.len());
        match incomplete.min_by_key(|(_, share)| **share) {
            Some((_, share)) => *share += 1,
            None => break,
        }
    }
    for (list, share) in lists.iter_mut().zip(shares) {
        if let Some((label, _)) = list.get(share - 1).filter(|_| list.len() > share) {
            let more = format!("and {} more", list.len() - share + 1);
            let label = label.clone();
            list.truncate(share - 1);
            list.push((label, more));
        }
    }
    lists
}

/// Printable ASCII, truncated to a width.
fn truncate(text: &str, width: usize) -> String {
    let mut text = ascii(text);
    if text.len() > width {
        text.truncate(width.saturating_sub(3));
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::console::facts::HostKey;

    fn facts() -> Facts {
        let options = crate::flags::parse(&["-pk=/nosuch".into(), "-hk=/nosuch".into()]).unwrap();
        let mut facts = Facts::new(options);
        facts.kernel = "Linux 6.12 x86_64".into();
        facts.host_key = Some(HostKey {
            fingerprint: format!("SHA256:{}", "k".repeat(43)),
            randomart: (0..11).map(|row| format!("|{row:017}|")).collect(),
        });
        facts.keys = vec!["me@desk SHA256:abc".into()];
        facts
    }

    fn link(name: &str, running: bool, addresses: &[&str]) -> LinkFacts {
        LinkFacts {
            index: 0,
            name: name.into(),
            is_ethernet: true,
            running,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn texts(page: &[Row]) -> Vec<String> {
        let text = |row: &Row| row.0.iter().map(|(_, text)| text.as_str()).collect();
        page.iter().map(text).collect()
    }

    fn text(page: &[Row]) -> String {
        let rows: Vec<_> = texts(page);
        let rows: Vec<&str> = rows.iter().map(|row| row.trim_end()).collect();
        rows.join("\n")
    }

    #[test]
    fn the_page_of_a_vga_screen() {
        let mut facts = facts();
        facts.links.push(link(
            "eth0",
            true,
            &["10.0.2.15", "fec0::5054:ff:fe12:3456"],
        ));
        facts.links.push(link("eth1", false, &[]));
        facts.logins.push(Login {
            user: "root".into(),
            from: "10.0.2.2".into(),
            key: "me@desk".into(),
            commands: vec!["bash".into(), "ls".into()],
        });
        let page = page(&facts, "board", 25, 80);
        let title = format!("cpud {}, Linux 6.12 x86_64 ", env!("CARGO_PKG_VERSION"));
        assert_eq!(texts(&page)[0], format!(" board{title:>74}"));
        let expected = format!(
            "\
\x20    eth0 10.0.2.15 fec0::5054:ff:fe12:3456                  |00000000000000000|
     eth1 no carrier                                         |00000000000000001|
  serving port 17010                                         |00000000000000002|
 host key SHA256:kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk |00000000000000003|
   logins me@desk SHA256:abc                                 |00000000000000004|
 sessions root from 10.0.2.2 (me@desk): bash, ls             |00000000000000005|
                                                             |00000000000000006|
                                                             |00000000000000007|
                                                             |00000000000000008|
                                                             |00000000000000009|
      try cpu 10.0.2.15 date                                 |00000000000000010|
{}",
            "-".repeat(80)
        );
        assert_eq!(text(&page[1..]), expected);
        let row = page[11].escapes();
        let begin = "\x1b[36m      try\x1b[m\x1b[1m cpu 10.0.2.15 date\x1b[m   ";
        assert!(row.starts_with(begin), "{row:?}");
    }

    #[test]
    fn what_there_is_no_row_for_is_counted() {
        let mut facts = facts();
        let addresses = [
            "10.0.0.1",
            "fec0::1:2:3:4:5",
            "fec0::1:2:3:4:6",
            "fec0::1:2:3:4:7",
        ];
        for index in 0..5 {
            facts
                .links
                .push(link(&format!("eth{index}"), true, &addresses));
        }
        facts.keys = (0..4).map(|number| format!("key {number}")).collect();
        let small = text(&page(&facts, "board", 25, 80));
        assert!(
            small.contains("     eth0 10.0.0.1 fec0::1:2:3:4:5 fec0::1:2:3:4:6"),
            "{small}"
        );
        assert!(small.contains("and 8 more"), "{small}");
        assert!(small.contains("  logins key 0"), "{small}");
        assert!(small.contains("and 2 more"), "{small}");
        assert!(small.contains("sessions none"), "{small}");
        assert!(small.contains("      try cpu 10.0.0.1 date"), "{small}");
        let large = text(&page(&facts, "board", 90, 160));
        assert!(
            large.contains("    eth4 10.0.0.1") && large.contains("key 3"),
            "{large}"
        );
        assert!(!large.contains("more"), "{large}");
    }

    #[test]
    fn a_machine_that_has_nothing_says_so() {
        let mut facts = facts();
        (facts.host_key, facts.keys) = (None, Vec::new());
        let shown = text(&page(&facts, "", 25, 80));
        for text in [
            "   links none",
            "host key none yet",
            "logins nobody: no key",
            "no address yet",
        ] {
            assert!(shown.contains(text), "{text:?}: {shown}");
        }
        assert!(page(&facts, "", 19, 80).is_empty() && page(&facts, "", 25, 59).is_empty());
    }

    proptest! {
        #[test]
        fn every_row_fits_whatever_is_in_it(
            parts in proptest::collection::vec(".{0,90}", 6), rows in 0usize..90, columns in 0usize..250
        ) {
            let mut facts = facts();
            let [host, name, user, from, key, command] = &parts[..] else { unreachable!() };
            facts.links.push(link(name, true, &[]));
            facts.keys.clone_from(&parts);
            facts.logins.push(Login {
                user: user.clone(), from: from.clone(), key: key.clone(), commands: vec![command.clone()],
            });
            let page = page(&facts, host, rows, columns);
            prop_assert!(page.len() < rows.max(1));
            for row in texts(&page) {
                prop_assert_eq!(row.len(), columns, "{:?}", row);
                prop_assert!(row.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{row:?}");
            }
        }
    }
}
