//! `plenum-shim <launch|exec|socket>`: reads its request from descriptor 0, a socket. `try-ids` has arguments instead.
//! See the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("launch") => plenum_shim::launch::run(),
        Some("exec") => plenum_shim::exec::run_command(),
        Some("socket") => plenum_shim::exec::run_socket(),
        Some("try-ids") => plenum_shim::ids::run_trial(),
        Some("--version") => {
            println!("plenum-shim {} protocol {}", env!("CARGO_PKG_VERSION"), plenum_shim::wire::VERSION);
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!(
                "plenum-shim is started by the agent: plenum-shim <launch|exec|socket>, request on descriptor 0"
            );
            ExitCode::from(2)
        }
    }
}
