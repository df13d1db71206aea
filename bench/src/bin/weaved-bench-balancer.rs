//! The balancer beside `haproxy`: the same backends, the same client, in turns (A B A B), ratios.
//!
//! ```text
//!   client (this process) ─▶ balancer │ haproxy (a process each, as many threads as processors) ─▶ backends (a process)
//! ```
//!
//! All of them share the processors, so the figures are not what a proxy can do but what is left for whoever else runs on the host;
//! the ratio is what counts. `--peer NAME=PROGRAM` takes another proxy in; it is called with its port, the backends' first and their number,
//! and listens as the balancer does, at least for HTTP.

#![expect(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^52")]

use std::{
    error::Error,
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use weaved_api::{
    Generation,
    balancer::{BalancedService, BalancerState, ClientLimits, Listener, ListenerProtocol, Route, Trust},
    gateway::{GatewayState, NamedHost, NamedInstance, Standing},
};
use weaved_gateway::balancer::Balancer;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Ports of the backends begin here.
const BACKEND_PORT: u16 = 21_000;
const BACKEND_COUNT: u16 = 100;
/// HTTP, HTTP with 100 backends, TCP; in this order.
const BALANCER_PORT: u16 = 20_100;
const HAPROXY_PORT: u16 = 20_200;
const PEER_PORT: u16 = 20_300;
/// Each is two descriptors of `haproxy`, and 20,000 are what a process often may have.
const IDLE_CONNECTIONS: usize = 9_800;
const SMALL: usize = 1 << 10;
const LARGE: usize = 1 << 20;

/// The balancer beside `haproxy`.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// How long each turn is.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Turns of each side in each row.
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// Connections of the client.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Only rows whose name has this in it.
    #[arg(long, default_value = "")]
    rows: String,
    /// One more proxy.
    #[arg(long, value_name = "NAME=PROGRAM")]
    peer: Option<String>,
}

#[derive(Clone, Copy, Subcommand)]
enum Role {
    /// Answer on the backends' ports.
    Backends,
    /// Balance, at this port and those behind it.
    Balancer {
        #[arg(default_value_t = BALANCER_PORT)]
        port: u16,
    },
}

/// What one turn has shown.
struct Turn {
    per_second: f64,
    p50: Duration,
    p99: Duration,
    p999: Duration,
    failed: usize,
}

struct Row {
    name: &'static str,
    /// Behind the side's first port.
    port: u16,
    path: &'static str,
    is_kept: bool,
}

const ROWS: [Row; 5] = [
    Row { name: "keep-alive, 1 KB", port: 0, path: "/1k", is_kept: true },
    Row { name: "new connections, 1 KB", port: 0, path: "/1k", is_kept: false },
    Row { name: "keep-alive, 1 MB", port: 0, path: "/1m", is_kept: true },
    Row { name: "TCP, 1 KB", port: 2, path: "/1k", is_kept: true },
    Row { name: "keep-alive, 1 KB, 100 backends", port: 1, path: "/1k", is_kept: true },
];

fn main() -> Outcome<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match args.role {
        Some(Role::Backends) => runtime.block_on(backends()),
        Some(Role::Balancer { port }) => runtime.block_on(balance(port)),
        None => runtime.block_on(compare(&args)),
    }
}

async fn backends() -> Outcome<()> {
    let answer = |len: usize| {
        let mut bytes =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\n\r\n").into_bytes();
        bytes.resize(bytes.len() + len, b'x');
        &*bytes.leak()
    };
    let (small, large): (&'static [u8], &'static [u8]) = (answer(SMALL), answer(LARGE));
    let mut serving = JoinSet::new();
    for port in BACKEND_PORT..BACKEND_PORT + BACKEND_COUNT {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        serving.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, small, large));
            }
        });
    }
    println!("ready");
    while serving.join_next().await.is_some() {}
    Ok(())
}

async fn serve(mut stream: TcpStream, small: &[u8], large: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 4096];
    let mut len = 0;
    loop {
        let more = stream.read(&mut buffer[len..]).await?;
        if more == 0 {
            return Ok(());
        }
        len += more;
        if buffer[..len].ends_with(b"\r\n\r\n") {
            let answer = if buffer.starts_with(b"GET /1m") { large } else { small };
            stream.write_all(answer).await?;
            len = 0;
        }
    }
}

fn state(port: u16) -> GatewayState {
    let instance = |service: &str, number: u16| NamedInstance {
        service: service.into(),
        id: format!("{service}{number}"),
        tags: vec![],
        colours: vec![],
        address: Some([127, 0, 0, 1].into()),
        port: BACKEND_PORT + number,
        host: 0,
        standing: Standing::Passing,
        weight: 1,
    };
    let listener = |number: u16, service: &str, protocol| Listener {
        name: service.into(),
        address: ([127, 0, 0, 1], port + number).into(),
        protocol,
        tls: None,
        accept_proxy: Trust::Nobody,
        trust_forwarded: Trust::Nobody,
        routes: vec![Route {
            host: None,
            path: None,
            header: None,
            service: service.into(),
            colour: None,
            colour_header: None,
        }],
        limits: ClientLimits { connections: 30_000, ..ClientLimits::default() },
        access_log: None,
    };
    let few = (0..2).map(|number| instance("few", number));
    let many = (0..BACKEND_COUNT).map(|number| instance("many", number));
    GatewayState {
        generation: Generation(1),
        zone: "weave.local".into(),
        host: "a".into(),
        listen: None,
        range: ipnet::Ipv4Net::default(),
        hosts: vec![NamedHost { name: "a".into(), address: None, standing: Standing::Passing, is_gone: false }],
        containers: vec![],
        instances: few.chain(many).collect(),
        balancer: BalancerState {
            listeners: vec![
                listener(0, "few", ListenerProtocol::Http),
                listener(1, "many", ListenerProtocol::Http),
                listener(2, "few", ListenerProtocol::Tcp),
            ],
            services: vec![BalancedService::plain("few"), BalancedService::plain("many")],
        },
    }
}

async fn balance(port: u16) -> Outcome<()> {
    let mut balancer = Balancer::start(None)?;
    balancer.apply(&state(port), Instant::now()).await;
    println!("ready");
    loop {
        balancer.wait().await;
        balancer.poll(Instant::now()).await;
    }
}

fn haproxy_config(threads: usize) -> String {
    let mut text = format!(
        "global\n  nbthread {threads}\n  maxconn 9900\ndefaults\n  mode http\n  timeout connect 3s\n  timeout client 1m\n  \
         timeout server 1m\n  option forwardfor\n  http-reuse always\n  balance roundrobin\n"
    );
    let servers = |count: u16| {
        (0..count).fold(String::new(), |mut text, number| {
            let _infallible = writeln!(text, "  server s{number} 127.0.0.1:{}", BACKEND_PORT + number);
            text
        })
    };
    for (number, mode, count) in [(0, "http", 2), (1, "http", BACKEND_COUNT), (2, "tcp", 2)] {
        let port = HAPROXY_PORT + number;
        let _infallible = write!(text, "listen l{number}\n  mode {mode}\n  bind 127.0.0.1:{port}\n{}", servers(count));
    }
    text
}

/// A process that is ended when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Running {
    fn own(role: &str) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?).arg(role).stdout(Stdio::piped()).spawn()?;
        let mut ready = [0; 6];
        child.stdout.as_mut().ok_or("no output")?.read_exact(&mut ready)?;
        Ok(Self(child))
    }

    fn haproxy() -> Outcome<Self> {
        let threads = std::thread::available_parallelism()?.get();
        let path = std::env::temp_dir().join(format!("weaved-bench-haproxy-{}.cfg", std::process::id()));
        fs::File::create(&path)?.write_all(haproxy_config(threads).as_bytes())?;
        let child = Command::new("haproxy").arg("-db").arg("-f").arg(&path).stderr(Stdio::null()).spawn()?;
        let running = Self(child).listening(HAPROXY_PORT).map_err(|_| "haproxy does not start (Debian: haproxy)")?;
        fs::remove_file(path)?;
        Ok(running)
    }

    fn peer(program: &str) -> Outcome<Self> {
        let arguments = [PEER_PORT, BACKEND_PORT, BACKEND_COUNT].map(|number| number.to_string());
        Self(Command::new(program).args(arguments).stderr(Stdio::null()).spawn()?).listening(PEER_PORT)
    }

    fn listening(self, port: u16) -> Outcome<Self> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > deadline {
                return Err(format!("nobody listens at port {port}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(self)
    }

    fn resident_kb(&self) -> Outcome<f64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

/// A proxy that is measured.
struct Side {
    name: String,
    port: u16,
    running: Running,
}

async fn compare(args: &Args) -> Outcome<()> {
    let _backends = Running::own("backends")?;
    let side = |name: &str, port, running| Side { name: name.to_owned(), port, running };
    let mut sides = vec![
        side("weaved", BALANCER_PORT, Running::own("balancer")?),
        side("haproxy", HAPROXY_PORT, Running::haproxy()?),
    ];
    if let Some(peer) = &args.peer {
        let (name, program) = peer.split_once('=').ok_or("--peer NAME=PROGRAM")?;
        sides.push(side(name, PEER_PORT, Running::peer(program)?));
    }
    let columns = |unit: &str| sides.iter().map(|side| format!("{}{unit}", side.name)).collect::<Vec<_>>().join(" | ");
    let ratios = sides[1..].iter().map(|side| format!("to {}", side.name)).collect::<Vec<_>>().join(" | ");
    println!("| row | {} | {ratios} | {} |", columns(", 1/s"), columns(" p50, p99, p99.9 ms"));
    println!("|{}", "---|".repeat(sides.len() * 3));
    for row in ROWS.iter().filter(|row| row.name.contains(&args.rows)) {
        compare_row(row, &sides, args).await?;
    }
    if "idle".contains(&args.rows) || args.rows.is_empty() {
        for Side { name, port, running } in &sides {
            let before = running.resident_kb()?;
            let held = hold(([127, 0, 0, 1], *port).into()).await?;
            let each = (running.resident_kb()? - before) * 1024.0 / held.len() as f64;
            println!("{name}: {each:.0} bytes for each of {} idle connections", held.len());
        }
    }
    Ok(())
}

/// Prints the row's line. A side that does not listen there has no figures.
async fn compare_row(row: &Row, sides: &[Side], args: &Args) -> Outcome<()> {
    let mut turns: Vec<Vec<Turn>> = sides.iter().map(|_| vec![]).collect();
    for _ in 0..args.pairs {
        for (turns, side) in turns.iter_mut().zip(sides) {
            let to = ([127, 0, 0, 1], side.port + row.port).into();
            if TcpStream::connect::<SocketAddr>(to).await.is_ok() {
                turns.push(turn(row, to, args).await?);
            }
        }
    }
    let middle: Vec<Option<Turn>> = turns.into_iter().map(median).collect();
    for (side, failed) in sides.iter().zip(&middle).filter_map(|(side, turn)| Some((side, turn.as_ref()?.failed))) {
        if failed > 0 {
            eprintln!("{}: {} failed {failed} times", row.name, side.name);
        }
    }
    let ours = middle[0].as_ref().ok_or("the balancer does not listen")?.per_second;
    let cells = |show: &dyn Fn(&Turn) -> String, from: usize| {
        let shown = middle[from..].iter().map(|turn| turn.as_ref().map_or("–".into(), show));
        shown.collect::<Vec<_>>().join(" | ")
    };
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let rates = cells(&|turn| format!("{:.0}", turn.per_second), 0);
    let ratios = cells(&|turn| format!("{:.2}", ours / turn.per_second), 1);
    let times = cells(&|turn| format!("{:.2}, {:.2}, {:.2}", ms(turn.p50), ms(turn.p99), ms(turn.p999)), 0);
    println!("| {} | {rates} | {ratios} | {times} |", row.name);
    Ok(())
}

/// The turn in the middle by rate.
fn median(mut turns: Vec<Turn>) -> Option<Turn> {
    turns.sort_by(|left, right| left.per_second.total_cmp(&right.per_second));
    (!turns.is_empty()).then(|| turns.swap_remove(turns.len() / 2))
}

async fn hold(to: SocketAddr) -> Outcome<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(IDLE_CONNECTIONS);
    for _ in 0..IDLE_CONNECTIONS {
        let mut stream = TcpStream::connect(to).await?;
        exchange(&mut stream, &request("/1k"), &mut vec![0; 8192]).await?;
        held.push(stream);
    }
    Ok(held)
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: bench.example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n").into_bytes()
}

async fn turn(row: &Row, to: SocketAddr, args: &Args) -> Outcome<Turn> {
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut clients = JoinSet::new();
    for _ in 0..args.connections {
        let (request, is_kept) = (request(row.path), row.is_kept);
        clients.spawn(async move { client(to, &request, is_kept, end).await });
    }
    let (mut times, mut failed) = (Vec::new(), 0);
    while let Some(client) = clients.join_next().await {
        let (some, broken) = client?;
        times.extend(some);
        failed += broken;
    }
    times.sort_unstable();
    let at = |per_mille: usize| times[(times.len() - 1) * per_mille / 1000];
    if times.is_empty() {
        return Err(format!("{}: no answer at all", row.name).into());
    }
    let per_second = times.len() as f64 / args.seconds as f64;
    Ok(Turn { per_second, p50: at(500), p99: at(990), p999: at(999), failed })
}

async fn client(to: SocketAddr, request: &[u8], is_kept: bool, end: Instant) -> (Vec<Duration>, usize) {
    let (mut times, mut failed, mut kept) = (Vec::new(), 0, None);
    let mut buffer = vec![0; 256 * 1024];
    while Instant::now() < end && failed < 100 {
        let began = Instant::now();
        let outcome = async {
            let mut stream = if let Some(stream) = kept.take() { stream } else { open(to).await? };
            exchange(&mut stream, request, &mut buffer).await?;
            std::io::Result::Ok(stream)
        };
        match outcome.await {
            Ok(stream) => {
                times.push(began.elapsed());
                kept = is_kept.then_some(stream);
            }
            Err(_) => failed += 1,
        }
    }
    (times, failed)
}

async fn open(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request and its whole answer.
async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> std::io::Result<()> {
    let broken = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    stream.write_all(request).await?;
    let mut len = 0;
    let (head, body) = loop {
        let more = stream.read(&mut buffer[len..]).await?;
        if more == 0 {
            return Err(broken());
        }
        len += more;
        if let Some(end) = buffer[..len].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break (&buffer[..end], len - end - 4);
        }
    };
    let head = std::str::from_utf8(head).map_err(|_| broken())?;
    let value = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    let wanted: usize = value.and_then(|value| value.parse().ok()).ok_or_else(broken)?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(broken());
    }
    let mut left = wanted.checked_sub(body).ok_or_else(broken)?;
    while left > 0 {
        match stream.read(buffer).await? {
            0 => return Err(broken()),
            more => left = left.checked_sub(more).ok_or_else(broken)?,
        }
    }
    Ok(())
}
