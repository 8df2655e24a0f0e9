//! The harness around the binary, over a stand-in for it: what the harness promises must not depend on the product.

use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde_json::json;
use testkit::Dualsync;

use crate::Result;

const STAND_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/stand_in.py");
const WARNING: &str = "T  WARN replicator: target away";

/// Whether dropping it fails the test.
fn drop_fails(dualsync: Dualsync) -> bool {
    catch_unwind(AssertUnwindSafe(|| drop(dualsync))).is_err()
}

#[tokio::test]
async fn settings_go_into_the_file_and_requests_to_the_admin_port() -> Result {
    let dualsync = Dualsync::builder(STAND_IN).local("mongodb://l/").atlas("mongodb://a/").start().await?;
    let report = dualsync.report().await?;
    assert_eq!(report["config"]["local"]["uri"], "mongodb://l/");
    assert_eq!(report["config"]["atlas"]["uri"], "mongodb://a/");
    assert_eq!(report["config"]["proxy"]["listen"], json!(dualsync.proxy_address()));
    assert_eq!(report["config"]["log"]["dir"], json!(dualsync.log_dir()));
    assert_eq!(dualsync.admin_post("/x", &json!({ "action": "pause" })).await?["action"], "pause");
    assert_eq!(dualsync.request("GET", "/x", None, None).await?.status, 401);
    let metrics = dualsync.metrics().await?;
    assert_eq!((metrics[r#"a{way="x y"}"#], metrics["b"], metrics.len()), (3.0, 0.5, 2));
    dualsync.wait_drained(Duration::from_secs(10)).await?;
    Ok(())
}

#[tokio::test]
async fn a_given_file_is_overridden_by_the_environment() -> Result {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("given.toml");
    std::fs::write(&file, "[admin]\nlisten = \"127.0.0.1:1\"\n[given]\nmark = 1\n")?;
    let dualsync = Dualsync::builder(STAND_IN).config(&file).start().await?;
    let report = dualsync.report().await?;
    assert_eq!(report["config"]["given"]["mark"], 1);
    Ok(())
}

#[tokio::test]
async fn it_restarts_on_the_same_ports() -> Result {
    let mut dualsync = Dualsync::builder(STAND_IN).start().await?;
    let (uri, admin, pid) = (dualsync.uri(), dualsync.admin_url(), dualsync.pid());
    dualsync.kill()?;
    dualsync.restart().await?;
    assert_eq!((dualsync.uri(), dualsync.admin_url()), (uri, admin));
    assert_ne!(dualsync.pid(), pid);
    dualsync.restart().await?;
    assert_eq!(dualsync.terminate().await?.code(), Some(0));
    assert!(dualsync.terminate().await.is_err());
    Ok(())
}

#[tokio::test]
async fn an_undeclared_warning_fails_the_test() -> Result {
    let start = || Dualsync::builder(STAND_IN).env("LINES", format!("T  INFO a: b|{WARNING}"));
    let dualsync = start().start().await?;
    dualsync.wait_for_log("target away", Duration::from_secs(10)).await?;
    assert!(dualsync.check_log().unwrap_err().to_string().contains(WARNING));
    assert!(drop_fails(dualsync));

    let dualsync = start().start().await?;
    dualsync.expect_warning("target away");
    assert!(!drop_fails(dualsync));
    assert!(!drop_fails(start().expect_warning("target away").start().await?));
    Ok(())
}

#[tokio::test]
async fn a_death_that_nobody_asked_for_fails_the_test() -> Result {
    let mut dualsync = Dualsync::builder(STAND_IN).start().await?;
    assert!(dualsync.request("GET", "/die", None, None).await.is_err());
    let error = dualsync.kill().unwrap_err().to_string();
    assert!(error.contains("exit status: 7"), "{error}");

    let dualsync = Dualsync::builder(STAND_IN).start().await?;
    assert!(dualsync.request("GET", "/die", None, None).await.is_err());
    assert!(drop_fails(dualsync));
    Ok(())
}

#[tokio::test]
async fn an_early_end_shows_the_output() -> Result {
    let builder = || Dualsync::builder(STAND_IN).env("EXIT", "2").env("LINES", "T ERROR wrong setting|more");
    let error = format!("{:#}", builder().start().await.map(drop).unwrap_err());
    assert!(error.contains("wrong setting") && error.contains("exit status: 2"), "{error}");
    let ended = builder().run_to_end(Duration::from_secs(10)).await?;
    assert_eq!((ended.status.code(), ended.status.signal()), (Some(2), None));
    assert!(ended.output.contains("wrong setting\nmore"), "{ended:?}");
    let error = Dualsync::builder("/no/such/binary").start().await.map(drop).unwrap_err();
    assert!(format!("{error:#}").contains("/no/such/binary"), "{error:#}");
    Ok(())
}
