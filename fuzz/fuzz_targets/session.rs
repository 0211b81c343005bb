//! A whole session of a hostile peer with a small tree that has a secret beside its root.
//!
//! If the first byte of the input is 0, the rest is the stream. Otherwise version and attach are sent first, and the
//! rest is requests as `length[1] type[1] body[length]`, so that the fuzzer need not guess sizes. The replies must be
//! well-formed, and nothing outside the root may be read or changed.
#![no_main]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use cpu_client::export::Export;
use libfuzzer_sys::fuzz_target;
use ninep::msg::{Header, NO_FID, NO_ID, NO_TAG, Reply, Request, WATCHED};
use ninep::server::{Config, serve};
use ninep::wire::{Frame, HEADER, Str};
use rustix::fs::{Gid, Uid};
use tempfile::TempDir;

const MSIZE: u32 = 8192;
const SECRET: &[u8] = b"nobody may read this";
const NOBODY: u32 = 65534;

fuzz_target!(|bytes: &[u8]| {
    let Some((mode, bytes)) = bytes.split_first() else {
        return;
    };
    let stream = if *mode == 0 {
        bytes.to_vec()
    } else {
        framed(bytes)
    };
    let tree = tree();
    let before = outside(tree.path());
    let replies = std::thread::scope(|scope| scope.spawn(|| session(tree.path(), &stream)).join());
    assert_eq!(
        outside(tree.path()),
        before,
        "something outside the root has changed"
    );
    check(&replies.expect("no panic"));
    remove(tree);
});

/// The stream of the requests, after the two with which every session begins.
fn framed(mut bytes: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut frame = Frame::default();
    // The dialect of our own relay includes all of 9P2000.L. What changes is reported.
    let version = Str::new(WATCHED).unwrap_or_default();
    let begin = [
        (
            NO_TAG,
            Request::Version {
                msize: MSIZE,
                version,
            },
        ),
        (
            0,
            Request::Attach {
                fid: 0,
                afid: NO_FID,
                uname: Str::default(),
                aname: Str::default(),
                n_uname: NO_ID,
            },
        ),
    ];
    for (tag, request) in begin {
        request.encode(tag, &mut frame);
        stream.extend_from_slice(frame.finish());
    }
    let mut tag = 0;
    while let [length, kind, rest @ ..] = bytes {
        // The highest bit of the length: NO_TAG, with which a clunk or a clone gets no reply.
        let (body, next) = rest.split_at(usize::from(*length & 0x7f).min(rest.len()));
        frame.start(*kind, if length & 0x80 == 0 { tag } else { NO_TAG });
        frame.put(body);
        stream.extend_from_slice(frame.finish());
        tag = tag.wrapping_add(1);
        bytes = next;
    }
    stream
}

/// `secret` and `root` with a file, a directory with a file, and links to the outside.
fn tree() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        TempDir::new_in(memory)
    } else {
        TempDir::new()
    };
    let dir = dir.expect("a temporary directory");
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("d")).unwrap();
    fs::write(dir.path().join("secret"), SECRET).unwrap();
    fs::write(root.join("f"), "content").unwrap();
    fs::write(root.join("d/g"), "more").unwrap();
    symlink("../secret", root.join("l")).unwrap();
    symlink("..", root.join("u")).unwrap();
    if rustix::process::geteuid().is_root() {
        // If there were a way out, root could do too much harm. So the session runs as nobody, who owns the tree.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        for path in ["", "secret", "root", "root/f", "root/d", "root/d/g"] {
            chown(dir.path().join(path), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    dir
}

fn session(dir: &Path, stream: &[u8]) -> Vec<u8> {
    if rustix::process::geteuid().is_root() {
        // For this thread and those that it starts.
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
    }
    let export = Export::new(&dir.join("root")).expect("the root can be opened");
    let config = Config {
        max_msize: MSIZE,
        // One thread, so that the same input leads to the same run.
        workers: std::num::NonZero::<usize>::MIN,
        max_fids: 64,
        ..Config::default()
    };
    let mut replies = Vec::new();
    let _ = serve(&export, stream, &mut replies, &config);
    replies
}

fn check(mut replies: &[u8]) {
    assert!(
        !replies.windows(SECRET.len()).any(|window| window == SECRET),
        "the secret was read"
    );
    while let Some(header) = replies.first_chunk() {
        let header = Header::decode(header);
        assert!((HEADER..=MSIZE as usize).contains(&(header.size as usize)));
        let (reply, rest) = replies.split_at(header.size as usize);
        Reply::decode(header.kind, &reply[HEADER..]).expect("a reply");
        replies = rest;
    }
    assert!(replies.is_empty(), "half a reply");
}

/// Everything outside the root whose change would be visible.
fn outside(dir: &Path) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    let secret = fs::metadata(dir.join("secret")).unwrap();
    let content = fs::read(dir.join("secret")).unwrap();
    let times = (
        secret.mtime(),
        secret.mtime_nsec(),
        secret.ctime(),
        secret.ctime_nsec(),
    );
    (
        names,
        content,
        secret.mode(),
        secret.uid(),
        secret.nlink(),
        times,
    )
}

fn remove(tree: TempDir) {
    let dir = tree.keep();
    if fs::remove_dir_all(&dir).is_err() {
        // The peer has taken away permissions of its directories, and we are not root.
        let mut chmod = std::process::Command::new("chmod");
        let _ = chmod.args(["-R", "u+rwx"]).arg(&dir).status();
        let _ = fs::remove_dir_all(&dir);
    }
}
