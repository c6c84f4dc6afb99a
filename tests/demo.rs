//! The demo, from its first line to its last.

use anyhow::{Result, ensure};
use tribune_tests::cli::tribune;

#[test]
fn the_demo_tells_its_whole_story_and_nobody_is_turned_away() -> Result<()> {
    let told = tribune(&["demo"], "")?.expect(0)?.stdout;
    let mut rest = told.as_str();
    for chapter in [
        "u1 completed",
        "n5 answers: Measure twice, cut once. (quoted 2.0.0) (web 2.0.0)",
        "u2 regressed: node n5 was restarted, which undid u2 there",
        "n5 answers: Measure twice, cut once. (quoted 1.0.0) (web 1.0.0)",
        "u3 is vetoed",
        "another master goes on with the update",
        "u3 completed",
        "u4 completed",
        "u5 completed",
        "--class readers",
        "u7 completed",
        "accept it with --accept-discrepancy almanac.api",
        "u8 completed with discrepancies",
        "404",
        "every need is met",
        "Every process was stopped, every file removed.",
    ] {
        let at = rest.find(chapter);
        ensure!(at.is_some(), "{chapter:?} is not told, or not in its place:\n{told}");
        rest = &rest[at.unwrap_or_default()..];
    }
    let fares: Vec<&str> = told.lines().filter(|line| line.contains(" requests answered, ")).collect();
    ensure!(fares.len() == 5 && fares.iter().all(|line| line.contains(" 0 failed")), "{fares:?}");
    Ok(())
}
