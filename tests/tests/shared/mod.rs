//! One stage for all tests of a suite, on a runtime that outlives each test. The servers end with the process.

use std::sync::LazyLock;

use anyhow::Result;
use tests::stage::{Plan, Stage};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

static RUNTIME: LazyLock<Option<Runtime>> = LazyLock::new(|| {
    // A second call finds the provider installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Runtime::new().ok()
});
static STAGE: OnceCell<Stage> = OnceCell::const_new();

/// Path of the cache below the aggregation layer.
#[allow(dead_code, reason = "not every suite reads the cache")]
pub(crate) const CACHE: &str = "/apis/search.karmada.io/v1alpha1/search/cache";

/// Runs one test on the suite's stage.
#[allow(dead_code, reason = "some suites have a stage for each test")]
pub(crate) fn on_stage(test: impl AsyncFnOnce(&'static Stage) -> Result<()>) -> Result<()> {
    run(async || test(STAGE.get_or_try_init(|| async { Stage::start(&Plan::default()).await }).await?).await)
}

/// Runs one test that needs no shared stage.
pub(crate) fn run(test: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let runtime = RUNTIME.as_ref().ok_or_else(|| anyhow::anyhow!("no runtime"))?;
    runtime.block_on(test())
}

/// The clusters that the objects of a list come from, in order, with their names: `member1/app-000`.
#[allow(dead_code, reason = "not every suite reads lists")]
pub(crate) fn origins(list: &serde_json::Value) -> Vec<String> {
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    items
        .iter()
        .map(|item| {
            let metadata = &item["metadata"];
            let cluster = text(&metadata["annotations"]["resource.karmada.io/cached-from-cluster"]);
            format!("{cluster}/{}", text(&metadata["name"]))
        })
        .collect()
}
