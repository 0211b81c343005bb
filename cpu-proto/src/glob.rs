//! Patterns for names, as in ssh_config(5): `*` stands for any characters, `?` for one.

/// Whether a pattern matches the whole text. Backtracks only to the last `*`, so the time is bounded by the length of the
/// pattern times that of the text.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || Some(&c) == text.get(t) => {
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
    pattern
        .get(p..)
        .is_some_and(|rest| rest.iter().all(|&c| c == b'*'))
}

/// Whether a name is a pattern that may match others than itself.
pub fn is_pattern(name: &[u8]) -> bool {
    name.iter().any(|c| b"*?".contains(c))
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
    fn what_is_no_pattern_matches_only_itself() {
        assert!(is_pattern(b"*.pub") && is_pattern(b"a?") && !is_pattern(b"a.b"));
        assert!(matches(b"a.b", b"a.b") && !matches(b"a.b", b"axb"));
    }
}
