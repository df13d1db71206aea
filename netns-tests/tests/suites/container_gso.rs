//! Containers are asked for super-frames that leave in one send, whoever made them, and keep what is their own.

use weaved_netns_tests::{Container, Dockerd, Guest, Host, Lab, Place, SOON, traffic, wait_until};

/// What weaved asks for, as the kernel shows it.
const LIMIT: &str = " gso_max_size 63600 ";
/// What the kernel gives a new device.
const USUAL: &str = " gso_max_size 65536 ";

fn device(guest: &Guest) -> String {
    guest.ip(&["-d", "link", "show", "dev", "eth0"]).stdout
}

/// `eth0` of a real container, from inside its namespace.
fn device_of(host: &Host, docker: &Dockerd, container: &Container) -> String {
    let pid = docker.docker(&["inspect", "--format", "{{.State.Pid}}", &container.name()]).ok().stdout;
    let namespace = format!("--net=/proc/{}/ns/net", pid.trim());
    host.run(&["nsenter", &namespace, "ip", "-d", "link", "show", "dev", "eth0"]).ok().stdout
}

fn status_line(host: &Host) -> String {
    let screen = host.weaved().run(&["status", "dataplane"]).stdout;
    screen.lines().find(|line| line.starts_with("container-gso")).unwrap_or_default().to_owned()
}

#[test]
fn guests_and_containers_are_limited_when_they_come_and_their_own_smaller_limit_stays() {
    let Some(mut lab) = Lab::open("gso") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    lab.launch_cluster(&[&a, &b]);
    let guest = b.overlay_guest(2, 1500);
    wait_until("the guest is limited", SOON, || device(&guest).contains(LIMIT));

    let docker = a.start_weave_docker();
    let container = docker.idle_container("one");
    wait_until("the container is limited", SOON, || device_of(&a, &docker, &container).contains(LIMIT));
    traffic::check_tcp(&container, &guest, &guest.address().to_string(), 64 << 20);
    traffic::check_tcp(&guest, &container, &container.address().to_string(), 64 << 20);

    // Whoever sets another value later has the last word, also when weaved looks again.
    guest.ip(&["link", "set", "eth0", "gso_max_size", "20000"]);
    let other = b.overlay_guest(3, 1500);
    wait_until("the other guest is limited", SOON, || device(&other).contains(LIMIT));
    assert!(device(&guest).contains(" gso_max_size 20000 "), "{}", device(&guest));

    // A control process that starts anew finds all as it should be.
    b.weaved().run(&["stop"]).ok();
    b.weaved().launch(&[]);
    wait_until("status tells", SOON, || {
        status_line(&b)
            .ends_with("on (switch: auto): containers limited to 63600 bytes a frame: 0, below by themselves: 2")
    });
    assert_eq!((b.weaved().counter("container_gso_kept"), b.weaved().counter("container_gso_refused")), (2, 0));
    assert!(device(&guest).contains(" gso_max_size 20000 "), "{}", device(&guest));
    traffic::wait_for_ping(&guest, container.address());
}

#[test]
fn switched_off_containers_are_left_as_they_are() {
    let Some(mut lab) = Lab::open("gsooff") else { return };
    let a = lab.host("a");
    a.weaved().launch(&["--container-gso", "off"]);
    let guest = a.overlay_guest(2, 1500);
    wait_until("status tells", SOON, || status_line(&a).ends_with("off (switch: off): switched off"));
    assert!(device(&guest).contains(USUAL), "{}", device(&guest));
}
