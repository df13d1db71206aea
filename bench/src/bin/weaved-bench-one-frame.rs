//! The tunnel of [`weaved_bench::one_frame`] as a program: `weaved-bench-one-frame TAP LISTEN PEER`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let parsed = match &args[..] {
        [tap, listen, peer] => listen.parse().ok().zip(peer.parse().ok()).map(|ends| (tap, ends)),
        _ => None,
    };
    let Some((tap, (listen, peer))) = parsed else {
        eprintln!("usage: weaved-bench-one-frame TAP LISTEN PEER, such as tap0 0.0.0.0:6790 192.0.2.1:6790");
        return ExitCode::from(2);
    };
    match weaved_bench::one_frame::run(tap, listen, peer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weaved-bench-one-frame: {error}");
            ExitCode::FAILURE
        }
    }
}
