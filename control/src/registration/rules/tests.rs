//! registrator's rules, one by one. The names are an API: a change here breaks somebody's templates.

use super::*;
use crate::{
    health::Probe,
    registration::facts::{Attachment, Binding},
};

struct Container(ContainerFacts);

/// A container of `image` on the overlay that exposes these ports.
fn container(name: &str, image: &str, ports: &[&str]) -> Container {
    Container(ContainerFacts {
        id: format!("{name:0<64}"),
        name: name.into(),
        image: image.into(),
        exposed: ports.iter().map(|port| port.parse().unwrap()).collect(),
        attachments: vec![Attachment {
            network: "bridge".into(),
            ips: vec!["10.32.0.2".parse().unwrap()],
            is_overlay: true,
        }],
        created: format!("2026-11-23T00:00:{:02}Z", name.len()),
        ..ContainerFacts::default()
    })
}

impl Container {
    fn env(mut self, entry: &str) -> Self {
        self.0.env.push(entry.into());
        self
    }

    fn label(mut self, key: &str, value: &str) -> Self {
        self.0.labels.insert(key.into(), value.into());
        self
    }

    fn publish(mut self, port: &str, ip: &str, host_port: u16) -> Self {
        let binding = Binding { ip: ip.parse().ok(), port: host_port };
        self.0.published.entry(port.parse().unwrap()).or_default().push(binding);
        self
    }

    fn off_the_overlay(mut self) -> Self {
        self.0.attachments.iter_mut().for_each(|attachment| attachment.is_overlay = false);
        self
    }

    fn all(self) -> Outcome {
        register("alpha", &[self.0])
    }

    /// Service, id, `ADDRESS:PORT`, tags of each instance.
    fn lines(self) -> Vec<String> {
        self.all().registered.iter().map(line).collect()
    }
}

fn line(registered: &Registered) -> String {
    let Definition { id, service, address, port, tags, .. } = &registered.definition;
    let address = address.map_or("host".into(), |address| address.to_string());
    format!("{service} {} {address}:{port} [{}]", id.0, tags.join("|"))
}

#[test]
fn an_image_with_one_port_gives_its_name() {
    for image in ["httpd", "httpd:2.4", "library/httpd", "reg:5000/team/httpd:2@sha256:00", "reg:5000/httpd"] {
        let lines = container("web", image, &["80"]).lines();
        assert_eq!(lines, ["httpd alpha:web:80 10.32.0.2:80 []"], "{image}");
    }
}

#[test]
fn several_ports_append_theirs_unless_the_name_is_of_the_port() {
    let lines = container("web", "team/apache", &["80", "443"]).lines();
    assert_eq!(lines, ["apache-443 alpha:web:443 10.32.0.2:443 []", "apache-80 alpha:web:80 10.32.0.2:80 []"]);
    let named = container("web", "x", &["80", "443"]).env("SERVICE_NAME=shop").env("SERVICE_443_NAME=secure");
    assert_eq!(named.lines(), ["secure alpha:web:443 10.32.0.2:443 []", "shop-80 alpha:web:80 10.32.0.2:80 []"]);
}

#[test]
fn the_article_finds_its_containers() {
    let article = || container("nodes_apache_1", "httpd", &["80"]).env("SERVICE_TAGS=production");
    assert_eq!(article().lines(), ["httpd alpha:nodes_apache_1:80 10.32.0.2:80 [production]"]);
    let corrected = article().env("SERVICE_80_NAME=apache-80").label(COMPOSE_SERVICE, "apache");
    assert_eq!(corrected.lines(), ["apache-80 alpha:nodes_apache_1:80 10.32.0.2:80 [production]"]);
}

#[test]
fn without_a_name_of_its_own_a_service_is_called_as_in_its_compose_or_swarm_file() {
    let compose = || container("shop-web-1", "shop-web", &["80"]).label(COMPOSE_SERVICE, "web");
    let outcome = compose().label(COMPOSE_PROJECT, "shop").all();
    assert_eq!(outcome.registered[0].definition.service, "web");
    assert_eq!(outcome.registered[0].definition.meta["compose-project"], "shop");
    assert_eq!(compose().env("SERVICE_NAME=front").all().registered[0].definition.service, "front");
    let swarm = container("shop_web.1.xyz", "nginx", &["80"]).label(SWARM_SERVICE, "shop_web");
    assert_eq!(swarm.all().registered[0].definition.service, "shop-web");
}

#[test]
fn udp_is_in_the_id_and_in_the_tags() {
    let lines = container("dns", "bind", &["53/udp"]).env("SERVICE_TAGS=b,a").lines();
    assert_eq!(lines, ["bind alpha:dns:53:udp 10.32.0.2:53 [b|a|udp]"]);
    // Both make a group.
    let both = container("dns", "bind", &["53", "53/udp"]).lines();
    assert_eq!(both, ["bind-53 alpha:dns:53 10.32.0.2:53 []", "bind-53 alpha:dns:53:udp 10.32.0.2:53 [udp]"]);
}

#[test]
fn what_shall_be_ignored_is_but_it_still_makes_a_group() {
    assert_eq!(container("web", "x", &["80"]).env("SERVICE_IGNORE=no").lines(), [""; 0]);
    assert_eq!(container("web", "x", &["80"]).env("SERVICE_IGNORE=").lines().len(), 1);
    let one = container("web", "x", &["80", "443"]).label("SERVICE_443_IGNORE", "1").lines();
    assert_eq!(one, ["x-80 alpha:web:80 10.32.0.2:80 []"]);
}

#[test]
fn a_script_in_the_container_is_told_of_the_port_that_the_container_has() {
    let command = |container: Container| {
        let outcome = container.env("SERVICE_CHECK_SCRIPT=$SERVICE_IP:$SERVICE_PORT").all();
        let Probe::Exec(exec) = &outcome.registered[0].definition.checks[0].probe else { panic!("no exec") };
        exec.command[2].clone()
    };
    let published = |ip| container("web", "x", &["80"]).off_the_overlay().publish("80/tcp", ip, 8080);
    assert_eq!(command(published("0.0.0.0")), "127.0.0.1:80");
    assert_eq!(command(published("192.0.2.1")), "127.0.0.1:80");
    assert_eq!(command(container("web", "x", &["80"])), "10.32.0.2:80");
}

#[test]
fn the_overlay_comes_before_published_ports_and_those_before_nothing() {
    let both = container("web", "x", &["80"]).publish("80/tcp", "0.0.0.0", 8080);
    assert_eq!(both.lines(), ["x alpha:web:80 10.32.0.2:80 []"]);
    let published = container("web", "x", &["80"]).off_the_overlay().publish("80/tcp", "0.0.0.0", 8080);
    assert_eq!(published.lines(), ["x alpha:web:80 host:8080 []"]);
    let at_one = container("web", "x", &[]).off_the_overlay().publish("80/tcp", "192.0.2.7", 8080);
    assert_eq!(at_one.lines(), ["x alpha:web:80 192.0.2.7:8080 []"]);
    let hidden = container("web", "x", &["80", "81"]).off_the_overlay().publish("80/tcp", "127.0.0.1", 8080).all();
    assert!(hidden.registered.is_empty() && hidden.notes[0].text.contains("not on the overlay"), "{hidden:?}");
    // Only what is reachable counts for the suffix.
    let half = container("web", "x", &["80", "81"]).off_the_overlay().publish("80/tcp", "::", 8080);
    assert_eq!(half.lines(), ["x alpha:web:80 host:8080 []"]);
}

#[test]
fn of_several_networks_the_overlay_is_taken_and_of_several_addresses_the_first_ipv4() {
    let mut several = container("web", "x", &["80"]);
    let attachment = |network: &str, ips: &[&str], is_overlay| Attachment {
        network: network.into(),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        is_overlay,
    };
    several.0.attachments = vec![
        attachment("a-other", &["172.18.0.2"], false),
        attachment("b-overlay", &["fd00::2", "10.32.0.9"], true),
        attachment("c-overlay", &["10.32.0.3"], true),
    ];
    assert_eq!(several.lines(), ["x alpha:web:80 10.32.0.9:80 []"]);
}

#[test]
fn in_the_hosts_network_it_answers_at_the_host() {
    let mut host = container("consul", "consul", &["8500", "8600/udp"]);
    host.0.network = Network::Host;
    host.0.attachments.clear();
    let lines = ["consul-8500 alpha:consul:8500 host:8500 []", "consul-8600 alpha:consul:8600:udp host:8600 [udp]"];
    assert_eq!(host.lines(), lines);
}

#[test]
fn in_the_network_of_another_container_it_answers_there() {
    let pod = container("pod", "pause", &[]);
    let mut inside = container("inside", "app", &["80"]);
    inside.0.attachments.clear();
    inside.0.network = Network::Container(pod.0.id.clone());
    let outcome = register("alpha", &[inside.0.clone(), pod.0]);
    assert_eq!(outcome.registered.iter().map(line).collect::<Vec<_>>(), ["app alpha:inside:80 10.32.0.2:80 []"]);
    let alone = register("alpha", &[inside.0]);
    assert!(alone.registered.is_empty() && alone.notes[0].text.contains("does not run"), "{alone:?}");
}

#[test]
fn of_two_that_claim_one_id_the_older_keeps_it_in_whatever_order_they_come() {
    let old = container("old", "x", &["80"]).env("SERVICE_ID=the-one").env("SERVICE_CHECK_TCP=1");
    let young = container("younger", "x", &["80"]).env("SERVICE_ID=the-one").env("SERVICE_CHECK_TCP=1");
    let thief = container("thief-of-ids", "x", &["80"]).env("SERVICE_ID=alpha:younger:80");
    let (old, young, thief) = (old.0, young.0, thief.0);
    let outcome = register("alpha", &[thief.clone(), young.clone(), old.clone()]);
    let ids: Vec<&str> = outcome.registered.iter().map(|each| each.definition.id.0.as_str()).collect();
    assert_eq!(ids, ["alpha:thief-of-ids:80", "alpha:younger:80", "the-one"]);
    assert!(outcome.registered[2].container.starts_with("old"));
    assert_eq!(outcome.registered[2].definition.checks[0].id.0, "service:the-one");
    assert_eq!(outcome.notes.len(), 2, "{:?}", outcome.notes);
    assert_eq!(register("alpha", &[old, thief, young]), outcome);
}

#[test]
fn of_two_containers_of_one_name_the_older_is_registered_and_the_other_noted() {
    let (old, mut young) = (container("web", "x", &["80"]).0, container("web", "x", &["80"]).env("SERVICE_ID=mine").0);
    (young.id, young.created) = ("younger".into(), format!("{}1", old.created));
    let outcome = register("alpha", &[young.clone(), old.clone()]);
    let registered: Vec<_> = outcome.registered.iter().map(|each| (&*each.definition.id.0, &each.container)).collect();
    assert_eq!(registered, [("alpha:web:80", &old.id)]);
    assert!(outcome.notes[0].text.contains("an older container has its name"), "{:?}", outcome.notes);
    assert_eq!(register("alpha", &[old, young]), outcome);
}

#[test]
fn one_id_for_several_ports_is_the_first_ones() {
    let outcome = container("web", "x", &["80", "443"]).env("SERVICE_ID=one").all();
    let ids: Vec<&str> = outcome.registered.iter().map(|each| each.definition.id.0.as_str()).collect();
    assert_eq!(ids, ["alpha:web:443", "one"]);
    assert_eq!(outcome.notes.len(), 1);
}

#[test]
fn a_name_that_dns_cannot_carry_is_mapped_and_the_mapping_shown() {
    let outcome = container("web", "team/my_app", &["80"]).all();
    let definition = &outcome.registered[0].definition;
    assert_eq!((definition.service.as_str(), definition.meta[ORIGINAL_NAME].as_str()), ("my-app", "my_app"));
    assert!(outcome.notes[0].text.contains("my_app"), "{:?}", outcome.notes);
}

#[test]
fn giants_are_cut_and_noted_and_never_too_large_for_the_catalogue() {
    let ports: Vec<String> = (1..=200).map(|port| port.to_string()).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let tags = (0..100).map(|index| index.to_string()).collect::<Vec<_>>().join(",");
    let giant = container("web", &"i".repeat(3000), &ports)
        .env(&format!("SERVICE_TAGS={tags},{}", "t".repeat(300)))
        .env(&format!("SERVICE_ID={}", "d".repeat(300)))
        .env(&format!("SERVICE_{}=x", "k".repeat(200)))
        .env(&format!("SERVICE_REGION={}", "v".repeat(600)));
    let outcome = giant.all();
    assert_eq!(outcome.registered.len(), MAX_PORTS);
    for registered in &outcome.registered {
        assert_eq!(registered.definition.check(), Ok(()));
    }
    assert!(outcome.notes.iter().any(|note| note.text.contains("200 ports")));
}

#[test]
fn a_weight_is_of_the_container_or_of_one_port_and_nonsense_is_noted_and_1() {
    let weights = |outcome: &Outcome| {
        let weights = outcome.registered.iter().map(|each| Weights::of_meta(&each.definition.meta));
        weights.map(|weights| (weights.passing, weights.warning)).collect::<Vec<_>>()
    };
    let both = container("web", "x", &["80", "443"]).env("SERVICE_WEIGHT=3").label("SERVICE_443_WEIGHT", "65535");
    let outcome = both.all();
    assert_eq!((weights(&outcome), outcome.notes), (vec![(65_535, 65_535), (3, 3)], vec![]));
    // registrator hands it on as metadata.
    assert_eq!(outcome.registered[1].definition.meta["weight"], "3");
    for text in ["0", "-1", "65536", "much"] {
        let outcome = container("web", "x", &["80", "443"]).env(&format!("SERVICE_WEIGHT={text}")).all();
        let line = format!("web: SERVICE_WEIGHT: {text} is no number from 1 to 65535; ignored, it is 1");
        let notes: Vec<String> = outcome.notes.iter().map(ToString::to_string).collect();
        assert_eq!((weights(&outcome), notes), (vec![(1, 1); 2], vec![line]));
    }
    // Crowds of metadata do not push it out.
    let mut crowd = container("web", "x", &["80"]).env("SERVICE_WEIGHT=5");
    for index in 0..100 {
        crowd = crowd.env(&format!("SERVICE_K{index}=v"));
    }
    let outcome = crowd.all();
    assert_eq!((weights(&outcome), outcome.registered[0].definition.meta.len()), (vec![(5, 5)], limits::MAX_META));
}

#[test]
fn dockers_own_check_is_taken_over() {
    for (state, health) in [
        (DockerHealthState::Starting, Health::Critical),
        (DockerHealthState::Healthy, Health::Passing),
        (DockerHealthState::Unhealthy, Health::Critical),
    ] {
        let mut ill = container("web", "x", &["80"]);
        ill.0.health = Some(DockerHealth { state, output: "ok".into() });
        let check = ill.all().registered.remove(0).health.unwrap();
        assert_eq!((check.health, check.kind.as_str(), check.id.0.as_str()), (health, "docker", "docker:alpha:web:80"));
    }
}

/// Docker takes names of any length.
#[test]
fn where_the_name_does_not_fit_an_id_the_containers_own_stands_for_it() {
    for name in ["n".repeat(300), "a\u{1}b".into()] {
        let mut container = container("web", "x", &["80"]);
        container.0.name = name;
        let outcome = container.all();
        let definition = &outcome.registered[0].definition;
        assert_eq!((definition.id.0.clone(), definition.check()), (format!("alpha:{:0<64}:80", "web"), Ok(())));
        assert!(outcome.notes.iter().any(|note| note.to_string().contains("its own id")), "{:?}", outcome.notes);
    }
}

proptest::proptest! {
    #[test]
    fn whatever_a_container_says_gives_what_the_catalogue_can_carry(
        env in proptest::collection::vec("(SERVICE_)?(80_)?(NAME|ID|TAGS|CHECK_HTTP|CHECK_TTL|\\PC{0,9})=?\\PC{0,300}", 0..20),
        label in "\\PC{0,99}",
    ) {
        let mut any = container("web", &label, &["80", "81/udp"]).label(COMPOSE_SERVICE, &label);
        any.0.env = env;
        let outcome = any.all();
        for registered in &outcome.registered {
            proptest::prop_assert_eq!(registered.definition.check(), Ok(()));
        }
        let ids: BTreeSet<_> = outcome.registered.iter().map(|each| &each.definition.id).collect();
        proptest::prop_assert_eq!(ids.len(), outcome.registered.len());
    }
}
