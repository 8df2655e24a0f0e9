//! Include and exclude change while clients write, and after restarts.

use anyhow::{Result, ensure};
use bson::{Document, doc};
use serde_json::{Value, json};
use testkit::wait_for;

use super::SOON;
use crate::support::{Source, Stage, wait_clean};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_excluded_by_an_order_stays_until_that_is_lifted() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    let client = stage.dualsync.client().await?;
    let carts = client.database("shop").collection::<Document>("carts");
    let orders = client.database("shop").collection::<Document>("orders");
    carts.insert_one(doc! {"_id": 1}).await?;
    orders.insert_one(doc! {"_id": 1}).await?;
    stage.assert_equal().await?;

    let order = json!({"exclude": ["shop.carts"]});
    let filters = stage.dualsync.admin_post("/api/sync/filters", &order).await?;
    ensure!(filters == json!({"include": ["*"], "exclude": ["shop.carts"], "ordered": true}), "{filters:#}");
    carts.insert_one(doc! {"_id": 2}).await?;
    carts.delete_one(doc! {"_id": 1}).await?;
    orders.insert_one(doc! {"_id": 2}).await?;
    stage.dualsync.wait_drained(SOON).await?;
    let copy = stage.target.client().await?.database("shop");
    let ids = async |name: &str| -> Result<Vec<i32>> {
        let mut found = copy.collection::<Document>(name).find(doc! {}).sort(doc! {"_id": 1}).await?;
        let mut ids = Vec::new();
        while found.advance().await? {
            ids.push(found.current().get_i32("_id")?);
        }
        Ok(ids)
    };
    ensure!(ids("carts").await? == [1] && ids("orders").await? == [1, 2], "an excluded write was followed");

    stage.dualsync.restart().await?;
    let config = stage.dualsync.admin_get("/api/sync/config").await?;
    ensure!(config["sync"]["exclude"] == json!(["shop.carts"]), "forgotten: {:#}", config["sync"]);
    carts.insert_one(doc! {"_id": 3}).await?;
    orders.insert_one(doc! {"_id": 3}).await?;
    stage.dualsync.wait_drained(SOON).await?;
    ensure!(ids("carts").await? == [1] && ids("orders").await? == [1, 2, 3], "followed after a restart");

    let token = Some(stage.dualsync.token());
    for wrong in [r#"{"exclude":["a b.c"]}"#, r#"{"exclude":"shop"}"#, r#"{"excluded":[]}"#] {
        let response = stage.dualsync.request("POST", "/api/sync/filters", token, Some(wrong)).await?;
        ensure!(response.status == 400, "{wrong}: {} {}", response.status, response.body);
    }
    let filters = stage.dualsync.admin_post("/api/sync/filters", &json!({})).await?;
    ensure!(filters == json!({"include": ["*"], "exclude": [], "ordered": false}), "{filters:#}");
    // What was missed is compared: what was deleted meanwhile as well.
    wait_clean(&stage.dualsync).await?;
    wait_for("what was excluded to be copied", SOON, async || {
        Ok((ids("carts").await? == [2, 3]).then_some(()))
    })
    .await?;
    carts.insert_one(doc! {"_id": 4}).await?;
    stage.assert_equal().await?;
    Ok(())
}

/// Every order that changes the program's state, and what shows that it is there after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_order_holds_over_a_restart() -> Result<()> {
    type Shown = fn(&Value) -> Value;
    type Order = (&'static str, &'static str, &'static str, Shown, Value);
    let read_token = "a-token-that-may-only-read";
    let mut stage = Stage::start_with(Source::standalone().await?, |builder| {
        builder.env("DUALSYNC_ADMIN_READ_TOKEN", read_token)
    })
    .await?;
    stage.dualsync.expect_warning("capture is bypassed");
    let state: Shown = |answer| answer["state"].clone();
    let orders: [Order; 8] = [
        ("worker/control", r#"{"action":"pause"}"#, "worker", state, json!("paused")),
        ("worker/control", r#"{"action":"resume"}"#, "worker", state, json!("running")),
        ("worker/control", r#"{"action":"stop"}"#, "worker", state, json!("stopped")),
        ("worker/control", r#"{"action":"start"}"#, "worker", state, json!("running")),
        ("worker/pace", r#"{"lanes":3}"#, "worker", |it| it["lanes"].clone(), json!(3)),
        (
            "worker/pace",
            r#"{"batchEntriesMax":7,"rateMax":9}"#,
            "worker",
            |it| json!([it["lanes"], it["batchEntriesMax"], it["rateMax"]]),
            json!([8, 7, 9]),
        ),
        ("filters", r#"{"include":["shop"]}"#, "filters", |it| it["include"].clone(), json!(["shop"])),
        ("capture/control", r#"{"action":"bypass"}"#, "capture", state, json!("bypassed")),
    ];
    for (path, body, looked, shown, expected) in orders {
        let path = format!("/api/sync/{path}");
        for (token, status) in [(None, 401), (Some("wrong"), 401), (Some(read_token), 403)] {
            let refused = stage.dualsync.request("POST", &path, token, Some(body)).await?;
            ensure!(refused.status == status, "{path} {token:?}: {} {}", refused.status, refused.body);
        }
        stage.dualsync.admin_post(&path, &serde_json::from_str(body)?).await?;
        stage.dualsync.restart().await?;
        let answer = stage.dualsync.admin_get(&format!("/api/sync/{looked}")).await?;
        let now = shown(&answer);
        // After a start it may still look for its servers.
        ensure!(now == expected, "{path} {body} is forgotten: {answer:#}");
    }
    Ok(())
}
