//! The end-to-end suites, in one program: two dozen programs would be compiled and linked with the lab one by one.
//!
//! INVARIANT: every test here is below `suites`, the word by which `make unit` leaves them out.

mod suites {
    mod article;
    mod bad_input;
    mod balancer;
    mod bridge_redirect;
    mod churn;
    mod congestion;
    mod consul_clients;
    mod consul_template;
    mod container_gso;
    mod demo;
    mod keys;
    mod lab_selftest;
    mod names;
    mod offload_matrix;
    mod on_the_wire;
    mod overload;
    mod queues;
    mod services;
    mod soak;
    mod survival;
    mod switch;
    mod switch_load;
    mod three_hosts;
    mod two_hosts;
    mod underlay_mtu;
}
