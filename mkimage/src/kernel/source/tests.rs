use super::*;
use crate::arch::Arch;
use crate::archive::compress::Compression;

#[test]
fn only_the_expected_bytes_are_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let (part, path) = (dir.path().join("part"), dir.path().join("tarball"));
    // printf abc | sha256sum
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    fs::write(&part, "abd").unwrap();
    assert!(matches!(
        accept(&part, &path, abc),
        Err(Error::WrongHash { .. })
    ));
    assert!(!part.exists() && !path.exists());
    fs::write(&part, "abc").unwrap();
    accept(&part, &path, abc).unwrap();
    assert!(path.exists());
}

/// What a tarball of a directory `linux` with these files in it unpacks to.
fn untarred(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Result<(), Error>) {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("linux/{name}"), *bytes)
            .unwrap();
    }
    let packed = Compression::Xz
        .apply(tar.into_inner().unwrap(), Arch::HERE)
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (path, into) = (dir.path().join("linux.tar.xz"), dir.path().join("part"));
    fs::write(&path, packed).unwrap();
    fs::create_dir(&into).unwrap();
    let done = untar(&path, &into, Progress::silent());
    (dir, done)
}

#[test]
fn a_tarball_is_unpacked_and_a_bomb_is_not() {
    let (dir, done) = untarred(&[("Makefile", b"all:"), ("Kconfig", b"config X")]);
    done.unwrap();
    check_source(&dir.path().join("part")).unwrap();
    let zeros = vec![0; 20 << 20];
    let (dir, done) = untarred(&[("a", &zeros), ("b", &zeros), ("c", &zeros)]);
    let bomb = matches!(
        done,
        Err(Error::Packed {
            source: decompress::Error::Bomb { .. },
            ..
        })
    );
    assert!(bomb, "{done:?}");
    assert!(!dir.path().join("part/c").exists());
}

/// A server for HTTPS: `/file` is one of five bytes, `/endless` has no length, `/away` leads to HTTP.
const SERVER: &str = r#"
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:%d/file" % self.server.server_port)
        else:
            self.send_response(200)
        if self.path == "/file":
            self.send_header("Content-Length", "5")
        self.end_headers()
        if self.path == "/file":
            self.wfile.write(b"bytes")
        if self.path == "/endless":
            for _ in range(100):
                self.wfile.write(bytes(1 << 20))
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"#;

/// The server's key and its certificate for 127.0.0.1, of no use elsewhere.
const CERTIFICATE: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgld+wQP687YWdapV/
X/kyJQoLa67qLW5Wo6nqaeOThZyhRANCAARu5kf8GHgGXGkV7GfdU+GKk48rEeIT
ruyCP1qi08jyIXWhi4OOI8oT+3BbmZ9b3SF8vqrwQhxqiQ86quoZidyP
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBnDCCAUGgAwIBAgIUYDdlu6+LQ1qqfC67xoDGzhPRubYwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEzMDEyMDQ1OVoYDzIxMjYxMTA2
MTIwNDU5WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARu5kf8GHgGXGkV7GfdU+GKk48rEeITruyCP1qi08jyIXWhi4OOI8oT
+3BbmZ9b3SF8vqrwQhxqiQ86quoZidyPo28wbTAdBgNVHQ4EFgQUsNo8sKpkbGA8
oeGEqZg8M3pcSokwHwYDVR0jBBgwFoAUsNo8sKpkbGA8oeGEqZg8M3pcSokwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSQAwRgIhAOv2vqEsKvw7CXgUBNMmv1NHXKHNvxh7kY+CpekD6HmxAiEA
t7uPi4Q2Z4ktGik+GCZNJ3nMGet2OFSsxnz5l/iJinI=
-----END CERTIFICATE-----
";

#[test]
fn curl_keeps_to_https_and_to_the_size() {
    let dir = tempfile::tempdir().unwrap();
    let (pem, part) = (dir.path().join("pem"), dir.path().join("part"));
    fs::write(&pem, CERTIFICATE).unwrap();
    let mut server = Command::new("python3")
        .args(["-c", SERVER])
        .arg(&pem)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut port = String::new();
    let mut output = BufReader::new(server.stdout.take().unwrap());
    io::BufRead::read_line(&mut output, &mut port).unwrap();
    let fetch = |scheme: &str, path: &str| {
        let url = format!("{scheme}://127.0.0.1:{}/{path}", port.trim());
        let mut curl = curl(&url, &part, 1 << 20);
        curl.env("CURL_CA_BUNDLE", &pem).env("no_proxy", "*");
        match download(curl, &part, 1 << 20, Progress::silent()) {
            Ok(()) => Ok(fs::read_to_string(&part).unwrap()),
            Err(Error::Fetch(error)) => Err(error.to_string()),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(fetch("https", "file").as_deref(), Ok("bytes"));
    for (scheme, path, reason) in [
        (
            "http",
            "file",
            "Protocol \"http\" not supported or disabled",
        ),
        (
            "https",
            "away",
            "Protocol \"http\" not supported or disabled",
        ),
        ("https", "endless", "sent more than 1048576 bytes"),
    ] {
        let error = fetch(scheme, path).unwrap_err();
        // Newer versions of curl report it themselves.
        let said = error.contains(reason) || error.contains("Maximum file size exceeded");
        assert!(said && error.lines().count() == 1, "{error}");
        assert!(!part.exists());
    }
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn a_directory_that_is_no_kernel_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        check_source(dir.path()),
        Err(Error::NotAKernel(_))
    ));
}
