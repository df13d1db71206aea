//! The executable as its user meets it: exit codes, one clear line for each mistake, nothing changed by a refusal.
//!
//! Nothing here makes a network device; what does is in the end-to-end suite.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

/// A user and group without rights.
const NOBODY: &str = "65534";

/// A node's directories and the program.
struct Node {
    dir: tempfile::TempDir,
}

/// What a verb left behind.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Node {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn set_up(&self, mut command: Command) -> Command {
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("WEAVED_STATE_DIR", self.path("state")).env("WEAVED_RUN_DIR", self.path("run"));
        command
    }

    fn command(&self) -> Command {
        self.set_up(Command::new(env!("CARGO_BIN_EXE_weaved")))
    }

    fn weaved(&self, arguments: &[&str]) -> Ended {
        ended(&self.command().args(arguments).stdin(Stdio::null()).output().unwrap())
    }

    fn weaved_with_input(&self, arguments: &[&str], input: &str) -> Ended {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A verb that refuses its arguments does not read its input.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        ended(&child.wait_with_output().unwrap())
    }

    /// The same without any right.
    fn weaved_as_nobody(&self, arguments: &[&str]) -> Ended {
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let executable = self.path("weaved");
        fs::copy(env!("CARGO_BIN_EXE_weaved"), &executable).unwrap();
        let mut command = self.set_up(Command::new("setpriv"));
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--inh-caps=-all", &executable]);
        ended(&command.args(arguments).stdin(Stdio::null()).output().unwrap())
    }

    fn has_state(&self) -> bool {
        Path::new(&self.path("state")).exists()
    }
}

impl Ended {
    /// Exactly one line, for people, with these words.
    #[track_caller]
    fn refuses(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.starts_with("weaved: "), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word} is not in: {}", self.stderr);
        }
    }
}

fn ended(output: &Output) -> Ended {
    Ended {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout.clone()).unwrap(),
        stderr: String::from_utf8(output.stderr.clone()).unwrap(),
    }
}

/// 32 bytes of 7, as `weaved token` prints them.
fn token_of_a_cluster() -> String {
    weaved::state::token::encode(&weaved_api::ClusterSecret([7; 32])).to_string()
}

#[test]
fn verbs_that_need_the_daemon_say_that_it_does_not_run() {
    let node = Node::new();
    for arguments in [
        &["status"][..],
        &["status", "peers", "--json"],
        &["ps"],
        &["services"],
        &["services", "web"],
        &["watch", "services"],
        &["kv", "watch", "backend/"],
        &["connect", "127.0.0.1"],
        &["forget", "b"],
        &["expose"],
        &["hide"],
        &["docker-config", "--flags"],
        &["docker-config", "--install", "--daemon-json", &node.path("daemon.json")],
    ] {
        node.weaved(arguments).refuses(3, &["not running", "weaved launch"]);
    }
    assert!(!Path::new(&node.path("daemon.json")).exists());
}

#[test]
fn wrong_usage_is_told_in_one_line() {
    let node = Node::new();
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["status", "nonsense"],
        &["connect"],
        &["connect", "two words"],
        &["launch", "--port", "99999"],
        &["launch", "--range", "10.32.0.0"],
        &["launch", "--token-file", "a", "--password-file", "b"],
        &["docker-config", "--flags", "--install"],
        &["service", "register", "db", "--weight", "0"],
        &["service", "register", "db", "--weight=-1"],
        &["service", "register", "db", "--weight", "65536"],
        &["launch", "--no-such-option"],
        &["status", "--run-dir", &"x".repeat(100)],
    ] {
        node.weaved(arguments).refuses(2, &[]);
    }
    assert!(!node.has_state());
}

#[test]
fn a_missing_verb_is_asked_for_also_where_the_environment_says_something() {
    let node = Node::new();
    for (arguments, see) in [(&[][..], "`weaved --help`"), (&["kv"], "`weaved kv --help`")] {
        node.weaved(arguments).refuses(2, &["what should be done?", see]);
    }
}

#[test]
fn help_of_each_verb_has_an_example() {
    let node = Node::new();
    let all = node.weaved(&["--help"]);
    assert_eq!(all.code, 0);
    for verb in [
        "launch",
        "connect",
        "forget",
        "status",
        "ps",
        "services",
        "watch",
        "token",
        "docker-config",
        "expose",
        "hide",
        "upgrade",
        "stop",
        "reset",
    ] {
        assert!(all.stdout.contains(&format!("  {verb} ")), "{verb}");
        let help = node.weaved(&[verb, "--help"]);
        assert_eq!(help.code, 0);
        assert!(help.stdout.contains("Example") && help.stdout.contains(&format!("weaved {verb}")), "{}", help.stdout);
    }
    assert!(!all.stdout.contains("supervise"));
}

#[test]
fn a_peer_that_does_not_resolve_is_named_and_nothing_is_changed() {
    let node = Node::new();
    let token = token_of_a_cluster();
    let launch = node.weaved_with_input(&["launch", "--token-file", "-", "no-such-host.invalid"], &token);
    launch.refuses(1, &["no-such-host.invalid", "nothing was changed"]);
    assert!(!node.has_state());
}

#[test]
fn secrets_that_cannot_be_are_refused_and_never_repeated() {
    let node = Node::new();
    let mut typo = token_of_a_cluster();
    typo.replace_range(20..21, if &typo[20..21] == "a" { "b" } else { "a" });
    node.weaved_with_input(&["launch", "--token-file", "-", "127.0.0.1"], &typo).refuses(1, &["typing error"]);
    let short = node.weaved_with_input(&["launch", "--password-file", "-"], "hunter2");
    short.refuses(1, &["7 characters", "12"]);
    assert!(!short.stderr.contains("hunter2"));
    node.weaved(&["launch", "--token-file", &node.path("missing")]).refuses(1, &["missing"]);
    node.weaved(&["launch", "127.0.0.1"]).refuses(1, &["weaved launch --token-file t 127.0.0.1"]);
    let both = node.command().arg("launch").env("WEAVED_TOKEN", "a").env("WEAVED_PASSWORD", "b").output().unwrap();
    ended(&both).refuses(2, &["WEAVED_TOKEN", "WEAVED_PASSWORD"]);
    assert!(!node.has_state());
}

#[test]
fn a_launch_without_the_right_says_so_before_anything_else() {
    let node = Node::new();
    node.weaved_as_nobody(&["launch"]).refuses(1, &["CAP_NET_ADMIN", "sudo"]);
    assert!(!node.has_state());
}

#[test]
fn a_port_that_somebody_has_is_refused_by_number() {
    let node = Node::new();
    let holder = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    node.weaved(&["launch", "--port", &port]).refuses(1, &[&port, "--port"]);
    assert!(!node.has_state() && !Path::new(&node.path("run")).exists());
}

#[test]
fn a_damaged_state_file_is_named_and_left_alone() {
    let node = Node::new();
    fs::create_dir(node.path("state")).unwrap();
    let settings = node.path("state/settings.json");
    fs::write(&settings, "{\"weaved\":\"settings\"").unwrap();
    for verb in [&["launch"][..], &["reset"], &["control"]] {
        node.weaved(verb).refuses(1, &["settings.json", "damaged", "weaved reset --force"]);
    }
    assert_eq!(fs::read_to_string(&settings).unwrap(), "{\"weaved\":\"settings\"");
}

#[test]
fn a_state_directory_that_cannot_be_is_refused() {
    let node = Node::new();
    fs::write(node.path("state"), "a file").unwrap();
    node.weaved(&["launch", "--port", "46783"]).refuses(1, &["state"]);
    assert_eq!(fs::read_to_string(node.path("state")).unwrap(), "a file");
}

#[test]
fn stop_and_reset_of_nothing_are_done_already() {
    let node = Node::new();
    let stop = node.weaved(&["stop"]);
    assert_eq!((stop.code, stop.stdout.as_str()), (0, "weaved is not running\n"));
    for _ in 0..2 {
        assert_eq!(node.weaved(&["reset"]).code, 0);
    }
    assert!(!node.has_state() && !Path::new(&node.path("run")).exists());
}

/// What a host has in its state directory after it has met another one and was stopped.
fn stopped_member(node: &Node) {
    use weaved::{
        cluster::{Incarnation, Version},
        ipam::{Overlay, StoredIpam},
        launch::{Ask, Plan},
        node::{KnownPeer, Persisted},
        state::Store,
    };
    let store = Store::new(Path::new(&node.path("state")));
    let plan = Plan::make(&store, &Ask { host_name: "a".into(), ..Ask::default() }).unwrap();
    plan.save(&store).unwrap();
    let other = KnownPeer { id: weaved_api::PeerId([2; 32]), name: "b".into(), endpoints: Vec::new() };
    let met = Persisted {
        id: plan.identity.id,
        overlay: Overlay::new(plan.settings.range, plan.settings.slice_prefix).unwrap(),
        ipam: StoredIpam { ring: None, slice: None },
        version_floor: Version(0),
        incarnation: Incarnation(0),
        peers: vec![other],
    };
    store.save(&met).unwrap();
}

#[test]
fn a_host_that_others_count_on_does_not_leave_unheard_unless_it_is_forced_to() {
    let node = Node::new();
    stopped_member(&node);
    node.weaved(&["reset"])
        .refuses(1, &["weaved is not running, so nobody hears", "`weaved launch` first, or --force"]);
    assert!(Path::new(&node.path("state/node.json")).exists());
}

#[test]
fn a_token_needs_a_network() {
    Node::new().weaved(&["token"]).refuses(1, &["weaved launch"]);
}

#[test]
fn a_second_launch_is_refused_while_the_first_runs() {
    let node = Node::new();
    fs::create_dir(node.path("run")).unwrap();
    // This test's own process plays the supervisor.
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let began = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap();
    fs::write(node.path("run/supervisor.pid"), format!("{} {began}\n", std::process::id())).unwrap();
    node.weaved(&["launch"]).refuses(1, &["already running", &std::process::id().to_string(), "weaved status"]);
    assert!(!node.has_state());
}

#[test]
fn output_that_cannot_be_written_is_a_failure_and_a_reader_that_left_is_none() {
    let node = Node::new();
    stopped_member(&node);
    for arguments in [&["token"][..], &["version", "--json"], &["docker-config", "--systemd-unit"], &["--help"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ended = |stdout: Stdio| {
            let command = &mut node.command();
            ended(&command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).output().unwrap())
        };
        ended(full.into()).refuses(1, &["cannot write the output", "No space left"]);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let left = ended(writer.into());
        assert_eq!((left.code, left.stderr.as_str()), (0, ""), "{arguments:?}");
    }
}

#[test]
fn bash_completes_a_verb() {
    let node = Node::new();
    fs::write(node.path("completions"), node.weaved(&["completions", "bash"]).stdout).unwrap();
    let complete = |words: &str| {
        let last = words.split(' ').count() - 1;
        let script = format!(
            ". {}; COMP_WORDS=({words}); COMP_CWORD={last}; _weaved weaved \"${{COMP_WORDS[{last}]}}\" \"${{COMP_WORDS[{last}-1]}}\"; \
             echo ${{COMPREPLY[@]}}",
            node.path("completions")
        );
        ended(&Command::new("bash").args(["-c", &script]).output().unwrap()).stdout
    };
    assert_eq!(complete("weaved lau"), "launch\n");
    assert_eq!(complete("weaved docker-config --unin"), "--uninstall\n");
    assert_eq!(complete("weaved superv"), "\n", "it is not for people");
}

#[test]
fn a_report_says_what_it_can_and_no_secret() {
    let node = Node::new();
    let empty = node.weaved(&["report"]);
    assert!(empty.code == 0 && empty.stdout.contains("weaved is not running here"), "{}", empty.stdout);
    stopped_member(&node);
    fs::write(node.path("state/weaved.log"), "the last line\n").unwrap();
    let report = node.weaved(&["report"]).stdout;
    for word in [concat!("weaved ", env!("CARGO_PKG_VERSION")), "Linux", "\"slice_prefix\": 24", "the last line"] {
        assert!(report.contains(word), "{word}: {report}");
    }
    let token = node.weaved(&["token"]).stdout;
    assert!(token.len() > 40 && !report.contains(token.trim()));
}

#[test]
fn version_and_unit_need_nothing() {
    let node = Node::new();
    assert!(node.weaved(&["version"]).stdout.starts_with("weaved "));
    assert!(node.weaved(&["version", "--json"]).stdout.contains("\"api_version\""));
    assert!(node.weaved(&["docker-config", "--systemd-unit"]).stdout.contains("weaved launch --foreground"));
}
