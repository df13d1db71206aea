//! `docs/article/README.md`, run as it is printed: every block of commands, on three hosts, with real Docker, Compose, consulate,
//! `HAProxy` and curl. Where a block is followed by what it prints, that is compared.
//!
//! What stands in for the reader's machine: `dockerd` is started with the flags that the page gives it, and the lab's own besides;
//! `consulate` runs on a Python that is newer than it knows; `httpd` is an image that answers with its colour.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use weaved_netns_tests::{Host, Lab, Output, Place, SOON, wait_for, wait_until};

/// A block of commands and what it must come to.
#[derive(Debug)]
struct Block {
    /// The words behind `sh`: hosts, and `eventually` or `fails`.
    words: Vec<String>,
    commands: String,
    printed: Option<String>,
}

fn page_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/article")
}

/// Where `make clients` has put consulate.
fn consulate() -> String {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../consul-clients/consulate/bin/python");
    assert!(dir.exists(), "{}: run `make clients`", dir.display());
    let shim = format!("{}/clients/with_old_json.py", env!("CARGO_MANIFEST_DIR"));
    format!("exec {} {shim} consulate.cli:main \"$@\"", dir.display())
}

/// The page's blocks in their order.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let text = lines.by_ref().take_while(|line| *line != "```").collect::<Vec<_>>().join("\n");
        let mut words = info.split(' ').map(str::to_owned);
        match words.next().as_deref() {
            Some("sh") => blocks.push(Block { words: words.collect(), commands: text, printed: None }),
            Some("text") => blocks.last_mut().expect("output stands behind commands").printed = Some(text),
            other => panic!("a block of kind {other:?}: commands are `sh HOSTS`, their output `text`"),
        }
    }
    blocks
}

/// The reader's three hosts.
struct Walk {
    hosts: BTreeMap<String, Arc<Host>>,
    // Last, so that it is dropped when the hosts are no longer used.
    _lab: Lab,
}

impl Walk {
    fn begin() -> Option<Self> {
        let mut lab = Lab::open("article")?;
        let hosts = ["a", "b", "c"].map(|name| (name.to_owned(), lab.host(name)));
        for (name, host) in &hosts {
            let (dir, programs) = (host.dir().join("article"), host.dir().join("programs"));
            fs::create_dir_all(&programs).expect("the lab's directory is ours");
            copy_dir(&page_dir(), &dir).expect("the page's files are there");
            let weaved = host.weaved().program().display();
            let named = format!("exec unshare --uts sh -c 'hostname {name} && exec \"$@\"' sh {weaved} \"$@\"");
            write_program(&programs, "weaved", &named);
            write_program(&programs, "consulate", &consulate());
            write_program(&programs, "dockerd", &format!("echo \"$@\" > {}/flags", programs.display()));
        }
        Some(Self { hosts: hosts.into(), _lab: lab })
    }

    fn run(&self, block: &Block) {
        let has = |word: &str| block.words.iter().any(|known| known == word);
        let hosts: Vec<&Arc<Host>> = block.words.iter().filter_map(|word| self.hosts.get(word)).collect();
        assert!(!hosts.is_empty(), "{block:?} names no host");
        for host in hosts {
            println!("{}$ {}", host.name(), block.commands.trim_end());
            if has("eventually") {
                wait_until(&format!("{block:?}"), SOON, || is_as_printed(&shell(host, &block.commands), block));
                continue;
            }
            let output = shell(host, &block.commands);
            println!("{}{}", output.stdout, output.stderr);
            assert_eq!(output.success(), !has("fails"), "{block:?}\n{output}");
            assert!(is_as_printed(&output, block), "{block:?}\n{output}");
            if block.commands.starts_with("dockerd ") {
                start_docker(host);
            }
        }
        // The page goes to the next step when the reader has typed it; a test is faster than that.
        if block.words.len() >= 3 && block.commands.contains("weaved launch") {
            self.hosts.values().for_each(|host| host.weaved().wait_for_peers(2));
        }
    }

    /// «Carry the file to the others by a way you trust.»
    fn carry_token(&self) {
        let token = self.hosts["a"].dir().join("article/token");
        for name in ["b", "c"] {
            fs::copy(&token, self.hosts[name].dir().join("article/token")).expect("the token was written");
        }
    }
}

fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for file in fs::read_dir(from)?.flatten() {
        fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}

fn write_program(dir: &Path, name: &str, line: &str) {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{line}\n")).expect("the lab's directory is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file was just written");
}

/// What a reader's shell does on this host.
fn shell(host: &Host, commands: &str) -> Output {
    let (dir, weaved) = (host.dir().display(), host.weaved());
    let path = std::env::var("PATH").unwrap_or_default();
    let environment = [
        format!("PATH={dir}/programs:{path}:/usr/sbin:/sbin"),
        format!("WEAVED_STATE_DIR={}", weaved.state_dir().display()),
        format!("WEAVED_RUN_DIR={}", weaved.run_dir().display()),
        format!("DOCKER_HOST=unix://{dir}/docker/docker.sock"),
        format!("DIR={dir}/article"),
    ];
    let environment: Vec<&str> = environment.iter().map(String::as_str).collect();
    let commands = format!("cd \"$DIR\"\n{commands}");
    host.run(&[&["env"], environment.as_slice(), &["sh", "-e", "-c", &commands]].concat())
}

fn is_as_printed(output: &Output, block: &Block) -> bool {
    let lines = |text: &str| text.trim().lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    block.printed.as_ref().is_none_or(|printed| lines(printed) == lines(&output.stdout))
}

/// The dockerd that was asked for, with the image that the page uses.
fn start_docker(host: &Host) {
    let flags = host.dir().join("programs/flags");
    let flags = wait_for("dockerd is called", SOON, || fs::read_to_string(&flags).ok());
    let flags: Vec<&str> = flags.split_whitespace().collect();
    assert!(flags.contains(&"--bridge=weave"), "{flags:?}");
    let docker = host.start_docker(&flags);
    docker.docker(&["create", "--name", "stand-in", "lab", "true"]).ok();
    let serve = r#"CMD ["sh", "-c", "echo $SERVICE_TAGS > /www/index.html && exec httpd -f -p 80 -h /www"]"#;
    docker.docker(&["commit", "--change", serve, "--change", "EXPOSE 80", "stand-in", "httpd"]).ok();
    docker.docker(&["rm", "stand-in"]).ok();
}

#[test]
fn the_article_runs_as_it_is_printed() {
    let Some(walk) = Walk::begin() else { return };
    let page = fs::read_to_string(page_dir().join("README.md")).unwrap();
    for block in blocks(&page) {
        walk.run(&block);
        if block.commands.contains("weaved token > token") {
            walk.carry_token();
        }
    }
    for host in walk.hosts.values() {
        wait_until("nothing of weaved is left", SOON, || host.weaved().processes().is_empty());
    }
}
