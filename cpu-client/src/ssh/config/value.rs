//! The syntax of a line in ssh_config(5): quoted words, yes and no, times, tokens.

use std::time::Duration;

use anyhow::{Result, bail};

/// Splits a line into the keyword, after which there may be a `=`, and its arguments. A `#` at the beginning of a word
/// starts a comment.
pub(super) fn split_words(line: &str) -> Result<Vec<String>> {
    let mut words: Vec<String> = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() && !rest.starts_with('#') {
        let mut word = String::new();
        let mut quote = None;
        let mut end = rest.len();
        let mut characters = rest.char_indices().peekable();
        while let Some((at, c)) = characters.next() {
            match (c, quote) {
                ('\\', _) => match characters.peek() {
                    Some(&(_, next @ ('"' | '\'' | '\\'))) => {
                        word.push(next);
                        characters.next();
                    }
                    Some(&(_, ' ')) if quote.is_none() => {
                        word.push(' ');
                        characters.next();
                    }
                    _ => word.push('\\'),
                },
                ('"' | '\'', None) => quote = Some(c),
                (c, Some(open)) if c == open => quote = None,
                (c, None) if c.is_whitespace() || (c == '=' && words.is_empty()) => {
                    end = at;
                    break;
                }
                (c, _) => word.push(c),
            }
        }
        if quote.is_some() {
            bail!("a quote is never closed");
        }
        let after = rest.get(end..).unwrap_or_default();
        rest = after.trim_start();
        if words.is_empty()
            && let Some(argument) = rest.strip_prefix('=')
        {
            rest = argument.trim_start();
        }
        words.push(word);
    }
    Ok(words)
}

pub(super) fn yes_or_no(text: &str) -> Result<bool> {
    // ssh accepts any case.
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        _ => bail!("{text:?} is neither yes nor no"),
    }
}

/// Parses a time (TIME FORMATS in sshd_config(5)): `90`, `1m30s`, `2h`.
pub(super) fn time(text: &str) -> Result<Duration> {
    let wrong = || anyhow::anyhow!("{text:?} is not a time, such as 30 or 1m30s");
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at_checked(digits).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let mut unit = after.chars();
        let seconds = match unit.next() {
            None | Some('s' | 'S') => 1,
            Some('m' | 'M') => 60,
            Some('h' | 'H') => 3600,
            Some('d' | 'D') => 86_400,
            Some('w' | 'W') => 604_800,
            Some(_) => return Err(wrong()),
        };
        total = number
            .checked_mul(seconds)
            .and_then(|some| total.checked_add(some))
            .filter(|&seconds| u32::try_from(seconds).is_ok())
            .ok_or_else(wrong)?;
        rest = unit.as_str();
    }
    if text.is_empty() {
        return Err(wrong());
    }
    Ok(Duration::from_secs(total))
}

/// Replaces tokens such as `%h` by the `value` of their letter.
pub(super) fn expand(text: &str, value: impl Fn(char) -> Option<String>) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let mut characters = after.chars();
        match characters.next() {
            Some('%') => out.push('%'),
            Some(letter) => match value(letter) {
                Some(value) => out.push_str(&value),
                None => {
                    bail!("{text:?}: %{letter} is not a token here; write %% for a percent sign")
                }
            },
            None => bail!("{text:?} ends in a %"),
        }
        rest = characters.as_str();
    }
    out.push_str(rest);
    Ok(out)
}

/// Replaces `${NAME}`, which is allowed in file names only.
pub(super) fn expand_environment(text: &str) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            bail!("{text:?} has a ${{ without }}");
        };
        match std::env::var(name) {
            Ok(value) => out.push_str(&value),
            Err(_) => bail!("{text:?} needs the environment variable {name}, which is not set"),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_split_as_in_ssh() {
        for (line, expected) in [
            ("", &[][..]),
            ("  # comment", &[]),
            ("Port 22", &["Port", "22"]),
            ("Port=22", &["Port", "22"]),
            ("\tPort = 22 # why", &["Port", "22"]),
            ("SetEnv A=b \"C=d e\"", &["SetEnv", "A=b", "C=d e"]),
            ("IdentityFile \"a b\"/c#d", &["IdentityFile", "a b/c#d"]),
            (r#"X "a\"b" '\\'"#, &["X", "a\"b", "\\"]),
            (r"X ~/My\ Keys/id b", &["X", "~/My Keys/id", "b"]),
            (r#"X "a\ b""#, &["X", r"a\ b"]),
            ("X \"\"", &["X", ""]),
        ] {
            assert_eq!(split_words(line).unwrap(), expected, "{line}");
        }
        assert!(split_words("X \"a").is_err());
    }

    #[test]
    fn times_have_units() {
        assert_eq!(time("90").unwrap(), Duration::from_secs(90));
        assert_eq!(time("1m30s").unwrap(), Duration::from_secs(90));
        for bad in ["", "m", "1x", "-1", "99999999999", "1 m"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens() {
        let value = |letter| (letter == 'h').then(|| "board".to_owned());
        assert_eq!(
            expand("nc %h 1%%$ ${X:-y}", value).unwrap(),
            "nc board 1%$ ${X:-y}"
        );
        for bad in ["%z", "%"] {
            assert!(expand(bad, value).is_err(), "{bad}");
        }
        let path = std::env::var("PATH").unwrap();
        let expanded = expand_environment("a$ ${PATH}%h").unwrap();
        assert_eq!(expanded, format!("a$ {path}%h"));
        for bad in ["${", "${CPU_NO_SUCH_VARIABLE}"] {
            assert!(expand_environment(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_words_or_an_error(line in "[a =\"'\\\\#%${}\u{e9}\t]{0,30}") {
            if let Ok(words) = split_words(&line) {
                prop_assert!(words.iter().map(String::len).sum::<usize>() <= line.len());
            }
            let _ = expand(&line, |_| Some("x".into()));
            let _ = expand_environment(&line);
        }

        #[test]
        fn quoted_words_survive(list in prop::collection::vec("[a =\"'\\\\#\u{e9}\t]{0,8}", 0..5)) {
            let quoted: Vec<_> = list
                .iter()
                .map(|word| format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"")))
                .collect();
            let line = format!("Keyword {}", quoted.join(" "));
            prop_assert_eq!(&split_words(&line).unwrap()[1..], list);
        }

        #[test]
        fn any_time_is_bounded(text in "[0-9smhdw]{0,24}") {
            if let Ok(time) = time(&text) {
                prop_assert!(time <= Duration::from_secs(u32::MAX.into()));
            }
        }
    }
}
