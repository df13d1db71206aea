//! What the HTTP library makes of a client's bytes behind the guard, beside what the scanner makes of them.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
};

use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Bytes, Incoming},
    header::{self, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncWrite as _, duplex},
    runtime::Runtime,
};
use weaved_api::balancer::ClientLimits;

use crate::balancer::{
    connection::{self, Client},
    forward,
    guard::Guarded,
    head::Scanner,
    headers,
};

/// Room for whatever is asked and answered.
const ROOM_BYTES: usize = 4 << 20;
/// More turns than any input takes.
const MAX_TURNS: usize = 1 << 16;

/// A request as the library has understood it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    is_chunked: bool,
    body_bytes: usize,
    is_whole: bool,
}

/// What the scanner says of the same bytes.
#[derive(Debug, Default)]
struct Scanned {
    /// Bytes behind each head, those of the message that is not whole too.
    bodies: Vec<usize>,
    /// How many of them are whole.
    whole_count: usize,
}

/// The library never begins a request where the scanner sees none, and never ends one elsewhere: what is smuggled past the one
/// would be a request to the other.
pub(super) fn assert_same_requests(bytes: &[u8]) {
    let limits = ClientLimits::default();
    if bytes.len() > limits.head_bytes as usize {
        return;
    }
    let expected = scan(bytes, limits);
    for cut in [bytes.len(), bytes.len() / 2] {
        let requests = serve(bytes, cut, limits);
        assert!(requests.len() <= expected.bodies.len(), "{requests:?} {expected:?}");
        let whole_count = requests.iter().take_while(|seen| seen.is_whole).count();
        assert!(whole_count <= expected.whole_count, "{requests:?} {expected:?}");
        for (seen, body_bytes) in requests.iter().zip(&expected.bodies).take(whole_count) {
            // Around chunks are their sizes.
            let is_same = if seen.is_chunked { seen.body_bytes < *body_bytes } else { seen.body_bytes == *body_bytes };
            assert!(is_same, "{seen:?} {expected:?}");
        }
    }
}

fn scan(bytes: &[u8], limits: ClientLimits) -> Scanned {
    let mut scanner = Scanner::new(limits.head_bytes as usize);
    let mut found = Scanned::default();
    for byte in bytes {
        let was_in_body = scanner.is_in_body();
        if scanner.scan(std::slice::from_ref(byte)).is_err() {
            break;
        }
        if was_in_body && let Some(body_bytes) = found.bodies.last_mut() {
            *body_bytes += 1;
        }
        if !was_in_body && (scanner.is_in_body() || scanner.is_between()) {
            found.bodies.push(0);
        }
        found.whole_count += usize::from(scanner.is_between());
    }
    found
}

/// As a connection of a client is served, with `cut` bytes first and the rest then. Nothing waits for the kernel, so it is
/// polled until it asks for no more.
fn serve(bytes: &[u8], cut: usize, limits: ClientLimits) -> Vec<Seen> {
    thread_local! {
        static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| {
        let _timers = runtime.enter();
        let client = connection::sample();
        let (mut far, near) = duplex(ROOM_BYTES);
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (list, asked) = (Arc::clone(&seen), Arc::clone(&client));
        let service = service_fn(move |request| see(request, Arc::clone(&list), Arc::clone(&asked)));
        let io = TokioIo::new(Guarded::new(near, false, limits, &client));
        let mut serving = Box::pin(connection::http1_builder(limits).serve_connection(io, service).with_upgrades());
        for piece in [&bytes[..cut], &bytes[cut..]] {
            let sent = Pin::new(&mut far).poll_write(&mut Context::from_waker(Waker::noop()), piece);
            assert!(matches!(sent, Poll::Ready(Ok(len)) if len == piece.len()) || piece.is_empty(), "there is room");
            if poll_until_idle(serving.as_mut()) {
                break;
            }
        }
        drop(serving);
        let seen = seen.lock().expect("nobody panicked");
        seen.clone()
    })
}

/// True when it has ended.
fn poll_until_idle(mut future: Pin<&mut impl Future>) -> bool {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    for _ in 0..MAX_TURNS {
        if !woken.0.swap(false, Relaxed) {
            return false;
        }
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            return true;
        }
    }
    panic!("it never comes to rest");
}

async fn see(
    request: Request<Incoming>,
    list: Arc<Mutex<Vec<Seen>>>,
    client: Arc<Client>,
) -> Result<Response<String>, Infallible> {
    assert_told(&request, &client);
    let is_tunnel = request.method() == Method::CONNECT;
    let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let place = {
        let mut list = list.lock().expect("nobody panicked");
        list.push(Seen { is_chunked, body_bytes: 0, is_whole: false });
        list.len() - 1
    };
    let mut body = request.into_body();
    let mut is_whole = true;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(frame) = frame else {
            is_whole = false;
            break;
        };
        let len = frame.data_ref().map_or(0, Bytes::len);
        list.lock().expect("nobody panicked")[place].body_bytes += len;
    }
    list.lock().expect("nobody panicked")[place].is_whole = is_whole;
    let mut response = Response::new(String::new());
    if is_tunnel {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    }
    Ok(response)
}

/// Whatever a client says, the backend hears of it what it is, and nothing that belongs to its connection.
fn assert_told(request: &Request<Incoming>, client: &Client) {
    let Ok(authority) = forward::authority(request) else { return };
    let _ = headers::upgrade_of(request.headers());
    let mut told = request.headers().clone();
    headers::prepare_request(&mut told, request.version(), authority.as_ref(), false, client.forwarded());
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE, header::EXPECT] {
        assert!(!told.contains_key(&name), "{name}: {told:?}");
    }
    let of = |name: &str| told.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>();
    assert_eq!(of("x-forwarded-for"), [b"192.0.2.1"]);
    assert_eq!(of("x-forwarded-proto"), [b"http"]);
    assert!(
        of("host").len() <= 1 && of("host").first().map(Vec::as_slice) == authority.as_ref().map(HeaderValue::as_bytes)
    );
}
