//! The getxattr of security.capability before each write, answered by the relay.

use super::*;

#[test]
fn a_file_that_was_just_written_is_not_asked_about() {
    let (mut kernel, _) = Kernel::new(MemFs(Arc::default()), 4096);
    for fid in [1, 2] {
        kernel.done(&walk(0, fid, ["file", "slow"][fid as usize - 1]));
    }
    kernel.done(&walk(1, 3, ""));
    kernel.done(&Request::Lopen { fid: 3, flags: 1 });
    let query = |kernel: &mut Kernel, fid| {
        let before = kernel.waits;
        let got = kernel.done(&get_capability(fid));
        if got[4] != 7 {
            kernel.done(&Request::Clunk { fid: FREE });
        }
        (got[4] != 7, kernel.waits - before)
    };
    let write = |n| Request::Write {
        fid: 3,
        offset: 0,
        data: Data(&b"bytes"[..n]),
    };
    assert_eq!(query(&mut kernel, 1), (false, 1));
    for _ in 0..3 {
        kernel.done(&write(5));
        assert_eq!(query(&mut kernel, 1), (false, 0));
    }
    // The server is asked for another file, and for the same one later.
    assert_eq!(query(&mut kernel, 2), (false, 1));
    kernel.now += ATTR_TTL;
    assert_eq!(query(&mut kernel, 1), (false, 1));
    // The file gets the attribute after the write; a write of no bytes does not remove it.
    kernel.done(&write(5));
    for request in set_capability(1) {
        kernel.done(&request);
    }
    assert_eq!(query(&mut kernel, 1), (true, 1));
    kernel.done(&write(0));
    assert_eq!(query(&mut kernel, 1), (true, 1));
    // A write to the fid of an Xattrcreate is not a write to the file.
    for mut request in set_capability(1) {
        if let Request::Walk { newfid: fid, .. }
        | Request::Xattrcreate { fid, .. }
        | Request::Write { fid, .. }
        | Request::Clunk { fid } = &mut request
        {
            *fid += 1;
        }
        kernel.done(&request);
        assert_eq!(query(&mut kernel, 1), (true, 1), "{request:?}");
    }
    kernel.done(&write(1));
    assert_eq!(query(&mut kernel, 1), (false, 0));
}

/// The server performed the write, then set the attribute, and answered in the other order.
#[test]
fn a_write_that_another_change_overtook_says_nothing() {
    let now = Instant::now();
    for overtaken in [true, false] {
        let mut relay = extended();
        let mut out = Out::default();
        let qid = MemNode::File.qid();
        let attr = Attr {
            qid,
            ..Attr::default()
        };
        from_kernel(&mut relay, message(1, &walk(0, 1, "file")), now, &mut out);
        let walked = reply(1, &Reply::Walkgetattr { attr });
        from_server(&mut relay, walked, now, &mut out).unwrap();
        let [clone, create, value, clunk] = set_capability(1).try_into().unwrap();
        for request in [clone, create, value] {
            from_kernel(&mut relay, message(1, &request), now, &mut out);
        }
        let write = Request::Write {
            fid: 1,
            offset: 0,
            data: Data(b"bytes"),
        };
        from_kernel(&mut relay, message(2, &write), now, &mut out);
        from_kernel(&mut relay, message(3, &clunk), now, &mut out);
        let clunked = reply(3, &Reply::Clunk {});
        let written = reply(2, &Reply::Write { count: 5 });
        let replies = if overtaken {
            [clunked, written]
        } else {
            [written, clunked]
        };
        for reply in replies {
            from_server(&mut relay, reply, now, &mut out).unwrap();
        }
        let mut out = Out::default();
        from_kernel(&mut relay, message(1, &get_capability(1)), now, &mut out);
        assert!(
            !out.server.is_empty() && out.kernel.is_empty(),
            "{overtaken}"
        );
    }
}

#[test]
fn a_file_that_was_just_made_is_not_asked_about() {
    let now = Instant::now();
    for (flags, is_new) in [(0o301, true), (0o1101, true), (0o101, false)] {
        let mut relay = extended();
        let mut out = Out::default();
        let create = Request::Lcreate {
            fid: 1,
            name: name("new"),
            flags,
            mode: 0o644,
            gid: 0,
        };
        from_kernel(&mut relay, message(1, &create), now, &mut out);
        let qid = MemNode::File.qid();
        let created = reply(1, &Reply::Lcreate { qid, iounit: 0 });
        from_server(&mut relay, created, now, &mut out).unwrap();
        from_kernel(&mut relay, message(1, &walk(0, 2, "new")), now, &mut out);
        let attr = Attr {
            qid,
            ..Attr::default()
        };
        let walked = reply(1, &Reply::Walkgetattr { attr });
        from_server(&mut relay, walked, now, &mut out).unwrap();
        let mut out = Out::default();
        from_kernel(&mut relay, message(1, &get_capability(2)), now, &mut out);
        assert_eq!(out.server.is_empty(), is_new, "{flags:o}");
        assert_eq!(out.kernel.is_empty(), !is_new, "{flags:o}");
    }
}
