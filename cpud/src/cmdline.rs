//! The kernel's command line (/proc/cmdline): parameters `name` or `name=value`, separated by blanks, quoted
//! with `"`. See Documentation/admin-guide/kernel-parameters.rst.

/// The values of all parameters `name=value`, in order.
pub(crate) fn values(cmdline: &str, name: &str) -> Vec<String> {
    parameters(cmdline)
        .iter()
        .filter_map(|parameter| {
            parameter
                .strip_prefix(name)?
                .strip_prefix('=')
                .map(str::to_owned)
        })
        .collect()
}

/// Reads /proc/cmdline. Empty if it can't be read: then no parameter was given.
pub(crate) fn read() -> String {
    let bytes = std::fs::read("/proc/cmdline").unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Splits the command line into parameters. Quotes protect blanks and are dropped, as in the kernel's
/// `next_arg` (lib/cmdline.c). What follows `--` is for init and is left out.
fn parameters(cmdline: &str) -> Vec<String> {
    let mut parameters = Vec::new();
    let mut parameter = String::new();
    let mut quoted = false;
    for c in cmdline.chars().chain([' ']) {
        match c {
            '"' => quoted = !quoted,
            c if c.is_ascii_whitespace() && !quoted => {
                if parameter == "--" {
                    break;
                }
                if !parameter.is_empty() {
                    parameters.push(std::mem::take(&mut parameter));
                }
            }
            c => parameter.push(c),
        }
    }
    parameters
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
