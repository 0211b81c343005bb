//! Which peers that have not logged in get a process, and which are sent away. Decides only; [`super::server`] does it.
//!
//! A peer waits as a bare socket until it has sent what a client of SSH sends first, so silent peers cost no process.
//! A source ([`PeerSource`]) has at most [`MAX_PER_SOURCE`] processes, so it cannot keep others out, and of those that wait
//! the newest is next: the oldest may be many, and dead.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::penalties::Penalties;
use super::source::PeerSource;

/// The most processes whose peers have not logged in.
pub(super) const MAX_UNAUTHENTICATED: usize = 128;
/// The most of them for one source.
const MAX_PER_SOURCE: usize = 8;
/// The same for a source with a penalty.
const MAX_PENALISED: usize = 4;
/// The most peers that wait for a process. With the processes they stay below the usual limit of 1024 descriptors.
const MAX_WAITING: usize = 512;

/// How long a peer has for its key exchange before it may lose its process to another one.
const KEX_TIME: Duration = Duration::from_secs(3);
/// How long a peer that has named itself waits until it gets a process without having begun the key exchange. Every known
/// client begins it at once.
const KEXINIT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it has to log in, if it has exchanged keys.
const LOGIN_TIME: Duration = Duration::from_secs(10);

/// How far a peer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It has sent no identification yet (RFC 4253, section 4.2).
    Connected,
    /// It has sent its identification.
    Identified,
    /// It has also begun the key exchange.
    KeyExchange,
    /// It has a process, and has asked to be authenticated.
    Authentication,
}

/// A peer that has not logged in.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnauthenticatedPeer {
    pub(super) source: PeerSource,
    pub(super) progress: Stage,
    /// Since when it has waited, or had its process.
    pub(super) since: Instant,
}

/// What to do next. The numbers are indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Start a process for one that waits.
    Serve(usize),
    /// End a process, so that another peer can have one.
    End(usize),
    /// Send these away that wait.
    Refuse(Vec<usize>),
    /// Nothing, until something happens, or until this time.
    Wait(Option<Instant>),
}

/// Decides what to do about the peers that wait and those that have processes.
pub(super) fn decide(
    waiting: &[UnauthenticatedPeer],
    served: &[UnauthenticatedPeer],
    penalties: &Penalties,
    now: Instant,
) -> Admission {
    if waiting.len() > MAX_WAITING {
        return Admission::Refuse(surplus(waiting));
    }
    let count = count(served);
    let of = |source| count.get(&source).copied().unwrap_or(0);
    let mut candidates: Vec<(usize, &UnauthenticatedPeer)> = waiting
        .iter()
        .enumerate()
        .filter(|(_, peer)| peer.progress >= Stage::Identified)
        .collect();
    // The newest of those that have begun the key exchange, then the oldest of the others.
    candidates.sort_by_key(|(_, peer)| match peer.progress {
        Stage::Identified => (1, Reverse(None), Some(peer.since)),
        _ => (0, Reverse(Some(peer.since)), None),
    });
    let mut next: Option<Instant> = None;
    let mut seen = Vec::new();
    for (index, peer) in candidates {
        if seen.contains(&peer.source) {
            continue;
        }
        seen.push(peer.source);
        let is_penalised = penalties.is_penalised(peer.source, now);
        let limit = match peer.source {
            PeerSource::Local => MAX_UNAUTHENTICATED,
            _ if is_penalised => MAX_PENALISED,
            _ => MAX_PER_SOURCE,
        };
        let own = of(peer.source);
        let has_room = own < limit && served.len() < MAX_UNAUTHENTICATED;
        if peer.progress < Stage::KeyExchange {
            // It may be anything, so nobody makes room for it.
            let patient = peer.since + KEXINIT_TIMEOUT;
            if has_room && !is_penalised {
                if patient <= now {
                    return Admission::Serve(index);
                }
                next = next.into_iter().chain([patient]).min();
            }
            continue;
        }
        if has_room {
            return Admission::Serve(index);
        }
        let heaviest = count.values().max().copied().unwrap_or(0);
        // Whom a lack of room is due to, and whether they have a right to some time all the same.
        let is_rival = |rival: &UnauthenticatedPeer| {
            if own < limit {
                heaviest <= own || of(rival.source) == heaviest
            } else {
                rival.source == peer.source
            }
        };
        let is_too_heavy = own < limit && heaviest > own + 1;
        let ends = |rival: &UnauthenticatedPeer| match rival.progress {
            _ if is_too_heavy => rival.since,
            Stage::Authentication => rival.since + LOGIN_TIME,
            _ => rival.since + KEX_TIME,
        };
        let rivals = served.iter().enumerate();
        let rivals = rivals.filter(|(_, rival)| is_rival(rival));
        match rivals.min_by_key(|(_, rival)| ends(rival)) {
            Some((index, rival)) if ends(rival) <= now => return Admission::End(index),
            Some((_, rival)) => next = next.into_iter().chain([ends(rival)]).min(),
            None => {}
        }
    }
    Admission::Wait(next)
}

/// Those of too many that wait who have to go: they come from the source that has most, and have waited longest. As many
/// may wait that have begun the key exchange as others; those others may be about to.
fn surplus(waiting: &[UnauthenticatedPeer]) -> Vec<usize> {
    let count = count(waiting);
    let is_earnest = |peer: &UnauthenticatedPeer| peer.progress >= Stage::KeyExchange;
    let earnest = waiting.iter().filter(|peer| is_earnest(peer)).count();
    let goes = earnest > MAX_WAITING / 2;
    let key = |index: &usize| {
        let peer = &waiting[*index];
        let weight = count.get(&peer.source);
        (Reverse(weight), is_earnest(peer) != goes, peer.since)
    };
    let mut indices: Vec<usize> = (0..waiting.len()).collect();
    indices.sort_by_key(key);
    indices.truncate(waiting.len().saturating_sub(MAX_WAITING));
    indices
}

/// How many of these peers each source has.
fn count(peers: &[UnauthenticatedPeer]) -> BTreeMap<PeerSource, usize> {
    let mut count = BTreeMap::new();
    for peer in peers {
        *count.entry(peer.source).or_default() += 1;
    }
    count
}

/// The longest identification, with its line end (RFC 4253, section 4.2).
const MAX_IDENTIFICATION: usize = 255;
/// Enough of what a peer sends first for [`progress`].
pub(super) const MAX_FIRST_BYTES: usize = MAX_IDENTIFICATION + 6;
/// `SSH_MSG_KEXINIT` (RFC 4253, section 7.1).
const KEXINIT: u8 = 20;

/// How far a peer has come that has sent these bytes first; none if it does not speak SSH.
pub(super) fn progress(first_bytes: &[u8]) -> Option<Stage> {
    const BEGIN: &[u8] = b"SSH-";
    let known = BEGIN.len().min(first_bytes.len());
    if first_bytes[..known] != BEGIN[..known] {
        return None;
    }
    let end = first_bytes.iter().position(|byte| *byte == b'\n');
    match end {
        None if first_bytes.len() >= MAX_IDENTIFICATION => None,
        None => Some(Stage::Connected),
        // A packet's length and that of its padding precede the message, and the first message is this one.
        Some(end) => match first_bytes.get(end + 6) {
            Some(&KEXINIT) => Some(Stage::KeyExchange),
            Some(_) => None,
            None => Some(Stage::Identified),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::penalties::Offence;
    use super::*;

    const LAB: PeerSource = PeerSource::V4([192, 0, 2, 1]);
    const HOME: PeerSource = PeerSource::V4([192, 0, 2, 2]);

    fn peers(
        count: usize,
        source: PeerSource,
        progress: Stage,
        since: Instant,
    ) -> Vec<UnauthenticatedPeer> {
        let peer = UnauthenticatedPeer {
            source,
            progress,
            since,
        };
        vec![peer; count]
    }

    fn source(number: usize) -> PeerSource {
        PeerSource::V4(u32::try_from(number).unwrap().to_be_bytes())
    }

    #[test]
    fn who_says_nothing_gets_no_process_and_who_speaks_gets_one_at_once() {
        let now = Instant::now();
        let none = Penalties::default();
        let mut waiting = peers(MAX_WAITING - 1, LAB, Stage::Connected, now);
        assert_eq!(decide(&waiting, &[], &none, now), Admission::Wait(None));
        waiting.extend(peers(1, LAB, Stage::KeyExchange, now));
        let last = Admission::Serve(MAX_WAITING - 1);
        assert_eq!(decide(&waiting, &[], &none, now), last);
    }

    #[test]
    fn who_only_names_himself_waits_a_second_and_with_a_penalty_in_vain() {
        let now = Instant::now();
        let mut penalties = Penalties::default();
        let waiting = peers(1, LAB, Stage::Identified, now);
        let later = now + KEXINIT_TIMEOUT;
        let verdict = decide(&waiting, &[], &penalties, now);
        assert_eq!(verdict, Admission::Wait(Some(later)));
        let verdict = decide(&waiting, &[], &penalties, later);
        assert_eq!(verdict, Admission::Serve(0));
        for _ in 0..4 {
            penalties.add(LAB, Offence::FailedAuthentication, now);
        }
        assert_eq!(
            decide(&waiting, &[], &penalties, later),
            Admission::Wait(None)
        );
    }

    #[test]
    fn a_source_has_eight_and_its_oldest_makes_room_for_who_begins_the_key_exchange() {
        let now = Instant::now();
        let none = Penalties::default();
        let mut served = peers(MAX_PER_SOURCE, LAB, Stage::KeyExchange, now);
        served[5].since = now.checked_sub(Duration::from_millis(1)).unwrap();
        let home = peers(1, HOME, Stage::KeyExchange, now);
        assert_eq!(decide(&home, &served, &none, now), Admission::Serve(0));
        let named = peers(1, LAB, Stage::Identified, now);
        let earnest = peers(1, LAB, Stage::KeyExchange, now);
        let due = served[5].since + KEX_TIME;
        assert_eq!(
            decide(&earnest, &served, &none, now),
            Admission::Wait(Some(due))
        );
        assert_eq!(decide(&earnest, &served, &none, due), Admission::End(5));
        assert_eq!(decide(&named, &served, &none, due), Admission::Wait(None));
        // Who is being authenticated may be typing a passphrase.
        for peer in &mut served {
            peer.progress = Stage::Authentication;
        }
        let due = served[5].since + LOGIN_TIME;
        assert_eq!(
            decide(&earnest, &served, &none, now),
            Admission::Wait(Some(due))
        );
        assert_eq!(decide(&earnest, &served, &none, due), Admission::End(5));
    }

    #[test]
    fn a_penalty_halves_the_room_of_its_source_alone() {
        let now = Instant::now();
        let mut penalties = Penalties::default();
        for _ in 0..4 {
            penalties.add(LAB, Offence::FailedAuthentication, now);
        }
        let served = peers(MAX_PENALISED, LAB, Stage::KeyExchange, now);
        let waiting = peers(1, LAB, Stage::KeyExchange, now);
        let verdict = decide(&waiting, &served, &penalties, now);
        assert_eq!(verdict, Admission::Wait(Some(now + KEX_TIME)));
        let verdict = decide(&waiting, &served[1..], &penalties, now);
        assert_eq!(verdict, Admission::Serve(0));
        let served = peers(MAX_PENALISED, HOME, Stage::KeyExchange, now);
        let waiting = peers(1, HOME, Stage::KeyExchange, now);
        let verdict = decide(&waiting, &served, &penalties, now);
        assert_eq!(verdict, Admission::Serve(0));
    }

    #[test]
    fn the_newest_that_has_come_farthest_is_next() {
        let now = Instant::now();
        let waiting = [
            (Stage::KeyExchange, 0),
            (Stage::KeyExchange, 1),
            (Stage::Identified, 2),
            (Stage::Connected, 3),
        ];
        let waiting = waiting.map(|(progress, later)| UnauthenticatedPeer {
            source: LAB,
            progress,
            since: now + Duration::from_millis(later),
        });
        let none = Penalties::default();
        assert_eq!(decide(&waiting, &[], &none, now), Admission::Serve(1));
    }

    #[test]
    fn when_all_is_full_the_heaviest_source_loses_first_and_at_once() {
        let now = Instant::now();
        let none = Penalties::default();
        let mut served: Vec<UnauthenticatedPeer> = (0..MAX_UNAUTHENTICATED - 3)
            .flat_map(|number| peers(1, source(number), Stage::KeyExchange, now))
            .collect();
        served.extend(peers(3, LAB, Stage::Authentication, now));
        let waiting = peers(1, HOME, Stage::KeyExchange, now);
        let verdict = decide(&waiting, &served, &none, now);
        assert_eq!(verdict, Admission::End(MAX_UNAUTHENTICATED - 3));
        // Among equals the oldest, and not before its time.
        let mut served: Vec<UnauthenticatedPeer> = (0..MAX_UNAUTHENTICATED)
            .flat_map(|number| peers(1, source(number), Stage::KeyExchange, now))
            .collect();
        served[9].since = now.checked_sub(Duration::from_millis(1)).unwrap();
        let due = served[9].since + KEX_TIME;
        let verdict = decide(&waiting, &served, &none, now);
        assert_eq!(verdict, Admission::Wait(Some(due)));
        assert_eq!(decide(&waiting, &served, &none, due), Admission::End(9));
    }

    #[test]
    fn of_too_many_that_wait_the_heaviest_source_loses_its_oldest() {
        let now = Instant::now();
        let none = Penalties::default();
        let older = now.checked_sub(Duration::from_millis(1)).unwrap();
        let mut waiting = peers(200, LAB, Stage::KeyExchange, older);
        waiting.extend(peers(10, HOME, Stage::Connected, older));
        waiting.extend(peers(MAX_WAITING - 210, LAB, Stage::Connected, now));
        waiting[300].since = older;
        assert!(!matches!(
            decide(&waiting, &[], &none, now),
            Admission::Refuse(_)
        ));
        waiting.extend(peers(1, LAB, Stage::Connected, now));
        let verdict = decide(&waiting, &[], &none, now);
        assert_eq!(verdict, Admission::Refuse(vec![300]));
        // Those that have begun the key exchange keep no newcomer out.
        let mut waiting = peers(MAX_WAITING, LAB, Stage::KeyExchange, now);
        waiting[7].since = older;
        waiting.extend(peers(1, LAB, Stage::Connected, older));
        let verdict = decide(&waiting, &[], &none, now);
        assert_eq!(verdict, Admission::Refuse(vec![7]));
    }

    #[test]
    fn what_a_peer_sends_first_shows_whether_it_speaks_ssh() {
        let hello = b"SSH-2.0-OpenSSH_9.2\r\n";
        for length in 0..hello.len() {
            assert_eq!(progress(&hello[..length]), Some(Stage::Connected));
        }
        assert_eq!(progress(hello), Some(Stage::Identified));
        let packet = |message| [&hello[..], &[0, 0, 5, 0xdc, 10, message]].concat();
        assert_eq!(progress(&packet(KEXINIT)), Some(Stage::KeyExchange));
        assert_eq!(progress(&packet(2)), None);
        assert_eq!(progress(b"GET / HTTP/1.1\r\n"), None);
        assert_eq!(progress(b"S-"), None);
        let endless = [&b"SSH-2.0-"[..], &[b'x'; 247]].concat();
        assert_eq!(progress(&endless), None);
        assert_eq!(progress(&endless[1..]), None);
        assert_eq!(progress(&endless[..254]), Some(Stage::Connected));
    }
}
