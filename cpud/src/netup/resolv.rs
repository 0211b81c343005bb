//! The machine's /etc/resolv.conf, merged from all links. Sessions have it in place of the client's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;

/// glibc reads no more (MAXNS in resolv.conf(5)).
const MAX_SERVERS: usize = 3;

/// Where the name servers of a link come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NameServerSource {
    /// DHCPv4 or `ip=`.
    Ipv4,
    Dhcp6,
    /// Router advertisements. DHCP comes first (RFC 8106, 5.3.1).
    Advertised,
}

/// The name servers and search domains of each link, by its index.
#[derive(Debug, Default)]
pub(super) struct ResolvConf(BTreeMap<(u32, NameServerSource), (Vec<IpAddr>, Vec<String>)>);

impl ResolvConf {
    /// Sets those of a link from one source. True if anything has changed.
    pub(super) fn set(
        &mut self,
        link: u32,
        source: NameServerSource,
        servers: &[IpAddr],
        search: &[String],
    ) -> bool {
        if servers.is_empty() && search.is_empty() {
            return self.0.remove(&(link, source)).is_some();
        }
        let new = (servers.to_vec(), search.to_vec());
        self.0.insert((link, source), new.clone()) != Some(new)
    }

    fn text(&self) -> String {
        let mut text =
            String::from("# Written by cpud from DHCP, router advertisements and ip=.\n");
        let mut domains: Vec<&str> = Vec::new();
        for domain in self.0.values().flat_map(|(_, search)| search) {
            if !domains.contains(&domain.as_str()) {
                domains.push(domain);
            }
        }
        if !domains.is_empty() {
            // Writing to memory cannot fail, here and below.
            let _ = writeln!(text, "search {}", domains.join(" "));
        }
        let mut servers: Vec<String> = Vec::new();
        for ((link, _), (of_link, _)) in &self.0 {
            for server in of_link {
                let server = match server {
                    IpAddr::V6(local) if local.is_unicast_link_local() => {
                        format!("{local}%{link}")
                    }
                    _ => server.to_string(),
                };
                if !servers.contains(&server) {
                    servers.push(server);
                }
            }
        }
        for server in servers.iter().take(MAX_SERVERS) {
            let _ = writeln!(text, "nameserver {server}");
        }
        text
    }

    /// Writes the file in place: running sessions have it mounted (`session/resolv.rs`), and would not see another one
    /// of the same name.
    pub(super) fn write(&self, file: &Path) -> io::Result<()> {
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)?;
        }
        let text = self.text();
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(file)?;
        file.write_all(text.as_bytes())?;
        file.set_len(u64::try_from(text.len()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn links_are_merged_in_their_order_without_repeats() {
        let mut resolv = ResolvConf::default();
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        let mut set = |link, servers: &[_], search: &[&str]| {
            let search: Vec<_> = search.iter().copied().map(str::to_owned).collect();
            resolv.set(link, NameServerSource::Ipv4, servers, &search)
        };
        assert!(set(3, &[ip(2), ip(3), ip(4)], &["b", "a"]));
        assert!(set(2, &[ip(1), ip(2)], &["a"]));
        assert!(!set(2, &[ip(1), ip(2)], &["a"]));
        let lines: Vec<_> = resolv.text().lines().skip(1).map(str::to_owned).collect();
        assert_eq!(
            lines,
            [
                "search a b",
                "nameserver 10.0.0.1",
                "nameserver 10.0.0.2",
                "nameserver 10.0.0.3"
            ]
        );
        let mut set = |servers: &[_]| resolv.set(2, NameServerSource::Ipv4, servers, &[]);
        assert!(set(&[]) && !set(&[]));

        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("etc/resolv.conf");
        resolv.write(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), resolv.text());
        let first = fs::metadata(&file).unwrap();
        assert!(resolv.set(3, NameServerSource::Ipv4, &[ip(9)], &[]));
        resolv.write(&file).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text == resolv.text() && text.len() < usize::try_from(first.len()).unwrap());
        assert_eq!(fs::metadata(&file).unwrap().ino(), first.ino());
    }

    #[test]
    fn both_versions_of_dhcp_have_name_servers() {
        let mut resolv = ResolvConf::default();
        let six: Vec<IpAddr> = ["fd00::1", "fe80::1"].map(|ip| ip.parse().unwrap()).into();
        assert!(resolv.set(2, NameServerSource::Dhcp6, &six, &["b".into()]));
        assert!(resolv.set(
            2,
            NameServerSource::Ipv4,
            &[[10, 0, 0, 1].into()],
            &["a".into()]
        ));
        let text = resolv.text();
        let expected =
            "\nsearch a b\nnameserver 10.0.0.1\nnameserver fd00::1\nnameserver fe80::1%2\n";
        assert!(text.ends_with(expected), "{text}");
        assert!(resolv.set(2, NameServerSource::Ipv4, &[], &[]));
        let text = resolv.text();
        assert!(
            text.contains("fd00::1") && !text.contains("10.0.0.1"),
            "{text}"
        );
    }
}
