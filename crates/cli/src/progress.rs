//! Bars for what takes more than a second: on stderr, and only where it is a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tombolo_api::stream::Progress;
use tombolo_core::resources;

use crate::render;

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

/// A bar as text: `[=====>    ] 34.1 MiB of 120 MiB, 11.2 MiB/s, 8 s left`.
pub fn line(progress: &Progress) -> String {
    const WIDTH: u64 = 20;
    let (done, total) = (progress.done_bytes, progress.total_bytes);
    let full = (u128::from(done.min(total)) * u128::from(WIDTH)).checked_div(u128::from(total)).unwrap_or(0) as usize;
    let rest = WIDTH as usize - full;
    format!("[{}{}] {}", "=".repeat(full), " ".repeat(rest), told(progress))
}

/// `34.1 MiB of 120 MiB, 11.2 MiB/s, 8 s left`: as much of it as is known.
pub fn told(progress: &Progress) -> String {
    let mut told = format!("{} of {}", resources::bytes(progress.done_bytes), resources::bytes(progress.total_bytes));
    if let Some(rate) = progress.bytes_per_s {
        told += &format!(", {}/s", resources::bytes(rate));
    }
    if let Some(left) = progress.left_ms {
        told += &format!(", {} left", render::span(left));
    }
    told
}

fn bar(template: &str) -> ProgressBar {
    let target = match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style = ProgressStyle::with_template(template).expect("the template is fixed");
    ProgressBar::with_draw_target(None, target).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_told() {
        let progress = |bytes_per_s, left_ms| Progress {
            what: "version 0123".to_owned(),
            done_bytes: 30 << 20,
            total_bytes: 120 << 20,
            bytes_per_s,
            left_ms,
        };
        assert_eq!(
            line(&progress(Some(11 << 20), Some(8_100))),
            "[=====               ] 30 MiB of 120 MiB, 11 MiB/s, 8.1 s left"
        );
        assert_eq!(told(&progress(Some(0), None)), "30 MiB of 120 MiB, 0 B/s");
        assert_eq!(told(&progress(None, None)), "30 MiB of 120 MiB");
        assert_eq!(line(&Progress::default()), "[                    ] 0 B of 0 B");
        let whole = Progress { done_bytes: u64::MAX, total_bytes: u64::MAX, ..Progress::default() };
        assert!(line(&whole).starts_with("[====================]"));
    }
}
