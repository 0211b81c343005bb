//! The answers of one link in one address family, without the sockets: RFC 6762, of which the records that deny others (NSEC,
//! 6.1) and queries in several packets (7.2) are left out.

use std::time::{Duration, Instant};

use cpu_proto::dns::{Message, PORT, Question, RecordData, ResourceRecord, kind};

/// The time between probes, of which there are three (RFC 6762, 8.1).
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
const PROBES: u8 = 3;
/// How long the loser of two that probe at the same time waits (8.2).
const LOST: Duration = Duration::from_secs(1);
/// The time between announcements, of which there are two (8.3), and between multicasts of anything (6).
const INTERVAL: Duration = Duration::from_secs(1);
const ANNOUNCEMENTS: u8 = 2;
/// The same for answers to a probe.
const DEFENCE_INTERVAL: Duration = Duration::from_millis(250);
/// What others may have, too, is answered after a random time, the least and the range of which these are (6).
const MIN_DELAY: Duration = Duration::from_millis(20);
const DELAY_RANGE: u64 = 100;
/// The most unicast answers in a second, to all peers together: who asks in the name of another has them sent to that one.
const MAX_REPLIES: u32 = 250;
/// The longest lifetime in an answer to a simple resolver, in seconds (6.7).
const LEGACY_TTL: u32 = 10;

/// Another machine has a name of this one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conflict;

/// What is known of the link's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Whether others have them is being asked; so often it has been.
    Probing(u8),
    /// They are being made known; so often they have been.
    Announcing(u8),
    Settled,
}

/// The responder of a link.
pub(super) struct Responder {
    /// What it answers with.
    records: Vec<ResourceRecord>,
    phase: Phase,
    /// When the phase goes on.
    next: Option<Instant>,
    /// Answers that are due at a time.
    pending: Vec<ResourceRecord>,
    pending_at: Option<Instant>,
    last_multicast: Option<Instant>,
    /// How many unicast answers there have been, and since when.
    replies: (u32, Instant),
}

impl Responder {
    /// Begins to probe after `delay`.
    pub(super) fn new(records: Vec<ResourceRecord>, now: Instant, delay: Duration) -> Self {
        Self {
            records,
            phase: Phase::Probing(0),
            next: Some(now + delay),
            pending: Vec::new(),
            pending_at: None,
            last_multicast: None,
            replies: (0, now),
        }
    }

    /// Whether the names are this machine's.
    pub(super) fn has_names(&self) -> bool {
        !matches!(self.phase, Phase::Probing(_))
    }

    /// Does not probe before this time.
    pub(super) fn wait(&mut self, until: Instant) {
        self.next = Some(until);
    }

    /// The text is kept up to date and is not announced.
    pub(super) fn set_text(&mut self, text: &[u8]) {
        for record in &mut self.records {
            if let RecordData::Txt(old) = &mut record.data {
                *old = text.to_vec();
            }
        }
    }

    /// Replaces addresses, which are announced; or names, which are probed.
    pub(super) fn set_records(&mut self, records: Vec<ResourceRecord>, now: Instant) {
        let hosts = |records: &[ResourceRecord]| {
            let services = records.iter().filter(|record| is_srv(record));
            services.cloned().collect::<Vec<_>>()
        };
        let (was, is) = (without_text(&self.records), without_text(&records));
        if hosts(&self.records) != hosts(&records) {
            *self = Self::new(records, now, Duration::ZERO);
        } else if was != is {
            self.records = records;
            self.pending.clear();
            if self.has_names() {
                self.phase = Phase::Announcing(0);
                self.next = Some(now);
            }
        }
    }

    /// When to call [`Self::tick`].
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next.into_iter().chain(self.pending_at).min()
    }

    /// Handles what has been received from a port. The answer, if any, is for that peer alone. `own` says whether an address
    /// is one of this machine's.
    pub(super) fn receive(
        &mut self,
        message: &Message,
        port: u16,
        own: impl Fn(&RecordData) -> bool,
        now: Instant,
        random: u64,
    ) -> Result<Option<Message>, Conflict> {
        if message.is_response {
            // What is not from the port is no response of multicast DNS (6).
            if port != PORT {
                return Ok(None);
            }
            let mut told = message.answers.iter().chain(&message.additionals);
            if !told.any(|record| record.ttl > 0 && self.contradicts(record, &own)) {
                return Ok(None);
            }
            match self.phase {
                // Who has the name answers the probe that is to come. So no name is given up faster than probes are sent.
                Phase::Probing(0) => {}
                Phase::Probing(_) => return Err(Conflict),
                // Perhaps the other one does not have it any more.
                Phase::Announcing(_) | Phase::Settled => {
                    self.phase = Phase::Probing(0);
                    self.next = Some(now);
                    self.pending.clear();
                    self.pending_at = None;
                }
            }
            return Ok(None);
        }
        if !self.has_names() {
            if self.loses_to(&message.authorities) {
                self.phase = Phase::Probing(0);
                self.next = Some(now + LOST);
            }
            return Ok(None);
        }
        let is_known = |record: &ResourceRecord| {
            message.answers.iter().any(|known| {
                known.name == record.name
                    && known.data == record.data
                    && known.ttl >= record.ttl / 2
            })
        };
        let mut answered: Vec<&Question> = Vec::new();
        let mut answers: Vec<ResourceRecord> = Vec::new();
        // In this order, since there are few records, and perhaps very many questions and known answers.
        for record in &self.records {
            let mut questions = message.questions.iter();
            if let Some(question) = questions.find(|question| question.is_answered_by(record))
                && !is_known(record)
            {
                answers.push(record.clone());
                if !answered.contains(&question) {
                    answered.push(question);
                }
            }
        }
        if answers.is_empty() {
            return Ok(None);
        }
        let is_legacy = port != PORT;
        if is_legacy || answered.iter().all(|question| question.unicast) {
            if self.replies.1 + INTERVAL <= now {
                self.replies = (0, now);
            }
            if self.replies.0 >= MAX_REPLIES {
                return Ok(None);
            }
            self.replies.0 += 1;
            let mut reply = self.response(answers);
            if is_legacy {
                reply.id = message.id;
                let without = |question: &&Question| Question {
                    unicast: false,
                    ..(*question).clone()
                };
                reply.questions = answered.iter().map(without).collect();
                for record in reply.answers.iter_mut().chain(&mut reply.additionals) {
                    record.ttl = record.ttl.min(LEGACY_TTL);
                    record.flush = false;
                }
            }
            return Ok(Some(reply));
        }
        let is_shared = answers.iter().any(|record| !record.flush);
        let delay = if is_shared {
            MIN_DELAY + Duration::from_millis(random % DELAY_RANGE)
        } else {
            Duration::ZERO
        };
        let interval = match message.authorities[..] {
            [] => INTERVAL,
            _ => DEFENCE_INTERVAL,
        };
        let allowed = self.last_multicast.map(|last| last + interval);
        let at = allowed.into_iter().chain([now + delay]).max();
        self.pending_at = self.pending_at.into_iter().chain(at).min();
        for answer in answers {
            self.pending
                .retain(|record| !is_same_set(record, &answer) || record.data == answer.data);
            if !self.pending.contains(&answer) {
                self.pending.push(answer);
            }
        }
        Ok(None)
    }

    /// What is to be multicast now.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Message> {
        if self.next.is_some_and(|at| at <= now) {
            return self.go_on(now);
        }
        self.pending_at.take_if(|at| *at <= now)?;
        self.last_multicast = Some(now);
        let answers = std::mem::take(&mut self.pending);
        (!answers.is_empty()).then(|| self.response(answers))
    }

    fn go_on(&mut self, now: Instant) -> Option<Message> {
        match self.phase {
            Phase::Probing(PROBES) => self.phase = Phase::Announcing(0),
            Phase::Probing(count) => {
                self.phase = Phase::Probing(count + 1);
                self.next = Some(now + PROBE_INTERVAL);
                return Some(self.probe());
            }
            Phase::Announcing(_) | Phase::Settled => {}
        }
        let Phase::Announcing(count) = self.phase else {
            self.next = None;
            return None;
        };
        if let Some(last) = self.last_multicast
            && now < last + INTERVAL
        {
            self.next = Some(last + INTERVAL);
            return None;
        }
        // They are in it.
        self.pending.clear();
        self.pending_at = None;
        let is_last = count + 1 >= ANNOUNCEMENTS;
        self.phase = if is_last {
            Phase::Settled
        } else {
            Phase::Announcing(count + 1)
        };
        self.next = (!is_last).then_some(now + INTERVAL);
        self.last_multicast = Some(now);
        Some(Message {
            is_response: true,
            answers: self.records.clone(),
            ..Message::default()
        })
    }

    /// The last message: what was announced is no longer valid.
    pub(super) fn goodbye(&self) -> Option<Message> {
        // The list of services is that of all machines.
        let own = self.records.iter().skip(1).cloned();
        self.has_names().then(|| Message {
            is_response: true,
            answers: own
                .map(|record| ResourceRecord { ttl: 0, ..record })
                .collect(),
            ..Message::default()
        })
    }

    /// A response, with what the asker will want to know next (RFC 6763, 12).
    fn response(&self, answers: Vec<ResourceRecord>) -> Message {
        let has = |wanted: u16| answers.iter().any(|record| record.data.kind() == wanted);
        let (service, host) = (has(kind::PTR), has(kind::PTR) || has(kind::SRV));
        let is_wanted = |record: &&ResourceRecord| {
            let wanted = match record.data {
                RecordData::Ptr(_) => false,
                RecordData::Srv { .. } | RecordData::Txt(_) => service,
                RecordData::A(_) | RecordData::Aaaa(_) => host,
            };
            wanted && !answers.contains(record)
        };
        Message {
            is_response: true,
            additionals: self.records.iter().filter(is_wanted).cloned().collect(),
            answers,
            ..Message::default()
        }
    }

    fn probe(&self) -> Message {
        let mut questions: Vec<Question> = Vec::new();
        for record in self.proposed() {
            let question = Question {
                name: record.name.clone(),
                kind: kind::ANY,
                unicast: true,
            };
            if !questions.contains(&question) {
                questions.push(question);
            }
        }
        Message {
            questions,
            authorities: self.proposed().cloned().collect(),
            ..Message::default()
        }
    }

    /// The records that no other machine may have. (The text changes: it is not compared.)
    fn proposed(&self) -> impl Iterator<Item = &ResourceRecord> {
        let is_text = |record: &ResourceRecord| record.data.kind() == kind::TXT;
        let unique = self.records.iter().filter(|record| record.flush);
        unique.filter(move |record| !is_text(record))
    }

    /// Whether a record of another machine has a name of this one.
    fn contradicts(&self, record: &ResourceRecord, own: impl Fn(&RecordData) -> bool) -> bool {
        let mut same = self
            .proposed()
            .filter(|ours| is_same_set(ours, record))
            .peekable();
        same.peek().is_some() && !own(&record.data) && same.all(|ours| ours.data != record.data)
    }

    /// Whether another machine that probes for a name at the same time gets it: the one whose records are greater.
    fn loses_to(&self, theirs: &[ResourceRecord]) -> bool {
        let sorted = |records: &mut dyn Iterator<Item = &ResourceRecord>| {
            let mut values: Vec<_> = records
                .map(|record| (record.data.kind(), record.data.wire()))
                .collect();
            values.sort_unstable();
            values
        };
        self.proposed().any(|record| {
            let has_name = |other: &&ResourceRecord| other.name == record.name;
            let ours = sorted(&mut self.proposed().filter(has_name));
            ours < sorted(&mut theirs.iter().filter(has_name))
        })
    }
}

fn is_same_set(one: &ResourceRecord, other: &ResourceRecord) -> bool {
    one.name == other.name && one.data.kind() == other.data.kind()
}

fn is_srv(record: &ResourceRecord) -> bool {
    record.data.kind() == kind::SRV
}

fn without_text(records: &[ResourceRecord]) -> Vec<&ResourceRecord> {
    let rest = records
        .iter()
        .filter(|record| record.data.kind() != kind::TXT);
    rest.collect()
}

#[cfg(test)]
mod tests;
