//! Bodies and files as they are really written.

use super::*;

fn probe_of(check: &str) -> Probe {
    let text = format!(r#"{{"name":"web","check":{check}}}"#);
    parse_service(&text).unwrap().checks.remove(0).probe
}

fn refusal(text: &str) -> String {
    parse_file(text).unwrap_err().to_string()
}

#[test]
fn consulates_lower_case_and_the_capitals_of_go_are_the_same() {
    let consulate = r#"{"name":"web","port":80,"address":"10.32.0.2","tags":["a","b"],"check":{"HTTP":"http://10.32.0.2/","interval":"10s"}}"#;
    let go = r#"{"Name":"web","Port":80,"Address":"10.32.0.2","Tags":["a","b"],"Check":{"HTTP":"http://10.32.0.2/","Interval":"10s","DeregisterCriticalServiceAfter":""}}"#;
    let parsed = parse_service(consulate).unwrap();
    assert_eq!(parse_service(go).unwrap(), parsed);
    assert_eq!((parsed.id.0.as_str(), parsed.port, parsed.tags.len()), ("web", 80, 2));
    assert_eq!(parsed.checks[0].id.0, "service:web");
    assert_eq!(parsed.checks[0].interval, Duration::from_secs(10));
}

#[test]
fn what_its_owner_has_named_keeps_its_case() {
    let parsed = parse_service(
        r#"{"Name":"web","META":{"Version":"1","Nested":"{\"Key\":1}"},"Check":{"http":"http://x/","Header":{"X-Token":["T"]}}}"#,
    );
    let parsed = parsed.unwrap();
    assert_eq!(parsed.meta["Version"], "1");
    assert_eq!(parsed.meta["Nested"], r#"{"Key":1}"#);
    let Probe::Http(http) = &parsed.checks[0].probe else { panic!("no http") };
    assert_eq!(http.headers, [("X-Token".to_owned(), "T".to_owned())]);
}

#[test]
fn a_file_holds_one_service_or_several() {
    let ids = |text: &str| parse_file(text).unwrap().into_iter().map(|each| each.id.0).collect::<Vec<_>>();
    assert_eq!(ids(r#"{"service":{"name":"a","id":"a1"}}"#), ["a1"]);
    assert_eq!(ids(r#"{"Services":[{"Name":"a"},{"Name":"b"}]}"#), ["a", "b"]);
    assert_eq!(ids(r#"{"name":"a","tags":null,"enable_tag_override":true}"#), ["a"]);
    assert_eq!(ids(r#"{"services":[]}"#), [""; 0]);
}

#[test]
fn every_kind_of_check_is_read_in_either_spelling() {
    assert_eq!(probe_of(r#"{"TCP":"127.0.0.1:80"}"#), Probe::Tcp("127.0.0.1:80".into()));
    assert_eq!(probe_of(r#"{"ttl":"15s"}"#), Probe::Ttl(Duration::from_secs(15)));
    let grpc = GrpcProbe { target: "127.0.0.1:1".into(), service: "shop".into(), tls: Some(Certificates::Unverified) };
    let snake = r#"{"grpc":"127.0.0.1:1/shop","grpc_use_tls":true,"tls_skip_verify":true}"#;
    assert_eq!(probe_of(snake), Probe::Grpc(grpc.clone()));
    assert_eq!(probe_of(r#"{"GRPC":"127.0.0.1:1/shop","GRPCUseTLS":true,"TLSSkipVerify":true}"#), Probe::Grpc(grpc));
    let exec = ExecProbe { container: "f00".into(), command: vec!["true".into()] };
    let file = r#"{"name":"web","check":{"docker_container_id":"f00","args":["true"]}}"#;
    assert_eq!(parse_file(file).unwrap()[0].checks[0].probe, Probe::Exec(exec));
}

#[test]
fn thresholds_count_what_comes_before_as_consul_does() {
    let parsed =
        parse_service(r#"{"name":"a","checks":[{"tcp":"a:1","failures_before_critical":2},{"tcp":"a:2"}]}"#).unwrap();
    assert_eq!((parsed.checks[0].fall, parsed.checks[1].fall), (3, 1));
    let ids: Vec<&str> = parsed.checks.iter().map(|check| check.id.0.as_str()).collect();
    assert_eq!(ids, ["service:a:1", "service:a:2"]);
}

#[test]
fn a_time_of_nothing_is_the_usual_one() {
    let parsed = parse_service(r#"{"name":"a","check":{"tcp":"a:1","interval":"0s","timeout":"0"}}"#).unwrap();
    let usual = CheckSpec::new(CheckId("x".into()), Probe::Tcp("a:1".into()));
    assert_eq!((parsed.checks[0].interval, parsed.checks[0].timeout), (usual.interval, usual.timeout));
}

#[test]
fn of_several_kinds_a_clients_first_one_counts() {
    assert_eq!(probe_of(r#"{"tcp":"a:1","ttl":"5s"}"#), Probe::Tcp("a:1".into()));
}

#[test]
fn a_timeout_beyond_the_bound_is_cut_to_it() {
    let timeout = |text: &str| {
        let text = format!(r#"{{"name":"a","check":{{"tcp":"a:1","timeout":"{text}"}}}}"#);
        parse_service(&text).unwrap().checks[0].timeout
    };
    assert_eq!((timeout("24h"), timeout("30s")), (MAX_TIMEOUT, Duration::from_secs(30)));
}

#[test]
fn errors_name_the_place_in_the_original() {
    assert_eq!(
        refusal("{\n  \"Service\": {\n    \"Name\": \"a\",\n    \"Port\": \"80\"\n  }\n}"),
        "line 4, column 16: invalid type: string \"80\", expected u16"
    );
    assert!(refusal("{\"service\":").starts_with("line 1, column 11: EOF"));
    assert!(refusal("").starts_with("line 1, column 0"));
    assert!(refusal(r#"{"Name":"a","NAME":"b"}"#).contains("duplicate field"));
}

#[test]
fn a_key_of_a_file_that_nobody_knows_is_named_with_its_place_and_the_nearest() {
    for (text, complaint) in [
        (
            "{\n  \"name\": \"a\",\n  \"prot\": 80\n}",
            "line 3, column 8: prot is no key of a service; did you mean \"port\"?",
        ),
        (
            r#"{"service":{"name":"a","tag":["x"]}}"#,
            "line 1, column 28: tag is no key of a service; did you mean \"tags\"?",
        ),
        (
            r#"{"services":[{"name":"a"},{"Name":"b","Adress":"10.0.0.1"}]}"#,
            "adress is no key of a service; did you mean \"address\"?",
        ),
        (
            r#"{"name":"a","check":{"tcp":"a:1","intervall":"5s"}}"#,
            "intervall is no key of a check; did you mean \"interval\"?",
        ),
        (
            r#"{"name":"a","checks":[{"http":"http://a/","header":{"Any":["x"]},"methode":"PUT"}]}"#,
            "did you mean \"method\"?",
        ),
        (r#"{"name":"a","weights":{"passin":2}}"#, "passin is no key of weights; did you mean \"passing\"?"),
        (r#"{"srevice":{"name":"a"}}"#, "srevice is no key of a service; did you mean \"service\"?"),
        (
            r#"{"service":{"name":"a"},"check":{"tcp":"a:1"}}"#,
            "check is no key of a file of services; known are service, services",
        ),
        (r#"{"name":"a","colour":"blue"}"#, "colour is no key of a service; known are id, name, tags, "),
    ] {
        assert!(refusal(text).contains(complaint), "{text}: {}", refusal(text));
    }
}

#[test]
fn what_clients_and_files_for_consul_have_beside_is_passed_over() {
    let client = r#"{"Name":"a","Prot":80,"Anything":{"X":[1]},"Check":{"TTL":"5s","Intervall":"5s"}}"#;
    assert_eq!(
        (parse_service(client).unwrap().port, parse_check(r#"{"Name":"c","TTL":"5s","Notez":1}"#).is_ok()),
        (0, true)
    );
    let file = r#"{"service":{"name":"a","port":80,"meta":{"anything":"x"},"EnableTagOverride":false,"enable_tag_override":true,
        "token":"t","tagged_addresses":{"lan":{"address":"10.0.0.1","port":1}},"connect":{"sidecar_service":{}},
        "check":{"tcp":"a:1","notes":"n","success_before_passing":2,"DeregisterCriticalServiceAfter":"1m"}}}"#;
    assert_eq!(parse_file(file).unwrap()[0].port, 80);
}

#[test]
fn an_id_that_a_file_has_twice_is_refused() {
    let twice = "two services have the id \"a\": give one of them another \"id\"";
    assert_eq!(refusal(r#"{"services":[{"name":"a"},{"name":"a","port":2}]}"#), twice);
    assert_eq!(refusal(r#"{"service":{"name":"a"},"services":[{"name":"b","id":"a"}]}"#), twice);
    assert!(parse_file(r#"{"services":[{"name":"a"},{"name":"a","id":"a2"}]}"#).is_ok());
    assert_eq!(
        refusal(r#"{"name":"a","checks":[{"id":"c","tcp":"a:1"},{"id":"c","tcp":"a:2"}]}"#),
        "two checks have the id c"
    );
}

#[test]
fn what_cannot_be_used_is_refused_with_the_reason() {
    for (text, word) in [
        ("{}", "no name"),
        (r#"{"name":"a","address":"host.example"}"#, "no IP address"),
        (r#"{"name":"a","port":65536}"#, "65536"),
        (r#"{"name":"a","check":{}}"#, "one of HTTP"),
        (r#"{"name":"a","check":{"script":"rm -rf /"}}"#, "on the host is not run"),
        (r#"{"name":"a","check":{"http":"ftp://x"}}"#, "http://"),
        (r#"{"name":"a","check":{"tcp":"x"}}"#, "HOST:PORT"),
        (r#"{"name":"a","check":{"grpc":"!!:80"}}"#, "HOST:PORT"),
        (r#"{"name":"a","check":{"tcp":"x:1","interval":"soon"}}"#, "Interval"),
        (r#"{"name":"a","check":{"tcp":"x:1","http":"http://x/"}}"#, "a check has http and tcp: make two of it"),
        (r#"{"name":"a","check":{"ttl":"5s","docker_container_id":"f","args":["true"]}}"#, "has ttl and args"),
        (r#"{"name":"a","check":{"ttl":"0s"}}"#, "one of HTTP"),
        (r#"{"name":"a","check":{"ttl":"5s","status":"fine"}}"#, "Status"),
        (r#"{"name":"a","weights":{"passing":0}}"#, "Weights: Passing is 0, and may be from 1 to 65535"),
        (r#"{"name":"a","weights":{"passing":65536}}"#, "Weights: Passing is 65536"),
        (r#"{"name":"a","weights":{"warning":-1}}"#, "Weights: Warning is -1, and may be from 0 to 65535"),
        (r#"{"name":"a","weights":{"passing":"much"}}"#, "expected i64"),
    ] {
        assert!(refusal(text).contains(word), "{text}: {}", refusal(text));
    }
}

#[test]
fn weights_are_read_and_one_that_is_left_out_is_1() {
    for (weights, passing, warning) in [
        ("null", 1, 1),
        ("{}", 1, 1),
        (r#"{"Passing":10,"Warning":2}"#, 10, 2),
        (r#"{"passing":65535}"#, 65_535, 1),
        (r#"{"PASSING":3,"WARNING":0}"#, 3, 0),
    ] {
        let parsed = parse_service(&format!(r#"{{"Name":"web","Meta":{{"a":"b"}},"Weights":{weights}}}"#)).unwrap();
        assert_eq!(Weights::of_meta(&parsed.meta), Weights { passing, warning }, "{weights}");
        assert_eq!(parsed.meta["a"], "b");
    }
}

#[test]
fn a_command_is_taken_from_files_and_not_from_clients() {
    for command in [
        r#""DockerContainerID":"f00","Args":["true"]"#,
        r#""docker_container_id":"f00","script_args":["true"]"#,
        r#""dockercontainerid":"f00","Script":"true","Shell":"/bin/sh""#,
    ] {
        let services = [
            format!(r#"{{"name":"web","check":{{{command}}}}}"#),
            format!(r#"{{"name":"web","checks":[{{"tcp":"a:1"}},{{{command}}}]}}"#),
        ];
        for text in services {
            let refused = parse_service(&text).unwrap_err().to_string();
            assert!(refused.starts_with("a check by a command is not taken from clients: "), "{text}: {refused}");
            assert!(parse_file(&text).is_ok(), "{text}");
        }
        let refused = parse_check(&format!(r#"{{"name":"up",{command}}}"#)).unwrap_err().to_string();
        assert!(refused.starts_with("a check by a command is not taken from clients: "), "{command}: {refused}");
    }
}

#[test]
fn a_check_apart_names_its_service_or_the_node() {
    let apart = parse_check(r#"{"Name":"disk","ServiceID":"web","TTL":"10s"}"#).unwrap();
    assert_eq!((apart.instance, apart.spec.id.0.as_str()), (Some(InstanceId("web".into())), "disk"));
    assert_eq!(parse_check(r#"{"ID":"d","Name":"disk","TTL":"10s"}"#).unwrap().instance, None);
    assert!(parse_check(r#"{"TTL":"10s"}"#).is_err());
}

proptest::proptest! {
    #[test]
    fn no_text_is_too_strange(text in "[{}\\[\\]\":,\\\\a-zA-Zä0-9 \n]{0,80}") {
        let _ = parse_file(&text);
    }
}
