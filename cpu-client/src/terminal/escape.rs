//! Escapes: `~` sequences that are for cpu itself.

/// An escape that was typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Escape {
    /// `~.`: end the session.
    Leave,
    /// `~?`: list the escapes.
    Help,
}

/// What `~?` prints.
pub(crate) const ESCAPE_HELP: &str = "\r\n\
    Escapes, after a newline:\r\n\
    \x20 ~.  leave\r\n\
    \x20 ~?  this list\r\n\
    \x20 ~~  the character ~\r\n";

/// Finds escapes in typed input. They begin with `~` as the first character of a line.
#[derive(Debug)]
pub(crate) struct EscapeFilter {
    at_line_start: bool,
    after_tilde: bool,
}

impl EscapeFilter {
    pub(crate) fn new() -> Self {
        Self {
            at_line_start: true,
            after_tilde: false,
        }
    }

    /// Returns the bytes to send, the first escape if there is one, and how many bytes of `typed` were consumed: all, or
    /// those up to the end of the escape.
    pub(crate) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, Option<Escape>, usize) {
        let mut out = Vec::with_capacity(typed.len() + 1);
        for (i, &byte) in typed.iter().enumerate() {
            if std::mem::take(&mut self.after_tilde) {
                let escape = match byte {
                    b'.' => Some(Escape::Leave),
                    b'?' => Some(Escape::Help),
                    _ => None,
                };
                if escape.is_some() {
                    self.at_line_start = true;
                    return (out, escape, i + 1);
                }
                out.push(b'~');
                if byte == b'~' {
                    self.at_line_start = false;
                    continue;
                }
            } else if self.at_line_start && byte == b'~' {
                self.after_tilde = true;
                continue;
            }
            out.push(byte);
            self.at_line_start = matches!(byte, b'\r' | b'\n');
        }
        (out, None, typed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(pieces: &[&str]) -> (String, Option<Escape>) {
        let mut filter = EscapeFilter::new();
        let mut out = Vec::new();
        for piece in pieces {
            let (bytes, escape, _) = filter.filter(piece.as_bytes());
            out.extend(bytes);
            if escape.is_some() {
                return (String::from_utf8(out).unwrap(), escape);
            }
        }
        (String::from_utf8(out).unwrap(), None)
    }

    #[test]
    fn escapes_count_only_at_the_start_of_a_line() {
        assert_eq!(filter(&["~."]), (String::new(), Some(Escape::Leave)));
        assert_eq!(filter(&["ls\r", "~", "."]).1, Some(Escape::Leave));
        assert_eq!(filter(&["ls ~.\r"]), ("ls ~.\r".into(), None));
        assert_eq!(filter(&["~?"]).1, Some(Escape::Help));
    }

    #[test]
    fn a_tilde_that_is_no_escape_is_sent() {
        assert_eq!(filter(&["~~."]), ("~.".into(), None));
        assert_eq!(filter(&["~/bin\r"]), ("~/bin\r".into(), None));
        assert_eq!(filter(&["~\r", "~."]), ("~\r".into(), Some(Escape::Leave)));
    }
}
