//! The patterns of ssh_config(5) and known_hosts: `*`, `?`, lists, and negation with `!`.

/// Whether a list of patterns matches the text: one pattern matches it, and no negated one does.
pub(super) fn matches_list<'a>(patterns: impl IntoIterator<Item = &'a str>, text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let mut found = false;
    for pattern in patterns {
        let (negated, pattern) = match pattern.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, pattern),
        };
        if matches(pattern.to_ascii_lowercase().as_bytes(), text.as_bytes()) {
            if negated {
                return false;
            }
            found = true;
        }
    }
    found
}

/// Whether one pattern matches: `*` stands for any characters, `?` for one. Backtracks only to the last `*`, so the time
/// is bounded by the length of the pattern times that of the text.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_question_marks_and_negation() {
        assert!(matches_list(["*.lab", "!bad.lab"], "Good.LAB"));
        assert!(!matches_list(["*.lab", "!bad.lab"], "bad.lab"));
        assert!(!matches_list(["!bad.lab"], "good.lab"));
        assert!(!matches_list([], "x"));
        assert!(matches(b"10.0.?.1", b"10.0.7.1") && !matches(b"a*b", b"ac"));
        assert!(matches(b"a*b*c", b"a-b-b-c") && matches(b"*", b""));
    }
}
