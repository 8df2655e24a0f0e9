//! The rights that dualsync needs, by what it does with them.

use mongodb::bson::Document;

/// How much depends on a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Nothing can be kept equal without it.
    Needed,
    /// Something is slower, or noticed later.
    Better,
}

/// Actions that belong together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needed {
    /// As the server calls them.
    pub(super) actions: &'static [&'static str],
    /// On what.
    pub(super) on: On,
    /// What is done with them.
    pub(super) for_what: &'static str,
    /// The built-in role that has them, on a server of one's own and in Atlas.
    pub(super) role: &'static str,
    pub(super) weight: Weight,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    /// All collections of each database.
    Databases,
    /// The server as a whole.
    Cluster,
}

pub(super) const SOURCE: &[Needed] = &[
    Needed {
        actions: &["find", "listCollections", "listIndexes"],
        on: On::Databases,
        for_what: "to read what it copies",
        role: "readAnyDatabase (in admin)",
        weight: Weight::Needed,
    },
    Needed {
        actions: &["inprog"],
        on: On::Cluster,
        for_what: "to know when a write has ended whose reply was lost; without it, its collection is compared",
        role: "clusterMonitor (in admin)",
        weight: Weight::Better,
    },
    Needed {
        actions: &["top"],
        on: On::Cluster,
        for_what: "to notice writes that go past the proxy",
        role: "clusterMonitor (in admin)",
        weight: Weight::Better,
    },
];

pub(super) const TARGET: &[Needed] = &[
    Needed {
        actions: &[
            "find",
            "insert",
            "update",
            "remove",
            "createCollection",
            "dropCollection",
            "createIndex",
            "dropIndex",
            "listCollections",
            "listIndexes",
        ],
        on: On::Databases,
        for_what: "to write the copy",
        role: "readWriteAnyDatabase (Atlas: \"Read and write to any database\")",
        weight: Weight::Needed,
    },
    Needed {
        actions: &["collMod"],
        on: On::Databases,
        for_what: "to change validators and other options as they change here",
        role: "dbAdminAnyDatabase (Atlas: a specific privilege of that name)",
        weight: Weight::Needed,
    },
    Needed {
        actions: &["bypassDocumentValidation"],
        on: On::Databases,
        for_what: "to copy documents that are older than their validator; without it, they become dead letters",
        role: "dbAdminAnyDatabase (Atlas: a specific privilege of that name)",
        weight: Weight::Better,
    },
];

impl Needed {
    /// The actions that none of these privileges gives, with where that is so.
    pub(super) fn lacking(&self, privileges: &[Document], databases: Option<&[String]>) -> Vec<String> {
        let allowed = |action: &str, database: Option<&str>| {
            privileges.iter().any(|it| self.is_on(it, database) && has(it, action))
        };
        let lacking = |action: &&&str| match (self.on, databases) {
            (On::Databases, Some(databases)) => {
                databases.iter().any(|database| !allowed(action, Some(database)))
            }
            _ => !allowed(action, None),
        };
        self.actions.iter().filter(lacking).map(|action| (*action).to_owned()).collect()
    }

    /// `database`: `None` for all of them.
    fn is_on(&self, privilege: &Document, database: Option<&str>) -> bool {
        let Ok(resource) = privilege.get_document("resource") else { return false };
        if resource.get_bool("anyResource").unwrap_or(false) {
            return true;
        }
        match self.on {
            On::Cluster => resource.get_bool("cluster").unwrap_or(false),
            On::Databases => {
                let of = resource.get_str("db").ok();
                resource.get_str("collection").is_ok_and(str::is_empty)
                    && of.is_some_and(|of| of.is_empty() || Some(of) == database)
            }
        }
    }
}

fn has(privilege: &Document, action: &str) -> bool {
    let actions = privilege.get_array("actions").map(Vec::as_slice).unwrap_or_default();
    actions.iter().any(|it| matches!(it.as_str(), Some(it) if it == action || it == "anyAction"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::doc;

    #[test]
    fn a_right_on_some_databases_is_enough_for_those() {
        let privileges = [
            doc! {"resource": {"db": "shop", "collection": ""}, "actions": ["find", "listCollections", "listIndexes"]},
            doc! {"resource": {"db": "", "collection": ""}, "actions": ["listIndexes"]},
            doc! {"resource": {"db": "blog", "collection": "posts"}, "actions": ["find", "listCollections"]},
            doc! {"resource": {"cluster": true}, "actions": ["inprog"]},
        ];
        let lacking = |needed: &Needed, databases: Option<&[&str]>| {
            let databases = databases.map(|it| it.iter().map(ToString::to_string).collect::<Vec<_>>());
            needed.lacking(&privileges, databases.as_deref())
        };
        assert_eq!(lacking(&SOURCE[0], None), ["find", "listCollections"]);
        assert!(lacking(&SOURCE[0], Some(&["shop"])).is_empty());
        assert_eq!(lacking(&SOURCE[0], Some(&["shop", "blog"])), ["find", "listCollections"]);
        assert!(lacking(&SOURCE[1], Some(&["shop"])).is_empty());
        assert_eq!(lacking(&SOURCE[2], None), ["top"]);
        let root = [doc! {"resource": {"anyResource": true}, "actions": ["anyAction"]}];
        assert!(SOURCE.iter().chain(TARGET).all(|it| it.lacking(&root, None).is_empty()));
    }
}
