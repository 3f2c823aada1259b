//! Bars for what takes more than a second: on stderr, and only where it is a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const TICK: Duration = Duration::from_millis(120);

/// A bar over bytes, hidden until the first of them.
pub fn bytes(what: &str) -> ProgressBar {
    let style = "{prefix:<14} {bar:30} {binary_bytes:>10} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta}";
    bar(style).with_prefix(what.to_owned())
}

/// Something that moves while nobody knows how long it takes.
pub fn spinner() -> ProgressBar {
    let bar = bar("{spinner} {msg}");
    bar.enable_steady_tick(TICK);
    bar
}

/// A bar as text: `[=====>    ] 34.1 MiB of 120 MiB`.
pub fn line(done: u64, total: u64) -> String {
    const WIDTH: u64 = 20;
    let full = (done.min(total) * WIDTH).checked_div(total).unwrap_or(0) as usize;
    let rest = WIDTH as usize - full;
    let bytes = tombolo_core::resources::bytes;
    format!("[{}{}] {} of {}", "=".repeat(full), " ".repeat(rest), bytes(done), bytes(total))
}

fn bar(template: &str) -> ProgressBar {
    let target = match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style = ProgressStyle::with_template(template).expect("the template is fixed");
    ProgressBar::with_draw_target(None, target).with_style(style)
}
