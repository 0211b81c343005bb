//! The kernel's command line, /proc/cmdline, as Documentation/admin-guide/kernel-parameters.rst
//! describes it: `name` or `name=value`, separated by blanks, quoted with `"`.

/// The values of every `name=value`, in order.
pub(crate) fn values(cmdline: &str, name: &str) -> Vec<String> {
    words(cmdline)
        .iter()
        .filter_map(|word| {
            word.strip_prefix(name)?
                .strip_prefix('=')
                .map(str::to_owned)
        })
        .collect()
}

/// Reads /proc/cmdline; nothing if it can't be read, since then nothing was asked for.
pub(crate) fn read() -> String {
    let bytes = std::fs::read("/proc/cmdline").unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Quotes protect blanks and are dropped, as in the kernel's `next_arg` (lib/cmdline.c). What
/// follows a word `--` is for init and not looked at.
fn words(cmdline: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in cmdline.chars().chain([' ']) {
        match c {
            '"' => quoted = !quoted,
            c if c.is_ascii_whitespace() && !quoted => {
                if word == "--" {
                    break;
                }
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_in_order_and_unquoted() {
        let line = "quiet ip=dhcp hostname=\"a b\" ip=:::::eth1 skip=x \"ip=off\" -- ip=on\n";
        assert_eq!(values(line, "ip"), ["dhcp", ":::::eth1", "off"]);
        assert_eq!(values(line, "hostname"), ["a b"]);
        assert_eq!(values(line, "quiet"), [""; 0]);
        assert_eq!(values("", "ip"), [""; 0]);
    }
}
