//! The servers, the turns and the table.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use weaved_netns_tests::{Host, Lab, Part, Place, Process, SOON, wait_until};

use super::{Measured, Outcome, kv};

/// Services in the zone, with two instances each.
const NAMES: usize = 200;
/// A load and its start take no longer.
const SLACK: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Plan {
    /// Turns of each server
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// How long each turn is, in milliseconds
    #[arg(long, default_value_t = 2000)]
    millis: u64,
    /// Clients that wait for one key
    #[arg(long, default_value_t = 5000)]
    parked: usize,
}

/// One server's side of a row.
struct Side {
    name: &'static str,
    load: Vec<String>,
}

fn side(name: &'static str, load: &str) -> Side {
    Side { name, load: load.split(' ').map(str::to_owned).collect() }
}

pub(super) fn run(plan: &Plan) -> Outcome<()> {
    let Some(mut lab) = Lab::open_alone("bctl") else { return Ok(()) };
    let host = lab.host("a");
    let (_etcd, etcd_pid) = start_etcd(&host);
    host.weaved().launch(&["--no-docker"]);
    let _dnsmasq = start_dnsmasq(&host)?;
    fill_catalogue(&host)?;
    // Guarded keys are decided when the electorate of one has founded itself.
    wait_until("guarded keys can be set", SOON, || host.weaved().run(&["kv", "put", "backend/0", "x"]).success());

    let (weaved, etcd) = ("http 127.0.0.1:8500", "grpc 127.0.0.1:2379");
    let rows = [
        (
            "put",
            vec![
                side("etcd", &format!("{etcd} put bench/")),
                side("weaved, plain key", &format!("{weaved} put bench/")),
                side("weaved, guarded key", &format!("{weaved} put backend/")),
            ],
        ),
        ("get", vec![side("etcd", &format!("{etcd} get bench/")), side("weaved", &format!("{weaved} get bench/"))]),
        (
            "A of a service",
            vec![
                side("dnsmasq", &format!("dns 127.0.0.1:5353 names {NAMES}")),
                side("weaved", &format!("dns 127.0.0.1:8600 names {NAMES}")),
            ],
        ),
    ];
    println!("| row | server | per second | ratio | p50 | p99 | lost |\n|---|---|---|---|---|---|---|");
    for (row, sides) in rows {
        measure(row, &sides, plan, &host)?;
    }
    let control = host.weaved().pid(Part::Control).ok_or("control does not run")?;
    println!("\n| {} clients wait for one key | memory for each | woken within |\n|---|---|---|", plan.parked);
    park("etcd", etcd, etcd_pid, plan, &host)?;
    park("weaved", weaved, control, plan, &host)
}

/// All sides in turns, and a line for each.
fn measure(row: &str, sides: &[Side], plan: &Plan, host: &Host) -> Outcome<()> {
    let mut all: Vec<Vec<Measured>> = vec![Vec::new(); sides.len()];
    for _ in 0..plan.pairs {
        for (side, measured) in sides.iter().zip(&mut all) {
            measured.push(load(&side.load, plan, host)?);
        }
    }
    for (side, measured) in sides.iter().zip(&all) {
        let ratios = measured.iter().zip(&all[0]).map(|(ours, theirs)| ours.per_second / theirs.per_second);
        let mut ratios: Vec<f64> = ratios.collect();
        ratios.sort_by(f64::total_cmp);
        let middle = |pick: fn(&Measured) -> f64| {
            let mut values: Vec<f64> = measured.iter().map(pick).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let mut line = format!("| {row} | {} | {:.0} | ", side.name, middle(|each| each.per_second));
        let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
        write!(line, "{:.2} ({least:.2}-{most:.2}) | ", ratios[ratios.len() / 2])?;
        write!(line, "{:.0} us | {:.0} us | ", middle(|each| each.p50_us as f64), middle(|each| each.p99_us as f64))?;
        println!("{line}{} |", measured.iter().map(|each| each.lost).sum::<u64>());
    }
    Ok(())
}

/// `PROTOCOL ADDRESS KIND…` in the host's namespace.
fn load(words: &[String], plan: &Plan, host: &Host) -> Outcome<Measured> {
    let millis = plan.millis.to_string();
    let [protocol, address, kind @ ..] = words else {
        return Err("a load is a protocol, an address and a kind".into());
    };
    let kind: Vec<&str> = kind.iter().map(String::as_str).collect();
    let program = std::env::current_exe()?.display().to_string();
    let args = [&[program.as_str(), "load", protocol, address, "--millis", &millis], kind.as_slice()].concat();
    let output = host.run_within(Duration::from_millis(plan.millis) + SLACK, &args);
    if !output.success() {
        return Err(output.to_string().into());
    }
    Ok(serde_json::from_str(&output.stdout)?)
}

fn park(name: &str, words: &str, pid: i32, plan: &Plan, host: &Host) -> Outcome<()> {
    let (protocol, address) = words.split_once(' ').ok_or("a protocol and an address")?;
    let (program, clients) = (std::env::current_exe()?.display().to_string(), plan.parked.to_string());
    let before = resident_kib(pid)?;
    let mut waiting = host.spawn(&[&program, "load", protocol, address, "--clients", &clients, "park", "bench/0"]);
    waiting.wait_for_text("parked", SLACK);
    let each = (resident_kib(pid)?.saturating_sub(before)) as f64 / plan.parked as f64;
    // So many clients put each key once.
    let all = kv::KEYS.to_string();
    let change = [&program, "load", protocol, address, "--clients", &all, "--millis", "0", "put", "bench/"];
    host.run_within(SLACK, &change).ok();
    let output = waiting.finish(SLACK);
    let measured: Measured = serde_json::from_str(output.stdout.lines().last().unwrap_or_default())?;
    println!("| {name} | {each:.1} KiB | {:.0} ms |", measured.p99_us as f64 / 1000.0);
    Ok(())
}

fn resident_kib(pid: i32) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

fn start_etcd(host: &Host) -> (Process, i32) {
    let dir = host.dir().join("etcd").display().to_string();
    let (client, peer) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
    let etcd = host.spawn(&[
        "etcd",
        "--data-dir",
        &dir,
        "--listen-client-urls",
        client,
        "--advertise-client-urls",
        client,
        "--listen-peer-urls",
        peer,
        "--initial-advertise-peer-urls",
        peer,
        "--initial-cluster",
        &format!("default={peer}"),
    ]);
    wait_until("etcd answers", SOON, || host.run(&["etcdctl", "--endpoints", client, "get", "x"]).success());
    let pid = etcd.pid().cast_signed();
    (etcd, pid)
}

/// The same names and addresses as in our catalogue.
fn start_dnsmasq(host: &Host) -> Outcome<Process> {
    let mut hosts = String::new();
    for number in 0..NAMES {
        for instance in 0..2 {
            writeln!(hosts, "{} svc-{number}.service.consul", address(number, instance))?;
        }
    }
    let file = host.dir().join("hosts");
    fs::write(&file, hosts)?;
    let file = format!("--addn-hosts={}", file.display());
    let dnsmasq = host.spawn(&[
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        &file,
        "--port=5353",
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--cache-size=10000",
        "--user=root",
        "--pid-file=",
    ]);
    wait_until("dnsmasq answers", SOON, || {
        host.run(&["dig", "+short", "+tries=1", "@127.0.0.1", "-p", "5353", "svc-0.service.consul"])
            .stdout
            .contains("10.")
    });
    Ok(dnsmasq)
}

fn address(number: usize, instance: usize) -> String {
    format!("10.40.{number}.{}", instance + 1)
}

/// By a file, as an operator would: four hundred registrations one by one would take longer than the bench.
fn fill_catalogue(host: &Host) -> Outcome<()> {
    let service = |number: usize, instance: usize| {
        serde_json::json!({
            "id": format!("svc-{number}-{instance}"), "name": format!("svc-{number}"), "port": 80,
            "address": address(number, instance),
        })
    };
    let services: Vec<_> = (0..NAMES).flat_map(|number| [service(number, 0), service(number, 1)]).collect();
    let file = host.dir().join("services.json");
    fs::write(&file, serde_json::json!({"services": services}).to_string())?;
    register(host, &file);
    wait_until("names are answered", SOON, || {
        let last = format!("svc-{}.service.consul", NAMES - 1);
        host.run(&["dig", "+short", "+tries=1", "@127.0.0.1", "-p", "8600", &last]).stdout.lines().count() == 2
    });
    Ok(())
}

fn register(host: &Host, file: &Path) {
    host.weaved().run(&["service", "register", "--file", &file.display().to_string()]).ok();
}
