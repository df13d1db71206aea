//! One request: from the listener's rules to a backend and back.
//!
//! ```text
//! limits ─▶ route ─▶ colour in force ─▶ backend ─▶ idle connection, or a new one ─▶ answer
//!                        ▲                                      │ failed, and may be sent again
//!                        └──────────────────────────────────────┘
//! ```
//!
//! Sent again is what was not sent at all; and what has no body, an idempotent method (RFC 9110 §9.2.2) and no answer. Each attempt
//! asks anew which colour is in force, by the newest state.
//!
//! A request that gets no answer is a failure of the colour that had it last, and of each that it was taken from because of a failure; unless it
//! is the client that has failed, which says nothing of a colour or a backend.
//!
//! INVARIANT: nothing is sent twice that a backend may have acted upon, unless its method says that this is harmless.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    body::{Body, Incoming},
    header::{self, HeaderValue},
    http::{
        request::Parts,
        uri::{Authority, PathAndQuery, Scheme},
    },
    upgrade::OnUpgrade,
};
use weaved_api::balancer::{LONG_WAIT, Sticky};

use super::{
    access_log::Entry,
    asker::asker,
    backend::{self, Backend},
    body::{AnswerBody, Progress, RequestBody},
    connection::Client,
    flight::{Flight, Log, Place},
    group::{ColourCounts, Group, Wish},
    headers,
    limits::MAX_ATTEMPTS,
    pool::Upstream,
    refusal::Refusal,
    rules::{Rules, without_port},
    service::{NoGroup, Service},
    stream, wait,
};

/// What a request is about, besides itself.
struct Job<'a> {
    client: &'a Arc<Client>,
    service: &'a Arc<Service>,
    /// The colour that the request asks for.
    asked: Option<String>,
    /// What ties the client to a backend.
    hash: Option<u64>,
    mark: Option<u64>,
    progress: Option<Arc<Progress>>,
    started: Instant,
}

/// An attempt that gave no answer.
struct Failed {
    /// The request, if it was not sent.
    unsent: Option<Request<RequestBody>>,
    refusal: Refusal,
}

/// An answer and where it is from.
struct Answered {
    response: Response<Incoming>,
    upstream: Upstream,
    place: Place,
    /// It is its colour's failure, as far as its head says.
    has_failed: bool,
}

/// What has become of the attempts until now.
struct Lost {
    /// Whose failure it is, if a colour's.
    counts: Option<Arc<ColourCounts>>,
    refusal: Refusal,
}

impl Lost {
    fn count(&self, started: Instant) {
        if let Some(counts) = &self.counts {
            counts.on_answer(true, started.elapsed());
        }
    }
}

/// Answers a request, whatever it is.
pub(super) async fn handle(client: Arc<Client>, request: Request<Incoming>) -> Response<AnswerBody> {
    let started = Instant::now();
    let rules = client.slot.rules.load_full();
    let counters = &client.worker.counters;
    let is_http2 = request.version() == Version::HTTP_2;
    if is_http2 {
        counters.requests_http2.add();
    } else {
        counters.requests_http1.add();
    }
    let address = asker(client.address.ip(), request.headers(), &rules.listener.trust_forwarded);
    let mut log = begin_log(&client, address, &request, started);
    let outcome = forward(&client, &rules, address, request, started, &mut log).await;
    let mut answer = outcome.unwrap_or_else(|refusal| {
        let answer = refusal.answer(counters);
        if let Some(log) = &mut log {
            log.entry().status = refusal.status().as_u16();
        }
        answer
    });
    // What changes the protocol has a `Connection` of its own, and nothing comes behind it.
    if client.slot.is_closing() && !is_http2 && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

async fn forward(
    client: &Arc<Client>,
    rules: &Rules,
    address: IpAddr,
    mut request: Request<Incoming>,
    started: Instant,
    log: &mut Option<Log>,
) -> Result<Response<AnswerBody>, Refusal> {
    let limits = rules.listener.limits;
    let authority = authority(&request)?;
    let rate = limits.requests_per_second;
    if rate.is_some_and(|rate| !client.slot.rates.admits(address, rate, started)) {
        return Err(Refusal::RateLimited);
    }
    if content_length(request.headers()).is_some_and(|len| len > limits.body_bytes) {
        return Err(Refusal::BodyTooLong);
    }
    let host = authority.as_ref().and_then(|authority| authority.to_str().ok()).map_or("", without_port);
    let found = rules.find(host, request.uri().path(), request.headers());
    let (service, asked) = found.ok_or(Refusal::NoRoute)?;
    let (hash, mark) = ties(service, address, request.headers());
    let upgrade = headers::upgrade_of(request.headers()).filter(|_| request.version() == Version::HTTP_11);
    let upgrade = upgrade.map(|protocol| (protocol, hyper::upgrade::on(&mut request)));
    let request = outgoing(client, service, request, authority.as_ref(), limits.body_bytes, upgrade.as_ref())?;
    let progress = request.body().progress();
    let job = Job { client, service, asked, hash, mark, progress, started };
    if let Some(log) = log {
        log.entry().service.clone_from(&service.rule.name);
    }
    let answered = job.attempts(request, upgrade.is_none()).await?;
    job.finish(answered, upgrade.map(|(_, on_upgrade)| on_upgrade), log)
}

impl Job<'_> {
    /// Until somebody answers, or nobody is left.
    async fn attempts(&self, request: Request<RequestBody>, may_repeat: bool) -> Result<Answered, Refusal> {
        let attempts = (self.service.rule.retries as usize + 1).min(MAX_ATTEMPTS);
        let may_repeat = may_repeat && attempts > 1 && self.progress.is_none() && request.method().is_idempotent();
        let spare = may_repeat.then(|| head_of(&request));
        let mut tried = Vec::new();
        let mut next = Some(request);
        let mut lost: Option<Lost> = None;
        while let Some(request) = next.take() {
            let newest = if tried.is_empty() { None } else { self.client.slot.rules.load().newest(self.service) };
            let (group, backend) = match self.choose(newest.as_ref().unwrap_or(self.service), &tried) {
                Ok(chosen) => chosen,
                Err(nobody) => {
                    self.turn(&mut lost, nobody.counts.as_ref());
                    lost.get_or_insert(nobody);
                    break;
                }
            };
            self.turn(&mut lost, Some(&group.counts));
            if !tried.is_empty() {
                self.client.worker.counters.retries.add();
            }
            let mut place = Place::take(group, backend);
            // Sent again at the same colour, it goes on waiting.
            if lost.is_some() && self.started.elapsed() >= LONG_WAIT {
                place.waits_long();
            }
            match self.attempt(backend, request, &mut place).await {
                Ok((response, upstream)) => {
                    let has_failed = self.on_answer(group, backend, &response);
                    return Ok(Answered { response, upstream, place, has_failed });
                }
                Err(failed) => {
                    tried.push(backend.id);
                    if tried.len() < attempts {
                        next = failed.unsent.or_else(|| spare.as_ref().map(copy_of));
                    }
                    lost = Some(self.on_failure(group, backend, failed.refusal));
                }
            }
        }
        let lost = lost.expect("each attempt has an answer or is lost");
        lost.count(self.started);
        Err(lost.refusal)
    }

    /// Who gets it next.
    fn choose<'a>(&self, service: &'a Service, tried: &[u64]) -> Result<(&'a Arc<Group>, &'a Arc<Backend>), Lost> {
        let group = self.group(service).map_err(|NoGroup::Empty(colour)| Lost {
            // A preview's says nothing of what is live.
            counts: service.counts.get(&colour).filter(|_| self.asked.is_none()).cloned(),
            refusal: Refusal::NoBackend { service: service.rule.name.clone(), colour },
        })?;
        let wish = Wish { policy: service.rule.policy, hash: self.hash, mark: self.mark, tried };
        let backend = group.pick(wish, Instant::now()).ok_or_else(|| Lost {
            counts: Some(Arc::clone(&group.counts)),
            refusal: Refusal::BackendFailed { service: service.rule.name.clone() },
        })?;
        Ok((group, backend))
    }

    fn group<'a>(&self, service: &'a Service) -> Result<&'a Arc<Group>, NoGroup> {
        if self.asked.is_none()
            && let Some(group) = self.mark.and_then(|mark| service.group_of_mark(mark))
        {
            return Ok(group);
        }
        service.group(self.asked.as_deref(), self.hash.unwrap_or_else(rand::random))
    }

    /// It goes to this colour now: what another one has lost stays that one's failure, whatever comes.
    fn turn(&self, lost: &mut Option<Lost>, to: Option<&Arc<ColourCounts>>) {
        let is_same = |from: &Arc<ColourCounts>| to.is_some_and(|to| Arc::ptr_eq(from, to));
        if let Some(lost) = lost.take_if(|lost| lost.counts.as_ref().is_some_and(|from| !is_same(from))) {
            lost.count(self.started);
        }
    }

    /// Counts it; see [`Answered::has_failed`].
    fn on_answer(&self, group: &Group, backend: &Backend, response: &Response<Incoming>) -> bool {
        let has_failed = response.status().is_server_error() || headers::is_grpc_failure(response.headers());
        group.counts.on_answer(has_failed, self.started.elapsed());
        let is_unable = matches!(
            response.status(),
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        );
        if is_unable || headers::grpc_status(response.headers()) == Some(headers::GRPC_UNAVAILABLE) {
            self.on_backend_failure(group, backend);
        } else {
            backend.on_success();
        }
        has_failed
    }

    fn on_failure(&self, group: &Group, backend: &Backend, refusal: Refusal) -> Lost {
        if refusal.is_of_client() {
            return Lost { counts: None, refusal };
        }
        self.on_backend_failure(group, backend);
        let refusal = if backend.is_down() {
            Refusal::HostDown { service: self.service.rule.name.clone(), host: backend.key.host.clone() }
        } else {
            refusal
        };
        Lost { counts: Some(Arc::clone(&group.counts)), refusal }
    }

    fn on_backend_failure(&self, group: &Group, backend: &Backend) {
        let rule = &self.service.rule;
        if group.on_failure(backend, rule.ejection, Instant::now()) {
            self.client.worker.counters.ejections.add();
            tracing::info!(service = rule.name, backend = backend.key.instance, "left out for a while");
        }
    }

    /// Over an idle connection while there is one, else over a new one.
    async fn attempt(
        &self,
        backend: &Arc<Backend>,
        mut request: Request<RequestBody>,
        place: &mut Place,
    ) -> Result<(Response<Incoming>, Upstream), Failed> {
        let (pool, counters) = (&self.client.worker.pool, &self.client.worker.counters);
        let service = || self.service.rule.name.clone();
        while let Some(mut upstream) = pool.take(backend, Instant::now()) {
            counters.backend_reused.add();
            match self.send(&mut upstream, request, place).await {
                Ok(response) => return Ok((response, upstream)),
                // It was closed while it was idle.
                Err(Failed { unsent: Some(unsent), .. }) => request = unsent,
                Err(failed) => return Err(failed),
            }
        }
        counters.backend_connections.add();
        let connected = pool.connect(backend, Some(self.client.ends()), self.service.rule.timeouts.connect).await;
        let mut upstream = match connected {
            Ok(upstream) => upstream,
            Err(error) => {
                tracing::debug!(backend = backend.key.instance, %error, "cannot be reached");
                let refusal = match error.kind() {
                    std::io::ErrorKind::TimedOut => Refusal::BackendTimeout { service: service() },
                    _ => Refusal::BackendFailed { service: service() },
                };
                return Err(Failed { unsent: Some(request), refusal });
            }
        };
        let response = self.send(&mut upstream, request, place).await?;
        Ok((response, upstream))
    }

    async fn send(
        &self,
        upstream: &mut Upstream,
        request: Request<RequestBody>,
        place: &mut Place,
    ) -> Result<Response<Incoming>, Failed> {
        let service = || self.service.rule.name.clone();
        let (progress, patience) = (self.progress.as_deref(), self.service.rule.timeouts.response);
        match wait::for_answer(upstream.send(request), patience, progress, place).await {
            Some(Ok(response)) => Ok(response),
            Some(Err(unsent)) => {
                let of_client = progress.and_then(Progress::refusal);
                Err(Failed {
                    unsent,
                    refusal: of_client.unwrap_or_else(|| Refusal::BackendFailed { service: service() }),
                })
            }
            None => {
                let refusal = if progress.is_some_and(|progress| progress.is_awaited.load(Relaxed)) {
                    Refusal::BodyStalled
                } else {
                    upstream.doubt();
                    Refusal::BackendTimeout { service: service() }
                };
                Err(Failed { unsent: None, refusal })
            }
        }
    }

    fn finish(
        &self,
        answered: Answered,
        on_client: Option<OnUpgrade>,
        log: &mut Option<Log>,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let Answered { mut response, upstream, mut place, has_failed } = answered;
        let rule = &self.service.rule;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS && on_client.is_none() {
            return Err(Refusal::BackendFailed { service: rule.name.clone() });
        }
        let log = log.take().map(|mut log| {
            let entry = log.entry();
            entry.status = status.as_u16();
            entry.colour.clone_from(&place.counts.colour);
            entry.backend = format!("{}/{}", place.backend.key.host, place.backend.key.instance);
            log
        });
        if let Some(on_client) = on_client.filter(|_| status == StatusCode::SWITCHING_PROTOCOLS) {
            let on_backend = hyper::upgrade::on(&mut response);
            stream::upgrade(self.client, place, rule.timeouts.idle, on_client, on_backend, log);
            return Ok(switching(response));
        }
        let (mut parts, body) = response.into_parts();
        headers::strip_hop_by_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        if let Some(Sticky::Cookie(name)) = &rule.sticky
            && self.mark != Some(place.backend.mark)
        {
            let secure = if self.client.is_tls { "; Secure" } else { "" };
            let cookie = format!("{name}={:016x}; Path=/; HttpOnly; SameSite=Lax{secure}", place.backend.mark);
            if let Ok(cookie) = HeaderValue::try_from(cookie) {
                parts.headers.append(header::SET_COOKIE, cookie);
            }
        }
        let mut patience = rule.timeouts.idle;
        if !body.is_end_stream() && is_stream(&parts.headers) {
            place.becomes_stream();
            // Events come when there are some.
            patience = None;
        }
        let (client, active) = (Arc::clone(self.client), self.client.activity.begin());
        let flight = Flight::new(place, client, upstream, log, has_failed, active);
        Ok(Response::from_parts(parts, AnswerBody::passed(body, flight, patience)))
    }
}

/// The head of an answer that changes the protocol.
fn switching(response: Response<Incoming>) -> Response<AnswerBody> {
    let (mut parts, _) = response.into_parts();
    let protocol = parts.headers.get(header::UPGRADE).cloned();
    headers::strip_hop_by_hop(&mut parts.headers);
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        parts.headers.insert(header::UPGRADE, protocol);
    }
    Response::from_parts(parts, AnswerBody::empty())
}

/// Whether an answer is one that its server may keep open for as long as it likes.
fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(b"".as_slice(), HeaderValue::as_bytes);
    let begins_with =
        |wanted: &str| kind.get(..wanted.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(wanted.as_bytes()));
    begins_with("text/event-stream") || begins_with("application/grpc")
}

/// Whom the request is for: the host as the client wrote it.
pub(super) fn authority(request: &Request<Incoming>) -> Result<Option<HeaderValue>, Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::NoTunnels);
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::BadRequest("more than one Host"));
    }
    if host.is_some_and(|host| !host.as_bytes().iter().copied().all(is_host_byte)) {
        return Err(Refusal::BadRequest("no such host can be"));
    }
    match (request.uri().authority(), host) {
        // The target decides (RFC 9112 §3.2.2), also over HTTP/2.
        (Some(authority), _) if !authority.as_str().contains('@') => Ok(HeaderValue::from_str(authority.as_str()).ok()),
        (Some(_), _) => Err(Refusal::BadRequest("a user in the target")),
        (None, Some(host)) => Ok(Some(host.clone())),
        (None, None) if request.version() == Version::HTTP_10 => Ok(None),
        (None, None) => Err(Refusal::BadRequest("no Host")),
    }
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:[]~%!$&'()*+;=".contains(&byte)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The hash or the mark that chooses a client's backend.
fn ties(service: &Service, client: IpAddr, headers: &HeaderMap) -> (Option<u64>, Option<u64>) {
    match &service.rule.sticky {
        None => (None, None),
        Some(Sticky::Address) => {
            let hash = match client {
                IpAddr::V4(address) => backend::hash(address.octets()),
                IpAddr::V6(address) => backend::hash(address.octets()),
            };
            (Some(hash), None)
        }
        Some(Sticky::Header(name)) => {
            (headers.get(name).map(|value| backend::hash(value.as_bytes().iter().copied())), None)
        }
        Some(Sticky::Cookie(name)) => {
            (None, headers::cookie(headers, name).and_then(|value| u64::from_str_radix(value, 16).ok()))
        }
    }
}

/// The request as the backend gets it.
fn outgoing(
    client: &Client,
    service: &Service,
    request: Request<Incoming>,
    authority: Option<&HeaderValue>,
    body_limit: u64,
    upgrade: Option<&(HeaderValue, OnUpgrade)>,
) -> Result<Request<RequestBody>, Refusal> {
    let (mut parts, body) = request.into_parts();
    let to_http2 = service.rule.http2_backends;
    let forwarded = client.forwarded();
    headers::prepare_request(&mut parts.headers, parts.version, authority, to_http2, forwarded);
    if !headers::count_hop(&mut parts.headers) {
        return Err(Refusal::Loop { service: service.rule.name.clone() });
    }
    if let Some((protocol, _)) = upgrade {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, protocol.clone());
    }
    // Clients of HTTP/1.0 may say no host. Later versions want one, and the service's name is as good as any.
    let named = if authority.is_none() { HeaderValue::try_from(&service.rule.name).ok() } else { None };
    let host = authority.or(named.as_ref());
    if to_http2 {
        parts.version = Version::HTTP_2;
        parts.uri = absolute(parts.uri, host).ok_or(Refusal::BadRequest("a target that is no URI"))?;
    } else {
        become_http1(&mut parts, host, &body);
    }
    // The extensions are those of the connection that the request came on.
    parts.extensions.clear();
    Ok(Request::from_parts(parts, RequestBody::new(body, body_limit)))
}

fn become_http1(parts: &mut Parts, host: Option<&HeaderValue>, body: &Incoming) {
    parts.version = Version::HTTP_11;
    if let Some(host) = host {
        parts.headers.entry(header::HOST).or_insert_with(|| host.clone());
    }
    // With GET and HEAD the library sends no body of unknown length unless it is told to.
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if parts.uri.authority().is_some() {
        let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
    }
}

fn absolute(uri: Uri, authority: Option<&HeaderValue>) -> Option<Uri> {
    let mut parts = uri.into_parts();
    parts.scheme = Some(Scheme::HTTP);
    let authority = authority.and_then(|authority| Authority::try_from(authority.as_bytes()).ok());
    parts.authority = Some(authority.or(parts.authority)?);
    parts.path_and_query = parts.path_and_query.or(Some(PathAndQuery::from_static("/")));
    Uri::from_parts(parts).ok()
}

fn head_of(request: &Request<RequestBody>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    head
}

fn copy_of(head: &Request<()>) -> Request<RequestBody> {
    head.clone().map(|()| RequestBody::none())
}

fn begin_log(client: &Client, address: IpAddr, request: &Request<Incoming>, started: Instant) -> Option<Log> {
    let queue = client.slot.log.load_full()?;
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().authority().map(Authority::as_str).or(host).unwrap_or_default();
    let entry = Entry {
        method: request.method().to_string(),
        host: host.to_owned(),
        target: request.uri().path_and_query().map_or("*", PathAndQuery::as_str).to_owned(),
        version: match request.version() {
            Version::HTTP_2 => "HTTP/2.0",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        },
        ..Entry::new(address, started)
    };
    Some(Log::new(queue, entry, Arc::clone(&client.worker.counters)))
}
