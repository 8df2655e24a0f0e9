use bson::{Document, doc};
use mongodb::Client;
use testkit::ReplicaSet;

use crate::Result;

async fn majority_write(client: &Client, id: i32) -> Result {
    let command = doc! {
        "insert": "c", "documents": [{ "_id": id }], "writeConcern": { "w": "majority", "wtimeout": 10_000 },
    };
    let answer = client.database("kit").run_command(command).await?;
    assert!(!answer.contains_key("writeConcernError"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn one_member() -> Result {
    let mut set = ReplicaSet::start(1).await?;
    let client = set.client().await?;
    majority_write(&client, 1).await?;
    set.kill()?;
    set.resume().await?;
    let found = client.database("kit").collection::<Document>("c").count_documents(doc! {}).await?;
    assert_eq!(found, 1);
    set.stop().await?;
    set.resume().await?;
    majority_write(&client, 2).await?;
    Ok(())
}

#[tokio::test]
async fn three_members_elect_another_primary() -> Result {
    let mut set = ReplicaSet::start(3).await?;
    let client = set.client().await?;
    majority_write(&client, 1).await?;
    let first = set.primary().await?;
    set.step_down().await?;
    majority_write(&client, 2).await?;

    let second = set.primary().await?;
    set.members_mut()[second].kill()?;
    set.wait_for_primary().await?;
    assert_ne!(set.primary().await?, second);
    majority_write(&client, 3).await?;
    set.resume().await?;
    assert!(first < 3 && second < 3);
    Ok(())
}
