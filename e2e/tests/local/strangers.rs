//! Peers that never log in keep nobody out. The servers run on this machine; the peers come from several of its
//! loopback addresses.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::daemon::Daemon;
use e2e::flood::{self, Flood};
use e2e::user::User;
use e2e::wait_until;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("strangers_who_come_again_keep_nobody_out", come_again),
    (
        "strangers_who_come_200_in_a_second_keep_nobody_out",
        in_a_second,
    ),
    ("strangers_of_one_address_have_eight_processes", eight),
    (
        "strangers_who_do_not_speak_ssh_are_sent_away",
        other_protocols,
    ),
    (
        "strangers_with_wrong_keys_do_not_lock_the_right_one_out",
        wrong_keys,
    ),
];

const FLOODED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// How long a login takes on this machine with what else it does now.
fn usual(daemon: &Daemon, user: &User) -> Result<Duration> {
    user.log_in_from(daemon.port, ELSEWHERE)?;
    user.log_in_from(daemon.port, ELSEWHERE)
}

/// Every login succeeds, from elsewhere half a second later than usual, from the strangers' address five.
fn logins(daemon: &Daemon, user: &User, usual: Duration) -> Result<()> {
    for (from, delay) in [(ELSEWHERE, 500), (FLOODED, 5000)] {
        for _ in 0..5 {
            let took = user
                .log_in_from(daemon.port, from)
                .with_context(|| format!("from {from}: {}", daemon.log()))?;
            let most = usual + Duration::from_millis(delay);
            ensure!(took < most, "from {from}: {took:?}, usually {usual:?}");
        }
    }
    Ok(())
}

fn come_again() -> Result<()> {
    for hello in [flood::NOTHING, flood::NAME] {
        let (daemon, user) = (Daemon::cpud()?, User::new()?);
        let usual = usual(&daemon, &user)?;
        let flood = Flood::again(daemon.port, FLOODED, hello, 2000)?;
        wait_until("2000 connections", Duration::from_mins(1), || {
            Ok((flood.made() > 2000).then_some(()))
        })?;
        logins(&daemon, &user, usual)?;
        let log = daemon.log();
        let line = "the connection from 127.0.0.2 is closed: too many peers have not logged in";
        // A flood of connections must not become a flood of log lines.
        let lines = log.matches(line).count();
        ensure!((1..50).contains(&lines), "{lines} lines: {log}");
    }
    Ok(())
}

fn in_a_second() -> Result<()> {
    for hello in [flood::NOTHING, flood::NAME] {
        let (daemon, user) = (Daemon::cpud()?, User::new()?);
        let usual = usual(&daemon, &user)?;
        let flood = Flood::each_second(daemon.port, FLOODED, hello, 200)?;
        wait_until("600 connections", Duration::from_mins(1), || {
            Ok((flood.made() > 600).then_some(()))
        })?;
        logins(&daemon, &user, usual)?;
    }
    Ok(())
}

fn eight() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let _flood = Flood::again(daemon.port, FLOODED, flood::KEY_EXCHANGE, 50)?;
    let children = || -> Result<usize> {
        let file = format!("/proc/{0}/task/{0}/children", daemon.pid());
        Ok(std::fs::read_to_string(file)?.split_whitespace().count())
    };
    wait_until("eight processes", Duration::from_secs(30), || {
        Ok((children()? == 8).then_some(()))
    })?;
    let others = Flood::again(daemon.port, ELSEWHERE, flood::KEY_EXCHANGE, 3)?;
    wait_until("three more", Duration::from_secs(30), || {
        Ok((children()? == 11).then_some(()))
    })?;
    drop(others);
    // The eight connections keep their places no longer than a key exchange may take.
    let took = user.log_in_from(daemon.port, FLOODED)?;
    ensure!(took < Duration::from_secs(5), "{took:?}");
    ensure!(children()? <= 9, "{} processes", children()?);
    Ok(())
}

fn other_protocols() -> Result<()> {
    let daemon = Daemon::cpud()?;
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: board\r\n\r\n")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    ensure!(
        heard.starts_with(b"SSH-2.0-cpud_") || heard.is_empty(),
        "{heard:?}"
    );
    wait_until("the line about it", Duration::from_secs(10), || {
        let line = "the connection from 127.0.0.1 is closed: it does not speak SSH";
        Ok(daemon.log().contains(line).then_some(()))
    })
}

/// Penalties leave everybody behind the address room.
fn wrong_keys() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let wrong = user.ssh().join("wrong");
    e2e::daemon::keygen(&wrong, &["-t", "ed25519"], "")?;
    let other = User::new()?;
    std::fs::copy(&wrong, other.key())?;
    for _ in 0..10 {
        ensure!(
            other.log_in_from(daemon.port, FLOODED).is_err(),
            "a wrong key logged in"
        );
    }
    let took = user.log_in_from(daemon.port, FLOODED)?;
    ensure!(took < Duration::from_secs(2), "{took:?}");
    Ok(())
}
