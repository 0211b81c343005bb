//! Files whose name becomes another file's, or none's, just when the machine opens them.

use super::super::there::walk_one;
use super::*;

/// Removes a file and makes another of its name, which gets its number if the file system gives numbers again.
fn make_again(at: &Path, text: &str) -> bool {
    let number = |at: &Path| fs::metadata(at).unwrap().ino();
    let before = number(at);
    fs::remove_file(at).unwrap();
    fs::write(at, text).unwrap();
    number(at) == before
}

#[test]
fn a_file_with_the_number_of_one_that_was_opened_is_another() {
    for place in places() {
        for _ in 0..5 {
            let mut shared = Shared::new(place);
            assert_eq!(shared.cat().0, "contents");
            // The server has closed it, and not opened it again.
            shared.there.ask(&Request::Statfs { fid: 0 }).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            let (held, _) = shared.there.open("d/f").unwrap();
            assert_eq!(shared.there.pread(held, 0, 4), b"cont");
            let has_number = make_again(&shared.at("d/f"), "the other is longer");
            shared.settle();
            assert_eq!(
                shared.there.read_all(held, 100),
                b"contents",
                "{has_number}"
            );
            assert_eq!(shared.cat().0, "the other is longer");
            // Also when the other is known.
            assert_eq!(shared.there.read_all(held, 3), b"contents");
            let (fid, _) = shared.there.open("d/f").unwrap();
            assert_eq!(shared.there.read_all(fid, 100), b"the other is longer");
        }
    }
}

#[test]
fn a_file_that_was_replaced_when_it_was_opened_can_be_opened_again_while_it_is_in_use() {
    for place in places() {
        let mut shared = Shared::new(place);
        assert_eq!(shared.cat().0, "contents");
        // The kernel has a fid for the name, and clones it for each open.
        let there = &mut shared.there;
        let name = there.walk("d/f").unwrap();
        let open = |there: &mut There| {
            let fid = there.new_fid();
            there.ask(&walk_one(name, fid, "")).unwrap();
            there
                .ask(&Request::Lopen { fid, flags: RDONLY })
                .map(|_| fid)
        };
        let first = open(there).unwrap();
        fs::write(shared.at("d/new"), "another").unwrap();
        fs::rename(shared.at("d/new"), shared.at("d/f")).unwrap();
        shared.settle();
        let there = &mut shared.there;
        let second = open(there).unwrap();
        for fid in [first, second] {
            assert_eq!(there.read_all(fid, 5), b"contents");
            there.clunk(fid);
        }
        assert_eq!(open(there), Err(Errno::ESTALE));
        assert_eq!(shared.cat().0, "another");
    }
}

#[test]
fn what_is_written_there_by_a_name_that_was_removed_is_read_by_the_other() {
    for place in places() {
        let mut shared = Shared::new(place);
        let there = &mut shared.there;
        let (dir, writer) = (there.walk("d").unwrap(), there.walk("d/f").unwrap());
        let (fid, flags) = (writer, RDWR);
        there.ask(&Request::Lopen { fid, flags }).unwrap();
        let link = Request::Link {
            dfid: dir,
            fid,
            name: name("g"),
        };
        there.ask(&link).unwrap();
        let (dfid, name, flags) = (dir, name("f"), 0);
        there.ask(&Request::Unlinkat { dfid, name, flags }).unwrap();
        for text in ["one", "two"] {
            assert!(there.cat("d/g").is_some());
            let (offset, data) = (0, Data(text.as_bytes()));
            there.ask(&Request::Write { fid, offset, data }).unwrap();
            let wanted = format!("{text}tents");
            assert_eq!(there.cat("d/g").unwrap(), wanted.as_bytes());
        }
    }
}
