//! What is mounted: /tmp, lines of fstab, a tree as the root, the machine's name servers.

use super::*;

#[test]
fn tmp_is_private_and_the_machines_mounts_stay_as_they_are() {
    let mark = tempfile::tempdir_in("/tmp").unwrap();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let listing = sh(
        &[],
        "ls /tmp; touch /tmp/cpud-private; stat -c %a /tmp; ls -d /tmp/local/usr; stat -fc %T /tmp",
    );
    assert_eq!(listing, "cpu\nlocal\n1777\n/tmp/local/usr\ntmpfs\n");
    assert!(!fs::exists("/tmp/cpud-private").unwrap() && mark.path().is_dir());
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

#[test]
fn fstab_lines_are_mounted_in_order_and_faults_are_told() {
    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    let name = outside.path().join("a b");
    fs::create_dir(&name).unwrap();
    fs::write(name.join("file"), "content").unwrap();
    let missing = outside.path().join("missing");
    let fstab = format!(
        "# comment\n\
         {dir}/a\\040b /tmp/made/here none defaults,bind 0 0\n\
         /tmp/made/here /tmp/ro none bind,ro\n\
         too few\n\
         a /b none bind 0 0 c /d none bind 0 0\n\
         /tmp/made {missing} none bind 0 0\n\
         /nosuch /mnt none bind 0 0\n\
         /tmp/cpu/bin /bin none bind 0 0\n\
         none /mnt nosuchfs rw 0 0\n\
         none / tmpfs rw 0 0\n\
         /etc/hostname /tmp/hostname none bind 0 0\n\
         mine /tmp/t tmpfs size=1m,noexec 0 0\n",
        dir = outside.path().display(),
        missing = missing.display(),
    );
    let script = "cat /tmp/made/here/file; touch /tmp/made/here/new; touch /tmp/ro/new 2>/dev/null || echo ' ro';
                  cmp /etc/hostname /tmp/hostname; grep ' /tmp/t ' /proc/mounts";
    let output = run(&[("CPU_FSTAB", &fstab)], &["sh", "-c", script]);
    let seen = text(&output.stdout);
    assert!(
        seen.starts_with("content ro\nmine /tmp/t tmpfs rw,noexec,relatime,size=1024k"),
        "{seen}"
    );
    assert!(name.join("new").exists() && !missing.exists());
    let reported: Vec<_> = text(&output.stderr).lines().collect();
    let expected = [
        "fstab line \"too few\": it has 2 of at least 4 fields".to_owned(),
        "fstab line \"a /b none bind 0 0 c /d none bind 0 0\": it has 12 fields, but at most 6 are allowed"
            .to_owned(),
        format!(
            "cannot bind /tmp/made on {}: the machine has no such directory",
            missing.display()
        ),
        "cannot bind /nosuch on /mnt: No such file or directory".to_owned(),
        "cannot bind /tmp/cpu/bin on /bin: the client's files are not mounted, 9P is off"
            .to_owned(),
        "cannot mount nosuchfs none on /mnt: the kernel has no nosuchfs".to_owned(),
        "cannot mount tmpfs none on /: ".to_owned(),
    ];
    for (line, expected) in reported.iter().zip(&expected) {
        assert!(
            line.starts_with(&format!("cpud: {expected}")),
            "{line}\nis not\n{expected}"
        );
    }
    assert_eq!(reported.len(), expected.len(), "{reported:#?}");
}

/// A tree with these directories and `etc/hostname`, and the fstab lines that put the machine's programs in it and make it the root.
fn tree(directories: &[&str]) -> (tempfile::TempDir, String) {
    let tree = tempfile::tempdir_in("/var/tmp").unwrap();
    for directory in directories {
        fs::create_dir_all(tree.path().join(directory)).unwrap();
    }
    let programs = ["usr", "bin", "lib", "lib64"].map(|name| {
        let inside = tree.path().join(name);
        fs::create_dir(&inside).unwrap();
        format!("/{name} {} none bind 0 0\n", inside.display())
    });
    fs::write(tree.path().join("etc/hostname"), "theirs\n").unwrap();
    let root = format!("{} / none rbind 0 0\n", tree.path().display());
    let fstab = programs.concat() + &root;
    (tree, fstab)
}

#[test]
fn a_tree_may_be_the_whole_root_with_the_machines_processes_devices_and_run() {
    let (tree, fstab) = tree(&["etc", "proc", "sys", "dev", "var/run", "tmp", "home/ann"]);
    std::os::unix::fs::symlink("/var/run", tree.path().join("run")).unwrap();
    let environment = [("CPU_FSTAB", fstab.as_str()), ("PWD", "/home/ann")];
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let seen = sh(
        &environment,
        "pwd; cat /etc/hostname; echo made >/etc/made; test -c /dev/null && test -d /sys/class && echo machine;
         readlink /proc/self/root; ls -A /tmp; stat -fc %T /tmp; stat -c %d:%i /run/",
    );
    let run = fs::metadata("/run").unwrap();
    assert_eq!(
        seen,
        format!(
            "/home/ann\ntheirs\nmachine\n/\ncpu\nlocal\ntmpfs\n{}:{}\n",
            run.dev(),
            run.ino()
        )
    );
    assert!(tree.path().join("etc/made").exists());
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    // As containers do it.
    let pivot = "unshare -m sh -ec 'mount --bind /tmp /tmp; cd /tmp; mkdir old; /usr/sbin/pivot_root . old; test -d old/usr'";
    sh(&environment, pivot);
    sh(&[], pivot);
}

#[test]
fn what_a_root_lacks_is_told_and_what_is_no_tree_is_none() {
    let (_tree, fstab) = tree(&["etc", "proc", "dev", "tmp"]);
    let output = run(&[("CPU_FSTAB", &fstab)], &["cat", "/etc/hostname"]);
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        (
            "theirs\n",
            "cpud: the tree that is / in this session has no /sys and no /run: make it there, or name the \
             directories you need in the namespace\n"
        )
    );
    let output = run(
        &[("CPU_FSTAB", "/etc/hostname / none bind 0 0")],
        &["sh", "-c", "test -d /proc/self && ls -d /usr/bin"],
    );
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        (
            "/usr/bin\n",
            "cpud: cannot bind /etc/hostname on /: Not a directory\n"
        )
    );
}

#[test]
fn name_servers_are_the_machines_whatever_etc_says() {
    let machines = fs::read_to_string("/etc/resolv.conf").unwrap();
    let tree = tempfile::tempdir_in("/var/tmp").unwrap();
    let (etc, file) = (tree.path().join("etc"), tree.path().join("etc/resolv.conf"));
    fs::create_dir(&etc).unwrap();
    let fstab = format!("{} /etc none bind 0 0\n", etc.display());
    let named = format!("{fstab}/proc/version /etc/resolv.conf none bind 0 0\n");
    let seen = |fstab: &str| sh(&[("CPU_FSTAB", fstab)], "cat /etc/resolv.conf 2>&1");

    fs::write(&file, "nameserver 127.0.0.53\n").unwrap();
    assert_eq!(seen(&fstab), machines);
    assert_eq!(seen(""), machines);
    assert_eq!(seen(&named), fs::read_to_string("/proc/version").unwrap());
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "nameserver 127.0.0.53\n"
    );

    // As systemd-resolved, NetworkManager and resolvconf make it.
    for link in [
        "../run/systemd/resolve/stub-resolv.conf",
        "/run/NetworkManager/resolv.conf",
        "/etc/resolvconf/run/resolv.conf",
    ] {
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(link, &file).unwrap();
        assert_eq!(seen(&fstab), machines);
        assert_eq!(fs::read_link(&file).unwrap(), std::path::Path::new(link));
    }
    // An /etc without the file is left alone.
    fs::remove_file(&file).unwrap();
    let output = run(&[("CPU_FSTAB", &fstab)], &["ls", "-A", "/etc"]);
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
}
