//! Which distribution this is (os-release(5)).

use std::fs;

/// Its name in lower case, such as `debian`; empty if it says none.
pub(super) fn id() -> String {
    let files = ["/etc/os-release", "/usr/lib/os-release"];
    let text = files.iter().find_map(|path| fs::read_to_string(path).ok());
    id_in(&text.unwrap_or_default())
}

fn id_in(text: &str) -> String {
    let mut lines = text.lines();
    let id = lines.find_map(|line| line.strip_prefix("ID="));
    id.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_says_its_name_with_quotes_or_without() {
        assert_eq!(
            id_in("NAME=\"Fedora Linux\"\nVERSION_ID=41\nID=fedora\n"),
            "fedora"
        );
        assert_eq!(id_in("ID=\"opensuse-tumbleweed\"\n"), "opensuse-tumbleweed");
        assert_eq!(id_in("VERSION_ID=3\n"), "");
    }
}
