//! The driver and the shim with real processes. This program is its own shim: the driver starts it again with
//! [`shim_entry`] as the only test.

mod damage;
mod expect;
mod faults;
mod jobs;
mod services;
mod site;
mod stops;

/// Becomes a shim where the driver has started this program as one; the placement's directory is the last argument.
#[test]
fn shim_entry() {
    let last = std::env::args_os().next_back().map(std::path::PathBuf::from).unwrap_or_default();
    let as_shim = std::env::args().nth(1).as_deref() == Some(site::SHIM_ARGS[0]) && last.join("order.json").exists();
    if as_shim {
        let code = tombolo_agent::shim::main(&last);
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
}
