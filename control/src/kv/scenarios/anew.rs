//! Most voters are gone for good, and an operator says so.

use super::*;

impl World {
    fn found_anew(&mut self, index: usize) -> Result<(), FoundAnewError> {
        let (now, wall_us) = (self.now, self.skew_us[index] + self.us());
        let founded = self.nodes[index].as_mut().unwrap().found_anew(now, wall_us);
        self.drain(index);
        founded
    }

    /// Ends these for good, as all others see at once.
    fn lose(&mut self, indexes: std::ops::Range<usize>) {
        indexes.for_each(|index| self.crash(index));
        self.tell_members();
    }

    fn read(&mut self, index: usize) -> u32 {
        self.next_value += 1;
        let before = self.history.len();
        self.request(index, Ask::Read, Request::ReadConsistent { key: KEY.into() });
        self.run_for(Duration::from_secs(6));
        match self.history[before..] {
            [Event { op: Op::Read(value), .. }] => value,
            _ => panic!("WEAVED_SEED={} no answer: {:?}", self.seed, &self.history[before..]),
        }
    }

    fn put(&mut self, index: usize, value: u32) {
        self.next_value = value;
        let put = Change::Put { value: Value::new(value.to_string().as_bytes()), flags: 0, rule: Rule::Always };
        self.request(index, Ask::Put(value), Request::Write { key: KEY.into(), change: put });
        self.run_for(Duration::from_secs(6));
    }

    fn electorate(&self, index: usize) -> &Electorate {
        self.nodes[index].as_ref().unwrap().electorate().unwrap()
    }
}

#[test]
fn those_who_are_left_go_on_in_one_history_and_who_comes_back_follows() {
    each_seed(25, |seed| {
        let mut world = World::new(seed, 5, 5);
        world.run_for(Duration::from_secs(5));
        for _ in 0..8 {
            let index = world.rng.random_range(0..5);
            world.ask(index);
            world.run_for(Duration::from_millis(400));
        }
        world.run_for(Duration::from_secs(20));
        world.lose(2..5);
        let refused_before = world.refused_count;
        world.put(0, 1000);
        assert_eq!(world.refused_count, refused_before + 1, "WEAVED_SEED={seed}: nobody decides alone");
        assert_eq!(world.found_anew(0), Ok(()));
        world.run_for(Duration::from_secs(5));
        for turn in 0..8 {
            world.ask(turn % 2);
            world.run_for(Duration::from_millis(400));
        }
        world.run_for(Duration::from_secs(5));
        let value = world.read(1);
        world.start(2);
        world.run_for(Duration::from_secs(20));
        assert_eq!(world.read(2), value, "WEAVED_SEED={seed}");
        assert_eq!(world.electorate(2).founded_anew_count(), 1);
        let voters: Vec<_> = world.electorate(0).voters.iter().map(|id| id.0[0] - 1).collect();
        assert_eq!(voters, [0, 1, 2], "WEAVED_SEED={seed}: who stays away is not waited for");
        assert!(is_linearizable(&world.history), "WEAVED_SEED={seed}: {:#?}", world.history);
    });
}

#[test]
fn what_one_who_is_left_has_only_heard_of_is_not_lost() {
    let mut world = World::new(1, 3, 0);
    world.run_for(Duration::from_secs(5));
    world.put(0, 1);
    world.cuts.extend([(1, 0), (2, 0)]);
    world.put(1, 2);
    world.cuts.clear();
    world.run_for(Duration::from_secs(20));
    world.lose(1..3);
    assert_eq!(world.found_anew(0), Ok(()));
    assert_eq!(world.read(0), 2);
}

#[test]
fn it_is_refused_while_a_majority_answers_and_where_nobody_knows_who_votes() {
    let mut world = World::new(1, 3, 0);
    assert_eq!(world.found_anew(1), Err(FoundAnewError::NoElectorate));
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.found_anew(1), Err(FoundAnewError::MajorityAnswers { answering: 3, voters: 3 }));
    world.lose(2..3);
    assert_eq!(world.found_anew(1), Err(FoundAnewError::MajorityAnswers { answering: 2, voters: 3 }));
    assert_eq!(world.electorate(1).founded_anew_count(), 0);
    world.lose(0..1);
    assert_eq!(world.found_anew(1), Ok(()));
    assert_eq!(world.found_anew(1), Err(FoundAnewError::MajorityAnswers { answering: 1, voters: 1 }));
}
