//! Whose containers are ours, a Docker that is not there, and one whose event stream breaks.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use super::*;

fn watching() -> Watch {
    let range = "10.32.0.0/12".parse().unwrap();
    Watch {
        choice: DockerChoice::Usual,
        bridge: "weave".into(),
        range,
        relist_every: RELIST_INTERVAL,
        no_socket: NoSocket::Unknown,
    }
}

fn network(name: &str, bridge: &str) -> Network {
    let json = serde_json::json!({
        "Name": name,
        "Options": {BRIDGE_OPTION: bridge},
        "IPAM": {"Config": [{"Subnet": "10.32.0.0/12", "IPRange": "10.32.3.0/24", "Gateway": "10.32.3.1"}]},
    });
    serde_json::from_value(json).unwrap()
}

fn summary(network: &str, ip: &str) -> ContainerSummary {
    let json = serde_json::json!({
        "Id": "0123456789abcdef",
        "Names": ["/web"],
        "NetworkSettings": {"Networks": {network: {"MacAddress": "02:42:0a:20:03:02", "IPAddress": ip}}},
    });
    serde_json::from_value(json).unwrap()
}

#[test]
fn a_container_on_a_network_of_our_bridge_is_ours() {
    let ours = network("bridge", "weave");
    assert!(watching().is_on_our_bridge(&ours));
    assert_eq!(fixed_cidr(&ours).as_deref(), Some("10.32.3.0/24"));
    let container = watching().container(&summary("bridge", "10.32.3.2"), &[&ours]).unwrap();
    assert_eq!((container.name.as_str(), container.mac.to_string().as_str()), ("web", "02:42:0a:20:03:02"));
    assert_eq!(container.ips, ["10.32.3.2".parse::<IpAddr>().unwrap()]);
}

#[test]
fn containers_elsewhere_or_without_an_overlay_address_are_not() {
    let ours = network("bridge", "weave");
    assert!(!watching().is_on_our_bridge(&network("bridge", "docker0")));
    assert_eq!(watching().container(&summary("host", "10.32.3.2"), &[&ours]), None);
    assert_eq!(watching().container(&summary("bridge", "172.17.0.2"), &[&ours]), None);
    assert_eq!(watching().container(&summary("bridge", ""), &[&ours]), None);
}

#[tokio::test]
async fn a_docker_that_is_not_there_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let choice = DockerChoice::Host(format!("unix://{}/docker.sock", dir.path().display()));
    let (sender, mut seen) = mpsc::channel(8);
    let listeners = Listeners { seen: sender, facts: watch::Sender::new(None) };
    let task = tokio::spawn(Watch { choice, ..watching() }.run(listeners));
    let first = seen.recv().await.unwrap();
    assert!(matches!(first, Seen { state: DockerState::Absent { .. }, containers: None }));
    task.abort();
}

#[tokio::test]
async fn a_docker_without_a_socket_runs_nothing_unless_it_may_be_restarting() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let facts_with = async |no_socket| {
        let choice = DockerChoice::Host(format!("unix://{}", socket.display()));
        let (sender, mut seen) = mpsc::channel(8);
        let listeners = Listeners { seen: sender, facts: watch::Sender::new(None) };
        let facts = listeners.facts.subscribe();
        let task = tokio::spawn(Watch { choice, no_socket, ..watching() }.run(listeners));
        assert!(seen.recv().await.is_some());
        task.abort();
        facts.borrow().clone()
    };
    assert_eq!(facts_with(NoSocket::NoContainers).await, Some(vec![]));
    assert_eq!(facts_with(NoSocket::Unknown).await, None);
    // Nobody answers there, but somebody may.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert_eq!(facts_with(NoSocket::NoContainers).await, None);
}

#[tokio::test]
async fn a_docker_elsewhere_is_refused_with_the_reason() {
    let elsewhere = Watch { choice: DockerChoice::Host("tcp://192.0.2.1:2375".into()), ..watching() };
    assert!(elsewhere.connect().await.unwrap_err().contains("unix://PATH"));
}

/// Answers like a Docker without containers. Its event stream tells one event and breaks.
async fn stand_in(listener: UnixListener, asked: mpsc::Sender<String>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer_one(stream, asked.clone()));
    }
}

async fn answer_one(mut stream: UnixStream, asked: mpsc::Sender<String>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let path = String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned();
    let body = match &path {
        path if path.contains("/version") => r#"{"Version":"20.10.0","ApiVersion":"1.41"}"#,
        path if path.contains("/events") => r#"{"Type":"container","Action":"die","timeNano":1700000000023456789}"#,
        _ => "[]",
    };
    if path.contains("/events") {
        asked.send(path).await.unwrap();
    }
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn what_happens_while_the_event_stream_is_broken_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let (asked, mut questions) = mpsc::channel(8);
    let docker = tokio::spawn(stand_in(UnixListener::bind(&socket).unwrap(), asked));
    let choice = DockerChoice::Host(format!("unix://{}", socket.display()));
    let (sender, _seen) = mpsc::channel(8);
    let begin = now_nanos();
    let listeners = Listeners { seen: sender, facts: watch::Sender::new(None) };
    let watching = tokio::spawn(Watch { choice, ..watching() }.run(listeners));
    let mut since = async || {
        let question = questions.recv().await.unwrap();
        question.split(['?', '&']).find_map(|part| part.strip_prefix("since=")).unwrap_or_default().to_owned()
    };
    // Nothing of what was before; all from the first list on.
    let first: u64 = since().await.replace('.', "").parse().unwrap();
    assert!((begin..=now_nanos()).contains(&first), "{first}");
    assert_eq!(since().await, "1700000000.023456790", "just behind the last one");
    watching.abort();
    docker.abort();
}
