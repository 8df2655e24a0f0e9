//! What a collection is beside its documents: kind, options, indexes.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use bson::{Bson, Document, doc};
use mongodb::{Client, Database};

/// Namespaces (`db.collection`) with their shapes, of the databases that `wanted` names.
pub(super) async fn of(client: &Client, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Document>> {
    let mut shapes = BTreeMap::new();
    for name in client.list_database_names().await? {
        if wanted(&name) {
            of_database(&client.database(&name), &mut shapes).await.with_context(|| name.clone())?;
        }
    }
    Ok(shapes)
}

async fn of_database(database: &Database, shapes: &mut BTreeMap<String, Document>) -> Result<()> {
    let reply = database.run_command(doc! {"listCollections": 1, "cursor": {"batchSize": 10_000}}).await?;
    for info in reply.get_document("cursor")?.get_array("firstBatch")?.iter().filter_map(Bson::as_document) {
        let (name, kind) = (info.get_str("name")?, info.get_str("type")?);
        if name.starts_with("system.") {
            continue;
        }
        let mut options = info.get_document("options")?.clone();
        // `collMod` can set these and never take them away: their defaults are as good as nothing.
        for (name, default) in [("validationLevel", "strict"), ("validationAction", "error")] {
            if options.get_str(name).is_ok_and(|value| value == default) {
                options.remove(name);
            }
        }
        if options.get_document("validator").is_ok_and(Document::is_empty) {
            options.remove("validator");
        }
        let mut shape = doc! {"type": kind, "options": options};
        if kind != "view" {
            let reply = database.run_command(doc! {"listIndexes": name}).await?;
            let mut indexes = reply.get_document("cursor")?.get_array("firstBatch")?.clone();
            for index in indexes.iter_mut().filter_map(Bson::as_document_mut) {
                // Switched off on the target, by design.
                index.remove("expireAfterSeconds");
            }
            indexes.sort_by_key(ToString::to_string);
            shape.insert("indexes", indexes);
        }
        shapes.insert(format!("{}.{name}", database.name()), shape);
    }
    Ok(())
}
