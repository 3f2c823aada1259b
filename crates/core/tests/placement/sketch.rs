//! Sketches against the sets that they stand for.

use crate::chunks::{Chunks, chunk, chunks, sketch};
use proptest::prelude::*;
use tombolo_core::sketch::{SAMPLE_MAX, Sampled, Sketch};

fn bytes(chunks: &Chunks) -> u64 {
    chunks.values().map(|bytes| u64::from(*bytes)).sum()
}

fn exactly_missing(version: &Chunks, held: &[Chunks]) -> u64 {
    let lacks = version.iter().filter(|(hash, _)| !held.iter().any(|held| held.contains_key(hash)));
    lacks.map(|(_, bytes)| u64::from(*bytes)).sum()
}

fn estimated(version: &Chunks, held: &[Chunks]) -> u64 {
    let sketches: Vec<Sketch> = held.iter().map(sketch).collect();
    sketch(version).missing(&sketches.iter().collect::<Vec<_>>())
}

/// The error as a share of the version's bytes.
fn error(version: &Chunks, held: &[Chunks]) -> f64 {
    let (seen, exact) = (estimated(version, held), exactly_missing(version, held));
    (seen as f64 - exact as f64) / bytes(version) as f64
}

/// Mean error, standard error and largest error over pairs of versions of `size` chunks of which `lacks` differ.
fn measure(size: u64, lacks: u64, pairs: u64) -> (f64, f64, f64) {
    let errors: Vec<f64> = (0..pairs)
        .map(|pair| {
            let base = pair << 32;
            let held = chunks(base..base + size);
            error(&chunks(base + lacks..base + lacks + size), &[held])
        })
        .collect();
    let mean = errors.iter().sum::<f64>() / pairs as f64;
    let deviation = (errors.iter().map(|error| error * error).sum::<f64>() / pairs as f64).sqrt();
    (mean, deviation, errors.iter().fold(0.0, |most, error| f64::max(most, error.abs())))
}

#[test]
fn the_error_is_as_documented() {
    for (lacks, mean_max, deviation_max, most_max) in [
        (200, 0.001, 0.006, 0.02),
        (2_000, 0.003, 0.016, 0.045),
        (10_000, 0.004, 0.025, 0.075),
        (18_000, 0.003, 0.016, 0.045),
    ] {
        let (mean, deviation, most) = measure(20_000, lacks, 200);
        println!(
            "{}%: mean {:.3}% deviation {:.3}% most {:.3}%",
            lacks / 200,
            mean * 100.0,
            deviation * 100.0,
            most * 100.0
        );
        assert!(mean.abs() < mean_max, "{lacks}: mean {mean}");
        assert!(deviation < deviation_max, "{lacks}: deviation {deviation}");
        assert!(most < most_max, "{lacks}: most {most}");
    }
}

#[test]
fn a_much_larger_version_blurs_only_what_it_alone_has() {
    // All but 1% of the version is in one of its own size; of the huge one next to nothing can be compared.
    let version = chunks(0..10_000);
    let like = chunks(100..10_000);
    let huge = chunks(1 << 40..(1 << 40) + 500_000);
    let alone = error(&version, std::slice::from_ref(&like));
    assert_eq!(error(&version, &[like.clone(), huge.clone()]), alone);
    assert_eq!(error(&version, &[huge.clone(), like]), alone);
    assert!(alone.abs() < 0.02, "{alone}");
    assert_eq!(estimated(&version, &[huge]), bytes(&version));
}

#[test]
fn a_part_of_a_huge_version_is_found_in_it() {
    // 20 times as large: some 25 chunks can be compared, and all of them are there.
    let huge = chunks(0..200_000);
    assert_eq!(estimated(&chunks(50_000..60_000), &[huge]), 0);
}

#[test]
fn repeated_chunks_count_once_and_nothing_lacks_nothing() {
    let twice: Vec<Sampled> = (0..10).chain(0..10).map(chunk).collect();
    let sketch = Sketch::new(twice);
    assert_eq!((sketch.chunks(), sketch.bytes()), (10, bytes(&chunks(0..10))));
    assert!(sketch.is_whole());
    let empty = Sketch::new(Vec::new());
    assert_eq!((empty.missing(&[]), empty.missing(&[&sketch]), sketch.missing(&[&empty])), (0, 0, sketch.bytes()));
}

#[test]
fn a_quick_look_finds_what_shares_much() {
    let (version, other) = (sketch(&chunks(0..20_000)), sketch(&chunks(10_000..30_000)));
    assert!(version.may_share(&other));
    assert!(!version.may_share(&sketch(&chunks(20_000..40_000))));
    assert!(version.overlap(&sketch(&chunks(20_000..40_000))).is_nothing());
}

proptest! {
    #[test]
    fn whole_ones_are_exact(
        version in prop::collection::btree_set(0u64..800, 0..SAMPLE_MAX),
        held in prop::collection::vec(prop::collection::btree_set(0u64..800, 0..SAMPLE_MAX), 0..4),
    ) {
        let version = chunks(version);
        let held: Vec<Chunks> = held.into_iter().map(chunks).collect();
        prop_assert_eq!(estimated(&version, &held), exactly_missing(&version, &held));
    }

    /// With at least 170 chunks to compare, five standard errors of each of up to three versions are less than 0.22
    /// of the bytes, whatever the versions share with each other.
    #[test]
    fn estimates_are_near_the_truth(
        base in 0u64..1 << 40,
        size in 600u64..4_000,
        held in prop::collection::vec((0u64..6_000, 600u64..6_000), 1..4),
    ) {
        let version = chunks(base + 3_000..base + 3_000 + size);
        let held: Vec<Chunks> = held.into_iter()
            .map(|(from, count)| chunks(base + from..base + from + count.min(3 * size)))
            .collect();
        let error = error(&version, &held);
        prop_assert!(error.abs() < 0.22, "{}", error);
    }

    #[test]
    fn more_versions_never_lack_more(size in 600u64..3_000, held in prop::collection::vec((0u64..4_000, 100u64..4_000), 1..5)) {
        let version = sketch(&chunks(1_000..1_000 + size));
        let held: Vec<Sketch> = held.into_iter().map(|(from, count)| sketch(&chunks(from..from + count))).collect();
        let held: Vec<&Sketch> = held.iter().collect();
        prop_assert!(version.missing(&held) <= version.bytes());
        prop_assert_eq!(version.missing(&[]), version.bytes());
        prop_assert_eq!(version.missing(&[&version]), 0);
    }
}
