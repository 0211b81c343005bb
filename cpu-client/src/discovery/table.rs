//! The table of `-hosts`.

use std::fmt::Write as _;
use std::io::stdout;
use std::os::fd::AsFd as _;

use cpu_proto::discovery::key;

use super::FoundMachine;
use crate::sys::window_size;

const HEADINGS: [&str; 9] = [
    "NAME", "ADDRESS", "PORT", "ARCH", "OS", "CORES", "MEMORY", "LOAD", "SESSIONS",
];
/// The most characters of a column: what machines say of themselves is anything.
const MAX_WIDTH: usize = 40;

/// A character that is as wide as any other and ends no column. What honest machines say has no others.
fn plain(c: char) -> char {
    if c.is_ascii_graphic() { c } else { '?' }
}

/// The whole table.
pub(super) fn format(machines: &[FoundMachine]) -> String {
    let rows: Vec<[String; 9]> = std::iter::once(HEADINGS.map(str::to_owned))
        .chain(machines.iter().map(row))
        .map(|row| row.map(|text| text.chars().map(plain).take(MAX_WIDTH).collect()))
        .collect();
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let mut table = String::new();
    for row in &rows {
        let mut line = String::new();
        for (text, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{text:<width$}  ");
        }
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

/// What changes a table of this many lines on a terminal into this one, and its lines.
pub(super) fn redraw(machines: &[FoundMachine], height: usize) -> (String, usize) {
    let size = window_size(stdout().as_fd()).ok();
    let of = |number: u16, default| match number {
        0 => default,
        number => usize::from(number),
    };
    let rows = size.map_or(24, |size| of(size.ws_row, 24));
    let columns = size.map_or(80, |size| of(size.ws_col, 80));
    let table = match machines {
        [] => "no machine has answered yet; Ctrl-C ends the search\n".to_owned(),
        machines => format(machines),
    };
    // ECMA-48: CPL, EL, ED.
    let mut text = match height {
        0 => String::new(),
        height => format!("\x1b[{height}F"),
    };
    let mut lines = 0;
    // A line that wraps, or scrolls the screen, would not be found again.
    for line in table.lines().take(rows.saturating_sub(1)) {
        text.extend(line.chars().take(columns.saturating_sub(1)));
        text.push_str("\x1b[K\n");
        lines += 1;
    }
    text.push_str("\x1b[J");
    (text, lines)
}

fn row(machine: &FoundMachine) -> [String; 9] {
    let fact = |key| {
        let told = machine.fact(key).filter(|value| !value.is_empty());
        told.unwrap_or("-").to_owned()
    };
    let memory = |key| machine.number(key).map_or("-".to_owned(), size);
    let address = machine.addresses.first();
    let ip = address.map_or("-".to_owned(), |address| {
        let text = address.to_string();
        let text = text.rsplit_once(':').map_or("", |(ip, _)| ip);
        text.trim_matches(['[', ']']).to_owned()
    });
    [
        machine.host.clone(),
        ip,
        address.map_or("-".to_owned(), |address| address.port().to_string()),
        fact(key::ARCH),
        fact(key::OS),
        fact(key::CORES),
        format!(
            "{}/{}",
            memory(key::MEMORY_AVAILABLE),
            memory(key::MEMORY_TOTAL)
        ),
        fact(key::LOAD),
        fact(key::SESSIONS),
    ]
}

/// A number of bytes.
fn size(bytes: f64) -> String {
    let gigabytes = bytes / f64::from(1u32 << 30);
    if gigabytes >= 1.0 {
        format!("{gigabytes:.1}G")
    } else {
        format!("{:.0}M", gigabytes * 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(host: &str, facts: &[(&str, &str)]) -> FoundMachine {
        let facts = facts
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let addresses = vec!["192.168.77.1:17010".parse().unwrap()];
        FoundMachine::new(host.into(), host.into(), addresses, facts.collect())
    }

    #[test]
    fn columns_are_aligned_and_what_is_not_known_is_a_dash() {
        let facts = [
            ("arch", "arm64"),
            ("os", "linux"),
            ("cores", "8"),
            ("mem.avail", "536870912"),
            ("mem.total", "2147483648"),
            ("load", "0.25"),
            ("tenants", "1"),
        ];
        let table = format(&[machine("board7.local", &facts), machine("x.local", &[])]);
        let expected = "\
NAME          ADDRESS       PORT   ARCH   OS     CORES  MEMORY     LOAD  SESSIONS
board7.local  192.168.77.1  17010  arm64  linux  8      512M/2.0G  0.25  1
x.local       192.168.77.1  17010  -      -      -      -/-        -     -
";
        assert_eq!(table, expected);
    }

    #[test]
    fn what_machines_say_does_not_move_the_cursor() {
        let long = "9".repeat(3000);
        let hostile = machine(
            "x.local",
            &[
                ("arch", "\x1b[2J\r\n\u{9b}1m"),
                ("os", "日本 8"),
                ("load", ""),
                ("cores", &long),
            ],
        );
        let table = format(&[hostile]);
        assert_eq!(table.lines().count(), 2, "{table:?}");
        let is_plain = |c: char| c == '\n' || c == ' ' || c.is_ascii_graphic();
        assert!(table.chars().all(is_plain), "{table:?}");
        for line in table.lines() {
            assert_eq!(line.split_whitespace().count(), HEADINGS.len(), "{line}");
        }
        assert!(
            table.lines().all(|line| line.chars().count() < 200),
            "{table}"
        );
    }

    #[test]
    fn a_table_replaces_the_one_before() {
        let one = [machine("x.local", &[])];
        let (first, height) = redraw(&one, 0);
        assert!(first.starts_with("NAME") && height == 2, "{first:?}");
        assert!(redraw(&one, 2).0.starts_with("\x1b[2FNAME"));
        let many = vec![one[0].clone(); 500];
        assert!(redraw(&many, 2).1 < 500);
        let (none, height) = redraw(&[], 2);
        assert!(
            none.starts_with("\x1b[2Fno machine") && height == 1,
            "{none:?}"
        );
    }
}
