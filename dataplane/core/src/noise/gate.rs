//! The gate in front of public-key work: lets each initiation of a member of the cluster pass at most once.
//!
//! An initiation that opens under the cluster secret was made by a member, but perhaps long ago. It passes when
//!
//! 1. it means us, its claimed sender has a record here, and its timestamp is above all that passed before, or
//! 2. it answers a challenge: the cookie is ours, for this id and this address, and the number of the challenge is
//!    above all that passed before.
//!
//! Anything else is answered with a challenge, which costs one round trip and holds no memory; only a duplicate of
//! the one that passed last gets no answer.
//!
//! A replay never passes. Passing raises the record to the initiation's own timestamp *and* number, and a record only
//! rises. So a second time, neither its timestamp nor its number is above the record. An initiation that passed
//! somewhere else means somebody else (1) and answers somebody else's challenge (2). After a restart there is no record,
//! so (1) is closed, and the secret behind the cookies is another, so (2) is. A record that is forgotten for want of
//! room leaves its number in `floor`, above which any new record begins. A clock that jumps only costs its owner the
//! round trip.
//!
//! INVARIANT: records only rise. Answers are never larger than what they answer, and limited for each source.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use weaved_api::PeerId;
use zeroize::Zeroizing;

use super::{
    handshake::{AdmittedInitiation, OpenedInitiation},
    keys::truncated_hmac,
};
use crate::{
    limits::{CHALLENGE_BURST, CHALLENGES_PER_SECOND, MAX_PEERS, MAX_SOURCES, REFUSAL_BURST, REFUSALS_PER_SECOND},
    rng::Rng,
    wire::handshake::{
        ChallengeAnswer, ChallengeSeq, Cookie, ECHO_LEN, Initiation, Refusal, RefusalReason, UnixMicros,
    },
};

/// What becomes of an initiation.
pub enum Admission {
    /// It is fresh: answer it.
    Accept(Box<AdmittedInitiation>),
    /// It proves nothing yet: send this to where it came from.
    Challenge(Vec<u8>),
    /// It proves nothing and gets no answer.
    Silent(SilentReason),
}

/// Why an initiation gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SilentReason {
    /// It is the one that passed last: the path has doubled it, or somebody sent it again. Its response is out, and a
    /// challenge now would only have the initiator begin anew.
    Duplicate,
    /// Its source has had enough challenges.
    Limited,
}

/// Remembers what has passed.
pub struct Gate {
    cookie_key: hmac::Key,
    next_seq: u64,
    records: BTreeMap<PeerId, Record>,
    /// Above the number of every challenge whose record was forgotten.
    floor: ChallengeSeq,
    admitted_count: u64,
    challenges: SourceLimiter,
    refusals: SourceLimiter,
}

/// What has passed of one initiator.
struct Record {
    max_timestamp: UnixMicros,
    last_seq: ChallengeSeq,
    /// Place in the order of admissions; the record with the lowest is forgotten first.
    admitted: u64,
}

impl Gate {
    /// A gate that knows nobody, with a secret of its own.
    pub fn new(rng: &mut Rng, now: Instant) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        rng.fill_private(secret.as_mut());
        Self {
            cookie_key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref()),
            next_seq: 1,
            records: BTreeMap::new(),
            floor: ChallengeSeq(0),
            admitted_count: 0,
            challenges: SourceLimiter::new(CHALLENGES_PER_SECOND, CHALLENGE_BURST, now),
            refusals: SourceLimiter::new(REFUSALS_PER_SECOND, REFUSAL_BURST, now),
        }
    }

    /// Lets an initiation pass, or challenges its sender.
    pub fn admit(&mut self, opened: OpenedInitiation, from: SocketAddr, now: Instant) -> Admission {
        let proved = opened.answer().filter(|answer| self.is_answered(opened.claimed(), *answer, from));
        if proved.is_some() || self.is_newest(&opened) {
            self.note(&opened, proved.map(|answer| answer.seq));
            return Admission::Accept(Box::new(opened.admit()));
        }
        let record = self.records.get(&opened.claimed());
        if record.is_some_and(|record| opened.timestamp() == record.max_timestamp) {
            return Admission::Silent(SilentReason::Duplicate);
        }
        if !self.challenges.is_allowed(from, now) {
            return Admission::Silent(SilentReason::Limited);
        }
        let seq = ChallengeSeq(self.next_seq);
        self.next_seq += 1;
        Admission::Challenge(
            opened.challenge(ChallengeAnswer { seq, cookie: self.cookie(opened.claimed(), seq, from) }),
        )
    }

    /// A refusal of this initiation, for where it came from; none when it is not an initiation or the source has had
    /// enough.
    pub fn refuse(
        &mut self,
        initiation: &[u8],
        reason: RefusalReason,
        from: SocketAddr,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let initiation = Initiation::parse(initiation)?;
        if !self.refusals.is_allowed(from, now) {
            return None;
        }
        let echo = *initiation.noise.first_chunk::<ECHO_LEN>()?;
        Some(Refusal { receiver: initiation.sender, reason, echo }.emit().into())
    }

    /// Rule 1.
    fn is_newest(&self, opened: &OpenedInitiation) -> bool {
        let record = self.records.get(&opened.claimed());
        opened.means_us() && record.is_some_and(|record| opened.timestamp() > record.max_timestamp)
    }

    /// Rule 2.
    fn is_answered(&self, claimed: PeerId, answer: ChallengeAnswer, from: SocketAddr) -> bool {
        let last = self.records.get(&claimed).map_or(self.floor, |record| record.last_seq);
        let expected = self.cookie(claimed, answer.seq, from);
        answer.seq > last && verify_slices_are_equal(&expected.0, &answer.cookie.0).is_ok()
    }

    fn note(&mut self, opened: &OpenedInitiation, answered: Option<ChallengeSeq>) {
        if !self.records.contains_key(&opened.claimed()) {
            self.make_room();
        }
        let fresh = Record { max_timestamp: opened.timestamp(), last_seq: self.floor, admitted: 0 };
        let record = self.records.entry(opened.claimed()).or_insert(fresh);
        record.max_timestamp = record.max_timestamp.max(opened.timestamp());
        record.last_seq = record.last_seq.max(answered.unwrap_or(record.last_seq));
        record.admitted = self.admitted_count;
        self.admitted_count += 1;
    }

    /// At the bound the record that has not been used for longest is forgotten: its owner is challenged again.
    fn make_room(&mut self) {
        if self.records.len() < MAX_PEERS {
            return;
        }
        let oldest = self.records.iter().min_by_key(|(_, record)| record.admitted).map(|(id, _)| *id);
        if let Some(forgotten) = oldest.and_then(|id| self.records.remove(&id)) {
            self.floor = self.floor.max(forgotten.last_seq);
        }
    }

    fn cookie(&self, claimed: PeerId, seq: ChallengeSeq, from: SocketAddr) -> Cookie {
        let ip = v6_bytes(from.ip());
        let parts: [&[u8]; 4] = [&claimed.0, &ip, &from.port().to_le_bytes(), &seq.0.to_le_bytes()];
        Cookie(truncated_hmac(&self.cookie_key, &parts))
    }
}

/// Token buckets, one for each source: an IPv4 address or an IPv6 /64.
///
/// A bucket is the time at which it is full again (the "theoretical arrival time" of GCRA, ITU-T I.371). A full bucket
/// needs no entry. At the bound new sources share one bucket until there is room.
struct SourceLimiter {
    interval: Duration,
    burst: u32,
    full_at: BTreeMap<[u8; 8], Instant>,
    shared_full_at: Instant,
    swept_at: Instant,
}

impl SourceLimiter {
    fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let interval = Duration::from_secs(1) / per_second;
        Self { interval, burst, full_at: BTreeMap::new(), shared_full_at: now, swept_at: now }
    }

    fn is_allowed(&mut self, from: SocketAddr, now: Instant) -> bool {
        let capacity = self.interval * self.burst;
        // Sweeping at most once in the time that a bucket takes to fill keeps its cost off a flood.
        if self.full_at.len() >= MAX_SOURCES && now >= self.swept_at + capacity {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.swept_at = now;
        }
        let has_room = self.full_at.len() < MAX_SOURCES;
        let source = source_of(from.ip());
        let full_at = match self.full_at.get_mut(&source) {
            Some(full_at) => full_at,
            None if has_room => self.full_at.entry(source).or_insert(now),
            None => &mut self.shared_full_at,
        };
        let next = (*full_at).max(now) + self.interval;
        let is_allowed = next <= now + capacity;
        if is_allowed {
            *full_at = next;
        }
        is_allowed
    }
}

/// IPv4 addresses in their IPv6-mapped form, so that one host has one form on any socket.
fn v6_bytes(ip: IpAddr) -> [u8; 16] {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The /64 of an IPv6 address; an IPv4 address in the place of a prefix that is not in use (`::/32`).
fn source_of(ip: IpAddr) -> [u8; 8] {
    let octets = match ip.to_canonical() {
        IpAddr::V4(v4) => Ipv6Addr::from(u128::from(v4.to_bits()) << 64).octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    std::array::from_fn(|i| octets[i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::testing::{Node, half_way, origin};

    fn nodes() -> (Node, Node) {
        let now = origin();
        (Node::new(1, 9, now), Node::new(2, 9, now))
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn is_accepted(responder: &mut Node, initiation: &[u8], from: SocketAddr) -> bool {
        matches!(responder.admit(initiation, from).unwrap(), Admission::Accept(_))
    }

    /// An initiation of `a` that answers a challenge of `b` for this address.
    fn answered(a: &mut Node, b: &mut Node, from: SocketAddr) -> Vec<u8> {
        let (initiator, initiation) = a.initiate(b, None);
        let Admission::Challenge(challenge) = b.admit(&initiation, from).unwrap() else {
            panic!("an unknown initiator is challenged");
        };
        a.initiate(b, Some(initiator.handle_challenge(&challenge).unwrap())).1
    }

    #[test]
    fn an_unknown_initiator_passes_after_a_challenge_and_a_known_one_at_once() {
        let (mut a, mut b) = nodes();
        let initiation = answered(&mut a, &mut b, at(1));
        assert!(is_accepted(&mut b, &initiation, at(1)));
        let (_, next) = a.initiate(&b, None);
        assert!(is_accepted(&mut b, &next, at(2)), "also from another address");
    }

    #[test]
    fn a_replayed_initiation_does_not_pass_whichever_way_it_passed_before() {
        let (mut a, mut b) = nodes();
        let by_cookie = answered(&mut a, &mut b, at(1));
        assert!(is_accepted(&mut b, &by_cookie, at(1)));
        assert!(!is_accepted(&mut b, &by_cookie, at(1)));
        let (_, by_time) = a.initiate(&b, None);
        assert!(is_accepted(&mut b, &by_time, at(1)));
        for replay in [&by_cookie, &by_time] {
            assert!(!is_accepted(&mut b, replay, at(1)));
            assert!(!is_accepted(&mut b, replay, at(7)));
        }
    }

    #[test]
    fn a_duplicate_of_the_latest_gets_no_answer_and_an_older_one_a_challenge() {
        let (mut a, mut b) = nodes();
        let older = answered(&mut a, &mut b, at(1));
        assert!(is_accepted(&mut b, &older, at(1)));
        assert!(matches!(b.admit(&older, at(1)), Ok(Admission::Silent(SilentReason::Duplicate))));
        let (_, latest) = a.initiate(&b, None);
        assert!(is_accepted(&mut b, &latest, at(1)));
        assert!(matches!(b.admit(&latest, at(1)), Ok(Admission::Silent(SilentReason::Duplicate))));
        assert!(matches!(b.admit(&older, at(1)), Ok(Admission::Challenge(_))));
    }

    #[test]
    fn nothing_old_passes_after_the_responder_has_restarted() {
        let (mut a, mut b) = nodes();
        let by_cookie = answered(&mut a, &mut b, at(1));
        assert!(is_accepted(&mut b, &by_cookie, at(1)));
        let (_, by_time) = a.initiate(&b, None);
        b.gate = Gate::new(&mut b.rng, b.now);
        for replay in [&by_cookie, &by_time] {
            assert!(!is_accepted(&mut b, replay, at(1)));
        }
        let anew = answered(&mut a, &mut b, at(1));
        assert!(is_accepted(&mut b, &anew, at(1)), "the initiator itself gets through");
    }

    #[test]
    fn a_cookie_holds_for_its_address_and_its_owner_only() {
        let (mut a, mut b) = nodes();
        let initiation = answered(&mut a, &mut b, at(1));
        assert!(!is_accepted(&mut b, &initiation, at(2)), "another port");
        assert!(!is_accepted(&mut b, &initiation, SocketAddr::from(([192, 0, 2, 2], 1))), "another address");
        let mapped = "[::ffff:192.0.2.1]:1".parse().unwrap();
        assert!(is_accepted(&mut b, &initiation, mapped), "the same address in the form of a dual-stack socket");

        let (initiator, first) = a.initiate(&b, None);
        b.gate = Gate::new(&mut b.rng, b.now);
        let Admission::Challenge(challenge) = b.admit(&first, at(1)).unwrap() else { panic!("unknown again") };
        let answer = initiator.handle_challenge(&challenge).unwrap();
        let mut other = Node::new(3, 9, b.now);
        let (_, stolen) = other.initiate(&b, Some(answer));
        assert!(!is_accepted(&mut b, &stolen, at(1)), "another member");
        let (_, forged) = a.initiate(&b, Some(ChallengeAnswer { seq: ChallengeSeq(answer.seq.0 + 5), ..answer }));
        assert!(!is_accepted(&mut b, &forged, at(1)), "another number");
    }

    #[test]
    fn an_older_challenge_does_not_pass_once_a_newer_one_has() {
        let (mut a, mut b) = nodes();
        let held_back = answered(&mut a, &mut b, at(1));
        let newer = answered(&mut a, &mut b, at(1));
        assert!(is_accepted(&mut b, &newer, at(1)));
        assert!(!is_accepted(&mut b, &held_back, at(1)));
    }

    #[test]
    fn a_clock_that_jumps_back_costs_a_challenge_and_opens_nothing() {
        let (mut a, mut b) = nodes();
        let passed = answered(&mut a, &mut b, at(1));
        assert!(is_accepted(&mut b, &passed, at(1)));
        a.clock = UnixMicros(5);
        let (_, early) = a.initiate(&b, None);
        assert!(!is_accepted(&mut b, &early, at(1)));
        let early = answered(&mut a, &mut b, at(1));
        assert!(is_accepted(&mut b, &early, at(1)));
        assert!(!is_accepted(&mut b, &passed, at(1)), "the record has not sunk to the early clock");
    }

    #[test]
    fn an_initiation_that_means_nobody_must_answer_a_challenge() {
        let (mut a, mut b) = nodes();
        half_way(&mut a, &mut b, at(1));
        let attempt = super::super::Attempt {
            index: a.rng.receiver_index(),
            to: None,
            timestamp: UnixMicros(u64::MAX),
            announcement: a.announcement,
            answer: None,
        };
        let (_, anyone) = super::super::Initiator::start(&a.keys, &attempt, &mut a.rng);
        assert!(!is_accepted(&mut b, &anyone, at(1)), "it may have been made for another node");
    }

    #[test]
    fn a_forgotten_record_does_not_let_its_initiations_pass_again() {
        let (mut a, mut b) = nodes();
        let first = answered(&mut a, &mut b, at(1));
        assert!(is_accepted(&mut b, &first, at(1)));
        for number in 0..MAX_PEERS as u64 {
            let id = std::array::from_fn(|i| number.to_le_bytes()[i % 8]);
            b.gate.make_room();
            let record = Record { max_timestamp: UnixMicros(1), last_seq: ChallengeSeq(1), admitted: 10 + number };
            b.gate.records.insert(PeerId(id), record);
        }
        assert_eq!(b.gate.records.len(), MAX_PEERS, "the table is bounded");
        assert!(!b.gate.records.contains_key(&a.keys.id()));
        assert!(!is_accepted(&mut b, &first, at(1)));
        let anew = answered(&mut a, &mut b, at(1));
        assert!(is_accepted(&mut b, &anew, at(1)));
    }

    #[test]
    fn challenges_and_refusals_are_limited_for_each_source_and_come_back_with_time() {
        let (mut a, mut b) = nodes();
        let (_, initiation) = a.initiate(&b, None);
        let now = b.now;
        let mut ask = |from, now| {
            let opened = OpenedInitiation::open(&b.keys, &initiation, &mut b.rng).unwrap();
            let is_challenged = matches!(b.gate.admit(opened, from, now), Admission::Challenge(_));
            let is_refused = b.gate.refuse(&initiation, RefusalReason::OtherSecret, from, now).is_some();
            (is_challenged, is_refused)
        };
        let answers: Vec<_> = (0..1000).map(|_| ask(at(1), now)).collect();
        assert_eq!(answers.iter().filter(|(is_challenged, _)| *is_challenged).count(), CHALLENGE_BURST as usize);
        assert_eq!(answers.iter().filter(|(_, is_refused)| *is_refused).count(), REFUSAL_BURST as usize);
        assert_eq!(ask(at(2), now), (false, false), "another port of the same host");
        assert_eq!(ask("192.0.2.9:1".parse().unwrap(), now), (true, true), "another host");
        assert_eq!(ask(at(1), now + Duration::from_secs(1)), (true, true), "after a while");
    }

    #[test]
    fn a_network_of_ipv6_sources_counts_as_one() {
        let now = origin();
        let mut limiter = SourceLimiter::new(1, 1, now);
        assert!(limiter.is_allowed("[2001:db8:1:2::1]:1".parse().unwrap(), now));
        assert!(!limiter.is_allowed("[2001:db8:1:2:ffff::2]:1".parse().unwrap(), now));
        assert!(limiter.is_allowed("[2001:db8:1:3::1]:1".parse().unwrap(), now));
    }

    #[test]
    fn a_flood_of_sources_shares_one_bucket_and_takes_no_more_memory() {
        let now = origin();
        let mut limiter = SourceLimiter::new(1, 2, now);
        let source = |number: u32| SocketAddr::from((std::net::Ipv4Addr::from_bits(number), 1));
        let sources = MAX_SOURCES as u32;
        let allowed = (0..2 * sources).filter(|number| limiter.is_allowed(source(*number), now)).count();
        assert_eq!(allowed, MAX_SOURCES + 2);
        assert_eq!(limiter.full_at.len(), MAX_SOURCES);
        let later = now + Duration::from_secs(10);
        assert!(limiter.is_allowed(source(3 * sources), later) && limiter.is_allowed(source(4 * sources), later));
        assert!(limiter.full_at.len() <= 2, "full buckets have been swept out");
    }

    #[test]
    fn answers_are_no_longer_than_the_initiation() {
        let (mut a, mut b) = nodes();
        let (_, initiation) = a.initiate(&b, None);
        let Admission::Challenge(challenge) = b.admit(&initiation, at(1)).unwrap() else { panic!("unknown") };
        let refusal = b.gate.refuse(&initiation, RefusalReason::OtherSecret, at(1), b.now).unwrap();
        assert!(challenge.len() <= initiation.len() && refusal.len() <= initiation.len());
        assert!(b.gate.refuse(&initiation[1..], RefusalReason::OtherSecret, at(1), b.now).is_none());
    }
}
