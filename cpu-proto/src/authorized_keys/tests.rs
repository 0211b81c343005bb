//! Tests of reading authorized_keys files.

use proptest::prelude::*;

use super::*;

const ED25519: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti user@host";
const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHwf2HMM5TRXvo2SQJjsNkiDD5KqiiNjrGVv3UUh+mMT5RHxiRtOnlqvjhQtBq0VpmpCV/PwUdhOig4vkbqAcEc= user@host";

fn parse(text: &str) -> (usize, Vec<String>) {
    let all = AuthorizedKeys::parse(text.as_bytes());
    let told = all.left_out.iter().map(ToString::to_string);
    (all.keys.len(), told.collect())
}

#[test]
fn every_line_and_every_type_counts() {
    let text = format!(
        "# comment\r\n\n  {ED25519}\r\n\t#\n{}\n",
        ECDSA.replace(' ', "\t ")
    );
    assert_eq!(parse(&text), (2, vec![]));
    let all = AuthorizedKeys::parse(format!("{ED25519} #1 caf\u{e9}").as_bytes());
    assert_eq!(
        all.keys[0].key.comment().as_bytes(),
        "user@host #1 caf\u{e9}".as_bytes()
    );
    assert_eq!(
        AuthorizedKeys::parse(&[ED25519.as_bytes(), b" caf\xe9\n"].concat())
            .keys
            .len(),
        1
    );
    assert_eq!(parse(""), (0, vec![]));
}

#[test]
fn a_line_that_is_not_a_key_is_reported_and_affects_no_other() {
    for (line, word) in [
        ("nonsense", "is not a public key"),
        ("ssh-rsa AAAA me", "is not a public key"),
        (
            "from=\"10.0.0.1\",permitopen=\"a # b:1\" %",
            "has options (permitopen=\"a # b:1\")",
        ),
        (
            "from=\"10.0.0.1/8\" %",
            "has an option that is malformed (from=\"10.0.0.1/8\")",
        ),
        ("tunnel=\"0\"\t%", "has options (tunnel=\"0\")"),
        ("@cert-authority * %", "has the marker @cert-authority"),
        ("@revoked", "is not a public key"),
        ("@revoked one two %", "is not a public key"),
        (
            "ssh-ed25519-cert-v01@openssh.com AAAA me",
            "is a certificate",
        ),
        (
            "restrict ssh-rsa-cert-v01@openssh.com AAAA",
            "is a certificate",
        ),
        ("\u{feff}%", "begins with a byte order mark"),
        (
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----",
            "begins a private key",
        ),
        (
            "---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----",
            "not in OpenSSH's format",
        ),
        (
            "PuTTY-User-Key-File-3: ssh-ed25519\nx\nPrivate-MAC: 0",
            "not in OpenSSH's format",
        ),
        (
            "webauthn@example.org AAAAFHdlYmF1dGhuQGV4YW1wbGUub3JnAAAAAA==",
            "cannot log in (webauthn@example.org)",
        ),
    ] {
        let line = line.replace('%', ED25519);
        let (keys, told) = parse(&format!("{ECDSA}\n{line}\n{ECDSA}\n"));
        assert_eq!((keys, told.len()), (2, 1), "{line}: {told:?}");
        assert!(
            told[0].starts_with("line 2 ") && told[0].contains(word),
            "{line}: {told:?}"
        );
    }
}

#[test]
fn a_key_in_another_format_that_does_not_end_hides_no_other() {
    let begin = "---- BEGIN SSH2 PUBLIC KEY ----";
    let (keys, left_out) = parse(&format!("{begin}\n{ED25519}\n{begin}\n{ECDSA}\n"));
    assert_eq!((keys, left_out.len()), (2, 2), "{left_out:?}");
}

#[test]
fn options_belong_to_their_line() {
    let text = format!("{ED25519}\ncommand=\"echo \\\" # x\",no-pty\t{ECDSA}\n");
    let all = AuthorizedKeys::parse(text.as_bytes());
    // An open quotation is no command.
    assert_eq!((all.keys.len(), all.left_out.len()), (1, 1));
    let text = text.replace("\\\" #", "\\\"a b\\\"");
    let all = AuthorizedKeys::parse(text.as_bytes());
    assert_eq!(all.keys[0].options, KeyOptions::default());
    let options = &all.keys[1].options;
    assert_eq!(options.command.as_deref(), Some("echo \"a b\" x"));
    assert!(!options.pty && all.keys[1].line == 2);
}

#[test]
fn every_line_that_is_used_can_be_isolated() {
    let forced = format!("command=\"a b\",from=\"10.0.0.1\"\t{ECDSA}");
    let text = format!("# two\n{ED25519}\r\n\n{forced}\nisolate {ED25519}\nnonsense");
    let isolated = AuthorizedKeys::isolated(text.as_bytes());
    assert_eq!(
        isolated,
        format!(
            "# two\nisolate {ED25519}\n\nisolate,{forced}\nisolate,isolate {ED25519}\nnonsense\n"
        )
    );
    let [before, after] = [text, isolated].map(|text| AuthorizedKeys::parse(text.as_bytes()));
    assert_eq!(before.left_out, after.left_out);
    for (before, after) in before.keys.iter().zip(&after.keys) {
        assert_eq!(before.key, after.key);
        let mut options = before.options.clone();
        options.isolate = true;
        assert_eq!(options, after.options);
    }
    assert_eq!(after.keys.len(), 3);
}

#[test]
fn a_revoked_key_is_left_out_wherever_its_line_is() {
    for text in [
        format!("@revoked {ED25519}\n{ECDSA}\ncert-authority {ED25519}\n"),
        format!("{ECDSA}\n{ED25519}\n@revoked\t{ED25519} of another comment\n"),
        // As in known_hosts files.
        format!("{ECDSA}\n{ED25519}\n@revoked * {ED25519}\n"),
    ] {
        let all = AuthorizedKeys::parse(text.as_bytes());
        assert_eq!((all.keys.len(), all.revoked.len()), (1, 1), "{text}");
        let told: Vec<_> = all.left_out.iter().map(ToString::to_string).collect();
        assert!(
            told.len() == 1 && told[0].contains("has a key that line"),
            "{told:?}"
        );
        assert_eq!(all.keys[0].key.algorithm().as_str(), "ecdsa-sha2-nistp256");
    }
}

#[test]
fn a_file_in_another_encoding_is_reported() {
    let utf16: Vec<u8> = format!("\u{feff}{ED25519}\r\n")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let all = AuthorizedKeys::parse(&utf16);
    assert!(all.keys.is_empty());
    assert_eq!(
        all.left_out,
        [LeftOut {
            line: 1,
            fault: Fault::Utf16
        }]
    );
}

#[test]
fn an_rsa_key_must_have_a_size_that_can_be_verified() {
    use ssh_key::{Mpint, public};
    let of_bits = |bits: usize| {
        let mut modulus = vec![0xff; bits / 8];
        modulus[0] = 0x80;
        let [exponent, modulus] = [&[1, 0, 1][..], &modulus].map(Mpint::from_positive_bytes);
        let key = public::RsaPublicKey::new(exponent, modulus).unwrap();
        parse(&PublicKey::new(key.into(), "").to_openssh().unwrap())
    };
    assert_eq!(of_bits(8192), (1, vec![]));
    for bits in [512, 16384] {
        let (keys, told) = of_bits(bits);
        assert!(
            keys == 0 && told[0].contains(&format!("RSA key of {bits} bits")),
            "{told:?}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_keys_or_reported(bytes: Vec<u8>, text in "(@revoked |cert-authority|[ -~\"\\\\\t\n]){0,80}") {
        for bytes in [bytes, text.into_bytes()] {
            let all = AuthorizedKeys::parse(&bytes);
            let said = String::from_utf8_lossy(&bytes).lines().filter(|line| {
                !line.trim().is_empty() && !line.trim().starts_with('#')
            }).count();
            prop_assert_eq!(AuthorizedKeys::isolated(&bytes).lines().count(), String::from_utf8_lossy(&bytes).lines().count());
            prop_assert!(all.keys.is_empty() && all.revoked.is_empty() && (said == 0) == all.left_out.is_empty());
        }
    }
}
