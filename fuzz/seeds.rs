// Included by the tests of the crates that have fuzz targets.

/// Runs each target on its seeds and on some bytes besides; each has to have a program and a seed.
fn check_targets(targets: &[(&str, Target)], besides: &[&[u8]]) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    for (name, target) in targets {
        assert!(root.join("fuzz_targets").join(format!("{name}.rs")).is_file(), "{name} has no program");
        let seeds = root.join("seeds").join(name);
        let mut seen = 0;
        for seed in std::fs::read_dir(&seeds).unwrap_or_else(|error| panic!("{}: {error}", seeds.display())) {
            let seed = seed.unwrap().path();
            println!("{}", seed.display());
            target(&std::fs::read(&seed).unwrap());
            seen += 1;
        }
        assert!(seen > 0, "{name} has no seed");
        for bytes in [&b""[..], &[0; 300], &[0xff; 300]].iter().chain(besides) {
            target(bytes);
        }
    }
}
