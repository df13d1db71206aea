//! Who owns an id, and what a client may do about it.

use super::*;
use crate::{
    health::{ExecProbe, Probe},
    registration::{definition::definition, facts::Attachment},
};

fn container(name: &str) -> ContainerFacts {
    ContainerFacts {
        id: format!("{name:0<64}"),
        name: name.into(),
        image: "httpd".into(),
        exposed: ["80".parse().unwrap()].into(),
        attachments: vec![Attachment {
            network: "bridge".into(),
            ips: vec!["10.32.0.2".parse().unwrap()],
            is_overlay: true,
        }],
        ..ContainerFacts::default()
    }
}

fn book() -> Book {
    Book::new("alpha", Clients::default())
}

fn request(book: &mut Book, request: &AgentRequest) -> Result<(), AgentError> {
    if let Some(plan) = book.plan(request)? {
        book.adopt(plan);
    }
    Ok(())
}

fn register(id: &str) -> AgentRequest {
    AgentRequest::Register(Box::new(definition(id, "web")))
}

fn ids(book: &Book) -> Vec<String> {
    book.instances(&|_| None).into_iter().map(|instance| instance.id.0).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "what the book asks for results has this form")]
fn passing(key: &CheckKey) -> Option<Check> {
    Some(Check {
        id: key.check.clone(),
        name: key.check.0.clone(),
        kind: "tcp".into(),
        health: Health::Passing,
        output: String::new(),
    })
}

#[test]
fn a_registrator_beside_us_doubles_nothing_and_leaves_no_ghost() {
    let mut book = book();
    // It was faster than our look at Docker.
    request(&mut book, &register("alpha:web:80")).unwrap();
    let plan = book.set_containers(&[container("web")]).unwrap();
    book.adopt(plan);
    assert_eq!(ids(&book), ["alpha:web:80"]);
    // It comes again, and what it wants to take away is not its own.
    request(&mut book, &register("alpha:web:80")).unwrap();
    let refused = request(&mut book, &AgentRequest::Deregister(InstanceId("alpha:web:80".into())));
    assert!(matches!(refused, Err(AgentError::Owned { owner, .. }) if owner == "container web000000000"));
    book.set_containers(&[]);
    assert_eq!(ids(&book), [""; 0]);
}

#[test]
fn a_file_keeps_its_id_and_the_other_is_noted() {
    let mut book = book();
    request(&mut book, &register("db")).unwrap();
    let files = Files { definitions: [("db.json".into(), vec![definition("db", "db")])].into(), notes: vec![] };
    book.set_files(files);
    assert_eq!(book.instances(&|_| None)[0].source, Source::File("db.json".into()));
    assert!(book.notes()[0].text.contains("file db.json also has this id"), "{:?}", book.notes());
    assert!(matches!(request(&mut book, &register("db")), Err(AgentError::Owned { .. })));
    book.set_files(Files::default());
    assert_eq!(book.instances(&|_| None)[0].source, Source::Api);
}

#[test]
fn what_clients_registered_is_read_back_and_an_unknown_one_is_refused() {
    let mut book = book();
    request(&mut book, &register("db")).unwrap();
    let stored = serde_json::to_string(&book.clients).unwrap();
    let mut again = Book::new("alpha", serde_json::from_str(&stored).unwrap());
    assert_eq!(ids(&again), ["db"]);
    request(&mut again, &AgentRequest::Deregister(InstanceId("db".into()))).unwrap();
    let refused = request(&mut again, &AgentRequest::Deregister(InstanceId("db".into())));
    assert_eq!(refused, Err(AgentError::UnknownInstance("db".into())));
    assert_eq!(ids(&again), [""; 0]);
}

#[test]
fn maintenance_takes_traffic_away_from_one_or_from_all() {
    let mut book = book();
    request(&mut book, &register("a")).unwrap();
    request(&mut book, &register("b")).unwrap();
    let mut set = |instance: Option<&str>, mode| {
        let instance = instance.map(|id| InstanceId(id.into()));
        request(&mut book, &AgentRequest::SetMaintenance { instance, mode }).unwrap();
        book.instances(&passing).iter().map(Instance::is_passing).collect::<Vec<_>>()
    };
    let on = || Maintenance::On { reason: "disk".into() };
    assert_eq!(set(Some("a"), on()), [false, true]);
    assert_eq!(set(None, on()), [false, false]);
    assert_eq!(set(Some("a"), Maintenance::Off), [false, false]);
    assert_eq!(set(None, Maintenance::Off), [true, true]);
}

#[test]
fn maintenance_of_what_has_gone_is_told_and_can_be_taken_back() {
    let mut book = book();
    book.set_containers(&[container("web")]);
    let set = |book: &mut Book, mode| {
        let instance = Some(InstanceId("alpha:web:80".into()));
        request(book, &AgentRequest::SetMaintenance { instance, mode })
    };
    set(&mut book, Maintenance::On { reason: "disk".into() }).unwrap();
    book.set_containers(&[]);
    let told = "alpha:web:80: in maintenance, and so is the next of this id; `weaved service maintenance alpha:web:80 --off` ends it";
    assert_eq!(book.notes().iter().map(ToString::to_string).collect::<Vec<_>>(), [told]);
    set(&mut book, Maintenance::Off).unwrap();
    assert_eq!(book.notes(), []);
    assert!(matches!(set(&mut book, Maintenance::Off), Err(AgentError::UnknownInstance(_))));
    book.set_containers(&[container("web")]);
    assert!(book.instances(&passing)[0].is_passing());
}

#[test]
fn a_check_of_the_node_is_a_check_of_all_its_services() {
    let mut book = book();
    let spec = Box::new(CheckSpec::new(CheckId("disk".into()), Probe::Ttl(std::time::Duration::from_secs(5))));
    request(&mut book, &AgentRequest::RegisterCheck { instance: None, spec: spec.clone() }).unwrap();
    assert_eq!(book.checks().len(), 1);
    request(&mut book, &register("a")).unwrap();
    assert_eq!(book.instances(&passing)[0].checks[0].id.0, "disk");
    let nowhere = AgentRequest::RegisterCheck { instance: Some(InstanceId("x".into())), spec };
    assert_eq!(request(&mut book, &nowhere), Err(AgentError::UnknownInstance("x".into())));
    request(&mut book, &AgentRequest::DeregisterCheck(CheckId("disk".into()))).unwrap();
    assert_eq!(book.checks().len(), 0);
}

#[test]
fn a_check_that_came_with_its_service_is_taken_away_by_its_id() {
    let mut book = book();
    let spec = |id: &str| CheckSpec::new(CheckId(id.into()), Probe::Tcp("a:1".into()));
    let with = |id: &str, checks: &[&str]| Definition {
        checks: checks.iter().map(|id| spec(id)).collect(),
        ..definition(id, "db")
    };
    for definition in [with("one", &["service:one"]), with("two", &["service:two:1", "service:two:2"])] {
        request(&mut book, &AgentRequest::Register(Box::new(definition))).unwrap();
    }
    let file = with("filed", &["service:filed"]);
    book.set_files(Files { definitions: [("f.json".into(), vec![file])].into(), notes: vec![] });
    let left = |book: &Book| book.checks().into_keys().map(|key| key.check.0).collect::<Vec<_>>();
    let mut take = |id: &str| request(&mut book, &AgentRequest::DeregisterCheck(CheckId(id.into())));
    take("service:one").unwrap();
    take("service:two:1").unwrap();
    assert_eq!(take("service:one"), Err(AgentError::UnknownCheck("service:one".into())));
    assert!(matches!(take("service:filed"), Err(AgentError::Owned { owner, .. }) if owner == "file f.json"));
    assert_eq!(left(&book), ["service:filed", "service:two:2"]);
    let stored = serde_json::to_string(&book.clients).unwrap();
    let again = Book::new("alpha", serde_json::from_str(&stored).unwrap());
    assert_eq!((ids(&again), left(&again)), (vec!["one".into(), "two".into()], vec!["service:two:2".into()]));
    request(&mut book, &AgentRequest::Register(Box::new(with("one", &["service:one"])))).unwrap();
    assert_eq!(left(&book), ["service:filed", "service:one", "service:two:2"]);
}

#[test]
fn a_check_apart_goes_before_one_of_a_service_with_the_same_id() {
    let mut book = book();
    let spec = CheckSpec::new(CheckId("alive".into()), Probe::Tcp("a:1".into()));
    let own = Definition { checks: vec![spec.clone()], ..definition("db", "db") };
    request(&mut book, &AgentRequest::Register(Box::new(own))).unwrap();
    request(&mut book, &AgentRequest::RegisterCheck { instance: None, spec: Box::new(spec) }).unwrap();
    for left in [1, 0] {
        request(&mut book, &AgentRequest::DeregisterCheck(CheckId("alive".into()))).unwrap();
        assert_eq!(book.checks().len(), left);
    }
}

#[test]
fn a_crowd_of_registrations_is_refused_at_the_bound() {
    let mut clients = Clients::default();
    for index in 0..MAX_REGISTERED {
        let definition = definition(&format!("s{index}"), "web");
        clients.services.insert(definition.id.clone(), definition);
    }
    let mut book = Book::new("alpha", clients);
    assert!(matches!(request(&mut book, &register("one-more")), Err(AgentError::Unusable(_))));
    request(&mut book, &register("s1")).unwrap();
}

fn command(id: &str) -> CheckSpec {
    CheckSpec::new(CheckId(id.into()), Probe::Exec(ExecProbe { container: "f00".into(), command: vec!["true".into()] }))
}

#[test]
fn a_check_by_a_command_is_not_taken_from_clients() {
    let mut book = book();
    let with_command = Definition { checks: vec![command("service:db")], ..definition("db", "db") };
    let refused = request(&mut book, &AgentRequest::Register(Box::new(with_command)));
    assert!(
        matches!(&refused, Err(AgentError::Unusable(line)) if line.contains("not taken from clients")),
        "{refused:?}"
    );
    let apart = AgentRequest::RegisterCheck { instance: None, spec: Box::new(command("up")) };
    assert!(matches!(request(&mut book, &apart), Err(AgentError::Unusable(_))));
    assert_eq!(book.checks().len(), 0);
}

#[test]
fn what_an_earlier_run_took_with_a_command_is_left_out() {
    let mut clients = Clients::default();
    let bad = Definition { checks: vec![command("service:bad")], ..definition("bad", "bad") };
    for definition in [definition("good", "good"), bad] {
        clients.services.insert(definition.id.clone(), definition);
    }
    let apart = [("of-bad", Some("bad"), Probe::Tcp("a:1".into())), ("of-node", None, command("x").probe)];
    for (id, instance, probe) in apart {
        let spec = CheckSpec::new(CheckId(id.into()), probe);
        let check = ClientCheck { instance: instance.map(|id| InstanceId(id.into())), spec };
        clients.checks.insert(CheckId(id.into()), check);
    }
    assert_eq!(clients.take_commands(), ["service bad", "check of-node"]);
    let book = Book::new("alpha", clients);
    assert_eq!(ids(&book), ["good"]);
    assert_eq!(book.checks().len(), 0);
    assert_eq!(book.clients.checks.len(), 0);
}

#[test]
fn names_of_checks_that_the_catalogue_cannot_carry_are_refused_from_clients() {
    let mut book = book();
    for (id, name) in [("x".repeat(256), "x".into()), ("x".into(), "ö".repeat(128))] {
        let spec = CheckSpec { name, ..CheckSpec::new(CheckId(id), Probe::Tcp("a:1".into())) };
        let apart = AgentRequest::RegisterCheck { instance: None, spec: Box::new(spec.clone()) };
        let own = Definition { checks: vec![spec], ..definition("db", "db") };
        for refused in [apart, AgentRequest::Register(Box::new(own))] {
            assert!(matches!(request(&mut book, &refused), Err(AgentError::Unusable(_))), "{refused:?}");
        }
    }
}

#[test]
fn whatever_checks_are_called_the_instances_are_announced() {
    let mut clients = Clients::default();
    let long = CheckSpec::new(CheckId("ö".repeat(200)), Probe::Tcp("a:1".into()));
    clients.checks.insert(long.id.clone(), ClientCheck { instance: None, spec: long });
    let mut book = Book::new("alpha", clients);
    // The ids of its checks have words in front of this.
    let id = "x".repeat(limits::MAX_NAME_BYTES);
    request(&mut book, &register(&id)).unwrap();
    let on = || Maintenance::On { reason: "disk".into() };
    request(&mut book, &AgentRequest::SetMaintenance { instance: Some(InstanceId(id)), mode: on() }).unwrap();
    let labels = [("SERVICE_ID".to_owned(), "y".repeat(250)), ("SERVICE_CHECK_TCP".to_owned(), "true".to_owned())];
    let health = crate::registration::facts::DockerHealth {
        state: crate::registration::facts::DockerHealthState::Healthy,
        output: String::new(),
    };
    book.set_containers(&[ContainerFacts { labels: labels.into(), health: Some(health), ..container("web") }]);
    let instances = book.instances(&passing);
    assert_eq!(instances.len(), 2);
    for instance in instances {
        assert!(instance.is_valid(), "{instance:?}");
        assert!(instance.checks.len() >= 2, "{instance:?}");
    }
}
