//! Sessions and their locks: they end once and for all, and are forgotten.

use super::{forgetting::DOUBT, limits::SESSION_KEPT, machine::COLLECT_EVERY, *};

/// Requests that are in no history have these numbers.
const FIRST_ID: u64 = 1 << 60;
/// Of a guarded change.
const PATIENCE: Duration = Duration::from_secs(6);

fn spec() -> SessionSpec {
    SessionSpec {
        name: "s".into(),
        node_name: "n".into(),
        ttl_us: Some(10_000_000),
        lock_delay_us: 1_000_000,
        behaviour: Behaviour::Release,
    }
}

fn lock(session: SessionId) -> Change {
    Change::Put { value: Value::new(b"1"), flags: 0, rule: Rule::Acquire(session) }
}

impl World {
    /// Asks, and waits for the answer; none comes from a node that crashes.
    fn call(&mut self, index: usize, request: Request) -> Option<Answer> {
        self.next_value += 1;
        let (id, now, wall_us) = (RequestId(FIRST_ID + u64::from(self.next_value)), self.now, self.wall_us(index));
        self.nodes[index].as_mut()?.handle_request(id, request, now, wall_us);
        self.drain(index);
        let until = self.now + PATIENCE;
        while !self.others.contains_key(&id) && self.now < until {
            self.run_for(Duration::from_millis(100));
        }
        self.others.remove(&id)
    }

    fn wall_us(&self, index: usize) -> u64 {
        self.skew_us[index] + self.us()
    }

    fn make(&mut self, index: usize) -> Option<SessionId> {
        match self.call(index, Request::SessionCreate { spec: spec() })? {
            Ok(Reply::SessionMade(id)) => Some(id),
            _ => None,
        }
    }

    /// Whether somebody says that the session lives, or that it does not; none where nobody says anything.
    fn is_alive(&mut self, index: usize, id: SessionId) -> Option<bool> {
        let request = match self.rng.random_range(0..2) {
            0 => Request::SessionRenew { id },
            _ => Request::Write { key: "lock".into(), change: lock(id) },
        };
        match self.call(index, request)? {
            Ok(Reply::Written(_)) => Some(true),
            Err(KvError::NoSession { .. }) => Some(false),
            _ => None,
        }
    }

    fn heal(&mut self) {
        self.crash_permille = 0;
        self.cuts.clear();
        self.restart_all();
        self.run_for(Duration::from_secs(60));
    }

    /// So long later that what has ended is forgotten.
    fn let_forget(&mut self) {
        let kept_us = SESSION_KEPT.as_micros() as u64 + 1;
        self.right_us += kept_us;
        self.skew_us.iter_mut().for_each(|skew_us| *skew_us += kept_us);
        self.run_for(DOUBT + 2 * COLLECT_EVERY);
    }

    fn remembered(&self, index: usize) -> usize {
        let kv = self.nodes[index].as_ref().unwrap();
        kv.store.iter().filter(|(key, _)| key.is_internal()).count() + kv.guard.forgettable_sessions(u64::MAX).count()
    }
}

#[test]
fn one_session_at_a_time_holds_a_lock_and_a_lost_one_gives_it_back() {
    let mut world = World::new(3, 3, 0);
    world.run_for(Duration::from_secs(5));
    for index in [0, 1] {
        world.make(index).unwrap();
    }
    world.run_for(Duration::from_secs(1));
    let sessions = world.nodes[2].as_ref().unwrap().sessions(None).sessions;
    assert_eq!(sessions.len(), 2);
    for (index, row) in sessions.iter().enumerate() {
        let is_first = world.call(index, Request::Write { key: "lock".into(), change: lock(row.id) });
        assert_eq!(is_first, Some(Ok(Reply::Written(index == 0))));
        world.run_for(Duration::from_millis(300));
        let holder = world.nodes[2].as_ref().unwrap().store.get("lock").unwrap().entry.session;
        assert_eq!(holder, Some(sessions[0].id));
    }
    world.run_for(Duration::from_secs(20));
    let kv = world.nodes[1].as_ref().unwrap();
    assert!(kv.sessions(None).sessions.is_empty(), "nobody has renewed them");
    assert_eq!(kv.store.get("lock").unwrap().entry.session, None);
}

#[test]
fn a_session_that_has_ended_is_forgotten_and_never_lives_again() {
    each_seed(8, |seed| {
        let mut world = World::new(seed, 3 + (seed % 3) as usize, 5);
        world.run_for(Duration::from_secs(5));
        let (mut made, mut ended) = (Vec::new(), BTreeSet::new());
        for _ in 0..2 {
            world.crash_permille = 2;
            for _ in 0..25 {
                if world.rng.random_range(0..4) == 0 {
                    world.cut_at_random();
                    world.restart_all();
                }
                let index = world.rng.random_range(0..world.nodes.len());
                let known = made.get(world.rng.random_range(0..made.len().max(1))).copied();
                match (known, world.rng.random_range(0..4)) {
                    (None, _) | (_, 0) => made.extend(world.make(index)),
                    (Some(id), 1) => {
                        let destroyed = world.call(index, Request::SessionDestroy { id });
                        ended.extend((destroyed == Some(Ok(Reply::Written(true)))).then_some(id));
                    }
                    (Some(id), _) => match world.is_alive(index, id) {
                        Some(true) => assert!(!ended.contains(&id), "WEAVED_SEED={seed}: {id} lives again"),
                        Some(false) => drop(ended.insert(id)),
                        None => {}
                    },
                }
            }
            world.heal();
            world.let_forget();
        }
        world.assert_equal();
        for index in 0..world.nodes.len() {
            assert_eq!(world.remembered(index), 0, "WEAVED_SEED={seed} node {index}");
        }
        for (place, id) in made.into_iter().enumerate() {
            let index = place % world.nodes.len();
            assert_eq!(world.is_alive(index, id), Some(false), "WEAVED_SEED={seed}: {id} lives again");
        }
    });
}

#[test]
fn a_voter_that_missed_the_end_of_a_session_does_not_bring_it_back_when_the_others_have_forgotten_it() {
    let mut world = World::new(1, 3, 0);
    world.run_for(Duration::from_secs(5));
    let session = world.make(0).unwrap();
    world.run_for(Duration::from_secs(1));
    world.cuts.extend([(0, 2), (1, 2)]);
    assert_eq!(world.call(0, Request::SessionDestroy { id: session }), Some(Ok(Reply::Written(true))));
    world.cuts.clear();
    world.run_for(Duration::from_secs(30));
    // The clock of the third is behind: it forgets nothing.
    for index in [0, 1] {
        world.skew_us[index] += SESSION_KEPT.as_micros() as u64 + 1;
    }
    world.run_for(DOUBT + 2 * COLLECT_EVERY);
    assert_eq!((world.remembered(0), world.remembered(1)), (0, 0));
    assert_eq!(world.remembered(2), 1, "it has heard of the end");
    world.cuts.extend([(0, 1), (1, 0)]);
    for index in [0, 1] {
        assert_eq!(
            world.call(index, Request::SessionRenew { id: session }),
            Some(Err(KvError::NoSession { id: session }))
        );
    }
}

/// Three nodes, and a session that holds the key `lock`.
fn world_with_a_lock() -> (World, SessionId) {
    let mut world = World::new(1, 3, 0);
    world.run_for(Duration::from_secs(5));
    let session = world.make(0).unwrap();
    let locked = world.call(0, Request::Write { key: "lock".into(), change: lock(session) });
    assert_eq!(locked, Some(Ok(Reply::Written(true))));
    (world, session)
}

/// Who holds `lock`, as the first node knows it.
fn holder(world: &World) -> Option<SessionId> {
    world.nodes[0].as_ref().unwrap().store.get("lock").unwrap().entry.session
}

#[test]
fn a_session_that_holds_a_lock_is_not_forgotten_before_the_lock_is_given_back() {
    let (mut world, session) = world_with_a_lock();
    assert_eq!(world.call(0, Request::SessionDestroy { id: session }), Some(Ok(Reply::Written(true))));
    // Nobody decides any more, so nobody gives the lock back.
    world.cuts.extend((0..3).flat_map(|from| (0..3).map(move |to| (from, to))));
    world.let_forget();
    assert_eq!((holder(&world), world.nodes[0].as_ref().unwrap().store.range("\0").count()), (Some(session), 1));
    world.cuts.clear();
    world.run_for(DOUBT + 2 * COLLECT_EVERY);
    assert_eq!((holder(&world), world.remembered(0)), (None, 0));
}

#[test]
fn a_lock_whose_session_no_voter_knows_is_given_back_and_one_whose_session_has_not_arrived_is_not() {
    let (mut world, session) = world_with_a_lock();
    world.run_for(Duration::from_secs(1));
    let key = Key::of_session(session);
    world.nodes.iter_mut().flatten().for_each(|kv| assert!(kv.store.forget(&key)));
    world.run_for(Duration::from_secs(3));
    assert_eq!(holder(&world), Some(session), "a majority knows that it lives");
    for kv in world.nodes.iter_mut().flatten() {
        kv.store.forget(&key);
        kv.guard.forget(&key, &mut kv.rows);
    }
    world.run_for(Duration::from_secs(3));
    assert_eq!(holder(&world), None);
}
