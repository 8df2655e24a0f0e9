//! The target's collections, their options and indexes.

use bson::raw::RawDocumentBuf;
use bson::{doc, rawdoc};
use record::Namespace;

use super::Target;
use crate::error::ServerError;
use crate::expiry::EXPIRY;
use crate::server::{self, Collection, Listing, answer, integer};

impl Target {
    /// About how many documents it holds; 0 for none.
    pub async fn count(&self, ns: &Namespace) -> Result<u64, ServerError> {
        let database = self.client().await?.database(ns.db());
        let count = answer("count", database.run_command(doc! {"count": ns.coll()})).await?;
        Ok(u64::try_from(integer(count.get("n"))).unwrap_or(0))
    }

    /// The indexes but for that of `_id`.
    pub async fn indexes(&self, ns: &Namespace) -> Result<Vec<RawDocumentBuf>, ServerError> {
        crate::indexes::indexes(self.client().await?, ns).await
    }

    /// Drops an index; one that does not exist is none.
    pub async fn drop_index(&self, ns: &Namespace, name: &str) -> Result<(), ServerError> {
        const INDEX_NOT_FOUND: i32 = 27;
        let drop = rawdoc! {"dropIndexes": ns.coll(), "index": name, "writeConcern": {"w": "majority"}};
        match answer("dropIndexes", self.client().await?.database(ns.db()).run_raw_command(drop)).await {
            Err(error) if error.code == Some(INDEX_NOT_FOUND) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// The collection's kind and options; `None` when it does not exist.
    pub async fn collection(&self, ns: &Namespace) -> Result<Option<Collection>, ServerError> {
        server::collection(self.client().await?, ns).await
    }

    /// Its collections and views.
    pub(crate) async fn namespaces(&self) -> Result<Listing<Vec<Namespace>>, ServerError> {
        server::namespaces(self.client().await?).await
    }

    /// The collections and views of one database.
    pub async fn namespaces_of(&self, db: &str) -> Result<Vec<Namespace>, ServerError> {
        server::namespaces_of(self.client().await?, db).await
    }

    /// Drops a collection or view; one that does not exist is none.
    pub async fn drop(&self, ns: &Namespace) -> Result<(), ServerError> {
        const NAMESPACE_NOT_FOUND: i32 = 26;
        let drop = rawdoc! {"drop": ns.coll(), "writeConcern": {"w": "majority"}};
        match answer("drop", self.client().await?.database(ns.db()).run_raw_command(drop)).await {
            Err(error) if error.code == Some(NAMESPACE_NOT_FOUND) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Gives a collection another name, in place of whatever has it.
    pub async fn rename(&self, from: &Namespace, to: &Namespace) -> Result<(), ServerError> {
        let rename = rawdoc! {
            "renameCollection": from.as_str(), "to": to.as_str(), "dropTarget": true, "writeConcern": {"w": "majority"},
        };
        let admin = self.client().await?.database("admin");
        answer("renameCollection", admin.run_raw_command(rename)).await.map(|_| ())
    }

    /// Creates a collection with these options; one that exists is left as it is.
    pub async fn create(&self, ns: &Namespace, options: &RawDocumentBuf) -> Result<(), ServerError> {
        const NAMESPACE_EXISTS: i32 = 48;
        let mut create = rawdoc! {"create": ns.coll()};
        for option in options {
            let (name, value) = option.map_err(|e| ServerError::from_code(9, &e.to_string()))?;
            // A target that expires by itself loses what the application renews; what is measured is never renewed.
            if name.as_str() != EXPIRY || options.get_document("timeseries").is_ok() {
                create.append(name, value);
            }
        }
        create.append(bson::cstr!("writeConcern"), rawdoc! {"w": "majority"});
        match answer("create", self.client().await?.database(ns.db()).run_raw_command(create)).await {
            Err(error) if error.code == Some(NAMESPACE_EXISTS) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}
