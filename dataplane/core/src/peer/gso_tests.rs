//! A path and its traffic, second by second, as [`PathGso`] hears of them.

use super::*;

/// What a path does and what is sent on it.
struct Path {
    gso: PathGso,
    now: Instant,
    report: LossReport,
    run_count: u64,
    /// Of a hundred datagrams in runs that leave in one send, so many are lost.
    joined_loss: u64,
    /// Of a hundred others, so many are.
    loss: u64,
    /// Datagrams a second in runs, and others.
    in_runs: u64,
    alone: u64,
    news: Vec<GsoNews>,
}

impl Path {
    #[expect(clippy::disallowed_methods, reason = "tests begin somewhere")]
    fn new(joined_loss: u64, loss: u64) -> Self {
        Self {
            gso: PathGso::default(),
            now: Instant::now(),
            report: LossReport::default(),
            run_count: 0,
            joined_loss,
            loss,
            in_runs: 1000,
            alone: 10,
            news: Vec::new(),
        }
    }

    /// A second of traffic and the report at its end.
    fn second(&mut self) -> Option<GsoNews> {
        self.now += Duration::from_secs(1);
        let of_runs = if self.gso.sends() == Sends::Joined { self.joined_loss.max(self.loss) } else { self.loss };
        let lost = (self.in_runs * of_runs + self.alone * self.loss).div_ceil(100);
        self.run_count += self.in_runs;
        self.report.due_count += self.in_runs + self.alone;
        self.report.opened_count += self.in_runs + self.alone - lost;
        let news = self.gso.on_report(self.report, self.run_count, self.now);
        self.news.extend(news);
        news
    }

    /// Seconds until the next news; at most a day.
    fn until_news(&mut self) -> (u64, GsoNews) {
        let passed = (1..86_400).find_map(|seconds| Some((seconds, self.second()?)));
        passed.expect("something is found out within a day")
    }

    fn run(&mut self, seconds: u64) {
        (0..seconds).for_each(|_| _ = self.second());
    }
}

fn given_up(news: GsoNews) -> bool {
    matches!(news, GsoNews::GivenUp(..))
}

#[test]
fn trains_that_are_lost_only_in_one_send_are_given_up_within_seconds() {
    let mut path = Path::new(90, 0);
    let (seconds, news) = path.until_news();
    assert!(news == GsoNews::Tried && seconds <= 4, "{seconds} s");
    assert!((path.gso.sends(), path.gso.is_trial()) == (Sends::Apart, true));
    let (seconds, news) = path.until_news();
    let GsoNews::GivenUp(before, after) = news else { panic!("{news:?}") };
    assert!(seconds <= 5 && before.0 > 800_000 && after.0 == 0, "{seconds} s, {before} → {after}");
    assert!((path.gso.sends(), path.gso.is_trial()) == (Sends::Apart, false));
}

#[test]
fn loss_that_single_datagrams_meet_too_is_not_blamed_on_trains() {
    for loss in [10, 30, 60, 95] {
        let mut path = Path::new(0, loss);
        let (_, tried) = path.until_news();
        let (seconds, news) = path.until_news();
        assert_eq!((tried, news), (GsoNews::Tried, GsoNews::NotToBlame), "{loss} %");
        assert!(seconds <= 5 && path.gso.sends() == Sends::Joined, "{seconds} s");
        assert!(path.until_news().0 >= MIN_PAUSE.as_secs(), "{loss} %: it is left alone for a while");
    }
}

#[test]
fn pauses_between_trials_in_vain_grow_up_to_a_bound() {
    let mut path = Path::new(0, 30);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let (pause, tried) = path.until_news();
        pauses.push(pause / 60);
        assert_eq!((tried, path.until_news().1), (GsoNews::Tried, GsoNews::NotToBlame));
    }
    assert_eq!(pauses, [0, 2, 4, 8, 10, 10, 10, 10]);
    assert!(path.news.iter().all(|news| !given_up(*news)));
}

#[test]
fn a_look_whether_trains_arrive_comes_ever_more_rarely_and_is_short() {
    let mut path = Path::new(90, 0);
    path.run(20);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let (pause, looked) = path.until_news();
        pauses.push((pause + 30) / 60);
        let (harm, still) = path.until_news();
        assert_eq!((looked, still), (GsoNews::LookedAgain, GsoNews::StillLost));
        assert!(harm <= 2, "a look cost {harm} s");
    }
    assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn trains_that_arrive_again_leave_in_one_send_again() {
    let mut path = Path::new(90, 1);
    path.run(20);
    path.joined_loss = 0;
    let (_, looked) = path.until_news();
    let (seconds, taken_up) = path.until_news();
    assert_eq!((looked, taken_up, path.gso.sends()), (GsoNews::LookedAgain, GsoNews::TakenUp, Sends::Joined));
    assert!(seconds <= 5, "{seconds} s");
    path.joined_loss = 90;
    assert_eq!(path.until_news().1, GsoNews::Tried, "what begins anew is noticed at once");
    assert!(given_up(path.until_news().1));
    let (pause, _) = path.until_news();
    assert!(pause > 200, "but it is believed for longer: {pause} s");
}

#[test]
fn a_path_whose_loss_comes_and_goes_does_not_make_us_change_all_the_time() {
    let mut path = Path::new(0, 0);
    for turn in 0..24 * 60 {
        path.loss = if turn % 2 == 0 { 40 } else { 0 };
        // The loss ends with the trial, as chance may have it.
        (0..60).for_each(|_| {
            if path.second() == Some(GsoNews::Tried) {
                path.loss = 0;
            }
        });
    }
    let changes = path.news.len();
    assert!(changes <= 4 * 30, "{changes} changes in a day");
    assert!(path.news.iter().any(|news| given_up(*news)), "it is fooled");
}

#[test]
fn what_was_long_ago_makes_no_pause_longer() {
    let mut path = Path::new(0, 30);
    (0..6).for_each(|_| _ = path.until_news());
    path.loss = 0;
    path.run(2 * MAX_PAUSE.as_secs());
    path.loss = 30;
    assert_eq!((path.until_news().1, path.until_news().1), (GsoNews::Tried, GsoNews::NotToBlame));
    let (pause, _) = path.until_news();
    assert!((120..130).contains(&pause), "{pause} s");
}

#[test]
fn a_connection_that_gets_nowhere_is_enough_evidence() {
    let mut path = Path::new(90, 0);
    (path.in_runs, path.alone) = (3, 1);
    let (seconds, news) = path.until_news();
    assert!(news == GsoNews::Tried && seconds <= 12, "{seconds} s");
    (path.in_runs, path.alone) = (500, 10);
    assert!(given_up(path.until_news().1));
}

#[test]
fn trains_that_get_nowhere_beside_many_small_frames_are_noticed() {
    let mut path = Path::new(90, 0);
    (path.in_runs, path.alone) = (20, 2000);
    assert_eq!(path.until_news().1, GsoNews::Tried, "1 % of all");
    (path.in_runs, path.alone) = (2000, 2000);
    assert!(given_up(path.until_news().1));
    let mut path = Path::new(0, 2);
    (path.in_runs, path.alone) = (20, 2000);
    assert_eq!(path.until_news().1, GsoNews::Tried, "that may be anything");
    (path.in_runs, path.alone) = (2000, 2000);
    assert_eq!(path.until_news().1, GsoNews::NotToBlame, "more trains make the part of them that is lost no smaller");
}

#[test]
fn an_idle_trial_and_an_idle_look_wait_for_traffic() {
    let mut path = Path::new(90, 0);
    assert_eq!(path.until_news().1, GsoNews::Tried);
    (path.in_runs, path.alone) = (0, 3);
    path.run(10_000);
    assert_eq!(path.news.len(), 1, "probes alone prove nothing");
    path.in_runs = 500;
    assert!(given_up(path.until_news().1));
    path.in_runs = 0;
    path.run(10_000);
    assert_eq!(path.news.len(), 2);
    path.in_runs = 500;
    assert_eq!((path.until_news().1, path.until_news().1), (GsoNews::LookedAgain, GsoNews::StillLost));
}

#[test]
fn moderate_loss_and_one_bad_moment_are_no_reason_for_a_trial() {
    let mut path = Path::new(9, 5);
    path.run(1000);
    path.loss = 0;
    path.joined_loss = 0;
    path.run(10);
    path.loss = 100;
    path.run(1);
    path.loss = 0;
    path.run(1000);
    assert_eq!(path.news, []);
}

#[test]
fn many_reports_at_once_are_one_step() {
    let mut path = Path::new(0, 50);
    for _ in 0..1000 {
        path.now -= Duration::from_secs(1);
        path.second();
    }
    assert_eq!(path.news, [], "no time has passed");
    path.run(4);
    assert_eq!(path.news, [GsoNews::Tried]);
}

#[test]
fn what_is_known_outlives_a_session_but_not_a_path() {
    let mut path = Path::new(90, 0);
    path.run(20);
    path.gso.on_new_session();
    path.report = LossReport::default();
    path.run(20);
    assert_eq!((path.gso.sends(), path.news.len()), (Sends::Apart, 2));
    path.gso.on_new_path();
    assert_eq!(path.gso, PathGso::default());
    assert_eq!(path.until_news().1, GsoNews::Tried, "there it is found out anew");
}

#[test]
fn a_session_for_each_step_hides_nothing_that_a_longer_one_would_show() {
    let mut path = Path::new(90, 0);
    for _ in 0..5 {
        path.gso.on_new_session();
        path.report = LossReport::default();
        path.run(4);
    }
    assert!(given_up(path.news[1]), "{:?}", path.news);
}

#[test]
fn reports_that_go_back_or_say_nonsense_are_ignored() {
    let mut path = Path::new(0, 0);
    path.run(3);
    let before = path.gso;
    let old = LossReport { due_count: 5, opened_count: 1 };
    assert_eq!(path.gso.on_report(old, path.run_count, path.now + STEP), None);
    assert_eq!(path.gso, before);
    for report in [(u64::MAX, 0), (u64::MAX, u64::MAX), (1 << 40, u64::MAX)] {
        let report = LossReport { due_count: report.0, opened_count: report.1 };
        for _ in 0..10 {
            path.now += STEP;
            path.run_count += 100;
            let _ = path.gso.on_report(report, path.run_count, path.now);
        }
    }
}
