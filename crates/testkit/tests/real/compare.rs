use bson::{Document, doc};
use mongodb::Client;
use testkit::{Mongod, compare};

use crate::Result;

async fn two() -> anyhow::Result<(Mongod, Mongod)> {
    let (left, right) = tokio::join!(Mongod::standalone(), Mongod::standalone());
    Ok((left?, right?))
}

async fn insert(client: &Client, documents: &[Document]) -> Result {
    client.database("kit").collection::<Document>("c").insert_many(documents).await?;
    Ok(())
}

#[tokio::test]
async fn equal_sides_in_any_order() -> Result {
    let (left, right) = two().await?;
    let (left, right) = (left.client().await?, right.client().await?);
    let documents = [doc! { "_id": 1, "a": "x" }, doc! { "_id": "1" }, doc! { "_id": { "a": 1, "b": 2 } }];
    insert(&left, &documents).await?;
    insert(&right, &[documents[2].clone(), documents[0].clone(), documents[1].clone()]).await?;
    // Neither views nor dualsync's own database count, nor an empty collection.
    right.database("__dualsync").collection("state").insert_one(doc! { "x": 1 }).await?;
    right.database("kit").run_command(doc! { "create": "view", "viewOn": "c" }).await?;
    left.database("kit").create_collection("empty").await?;

    let comparison = compare::databases(&left, &right).await?;
    assert!(comparison.equal(), "{comparison}");
    assert_eq!(comparison.documents(), 3);
    assert_eq!(comparison.collections.keys().collect::<Vec<_>>(), ["kit.c", "kit.empty"]);
    Ok(())
}

#[tokio::test]
async fn every_kind_of_difference_is_found() -> Result {
    let (left, right) = two().await?;
    let (left, right) = (left.client().await?, right.client().await?);
    insert(
        &left,
        &[
            doc! { "_id": 1, "a": "one byte" },
            doc! { "_id": 2, "a": 1, "b": 2 },
            doc! { "_id": 3, "a": 1_i32 },
            doc! { "_id": 4_i32 },
            doc! { "_id": 5 },
        ],
    )
    .await?;
    insert(
        &right,
        &[
            doc! { "_id": 1, "a": "one bytf" },
            doc! { "_id": 2, "b": 2, "a": 1 },
            doc! { "_id": 3, "a": 1_i64 },
            doc! { "_id": 4_i64 },
        ],
    )
    .await?;
    right.database("kit").collection("only").insert_one(doc! { "_id": 6 }).await?;

    let comparison = compare::databases(&left, &right).await?;
    assert!(!comparison.equal());
    let found = &comparison.collections["kit.c"];
    assert_eq!((found.left, found.right), (5, 4));
    assert_eq!((found.different, found.missing, found.extra), (3, 2, 1));
    assert_eq!(comparison.collections["kit.only"].extra, 1);
    let shown = comparison.to_string();
    assert!(shown.contains("one bytf") && shown.contains(r#"{"$numberLong":"1"}"#), "{shown}");
    Ok(())
}
