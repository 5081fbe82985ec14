//! The README's tour by four clients: grpcurl, the Python SDK, the TypeScript SDK, and gRPC-Web in a
//! browser. Each does the same steps and prints what it saw; all transcripts are the committed one.

mod grpcurl;

use std::time::Duration;

use goperation_harness::free_port;

use crate::{
    clients::{node, node_with_browser, output, python, run, typescript},
    dev::{dev, end},
    shown::{blurred, file},
};

/// How long a whole tour may take; it takes a few seconds.
const WITHIN: Duration = Duration::from_secs(120);
const TRANSCRIPT: &str = "tests/clients/tour/transcript.txt";

/// What the transcripts are compared by: ids are blurred.
fn lines(transcript: &str) -> Vec<String> {
    transcript.lines().map(blurred).collect()
}

fn compared(transcript: &str) {
    assert_eq!(lines(transcript), lines(&file(TRANSCRIPT)));
}

#[tokio::test(flavor = "multi_thread")]
async fn by_grpcurl() {
    let (process, address) = dev(&["--agents", "2"]).await;
    compared(&grpcurl::tour(&address).await);
    end(process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_python_sdk() {
    let (process, address) = dev(&["--agents", "2"]).await;
    let mut tour = python();
    tour.arg("tests/clients/tour/tour.py").arg(&address);
    compared(&output(tour, WITHIN).await);
    end(process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_typescript_sdk() {
    let (process, address) = dev(&["--agents", "2"]).await;
    let program = typescript("tests/clients/tour/tour.ts", "node").await;
    let mut tour = node();
    tour.arg(&*program).arg(&address);
    compared(&output(tour, WITHIN).await);
    end(process).await;
}

/// The page is of another origin than the manager, as it is for anybody's: so the guard and CORS
/// are met, and the origin is configured.
#[tokio::test(flavor = "multi_thread")]
async fn by_grpc_web_in_a_browser() {
    let origin = format!("http://127.0.0.1:{}", free_port());
    let (process, address) = dev(&["--agents", "2", "--cors-origin", &origin]).await;
    let program = typescript("tests/clients/tour/tour-web.ts", "browser").await;
    let mut tour = node_with_browser();
    tour.arg("tests/clients/tour/browser.mjs").args([&origin, &address]).arg(&*program);
    compared(&output(tour, WITHIN).await);
    end(process).await;
}

/// That the test before this one really meets CORS.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_gets_no_answer() {
    let origin = format!("http://127.0.0.1:{}", free_port());
    let (process, address) = dev(&["--cors-origin", "http://127.0.0.1:1"]).await;
    let program = typescript("tests/clients/tour/tour-web.ts", "browser").await;
    let mut tour = node_with_browser();
    tour.arg("tests/clients/tour/browser.mjs").args([&origin, &address]).arg(&*program);
    let (status, printed) = run(tour, WITHIN).await;
    assert!(!status.success() && printed.contains("blocked by CORS policy"), "{printed}");
    end(process).await;
}
