//! Who is alive: SWIM with suspicion, by foca.
//!
//! foca hands out datagrams, timers and notifications through its accumulating runtime; here they become `poll_*` and a
//! table of timers. Its packets ride in sessions that only holders of the cluster secret can have, and one whose sender
//! is not the session's peer is garbage.
//!
//! A session that comes up is announced to foca; one that goes down is not reported as a failure, because others may
//! still reach that member, unless the member said good-bye: then it is down by its own word, and *away*. A connected peer that foca holds for down or unknown is announced to again and again, which
//! is what brings two halves of a healed partition together.
//!
//! Who comes back from the other side of a partition has held all others for down, and tells it: to foca that is the newest of them
//! until each has heard and answers by a new life. Of a member that was itself heard a moment ago such news is *doubted* for as long
//! as a suspect has to refute it. A member that is dead was silent for longer before anybody says so, and is not.
//!
//! INVARIANT: at most one `RemoveDown` timer per member, so that a flapping member does not fill the table.

use std::{
    collections::{BTreeMap, VecDeque},
    num::{NonZeroU8, NonZeroUsize},
    ops::Not as _,
    time::{Duration, Instant},
};

use foca::{
    AccumulatingRuntime, Codec as _, Config, Foca, Member, OwnedNotification, PeriodicParams, PostcardCodec, Timer,
};
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use weaved_api::PeerId;

use super::limits::{GOSSIP_BYTES, MAX_MEMBERS};

/// Interval of probes. Every member is probed by some other about once in this time; now and then it is four times that.
const PROBE_PERIOD: Duration = Duration::from_millis(500);
/// Round-trip time after which others are asked to probe. Well above a LAN's, well below the period.
const PROBE_RTT: Duration = Duration::from_millis(250);
/// How long a suspect may refute: a control process that is restarted, or waits for a core, is back sooner. Gossip is all
/// over a hundred members and back in half of it; in larger clusters it grows with the logarithm of the size.
const SUSPICION: Duration = Duration::from_millis(2500);
/// Decimal logarithm, in tenths, of the size up to which the suspicion is the same.
const SAME_SUSPICION_TENTHS: u32 = 20;
/// Down members are forgotten by foca after this time; until then their old packets do not revive them.
const FORGET_DOWN_AFTER: Duration = Duration::from_hours(24);

/// Which life of a member: raised at each start, and when it learns that it was declared down. The higher one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// A member as foca knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    id: PeerId,
    incarnation: Incarnation,
}

impl foca::Identity for Identity {
    type Addr = PeerId;

    fn renew(&self) -> Option<Self> {
        Some(Self { id: self.id, incarnation: Incarnation(self.incarnation.0.wrapping_add(1)) })
    }

    fn addr(&self) -> PeerId {
        self.id
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.incarnation > adversary.incarnation
    }
}

/// What the failure detector says of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It answers somebody.
    Up,
    /// Nobody gets an answer.
    Down,
    /// It has said good-bye and may come back.
    Away,
}

/// A change of liveness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipEvent {
    /// A member answers.
    Up(PeerId),
    /// A member no longer answers.
    Down(PeerId),
    /// A member has said good-bye.
    Away(PeerId),
    /// We were held for down and are back in a new life: connected peers should hear of it.
    Rejoined,
}

/// The failure detector of one node.
pub struct Membership {
    foca: Foca<Identity, PostcardCodec, StdRng, foca::NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Identity>,
    /// Ordered by time, then by the order of scheduling, which is what foca wants.
    timers: BTreeMap<(Instant, u64), Timer<Identity>>,
    next_timer: u64,
    sized_for: usize,
    liveness: BTreeMap<PeerId, (Liveness, Instant)>,
    /// When each was last heard itself.
    heard: BTreeMap<PeerId, Instant>,
    /// Members of whom others say that they are down, and until when that is not believed.
    doubted: BTreeMap<PeerId, Instant>,
    datagrams: VecDeque<(PeerId, Vec<u8>)>,
    events: VecDeque<MembershipEvent>,
}

impl Membership {
    /// A member that knows nobody. `incarnation` is above all that it ever had.
    pub fn new(me: PeerId, incarnation: Incarnation, rng: StdRng) -> Self {
        let identity = Identity { id: me, incarnation };
        Self {
            foca: Foca::new(identity, config_for(1), rng, PostcardCodec),
            runtime: AccumulatingRuntime::new(),
            timers: BTreeMap::new(),
            next_timer: 0,
            sized_for: 1,
            liveness: BTreeMap::new(),
            heard: BTreeMap::new(),
            doubted: BTreeMap::new(),
            datagrams: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Tells a peer that we are here and asks it who else is.
    pub fn announce(&mut self, to: PeerId, now: Instant) {
        // The receiver takes an announcement to any of its incarnations.
        let to = Identity { id: to, incarnation: Incarnation(0) };
        let result = self.foca.announce(to, &mut self.runtime);
        debug_assert!(result.is_ok(), "an announcement fits a packet");
        self.drain(now);
    }

    /// A packet from a peer. Returns false for one that cannot be read or has another sender than the session.
    pub fn handle_data(&mut self, from: PeerId, bytes: &[u8], now: Instant) -> bool {
        let header: Result<foca::Header<Identity>, _> = PostcardCodec.decode_header(bytes);
        if header.is_ok_and(|header| header.src.id == from).not() {
            return false;
        }
        // Room for as many again as may be members: those that went down are remembered for a day.
        if self.foca.iter_membership_state().len() >= 2 * MAX_MEMBERS {
            return false;
        }
        let result = self.foca.handle_data(bytes, &mut self.runtime);
        self.heard.insert(from, now);
        self.drain_told_by(Some(from), now);
        result.is_ok()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let timer = entry.remove();
            if let Timer::RemoveDown(down) = &timer {
                self.liveness.remove(&down.id);
                self.heard.remove(&down.id);
            }
            // The only error here tells that timers were late; foca goes on by itself.
            let _ = self.foca.handle_timer(timer, &mut self.runtime);
            self.drain(now);
        }
        // What nobody has refuted is so.
        let believed: Vec<_> = self.doubted.extract_if(.., |_, until| *until <= now).map(|(id, _)| id).collect();
        believed.into_iter().for_each(|id| self.on_down(id, now));
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.first_key_value().map(|((at, _), _)| *at);
        timer.into_iter().chain(self.doubted.values().copied()).min()
    }

    /// A packet for a peer.
    pub fn poll_send(&mut self) -> Option<(PeerId, Vec<u8>)> {
        self.datagrams.pop_front()
    }

    /// A change of liveness.
    pub fn poll_event(&mut self) -> Option<MembershipEvent> {
        self.events.pop_front()
    }

    /// What is known of a member, and since when. None if foca has not heard of it.
    pub fn liveness(&self, id: PeerId) -> Option<(Liveness, Instant)> {
        self.liveness.get(&id).copied()
    }

    /// True for a member that answers somebody.
    pub fn is_up(&self, id: PeerId) -> bool {
        self.liveness(id).is_some_and(|(liveness, _)| liveness == Liveness::Up)
    }

    /// A member has said good-bye by itself: it and everybody need not wait for suspicion. It comes back in a new life.
    pub fn handle_goodbye(&mut self, id: PeerId, now: Instant) {
        let members = self.foca.iter_membership_state();
        let Some(identity) = members.map(|member| *member.id()).find(|identity| identity.id == id) else { return };
        // First, so that the notification of its end finds why.
        let before = self.liveness.insert(id, (Liveness::Away, now));
        let result = self.foca.apply_many(std::iter::once(Member::down(identity)), true, &mut self.runtime);
        debug_assert!(result.is_ok(), "news of a known member can be applied");
        // Of both foca says nothing: it knows already that they are down.
        if self.doubted.remove(&id).is_some() || matches!(before, Some((Liveness::Down, _))) {
            self.events.push_back(MembershipEvent::Away(id));
        }
        self.drain(now);
    }

    /// Says good-bye: the others need not wait for suspicion.
    pub fn leave(&mut self, now: Instant) {
        let result = self.foca.leave_cluster(&mut self.runtime);
        debug_assert!(result.is_ok(), "a good-bye fits a packet");
        self.drain(now);
    }

    fn is_away(&self, id: PeerId) -> bool {
        self.liveness(id).is_some_and(|(liveness, _)| liveness == Liveness::Away)
    }

    fn drain(&mut self, now: Instant) {
        self.drain_told_by(None, now);
    }

    /// `by` for news that came from a member, None for what was found out here.
    fn drain_told_by(&mut self, by: Option<PeerId>, now: Instant) {
        while let Some((to, bytes)) = self.runtime.to_send() {
            self.datagrams.push_back((to.id, bytes.to_vec()));
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            if let Timer::RemoveDown(down) = &timer {
                self.timers.retain(|_, other| !matches!(other, Timer::RemoveDown(earlier) if earlier.id == down.id));
            }
            self.timers.insert((now + after, self.next_timer), timer);
            self.next_timer += 1;
        }
        while let Some(notification) = self.runtime.to_notify() {
            self.on_notification(&notification, by, now);
        }
        self.resize();
    }

    fn on_notification(&mut self, notification: &OwnedNotification<Identity>, by: Option<PeerId>, now: Instant) {
        match notification {
            // For everybody here it was up all the time.
            OwnedNotification::MemberUp(member) if self.doubted.remove(&member.id).is_some() => {}
            OwnedNotification::MemberUp(member) => {
                self.liveness.insert(member.id, (Liveness::Up, now));
                self.events.push_back(MembershipEvent::Up(member.id));
            }
            OwnedNotification::MemberDown(member) if self.is_away(member.id) => {
                self.events.push_back(MembershipEvent::Away(member.id));
            }
            OwnedNotification::MemberDown(member)
                if by.is_some_and(|by| by != member.id) && self.is_heard(member.id, now) =>
            {
                self.doubted.insert(member.id, now + SUSPICION);
            }
            OwnedNotification::MemberDown(member) => self.on_down(member.id, now),
            OwnedNotification::Rejoin(_) => self.events.push_back(MembershipEvent::Rejoined),
            OwnedNotification::Rename(..)
            | OwnedNotification::Active
            | OwnedNotification::Idle
            | OwnedNotification::Defunct => {}
        }
    }

    fn on_down(&mut self, id: PeerId, now: Instant) {
        self.liveness.insert(id, (Liveness::Down, now));
        self.events.push_back(MembershipEvent::Down(id));
    }

    /// True if it has spoken itself so lately that nobody can have waited for it in vain.
    fn is_heard(&self, id: PeerId, now: Instant) -> bool {
        self.is_up(id) && self.heard.get(&id).is_some_and(|at| now.saturating_duration_since(*at) < SUSPICION)
    }

    /// Suits times and repetitions to the size of the cluster, in steps of a factor of two.
    fn resize(&mut self) {
        let size = (self.foca.num_members() + 1).next_power_of_two();
        if size != self.sized_for && self.foca.set_config(config_for(size)).is_ok() {
            self.sized_for = size;
        }
    }
}

/// foca's settings for a LAN of so many members, after memberlist's.
fn config_for(member_count: usize) -> Config {
    // Powers of two are enough: log10 of the size in tenths, log10(2) being very nearly 3/10.
    let decades_tenths = 3 * member_count.next_power_of_two().ilog2();
    let nonzero = |count: usize| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
    let every = |frequency, count| Some(PeriodicParams { frequency, num_members: nonzero(count) });
    let max_transmissions = u8::try_from(2 + 4 * decades_tenths.div_ceil(10)).unwrap_or(u8::MAX);
    Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_RTT,
        num_indirect_probes: nonzero(3),
        max_transmissions: NonZeroU8::new(max_transmissions).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: SUSPICION * decades_tenths.max(SAME_SUSPICION_TENTHS) / SAME_SUSPICION_TENTHS,
        remove_down_after: Some(FORGET_DOWN_AFTER),
        // One byte of version, one of kind, three of length.
        max_packet_size: nonzero(GOSSIP_BYTES - 5),
        notify_down_members: true,
        periodic_announce: every(Duration::from_secs(30), 1),
        periodic_announce_to_down_members: every(Duration::from_secs(15), 2),
        periodic_gossip: every(Duration::from_millis(200), 3),
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);

    const C: PeerId = PeerId([3; 32]);

    fn member(id: PeerId) -> Membership {
        Membership::new(id, Incarnation(1), StdRng::from_seed([id.0[0]; 32]))
    }

    type Members = [(PeerId, Membership); 3];

    /// Three that know each other.
    fn three(seed: u8, rng: &mut StdRng, now: Instant) -> Members {
        let mut members =
            [A, B, C].map(|id| (id, Membership::new(id, Incarnation(1), StdRng::from_seed([id.0[0] ^ seed; 32]))));
        talk(&mut members, rng, (now, Duration::from_secs(5)), |_, _, _| true);
        assert!(members.iter().all(|(me, member)| [A, B, C].iter().all(|id| id == me || member.is_up(*id))));
        members
    }

    /// They talk for so long, over links that are open or not; what passes takes up to 30 ms. Connected peers that miss each other announce
    /// themselves twice a second. What each has learned of whom.
    fn talk(
        members: &mut Members,
        rng: &mut StdRng,
        (from, time): (Instant, Duration),
        is_open: impl Fn(PeerId, PeerId, Instant) -> bool,
    ) -> Vec<(PeerId, MembershipEvent)> {
        let (mut now, mut beat, mut number, mut events) = (from, from, 0_u64, Vec::new());
        let mut wire: BTreeMap<(Instant, u64), (PeerId, PeerId, Vec<u8>)> = BTreeMap::new();
        loop {
            for (me, member) in &mut *members {
                if now >= beat {
                    let others = [A, B, C].into_iter().filter(|id| id != me && is_open(*me, *id, now));
                    let missing: Vec<_> = others.filter(|id| !member.is_up(*id)).collect();
                    missing.into_iter().for_each(|id| member.announce(id, now));
                }
                while let Some((to, bytes)) = member.poll_send() {
                    number += 1;
                    wire.insert((now + Duration::from_millis(rng.random_range(0..30)), number), (*me, to, bytes));
                }
                events.extend(std::iter::from_fn(|| member.poll_event()).map(|event| (*me, event)));
            }
            if now >= beat {
                beat = now + Duration::from_millis(500);
            }
            let timers = members.iter().filter_map(|(_, member)| member.poll_timeout());
            let due = timers.chain(wire.keys().map(|(at, _)| *at)).chain([beat]).min().expect("there is a beat");
            now = now.max(due);
            if now >= from + time {
                return events;
            }
            while let Some(entry) = wire.first_entry().filter(|entry| entry.key().0 <= now) {
                let (from, to, bytes) = entry.remove();
                if let Some((_, receiver)) = members.iter_mut().find(|(id, _)| *id == to && is_open(from, to, now)) {
                    receiver.handle_data(from, &bytes, now);
                }
            }
            members.iter_mut().for_each(|(_, member)| member.handle_timeout(now));
        }
    }

    #[test]
    fn who_comes_back_from_a_partition_brings_nobody_down_among_those_who_were_together() {
        for seed in 0..20 {
            let mut rng = StdRng::seed_from_u64(seed.into());
            let begin = Instant::now();
            let mut members = three(seed, &mut rng, begin);
            let mut cut = begin + Duration::from_secs(5);
            for _ in 0..5 {
                let mut healed = || cut + Duration::from_millis(rng.random_range(4000..6000));
                let (with_a, with_b) = (healed(), healed());
                let is_open = |one: PeerId, other: PeerId, now: Instant| match (one.max(other), one.min(other)) {
                    (C, A) => now >= with_a,
                    (C, B) => now >= with_b,
                    _ => true,
                };
                let events = talk(&mut members, &mut rng, (cut, Duration::from_secs(10)), is_open);
                for down in [(A, C), (B, C), (C, A), (C, B)] {
                    assert!(events.contains(&(down.0, MembershipEvent::Down(down.1))), "seed {seed}: {events:?}");
                }
                for down in [(A, B), (B, A)] {
                    assert!(!events.contains(&(down.0, MembershipEvent::Down(down.1))), "seed {seed}: {events:?}");
                }
                cut += Duration::from_secs(10);
            }
        }
    }

    #[test]
    fn news_that_a_member_is_down_are_believed_when_it_does_not_refute_them() {
        let (now, mut rng) = (Instant::now(), StdRng::seed_from_u64(0));
        let mut members = three(0, &mut rng, now);
        let gone = now + Duration::from_secs(5);
        // It says good-bye to one of the others only, right after both have heard it.
        members[2].1.handle_goodbye(B, gone);
        let time = SUSPICION + Duration::from_secs(1);
        let events = talk(&mut members, &mut rng, (gone, time), |one, other, _| one != B && other != B);
        let of_b: Vec<_> = events.into_iter().filter(|(id, _)| *id != B).collect();
        assert_eq!(of_b, [(C, MembershipEvent::Away(B)), (A, MembershipEvent::Down(B))]);
    }

    /// Carries everything between two members until both are silent.
    fn exchange(a: &mut Membership, b: &mut Membership, now: Instant) {
        loop {
            let (from_a, from_b) = (a.poll_send(), b.poll_send());
            if from_a.is_none() && from_b.is_none() {
                return;
            }
            if let Some((_, bytes)) = from_a {
                assert!(b.handle_data(A, &bytes, now));
            }
            if let Some((_, bytes)) = from_b {
                assert!(a.handle_data(B, &bytes, now));
            }
        }
    }

    fn run_alone(member: &mut Membership, from: Instant, until: Instant) {
        let mut now = from;
        while let Some(at) = member.poll_timeout().filter(|&at| at <= until) {
            now = now.max(at);
            member.handle_timeout(now);
            while member.poll_send().is_some() {}
        }
    }

    #[test]
    fn an_announcement_makes_both_members_of_each_other() {
        let (mut a, mut b, now) = (member(A), member(B), Instant::now());
        a.announce(B, now);
        exchange(&mut a, &mut b, now);
        assert!(a.is_up(B) && b.is_up(A));
        assert_eq!(a.poll_event(), Some(MembershipEvent::Up(B)));
    }

    #[test]
    fn a_silent_member_is_down_within_six_seconds() {
        let (mut a, mut b, now) = (member(A), member(B), Instant::now());
        a.announce(B, now);
        exchange(&mut a, &mut b, now);
        run_alone(&mut a, now, now + Duration::from_secs(6));
        assert_eq!(a.liveness(B).unwrap().0, Liveness::Down);
    }

    #[test]
    fn two_that_hold_each_other_for_down_are_together_again_after_an_announcement() {
        let (mut a, mut b, now) = (member(A), member(B), Instant::now());
        a.announce(B, now);
        exchange(&mut a, &mut b, now);
        let later = now + Duration::from_secs(20);
        run_alone(&mut a, now, later);
        run_alone(&mut b, now, later);
        assert!(!a.is_up(B) && !b.is_up(A));
        for _ in 0..3 {
            a.announce(B, later);
            exchange(&mut a, &mut b, later);
        }
        assert!(a.is_up(B) && b.is_up(A));
    }

    #[test]
    fn a_packet_in_another_peers_name_is_refused() {
        let (mut a, mut b, now) = (member(A), member(B), Instant::now());
        a.announce(B, now);
        let (_, bytes) = a.poll_send().unwrap();
        assert!(!b.handle_data(PeerId([7; 32]), &bytes, now));
        assert!(!b.handle_data(A, &bytes[..bytes.len() / 2], now));
        assert!(!b.is_up(A));
    }

    #[test]
    fn a_member_that_says_good_bye_is_down_at_once() {
        let (mut a, mut b, now) = (member(A), member(B), Instant::now());
        a.announce(B, now);
        exchange(&mut a, &mut b, now);
        b.leave(now);
        exchange(&mut a, &mut b, now);
        assert!(!a.is_up(B));
    }

    #[test]
    fn a_member_whose_good_bye_was_heard_is_away_and_back_after_an_announcement() {
        let (mut a, mut b, now) = (member(A), member(B), Instant::now());
        a.handle_goodbye(B, now);
        assert_eq!(a.liveness(B), None, "nobody has heard of it");
        a.announce(B, now);
        exchange(&mut a, &mut b, now);
        a.handle_goodbye(B, now);
        assert_eq!(a.liveness(B), Some((Liveness::Away, now)));
        let events: Vec<_> = std::iter::from_fn(|| a.poll_event()).collect();
        assert_eq!(events, [MembershipEvent::Up(B), MembershipEvent::Away(B)]);
        run_alone(&mut a, now, now + Duration::from_secs(30));
        assert_eq!(a.liveness(B), Some((Liveness::Away, now)), "silence is nothing new");
        let later = now + Duration::from_secs(31);
        for _ in 0..3 {
            b.announce(A, later);
            exchange(&mut a, &mut b, later);
        }
        assert!(a.is_up(B));
    }

    #[test]
    fn a_good_bye_is_passed_on() {
        let (mut a, mut b, mut c, now) = (member(A), member(B), member(PeerId([3; 32])), Instant::now());
        a.announce(B, now);
        exchange(&mut a, &mut b, now);
        c.announce(A, now);
        for _ in 0..3 {
            while let Some((_, bytes)) = c.poll_send() {
                a.handle_data(PeerId([3; 32]), &bytes, now);
            }
            while let Some((to, bytes)) = a.poll_send() {
                let receiver = if to == B { &mut b } else { &mut c };
                receiver.handle_data(A, &bytes, now);
            }
        }
        assert!(c.is_up(B));
        a.handle_goodbye(B, now);
        let soon = now + Duration::from_secs(1);
        let mut at = now;
        while let Some(next) = a.poll_timeout().filter(|&next| next <= soon) {
            at = at.max(next);
            a.handle_timeout(at);
            while let Some((_, bytes)) = a.poll_send() {
                c.handle_data(A, &bytes, at);
            }
        }
        assert_eq!(c.liveness(B).unwrap().0, Liveness::Down);
    }

    #[test]
    fn a_flapping_member_does_not_fill_the_timers() {
        let (mut a, mut b, mut now) = (member(A), member(B), Instant::now());
        for _ in 0..20 {
            for _ in 0..3 {
                a.announce(B, now);
                exchange(&mut a, &mut b, now);
            }
            let later = now + Duration::from_secs(20);
            run_alone(&mut a, now, later);
            run_alone(&mut b, now, later);
            now = later;
        }
        assert!(a.timers.len() < 16, "{} timers", a.timers.len());
    }
}
