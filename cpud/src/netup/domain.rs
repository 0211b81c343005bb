//! Names in DHCP messages: those of hosts and domains, and search lists of both versions.

/// A name, if it is safe in resolv.conf and for sethostname(2).
pub(super) fn host_name(value: &[u8]) -> Option<String> {
    // Some servers include the NUL at the end of a C string.
    let text = std::str::from_utf8(value)
        .ok()?
        .trim_end_matches('\0')
        .trim_end_matches('.');
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let is_name = !text.is_empty() && text.len() <= 253 && !text.starts_with(['-', '.']);
    (is_name && text.bytes().all(plain)).then(|| text.to_owned())
}

/// The most names of a search list that are read. Each makes a look-up of an unknown name longer, and with compression
/// a message has room for hundreds of long ones.
const MAX_DOMAINS: usize = 32;

/// Parses a search list (RFC 3397): domain names with the compression of RFC 1035, 4.1.4.
pub(super) fn search_list(value: &[u8]) -> Vec<String> {
    let mut domains = Vec::new();
    let mut at = 0;
    for _ in 0..MAX_DOMAINS {
        let Some((name, next)) = domain_at(value, at) else {
            break;
        };
        domains.extend(host_name(name.as_bytes()));
        at = next;
    }
    domains
}

/// The name at offset `at`, and the offset of the next one.
fn domain_at(value: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut next = None;
    loop {
        match *value.get(at)? {
            0 => return Some((name, next.unwrap_or(at + 1))),
            length @ 1..=63 => {
                let label = value.get(at + 1..at + 1 + usize::from(length))?;
                name.push_str(std::str::from_utf8(label).ok()?);
                name.push('.');
                at += 1 + usize::from(length);
            }
            high @ 192.. => {
                let target = usize::from(high & 63) << 8 | usize::from(*value.get(at + 1)?);
                next = next.or(Some(at + 2));
                // Pointers lead only backwards, so there is no loop.
                if target >= at {
                    return None;
                }
                at = target;
            }
            _ => return None,
        }
        if name.len() > 255 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_lists_are_cut() {
        let value = [b"\x01a".repeat(126), vec![0], b"\xc0\0".repeat(1000)].concat();
        let names = search_list(&value);
        assert_eq!((names.len(), names[31].len()), (MAX_DOMAINS, 251));
    }

    proptest! {
        #[test]
        fn any_names_are_survived(value in prop::collection::vec(
            prop::sample::select(&b"\x00\x01\x02\x03a.\xc0\xc1\x40"[..]), 0..60)) {
            for name in search_list(&value) {
                prop_assert!(name.len() <= 253);
            }
        }
    }
}
