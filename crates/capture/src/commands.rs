//! What each command may do to data, by its name (`wire-facts.md` sections 1.2 and 4; names are case-sensitive).

/// What a command may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Insert,
    Update,
    Delete,
    FindAndModify,
    BulkWrite,
    /// Writes when its last stage is `$out` or `$merge`.
    Aggregate,
    /// Writes when its cursor is that of such an aggregate.
    GetMore,
    /// Writes documents in bulk; followed by namespace.
    Coarse(Coarse),
    /// Ends a transaction.
    End(End),
    /// Changes what is not replicated: users, roles, search indexes.
    NotReplicated,
    /// Changes no data.
    Reads,
    /// In no list: it could write.
    Unknown,
}

/// Commands that are followed by the namespaces that they name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coarse {
    Drop,
    /// `convertToCapped`: the collection that the command names.
    Collection,
    /// `create`, `collMod`, and those over indexes: what the collection is beside its documents.
    Shape,
    DropDatabase,
    Rename,
    /// `internalRenameIfOptionsAndIndexesMatch`, which any client may send.
    InternalRename,
    /// `validate`, which a standalone lets repair documents.
    Validate,
    CloneAsCapped,
    MapReduce,
    ApplyOps,
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Commit,
    Abort,
}

impl Command {
    /// The command of this name.
    pub(crate) fn named(name: &str) -> Command {
        match name {
            "insert" => Command::Insert,
            "update" => Command::Update,
            "delete" => Command::Delete,
            "findAndModify" | "findandmodify" => Command::FindAndModify,
            "aggregate" => Command::Aggregate,
            "getMore" => Command::GetMore,
            "bulkWrite" => Command::BulkWrite,
            "drop" => Command::Coarse(Coarse::Drop),
            "convertToCapped" => Command::Coarse(Coarse::Collection),
            "create" | "collMod" | "createIndexes" | "dropIndexes" | "deleteIndexes" => {
                Command::Coarse(Coarse::Shape)
            }
            "dropDatabase" => Command::Coarse(Coarse::DropDatabase),
            "renameCollection" => Command::Coarse(Coarse::Rename),
            "internalRenameIfOptionsAndIndexesMatch" => Command::Coarse(Coarse::InternalRename),
            "validate" => Command::Coarse(Coarse::Validate),
            "cloneCollectionAsCapped" => Command::Coarse(Coarse::CloneAsCapped),
            "mapReduce" | "mapreduce" => Command::Coarse(Coarse::MapReduce),
            "applyOps" => Command::Coarse(Coarse::ApplyOps),
            "commitTransaction" => Command::End(End::Commit),
            "abortTransaction" => Command::End(End::Abort),
            name if NOT_REPLICATED.contains(&name) => Command::NotReplicated,
            name if READS.contains(&name) => Command::Reads,
            _ => Command::Unknown,
        }
    }
}

const NOT_REPLICATED: &[&str] = &[
    "createSearchIndexes",
    "updateSearchIndex",
    "dropSearchIndex",
    "createUser",
    "updateUser",
    "dropUser",
    "dropAllUsersFromDatabase",
    "grantRolesToUser",
    "revokeRolesFromUser",
    "createRole",
    "updateRole",
    "dropRole",
    "dropAllRolesFromDatabase",
    "grantPrivilegesToRole",
    "revokePrivilegesFromRole",
    "grantRolesToRole",
    "revokeRolesFromRole",
];

/// What drivers send all day comes first.
const READS: &[&str] = &[
    "find",
    "count",
    "distinct",
    "hello",
    "isMaster",
    "ismaster",
    "ping",
    "killCursors",
    "endSessions",
    "refreshSessions",
    "saslStart",
    "saslContinue",
    "authenticate",
    "buildInfo",
    "buildinfo",
    "serverStatus",
    "explain",
    "listCollections",
    "listDatabases",
    "listIndexes",
    "listCommands",
    "listSearchIndexes",
    "dbStats",
    "dbstats",
    "collStats",
    "collstats",
    "dataSize",
    "datasize",
    "dbHash",
    "dbhash",
    "getParameter",
    "setParameter",
    "getClusterParameter",
    "setClusterParameter",
    "currentOp",
    "killOp",
    "validateDBMetadata",
    "dbCheck",
    "splitVector",
    "flushRouterConfig",
    "waitForFailPoint",
    "startRecordingTraffic",
    "stopRecordingTraffic",
    "top",
    "getLog",
    "hostInfo",
    "getCmdLineOpts",
    "profile",
    "setProfilingFilterGlobally",
    "whatsmyuri",
    "connectionStatus",
    "connPoolStats",
    "connPoolSync",
    "dropConnections",
    "logout",
    "startSession",
    "killSessions",
    "killAllSessions",
    "killAllSessionsByPattern",
    "usersInfo",
    "rolesInfo",
    "invalidateUserCache",
    "atlasVersion",
    "availableQueryOptions",
    "features",
    "filemd5",
    "getnonce",
    "getLastError",
    "getDefaultRWConcern",
    "setDefaultRWConcern",
    "getDiagnosticData",
    "getFreeMonitoringStatus",
    "setFreeMonitoring",
    "setFeatureCompatibilityVersion",
    "getQueryableEncryptionCountInfo",
    "lockInfo",
    "logRotate",
    "fsync",
    "fsyncUnlock",
    "shutdown",
    "rotateCertificates",
    "reIndex",
    "compact",
    "autoCompact",
    "setIndexCommitQuorum",
    "planCacheClear",
    "planCacheClearFilters",
    "planCacheListFilters",
    "planCacheSetFilter",
    "setQuerySettings",
    "removeQuerySettings",
    "setUserWriteBlockMode",
    "appendOplogNote",
    "driverOIDTest",
    "isdbgrid",
    "getShardMap",
    "getShardVersion",
    "getDatabaseVersion",
    "shardingState",
    "listShards",
    "balancerStatus",
    "_isSelf",
    "replSetAbortPrimaryCatchUp",
    "replSetFreeze",
    "replSetGetConfig",
    "replSetGetRBID",
    "replSetGetStatus",
    "replSetHeartbeat",
    "replSetInitiate",
    "replSetMaintenance",
    "replSetReconfig",
    "replSetRequestVotes",
    "replSetResizeOplog",
    "replSetStepDown",
    "replSetStepUp",
    "replSetSyncFrom",
    "replSetUpdatePosition",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// wire-facts 1.2: names are case-sensitive, with these aliases.
    #[test]
    fn names_are_case_sensitive() {
        let cases = [
            ("insert", Command::Insert),
            ("Insert", Command::Unknown),
            ("findandmodify", Command::FindAndModify),
            ("findAndmodify", Command::Unknown),
            ("mapreduce", Command::Coarse(Coarse::MapReduce)),
            ("deleteIndexes", Command::Coarse(Coarse::Shape)),
            ("ismaster", Command::Reads),
            ("clusterInsert", Command::Unknown),
            ("", Command::Unknown),
        ];
        for (name, command) in cases {
            assert_eq!(Command::named(name), command, "{name}");
        }
    }
}
