//! The contract of docs/files.md, with a kernel that looks through the relay: whatever is changed here and there, and however
//! late the messages arrive, an answer is never older than the contract allows.

use proptest::prelude::*;

use super::there::{There, walk_one};
use super::*;

mod world;

use world::{DIRS, NAMES, TreeSpot, World, WorldStep, step};

fn keeps_the_contract(at: &str, steps: &[WorldStep]) {
    let at = std::path::Path::new(at);
    if !at.exists() {
        return;
    }
    let (_dir, mut world) = World::new(at);
    for step in steps {
        world.step(step);
    }
    world.settle();
    for dir in 0..DIRS.len() {
        for name in 0..NAMES.len() {
            world.step(&WorldStep::Stat(TreeSpot(dir, name)));
            world.step(&WorldStep::Cat(TreeSpot(dir, name)));
        }
        world.step(&WorldStep::List(dir));
        world.step(&WorldStep::StatDir(dir));
    }
    world.step(&WorldStep::ReadHeld);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_answer_is_older_than_the_contract_allows(steps in prop::collection::vec(step(), 1..120)) {
        // A disk, as a rule, and memory.
        keeps_the_contract("/var/tmp", &steps);
        keeps_the_contract("/dev/shm", &steps);
    }
}

#[test]
fn what_is_known_is_not_asked_for_again() {
    let (_dir, mut world) = World::new(std::path::Path::new("/dev/shm"));
    fs::write(world.root.join("a/b/x"), "12345").unwrap();
    symlink("x", world.root.join("a/b/y")).unwrap();
    let first = world.there.waits;
    assert_eq!(world.there.stat("a/b/x").unwrap().size, 5);
    let asked = world.there.waits - first;
    assert!((1..=3).contains(&asked), "{asked} waits for three names");
    world.there.deliver_all();
    assert_eq!(world.there.list("a/b").unwrap(), ["x", "y"]);
    let before = world.there.waits;
    for _ in 0..3 {
        assert_eq!(world.there.stat("a/b/x").unwrap().size, 5);
        assert_eq!(world.there.stat("a/b/y").unwrap().size, 1);
        assert_eq!(world.there.stat("a/b/no"), None);
        assert_eq!(world.there.list("a/b").unwrap(), ["x", "y"]);
    }
    assert_eq!(world.there.waits, before, "all of it is known");
    // A change here is seen, and then known again.
    fs::write(world.root.join("a/b/x"), "1234567").unwrap();
    world.settle();
    assert_eq!(world.there.stat("a/b/x").unwrap().size, 7);
    assert_eq!(world.there.waits, before + 1);
    assert_eq!(world.there.stat("a/b/x").unwrap().size, 7);
    assert_eq!(world.there.waits, before + 1);
}

#[test]
fn a_peer_that_keeps_nothing_asks_each_time() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("x"), "").unwrap();
    let export = Export::new(dir.path()).unwrap();
    let mut there = There::new(
        Arc::new(export.with_caching(Caching::Never)),
        Arc::default(),
    );
    for _ in 0..3 {
        let before = there.waits;
        there.stat("x").unwrap();
        assert_eq!(there.waits, before + 1);
    }
}

#[test]
fn a_file_with_two_names_is_asked_for_each_time() {
    let (_dir, mut world) = World::new(std::path::Path::new("/dev/shm"));
    fs::write(world.root.join("a/x"), "1").unwrap();
    fs::create_dir(world.root.join("c")).unwrap();
    fs::hard_link(world.root.join("a/x"), world.root.join("c/y")).unwrap();
    for size in 1..5 {
        // No event of the directory `a` reports this.
        fs::write(world.root.join("c/y"), "1".repeat(size)).unwrap();
        world.settle();
        assert_eq!(world.there.stat("a/x").unwrap().size, size as u64);
    }
}

#[test]
fn a_directory_that_is_replaced_is_another() {
    let (_dir, mut world) = World::new(std::path::Path::new("/dev/shm"));
    for round in 0..20 {
        let path = world.root.join("d");
        fs::create_dir(&path).unwrap();
        fs::write(path.join(format!("f{round}")), "").unwrap();
        world.settle();
        assert_eq!(world.there.list("d").unwrap(), [format!("f{round}")]);
        assert!(world.there.stat(&format!("d/f{round}")).is_some());
        let held = world.there.walk("d").unwrap();
        fs::remove_dir_all(&path).unwrap();
        world.settle();
        assert_eq!(world.there.stat("d"), None);
        let (next, name) = (world.there.new_fid(), format!("f{round}"));
        assert!(world.there.ask(&walk_one(held, next, &name)).is_err());
        world.there.clunk(held);
    }
}
