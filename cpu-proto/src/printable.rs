//! Makes foreign text safe for a terminal.

/// Replaces by U+FFFD every character that a terminal would act on instead of showing it (control characters, which
/// include line ends and the beginnings of escape sequences), and those that change the direction of text. A tab
/// becomes a space.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() || is_format(c) => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// Characters without a shape: Unicode's category Cf, and the line and paragraph separators.
fn is_format(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn visible_characters_stay_and_others_are_replaced() {
        assert_eq!(printable("naïve café 日本\t(x)"), "naïve café 日本 (x)");
        assert_eq!(
            printable("a\x1b[2Jb\r\nc\u{9b}1m"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}1m"
        );
        assert_eq!(printable("evil\u{202e}txt.exe"), "evil\u{fffd}txt.exe");
    }

    proptest! {
        #[test]
        fn no_control_character_is_left(text: String) {
            let shown = printable(&text);
            prop_assert_eq!(shown.chars().count(), text.chars().count());
            prop_assert!(!shown.chars().any(char::is_control));
            prop_assert_eq!(printable(&shown), shown);
        }
    }
}
