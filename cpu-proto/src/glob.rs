//! Patterns for names, as in ssh_config(5): `*` stands for any characters, `?` for one.

/// What a pattern wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// Any characters.
    Any,
    /// One character.
    One,
    /// This one.
    Byte(u8),
}

impl Token {
    fn new(byte: u8) -> Self {
        match byte {
            b'*' => Self::Any,
            b'?' => Self::One,
            byte => Self::Byte(byte),
        }
    }
}

/// Whether a pattern matches the whole text.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match_tokens(|at| pattern.get(at).copied().map(Token::new), text)
}

/// Backtracks only to the last `*`, so the time is bounded by the length of the pattern times that of the text.
fn match_tokens(token: impl Fn(usize) -> Option<Token>, text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while let Some(&byte) = text.get(t) {
        match token(p) {
            Some(Token::Any) => {
                star = Some((p, t));
                p += 1;
            }
            Some(wanted) if wanted == Token::One || wanted == Token::Byte(byte) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    while token(p) == Some(Token::Any) {
        p += 1;
    }
    token(p).is_none()
}

/// A pattern for a name in which a backslash takes its meaning from the character behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(Vec<Token>);

impl NamePattern {
    /// Reads a pattern. A backslash at the end stands for itself.
    pub fn new(pattern: &[u8]) -> Self {
        let mut tokens = Vec::new();
        let mut bytes = pattern.iter().copied();
        while let Some(byte) = bytes.next() {
            tokens.push(match byte {
                b'\\' => Token::Byte(bytes.next().unwrap_or(byte)),
                byte => Token::new(byte),
            });
        }
        Self(tokens)
    }

    /// The pattern that matches this name and no other.
    pub fn of_name(name: &[u8]) -> Self {
        Self(name.iter().copied().map(Token::Byte).collect())
    }

    /// Whether it matches the whole text.
    pub fn matches(&self, text: &[u8]) -> bool {
        match_tokens(|at| self.0.get(at).copied(), text)
    }

    /// The only name that it matches, if there is only one.
    pub fn name(&self) -> Option<Vec<u8>> {
        let bytes = self.0.iter().map(|token| match token {
            Token::Byte(byte) => Some(*byte),
            Token::Any | Token::One => None,
        });
        bytes.collect()
    }
}

/// A text as a [`NamePattern`] that matches it alone.
pub fn quote(text: &str) -> String {
    let mut quoted = String::new();
    for c in text.chars() {
        if matches!(c, '*' | '?' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        assert!(matches(b"10.0.?.1", b"10.0.7.1") && !matches(b"a*b", b"ac"));
        assert!(matches(b"a*b*c", b"a-b-b-c") && matches(b"*", b""));
        assert!(!matches(b"", b"a") && matches(b"", b"") && !matches(b"?", b""));
    }

    #[test]
    fn a_backslash_takes_meaning_away() {
        let matches = |pattern: &[u8], name: &[u8]| NamePattern::new(pattern).matches(name);
        assert!(matches(b"a\\*b", b"a*b") && !matches(b"a\\*b", b"axb"));
        assert!(matches(b"a\\?*", b"a?b") && !matches(b"a\\?*", b"axb"));
        assert!(matches(b"a\\\\*", b"a\\b") && matches(b"a\\", b"a\\"));
        assert!(matches(b"\\a", b"a"));
        // Elsewhere it is a character.
        assert!(super::matches(b"a\\*", b"a\\b") && !super::matches(b"a\\*", b"a*"));
        assert_eq!(NamePattern::new(b"a\\*").name().unwrap(), b"a*");
        assert_eq!(NamePattern::new(b"a*").name(), None);
        assert_eq!(NamePattern::of_name(b"a*").name().unwrap(), b"a*");
    }

    proptest::proptest! {
        #[test]
        fn what_is_quoted_matches_itself_alone(name in "[ab*?\\\\]{0,6}", other in "[ab*?\\\\]{0,6}") {
            let pattern = NamePattern::new(quote(&name).as_bytes());
            proptest::prop_assert!(pattern == NamePattern::of_name(name.as_bytes()));
            proptest::prop_assert_eq!(pattern.matches(other.as_bytes()), name == other);
        }

        #[test]
        fn without_backslashes_both_read_alike(pattern in "[ab*?]{0,6}", name in "[ab*?]{0,6}") {
            let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
            let quoted = NamePattern::new(pattern).matches(name);
            proptest::prop_assert_eq!(quoted, matches(pattern, name));
        }
    }
}
