//! Every question of the cookbook, asked of the demo's estate: the answers are those that the page shows.

mod shared;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use regex::Regex;
use shared::run;
use tests::estate::Estate;
use tests::eventually;

/// A command and what it prints.
#[derive(Debug)]
struct Asked {
    command: String,
    prints: String,
}

fn questions() -> Result<Vec<Asked>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?.join("deploy/cookbook.md");
    let text = std::fs::read_to_string(page)?;
    let blocks = text.split("```console\n").skip(1);
    blocks
        .map(|block| {
            let block = block.split_once("```").context("a block has no end")?.0;
            let (command, prints) = block.split_once('\n').context("a block has no lines")?;
            let command = command.strip_prefix("$ ").context("a block begins with a command")?;
            Ok(Asked { command: command.to_owned(), prints: prints.to_owned() })
        })
        .collect()
}

/// Without widths of columns and ages, which change with the day.
fn comparable(text: &str) -> Result<Vec<String>> {
    let age = Regex::new(r"\b\d+[ydhms](\d+[dhms])?\b")?;
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(text.lines().map(|line| age.replace_all(&words(line), "AGE").into_owned()).collect())
}

#[test]
fn the_cookbooks_questions_are_answered_as_the_page_shows() -> Result<()> {
    run(async || {
        let estate = Estate::start().await?;
        let now = Timestamp::now();
        let applied = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: checkout-flags\n  namespace: nginx\n  creationTimestamp: 2025-01-01T00:00:00Z\n  \
             managedFields:\n  - {{manager: kubectl, operation: Update, apiVersion: v1, time: \"{now}\"}}\ndata: {{fast: \"yes\"}}\n"
        );
        std::fs::write(estate.file("pegasus", "applied-now.yaml"), applied)?;
        eventually(Duration::from_secs(60), async || {
            ensure!(estate.fleetglass(&["search", "name:checkout-flags"])?.code == Some(0), "not taken up yet");
            Ok(())
        })
        .await?;
        let questions = questions()?;
        ensure!(questions.len() > 10, "{questions:?}");
        for Asked { command, prints } in questions {
            let told = estate.shell(&command)?;
            ensure!(told.code.is_some_and(|code| code < 2), "{command}: {told:?}");
            assert_eq!(comparable(&told.output)?, comparable(&prints)?, "{command}");
        }
        estate.stop()
    })
}
