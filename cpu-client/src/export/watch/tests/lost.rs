//! Tests of watches that go: with their directory, for others, and when events are lost.

use super::*;

/// Makes more events than the queue has room for.
fn overflow(tree: &Tree) {
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let most: usize = most.trim().parse().unwrap();
    let (x, y) = (tree.at("d/x"), tree.at("d/y"));
    fs::write(&x, "").unwrap();
    for _ in 0..most / 4 + 10 {
        fs::rename(&x, &y).unwrap();
        fs::rename(&y, &x).unwrap();
    }
}

#[test]
fn a_queue_that_overflows_makes_everything_forgotten() {
    let tree = Tree::new(&places().pop().unwrap(), 100);
    assert!(tree.watch("d", Told::All));
    overflow(&tree);
    assert_eq!(tree.changes(), [(FORGET_ALL, String::new(), String::new())]);
    // It goes on.
    assert!(tree.watch("d", Told::All));
    fs::remove_file(tree.at("d/x")).unwrap();
    assert_eq!(tree.changes(), [change(FORGET_NAME, "x")]);
}

#[test]
fn a_directory_whose_removal_was_lost_is_not_taken_for_another_with_its_number() {
    for place in places() {
        let tree = Tree::new(&place, 100);
        assert!(tree.watch("d", Told::All) && tree.watch("d/s", Told::All));
        let number = tree.node("d/s").id();
        overflow(&tree);
        fs::remove_dir(tree.at("d/s")).unwrap();
        assert_eq!(tree.changes(), [(FORGET_ALL, String::new(), String::new())]);
        assert_eq!(lock(&tree.watching.table).len(), 0);
        // Where numbers are given again, the next gets it.
        fs::create_dir(tree.at("d/t")).unwrap();
        assert!(tree.watch("d/t", Told::All));
        let is_same = tree.node("d/t").id() == number;
        fs::write(tree.at("d/t/new"), "").unwrap();
        let new = (FORGET_NAME, "/d/t".into(), "new".into());
        assert_eq!(tree.changes(), [new], "{is_same}");
    }
}

#[test]
fn settling_waits_until_it_is_sent_that_a_watch_was_given_up() {
    let tree = Tree::new(&place(), 1);
    assert!(tree.watch("d", Told::All) && tree.watch("d/s", Told::All));
    // What happens in `d` from now on makes no event.
    let (sent, seen) = mpsc::channel();
    std::thread::scope(|scope| {
        let watching = &tree.watching;
        scope.spawn(move || {
            while watching.wait() {
                watching.changes(&mut |changes| sent.send(changes.to_vec()).unwrap());
            }
        });
        watching.settle();
        let sent: Vec<_> = seen.try_iter().flatten().collect();
        watching.close();
        assert_eq!(sent.first().map(|change| change.what), Some(FORGET_DIR));
    });
}
