//! Golden sessions: what the program prints, and with which exit code. `TRYCMD=overwrite` writes them anew.

#[test]
fn golden_sessions() {
    trycmd::TestCases::new()
        .case("tests/cmd/*.trycmd")
        // Help is wrapped to the terminal's width, and the settings are nobody's.
        .env("COLUMNS", "110")
        .env("TOMBOLO_HOME", "nobody")
        .env("TOMBOLO_SERVER", "")
        .env("TOMBOLO_TOKEN", "")
        .env("TOMBOLO_LOG", "off");
}
