//! What `cargo xtask bench drain` runs: prints the worst of so many histories as one line of JSON.

use tombolo_sim::{WORKLOADS, drain};

#[expect(clippy::print_stdout, reason = "it is a program, and this is its answer")]
fn main() {
    let seeds: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(20);
    let (mut placed, mut lost, mut doubled, mut undone) = (WORKLOADS, 0, 0, 0);
    let mut took: Vec<u64> = Vec::new();
    for seed in 0..seeds {
        match drain(seed) {
            Ok(drained) => {
                placed = placed.min(drained.placed);
                lost = lost.max(drained.lost);
                undone += drained.undone;
                took.push(drained.took.0);
            }
            Err(failure) => {
                doubled += 1;
                eprintln!("{failure}");
            }
        }
    }
    took.sort_unstable();
    let median = took.get(took.len() / 2).copied().unwrap_or(0);
    println!(
        r#"{{"workloads":{WORKLOADS},"placed":{placed},"lost":{lost},"failed":{doubled},"undone":{undone},"took_ms":{median}}}"#
    );
}
