//! `weaved template` as its user meets it: real files, real commands, a stand-in for the API, and the real `HAProxy` as judge of
//! what was rendered.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod template_support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use template_support::Stub;

/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/haproxy/haproxy.cfg.j2");
const ARTICLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/templates/article.cfg.j2");

/// Node, ID, address, tags.
type Instance<'a> = (&'a str, &'a str, &'a str, &'a [&'a str]);

struct Lab {
    dir: tempfile::TempDir,
    stub: Stub,
}

/// A running `weaved template`, ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Running {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.id().try_into().unwrap()).unwrap(), signal).unwrap();
    }
}

impl Lab {
    fn new(template: &str, rest: &str) -> Self {
        let lab = Self { dir: tempfile::tempdir().unwrap(), stub: Stub::start() };
        fs::write(lab.path("t.j2"), template).unwrap();
        lab.configure(rest);
        lab
    }

    fn configure(&self, rest: &str) {
        let rest = rest.replace("DIR", self.dir.path().to_str().unwrap());
        let config = format!("[[template]]\nsource = 't.j2'\ndestination = 'out'\nwait = {{ min = '10ms' }}\n{rest}\n");
        fs::write(self.path("c.toml"), config).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weaved"));
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("CONSUL_HTTP_ADDR", self.stub.url());
        command.args(["template", "-c"]).arg(self.path("c.toml")).args(arguments).stdin(Stdio::null());
        command
    }

    fn once(&self) -> Output {
        self.command(&["--once"]).output().unwrap()
    }

    fn watch(&self) -> Running {
        let log = fs::File::create(self.path("log")).unwrap();
        Running(self.command(&[]).stderr(log).spawn().unwrap())
    }

    fn await_that(&self, what: &str, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < PATIENCE, "{what}: out {:?}, log {}", self.read("out"), self.read("log"));
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn await_out(&self, expected: &str) {
        self.await_that(expected, || self.read("out") == expected);
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_change_of_a_key_is_checked_written_and_reloaded_and_no_change_does_nothing() {
    let rest = "check = 'cat {} >> DIR/checked'\nreload = 'echo reload >> DIR/reloads'";
    let lab = Lab::new("colour {{ key('backend/current') }}\n", rest);
    lab.stub.set_key("backend/current", "blue");
    let _running = lab.watch();
    lab.await_that("first reload", || lab.read("reloads") == "reload\n");
    assert_eq!(lab.read("out"), "colour blue\n");
    // The index moves three times for nothing, then the value changes.
    (0..3).for_each(|_| lab.stub.touch());
    lab.stub.set_key("backend/current", "green");
    lab.await_that("second reload", || lab.read("reloads") == "reload\nreload\n");
    assert_eq!(lab.read("out"), "colour green\n");
    assert_eq!(lab.read("checked"), "colour blue\ncolour green\n");
}

#[test]
fn queries_are_those_of_consul_template_and_are_parked() {
    let lab = Lab::new("{{ key('k') }}{% for i in service('web') %}{{ i.id }}{% endfor %}", "");
    lab.stub.set_key("k", "v");
    let _running = lab.watch();
    lab.await_out("v");
    lab.await_that("parked queries", || lab.stub.requests().len() >= 4);
    let requests = lab.stub.requests();
    assert!(requests.contains(&"/v1/kv/k?stale=&wait=60000ms".into()), "{requests:?}");
    assert!(requests.contains(&"/v1/health/service/web?stale=&passing=1&wait=60000ms&index=11".into()), "{requests:?}");
}

#[test]
fn a_check_that_refuses_keeps_the_old_file_and_says_why_once() {
    let lab = Lab::new(
        "{{ key('k') }}",
        "check = 'grep -q good {} || { echo not good >&2; exit 1; }'\nreload = 'echo x >> DIR/reloads'",
    );
    lab.stub.set_key("k", "good 1");
    let _running = lab.watch();
    lab.await_out("good 1");
    lab.stub.set_key("k", "bad");
    lab.await_that("the complaint", || lab.read("log").contains("not good"));
    assert_eq!(lab.read("out"), "good 1");
    lab.stub.set_key("k", "good 2");
    lab.await_out("good 2");
    lab.await_that("two reloads", || lab.read("reloads") == "x\nx\n");
    assert_eq!(lab.read("log").matches("the check refuses it").count(), 1);
}

#[test]
fn an_api_that_fails_keeps_the_file_and_is_told_once() {
    let lab = Lab::new("{{ key_or('k', 'none') }}", "");
    lab.stub.set_key("k", "one");
    let _running = lab.watch();
    lab.await_out("one");
    lab.stub.fail_with(Some(500));
    let count = lab.stub.requests().len();
    lab.await_that("more attempts", || lab.stub.requests().len() >= count + 3);
    assert_eq!(lab.read("out"), "one");
    lab.stub.fail_with(None);
    lab.stub.set_key("k", "two");
    lab.await_out("two");
    assert_eq!(lab.read("log").matches("files stay as they are").count(), 1, "{}", lab.read("log"));
    assert!(lab.read("log").contains("answers again"));
}

#[test]
fn hangup_reads_the_configuration_again_and_a_bad_one_changes_nothing() {
    let lab = Lab::new("{{ key('k') }}", "");
    lab.stub.set_key("k", "v");
    let mut running = lab.watch();
    lab.await_out("v");
    lab.configure("nonsense = 1");
    running.signal(Signal::HUP);
    lab.await_that("the complaint", || lab.read("log").contains("the old configuration stays"));
    fs::write(lab.path("t.j2"), "new {{ key('k') }}").unwrap();
    lab.configure("");
    running.signal(Signal::HUP);
    lab.await_out("new v");
    running.signal(Signal::TERM);
    assert!(running.0.wait().unwrap().success());
}

#[test]
fn a_reload_that_fails_is_owed_until_it_works() {
    let lab = Lab::new("{{ key('k') }}", "reload = 'test -e DIR/ready && echo x >> DIR/reloads'");
    lab.stub.set_key("k", "v");
    let _running = lab.watch();
    lab.await_that("the complaint", || lab.read("log").contains("reload failed"));
    assert_eq!(lab.read("out"), "v");
    fs::write(lab.path("ready"), "").unwrap();
    lab.await_that("the reload", || lab.read("reloads") == "x\n");
}

#[test]
fn a_check_that_fails_is_tried_again_without_a_change() {
    let lab = Lab::new("{{ key('k') }}", "check = 'test -e DIR/ready'");
    lab.stub.set_key("k", "v");
    let _running = lab.watch();
    lab.await_that("the complaint", || lab.read("log").contains("the check refuses it"));
    fs::write(lab.path("ready"), "").unwrap();
    lab.await_out("v");
}

#[test]
fn a_kill_before_the_reload_has_ended_is_made_good_by_the_next_start() {
    // It ends with the test at the latest.
    let slow = "reload = 'touch DIR/begun; while test -d DIR -a ! -e DIR/end; do sleep 0.1; done'";
    let lab = Lab::new("{{ key('k') }}", slow);
    lab.stub.set_key("k", "v");
    let running = lab.watch();
    lab.await_that("the reload", || lab.path("begun").exists());
    assert_eq!(lab.read("out"), "v");
    running.signal(Signal::KILL);
    drop(running);
    lab.configure("reload = 'echo x >> DIR/reloads'");
    for _ in 0..2 {
        assert!(lab.once().status.success());
        assert_eq!(lab.read("reloads"), "x\n");
    }
}

#[test]
fn once_says_what_is_wrong_by_its_exit_code_and_one_line() {
    let lab = Lab::new("line\n{{ key('backend/current') }}", "");
    fs::write(lab.path("out"), "old").unwrap();
    let refused = lab.once();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("t.j2:2:"), "{}", stderr(&refused));
    assert!(stderr(&refused).contains(r#"key "backend/current" is not set"#));
    assert_eq!(stderr(&refused).lines().count(), 1, "{}", stderr(&refused));
    lab.stub.fail_with(Some(503));
    let away = lab.once();
    assert_eq!(away.status.code(), Some(3), "{}", stderr(&away));
    assert_eq!(lab.read("out"), "old");
    lab.stub.fail_with(None);
    lab.stub.set_key("backend/current", "blue");
    let dry = lab.command(&["--dry"]).output().unwrap();
    assert!(String::from_utf8_lossy(&dry.stdout).contains("line\nblue"));
    assert_eq!(lab.read("out"), "old");
    assert!(lab.once().status.success());
    assert_eq!(lab.read("out"), "line\nblue");
}

/// Renders once in a given state, with `HAProxy` as the check.
fn render_for_haproxy(
    template: &str,
    service: &str,
    key: Option<&str>,
    instances: &[Instance<'_>],
) -> (Output, String) {
    let haproxy = ["/usr/sbin/haproxy", "/usr/bin/haproxy", "/usr/local/sbin/haproxy"];
    assert!(
        haproxy.iter().any(|path| Path::new(path).exists()),
        "this test needs HAProxy: `make deps`, or apt-get install haproxy"
    );
    let lab = Lab::new(&fs::read_to_string(template).unwrap(), "check = ['haproxy', '-c', '-f', '{}']");
    if let Some(value) = key {
        lab.stub.set_key("backend/current", value);
    }
    lab.stub.set_service(service, instances);
    let output = lab.once();
    (output, lab.read("out"))
}

const BLUE: Instance<'_> = ("h1", "h1:web_1:80", "10.32.0.2", &["production"]);
const GREEN: Instance<'_> = ("h2", "h2:web_2:80", "10.32.1.2", &["staging"]);

#[test]
fn the_example_is_valid_for_haproxy_in_every_state_and_serves_the_right_colour() {
    let nasty: Instance<'_> = ("h 3", "a b;c", "10.0.0.1", &["back end", "x/y", "production"]);
    let same_id: Instance<'_> = ("h2", "h1:web_1:80", "10.32.1.9", &["production"]);
    let v6: Instance<'_> = ("h4", "v6", "fd00::7", &["production"]);
    let untagged: Instance<'_> = ("h5", "plain", "10.0.0.5", &[]);
    let many: Vec<String> = (0..200).map(|number| format!("web_{number}")).collect();
    let many: Vec<Instance<'_>> = many.iter().map(|id| ("h1", id.as_str(), "10.32.0.2", BLUE.3)).collect();
    let states: &[(Option<&str>, &[Instance<'_>], &str)] = &[
        (None, &[], "nothing-passes"),
        (Some("production"), &[], "nothing-passes"),
        (None, &[BLUE, GREEN], "colour-production"),
        (None, &[GREEN], "nothing-passes"),
        (Some("production"), &[BLUE, GREEN], "colour-production"),
        (Some("staging"), &[BLUE, GREEN], "colour-staging"),
        (Some("staging"), &[BLUE], "colour-production"),
        (Some("stagin"), &[BLUE, GREEN], "colour-production"),
        (Some(""), &[BLUE], "colour-production"),
        (Some("a b\n  evil\n"), &[BLUE], "colour-production"),
        (Some("back end"), &[nasty], "colour-back_end"),
        (Some("production"), &[BLUE, same_id, v6, untagged, nasty], "colour-production"),
        (Some("production"), &[untagged], "nothing-passes"),
        (Some("production"), &many, "colour-production"),
    ];
    for (key, instances, expected) in states {
        let (output, file) = render_for_haproxy(EXAMPLE, "web", *key, instances);
        assert!(output.status.success(), "{key:?} {instances:?}: {}\n{file}", stderr(&output));
        assert!(file.contains(&format!("default_backend {expected}\n")), "{key:?} {instances:?}:\n{file}");
        assert!(!file.contains("evil"), "{file}");
    }
}

#[test]
fn the_article_s_template_works_where_it_can_and_is_refused_with_a_reason_where_it_cannot() {
    let instance: Instance<'_> = ("host1", "host1:nodes_apache_1:80", "10.0.0.2", &["production"]);
    let (valid, file) = render_for_haproxy(ARTICLE, "apache-80", Some("production"), &[instance]);
    assert!(valid.status.success(), "{}", stderr(&valid));
    assert!(file.contains("default_backend production\n"), "{file}");
    assert!(
        file.contains("backend production\n balance roundrobin\n server host1:nodes_apache_1:80 10.0.0.2:80\n"),
        "{file}"
    );

    let (unset, file) = render_for_haproxy(ARTICLE, "apache-80", None, &[instance]);
    assert_eq!((unset.status.code(), file.as_str()), (Some(1), ""));
    assert!(stderr(&unset).contains(r#"key "backend/current" is not set"#), "{}", stderr(&unset));

    let (empty, file) = render_for_haproxy(ARTICLE, "apache-80", Some("staging"), &[instance]);
    assert_eq!((empty.status.code(), file.as_str()), (Some(1), ""));
    assert!(stderr(&empty).contains("unable to find required default_backend: 'staging'"), "{}", stderr(&empty));
}
