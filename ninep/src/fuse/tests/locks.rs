//! Locks: who holds them, and when they are requested.

use super::*;

#[test]
fn a_lock_that_is_waited_for_is_requested_again_and_can_be_interrupted() {
    let mut front = FrontFixture::new();
    front.found(b"a", file(40, 10));
    let owner = 5_u64.to_ne_bytes();
    let range = [[0; 8], i64::MAX.to_ne_bytes()].concat();
    let lock = [
        &9_u64.to_ne_bytes()[..],
        &owner,
        &range,
        &words(&[1, 77, 0, 0]),
    ]
    .concat();
    front.kernel(33, 8, 2, &[&lock]);
    for _ in 0..2 {
        let asked = front.asked();
        let Request::Lock {
            length, proc_id, ..
        } = asked.request()
        else {
            panic!("{:?}", asked.request());
        };
        assert_eq!((length, proc_id), (0, 77));
        front.server(asked.tag, &Reply::Lock { status: 1 });
        assert_eq!(front.answer(8), None);
        assert!(front.0.has_blocked_locks());
        front.0.retry_locks();
    }
    let asked = front.asked();
    front.server(asked.tag, &Reply::Lock { status: 1 });
    front.kernel(36, 9, 0, &[&8_u64.to_ne_bytes()]);
    assert_eq!(front.answer(8).unwrap().0, 4);
    assert!(!front.0.has_blocked_locks());
}

#[test]
fn open_files_of_one_process_exclude_each_other() {
    let mut front = FrontFixture::new();
    front.found(b"a", file(40, 10));
    let whole = [[0; 8], i64::MAX.to_ne_bytes()].concat();
    let mut asks = |opcode, owner: u64| {
        let fields = [&9_u64.to_ne_bytes()[..], &owner.to_ne_bytes(), &whole].concat();
        front.kernel(opcode, 8, 2, &[&fields, &words(&[1, 77, 1, 0])]);
        let asked = front.asked();
        match asked.request() {
            Request::Lock { proc_id, .. } => {
                front.server(asked.tag, &Reply::Lock { status: 0 });
                assert_eq!(front.answer(8).unwrap().0, 0);
                proc_id
            }
            Request::Getlock { lock, .. } => lock.proc_id,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asks(32, 5), 77);
    assert_eq!(asks(31, 5), 77);
    // Before it has locked, and afterwards.
    let other = asks(31, 6);
    assert_ne!(other, 77);
    assert_eq!(asks(32, 6), other);
    assert_eq!(asks(31, 6), other);
    assert_eq!(asks(32, 5), 77);
}

#[test]
fn a_lock_is_requested_once_what_ends_another_is_done() {
    let mut front = FrontFixture::new();
    front.found(b"a", file(40, 10));
    let lock = |fid: u64| {
        let whole = [[0; 8], i64::MAX.to_ne_bytes()].concat();
        let fields = [&fid.to_ne_bytes()[..], &fid.to_ne_bytes(), &whole].concat();
        [fields, words(&[1, 77, 1, 0])].concat()
    };
    front.kernel(32, 8, 2, &[&lock(9)]);
    let asked = front.asked();
    front.server(asked.tag, &Reply::Lock { status: 0 });
    assert_eq!(front.answer(8).unwrap().0, 0);
    front.kernel(18, 10, 2, &[&9_u64.to_ne_bytes(), &[0; 16]]);
    let clunk = front.asked();
    front.kernel(32, 12, 2, &[&lock(5)]);
    assert!(!front.0.has_requests());
    front.server(clunk.tag, &Reply::Clunk {});
    assert_eq!(front.answer(10).unwrap().0, 0);
    assert!(matches!(
        front.asked().request(),
        Request::Lock { fid: 5, .. }
    ));
}
