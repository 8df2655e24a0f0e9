//! Two other logs, as their documentation says to use them for this.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use crate::Way;

struct RaftEngine {
    engine: raft_engine::Engine,
    next: AtomicU64,
}

/// Key-value form, without compression: records of a log by position.
pub(crate) fn raft_engine(dir: &Path) -> Result<Arc<dyn Way>> {
    let mut config = raft_engine::Config::default();
    config.dir = dir.join("raft-engine").to_string_lossy().into_owned();
    config.batch_compression_threshold = raft_engine::ReadableSize(0);
    Ok(Arc::new(RaftEngine { engine: raft_engine::Engine::open(config)?, next: AtomicU64::new(0) }))
}

impl RaftEngine {
    fn write(&self, payload: &[u8], sync: bool) -> Result<()> {
        let mut batch = raft_engine::LogBatch::with_capacity(1);
        let key = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        batch.put(1, key.to_vec(), payload.to_vec())?;
        self.engine.write(&mut batch, sync)?;
        Ok(())
    }
}

impl Way for RaftEngine {
    fn append(&self, payload: &[u8]) -> Result<()> {
        self.write(payload, false)
    }

    fn append_synced(&self, payload: &[u8]) -> Result<()> {
        self.write(payload, true)
    }
}

struct Fjall {
    database: fjall::Database,
    records: fjall::Keyspace,
    next: AtomicU64,
}

/// Each insert goes to its journal, which is not synced unless asked for.
pub(crate) fn fjall(dir: &Path) -> Result<Arc<dyn Way>> {
    let database = fjall::Database::builder(dir.join("fjall")).open()?;
    let records = database.keyspace("records", fjall::KeyspaceCreateOptions::default)?;
    Ok(Arc::new(Fjall { database, records, next: AtomicU64::new(0) }))
}

impl Way for Fjall {
    fn append(&self, payload: &[u8]) -> Result<()> {
        let key = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        self.records.insert(key, payload)?;
        Ok(())
    }

    fn append_synced(&self, payload: &[u8]) -> Result<()> {
        self.append(payload)?;
        self.database.persist(fjall::PersistMode::SyncData)?;
        Ok(())
    }
}
