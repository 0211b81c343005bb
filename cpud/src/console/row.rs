//! A row of the page: what is in it, and the escape sequences that show it.

/// The style of a part of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    /// Reverse video.
    Title,
    Label,
    Bold,
}

impl Style {
    /// The escape sequence (console_codes(4)).
    fn escape(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Title => "\x1b[7m",
            Self::Label => "\x1b[36m",
            Self::Bold => "\x1b[1m",
        }
    }
}

/// A row of the page: parts of printable ASCII, together exactly as wide as the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row(pub(super) Vec<(Style, String)>);

impl Row {
    /// Truncates the parts, or fills the row with blanks.
    pub(super) fn new(columns: usize, parts: Vec<(Style, String)>) -> Self {
        let mut left = columns;
        let mut row = Vec::new();
        let blanks = (Style::Plain, " ".repeat(columns));
        for (style, text) in parts.into_iter().chain([blanks]) {
            let mut text = ascii(&text);
            text.truncate(left);
            left -= text.len();
            row.push((style, text));
        }
        Self(row)
    }

    #[cfg(test)]
    pub(super) fn plain(columns: usize, text: &str) -> Self {
        Self::new(columns, vec![(Style::Plain, text.to_owned())])
    }

    /// The row with escape sequences, for a screen.
    pub(super) fn escapes(&self) -> String {
        let parts = self.0.iter().filter(|(_, text)| !text.is_empty());
        parts
            .map(|(style, text)| match style.escape() {
                "" => text.clone(),
                escape => format!("{escape}{text}\x1b[m"),
            })
            .collect()
    }
}

/// Replaces characters that not every screen can show; each takes one column.
pub(super) fn ascii(text: &str) -> String {
    let shown = |c: char| if (' '..='~').contains(&c) { c } else { '?' };
    text.chars().map(shown).collect()
}
