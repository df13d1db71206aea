//! What of a file that was written or refused is still to be done, also by the next process.

use std::{fs, time::Duration};

use super::*;
use crate::template::command::CommandLine;

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A job as a new process has it. `DIR` in commands is the directory.
    fn job(&self, source: &str, check: Option<&str>, reload: Option<&str>) -> Job {
        let command = |text: &str| CommandLine::Shell(text.replace("DIR", self.dir.path().to_str().unwrap()));
        let template = Template {
            name: "t.j2".into(),
            source: source.into(),
            destination: self.dir.path().join("out"),
            mode: None,
            check: check.map(command),
            reload: reload.map(command),
            wait: Wait { min: Duration::ZERO, max: Duration::ZERO },
            command_timeout: Duration::from_secs(20),
        };
        Job::new(template, Instant::now())
    }

    fn touch(&self, name: &str) {
        fs::write(self.dir.path().join(name), "").unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn run(job: &mut Job) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(job.run(&Facts::new()))
}

#[test]
fn a_reload_that_a_killed_process_owed_is_done_by_the_next_one_and_once() {
    let lab = Lab::new();
    let reload = "test -e DIR/ready && echo x >> DIR/reloads";
    assert!(matches!(run(&mut lab.job("v", None, Some(reload))), Done::NotReloaded(_)));
    lab.touch("ready");
    let mut next = lab.job("v", None, Some(reload));
    assert_eq!((run(&mut next), run(&mut next)), (Done::Written, Done::Unchanged));
    assert_eq!(run(&mut lab.job("v", None, Some(reload))), Done::Unchanged);
    assert_eq!(lab.read("reloads"), "x\n");
    assert_eq!(lab.names(), ["out", "ready", "reloads"]);
}

#[test]
fn the_mark_is_there_before_the_file_changes_and_none_without_a_reload() {
    let lab = Lab::new();
    assert_eq!(run(&mut lab.job("v", None, None)), Done::Written);
    assert_eq!(lab.names(), ["out"]);
    // A folder in the place of the file: it cannot be renamed over.
    let lab = Lab::new();
    let mut job = lab.job("v", Some("mkdir DIR/out"), Some("true"));
    assert!(matches!(run(&mut job), Done::Kept(_)));
    assert_eq!(lab.names(), [".out.weaved-reload", "out"]);
}

#[test]
fn a_link_in_the_place_of_the_mark_is_not_followed() {
    let lab = Lab::new();
    std::os::unix::fs::symlink(lab.dir.path().join("elsewhere"), lab.dir.path().join(".out.weaved-reload")).unwrap();
    assert_eq!(run(&mut lab.job("v", None, Some("true"))), Done::Written);
    assert_eq!(lab.names(), ["out"]);
}

#[test]
fn what_has_failed_is_tried_again_at_growing_intervals_until_it_works() {
    let lab = Lab::new();
    let mut job = lab.job("v", Some("test -e DIR/ready"), Some("test -e DIR/running"));
    assert_eq!(job.retry(), None);
    let pauses: Vec<u64> = (0..6)
        .map(|_| {
            assert!(matches!(run(&mut job), Done::Kept(_)));
            job.retry().unwrap().max.as_secs()
        })
        .collect();
    assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
    // Another content begins anew.
    job.template.source = "w".into();
    assert!(matches!(run(&mut job), Done::Kept(_)));
    assert_eq!(job.retry().unwrap().min, limits::FIRST_RETRY);
    lab.touch("ready");
    assert!(matches!(run(&mut job), Done::NotReloaded(_)));
    assert!(job.retry().is_some());
    lab.touch("running");
    assert_eq!((run(&mut job), job.retry()), (Done::Written, None));
}

#[test]
fn what_only_other_data_helps_is_not_tried_again() {
    let lab = Lab::new();
    let mut job = lab.job("{{ key('k') }}", None, None);
    assert_eq!((run(&mut job), job.retry()), (Done::Incomplete, None));
    let mut job = lab.job("{{ nothing }}", None, None);
    assert!(matches!(run(&mut job), Done::Kept(_)));
    assert_eq!(job.retry(), None);
}

#[test]
fn a_retry_that_says_the_same_but_for_digits_is_no_news() {
    let lab = Lab::new();
    let mut job = lab.job("v", Some("echo [$$] line 7 >&2; exit 1"), None);
    let mut news = |reason: &str| {
        assert!(matches!(run(&mut job), Done::Kept(_)));
        job.complaint = Some("[12] line 7".into());
        job.is_news(reason)
    };
    assert!(news("[34] line 7"), "the first time");
    assert!(!news("[34] line 7"));
    assert!(news("[34] other line 7"));
}
