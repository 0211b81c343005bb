//! The patterns of ssh_config(5) and known_hosts: `*`, `?`, lists, and negation with `!`.

use cpu_proto::glob::matches;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_question_marks_and_negation() {
        assert!(matches_list(["*.lab", "!bad.lab"], "Good.LAB"));
        assert!(!matches_list(["*.lab", "!bad.lab"], "bad.lab"));
        assert!(!matches_list(["!bad.lab"], "good.lab"));
        assert!(!matches_list([], "x"));
    }
}
