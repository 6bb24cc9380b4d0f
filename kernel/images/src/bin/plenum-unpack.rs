//! Unpacks one layer and nothing else, as `plenum unpack-layer` does; what the tests of this crate start. See `plenum_images::unpack::child`.

fn main() -> std::process::ExitCode {
    let order = std::env::args().next_back().unwrap_or_default();
    plenum_images::unpack::child::main(&order)
}
