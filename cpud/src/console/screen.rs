//! A screen (a virtual terminal of the kernel, console_codes(4)): the page at the top, of which only rows that have
//! changed are redrawn, and the log below, which scrolls.
//!
//! The kernel's own messages appear at the cursor, so the cursor stays in the part of the log, and only that part
//! scrolls. A row is drawn with one write(2), so that no such message can come in between.

use super::row::{Row, ascii};

/// A screen, and what has been drawn on it.
pub(super) struct Screen {
    rows: usize,
    columns: usize,
    /// The rows of the page that are on the screen; none if nothing has been drawn.
    shown: Option<Vec<Row>>,
}

impl Screen {
    /// A screen of this size, whose contents are unknown.
    pub(super) fn new(rows: usize, columns: usize) -> Self {
        Self {
            rows,
            columns,
            shown: None,
        }
    }

    /// Whether nothing has been drawn on it yet.
    pub(super) fn is_new(&self) -> bool {
        self.shown.is_none()
    }

    pub(super) fn size(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// The writes that bring the page onto the screen: one for each row that has changed.
    pub(super) fn draw(&mut self, page: Vec<Row>) -> Vec<Vec<u8>> {
        let mut writes = Vec::new();
        let shown = self.shown.take().filter(|shown| shown.len() == page.len());
        if shown.is_none() {
            // Reset and clear; hide the cursor; let only the part of the log scroll, and put the cursor at its top.
            let (first, last) = (page.len() + 1, self.rows);
            let begin = format!("\x1bc\x1b[?25l\x1b[{first};{last}r\x1b[{first};1H");
            writes.push(begin.into_bytes());
        }
        let shown = shown.unwrap_or_default();
        for (index, row) in page.iter().enumerate() {
            if shown.get(index) != Some(row) {
                let number = index + 1;
                // Save the cursor, go to the row, write it, and restore the cursor.
                let text = format!("\x1b7\x1b[{number};1H{}\x1b8", row.escapes());
                writes.push(text.into_bytes());
            }
        }
        self.shown = Some(page);
        writes
    }

    /// The number of rows for the log.
    pub(super) fn log_rows(&self) -> usize {
        self.rows - self.shown.as_ref().map_or(0, Vec::len).min(self.rows)
    }
}

/// A line of the log, as it is written to a screen.
pub(super) fn log_line(line: &str) -> Vec<u8> {
    format!("{}\r\n", ascii(line)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(screen: &mut Screen, rows: &[&str]) -> Vec<String> {
        let rows = rows.iter().map(|text| Row::plain(3, text)).collect();
        let writes = screen.draw(rows).into_iter();
        writes
            .map(|bytes| String::from_utf8(bytes).unwrap())
            .collect()
    }

    #[test]
    fn only_what_has_changed_is_drawn() {
        let mut screen = Screen::new(25, 80);
        assert!(screen.is_new());
        assert_eq!(
            draw(&mut screen, &["a", "b"]),
            [
                // Rows 3 to 25 scroll.
                "\x1bc\x1b[?25l\x1b[3;25r\x1b[3;1H",
                "\x1b7\x1b[1;1Ha  \x1b8",
                "\x1b7\x1b[2;1Hb  \x1b8"
            ]
        );
        assert_eq!(screen.log_rows(), 23);
        assert_eq!(draw(&mut screen, &["a", "b"]), [""; 0]);
        assert_eq!(draw(&mut screen, &["a", "c"]), ["\x1b7\x1b[2;1Hc  \x1b8"]);
        // Another layout is another screen.
        assert_eq!(draw(&mut screen, &["a", "b", "c"]).len(), 4);
    }

    #[test]
    fn a_screen_without_a_page_is_a_log() {
        let mut screen = Screen::new(10, 40);
        assert_eq!(
            draw(&mut screen, &[]),
            ["\x1bc\x1b[?25l\x1b[1;10r\x1b[1;1H"]
        );
        assert_eq!(draw(&mut screen, &[]), [""; 0]);
        assert_eq!(screen.log_rows(), 10);
    }

    #[test]
    fn a_line_of_the_log_cannot_move_the_cursor() {
        assert_eq!(log_line("a\x1b[2Jb\u{fffd}é"), b"a?[2Jb??\r\n");
    }
}
