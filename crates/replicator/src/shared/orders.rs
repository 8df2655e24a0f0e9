//! How people steer it: what the worker is to do, and what it does between two batches.

use record::Namespace;
use tokio::sync::oneshot;

use super::Shared;
use crate::error::ServerError;
use crate::state::{Desired, Filter};
use crate::tuning::Retuned;

/// A change of the worker that does not fit its state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// As it says.
    #[error("the worker is {0}")]
    WrongState(&'static str),
    /// The state could not be written to disk, so the change would not survive a restart.
    #[error("the change cannot be written to the log's folder")]
    NotSaved,
    /// The source must be asked for what it holds, and does not answer.
    #[error("the local mongod cannot be asked for its collections: {0}")]
    SourceAway(String),
    /// The worker has ended, or did not answer.
    #[error("the worker does not answer")]
    NoAnswer,
}

/// An order that the worker carries out between two batches.
pub enum Order {
    /// Everything pending is given up; its namespaces become dirty. Answers how many entries.
    Clear(oneshot::Sender<u64>),
    /// Converge the keys of these dead letters (all when empty). Answers how many.
    Retry(Vec<u64>, oneshot::Sender<u64>),
    /// Forget these dead letters (all when empty); their namespaces become dirty. Answers how many.
    Discard(Vec<u64>, oneshot::Sender<u64>),
    /// Compare everything. Answers 1, or 0 when that is under way.
    Full(oneshot::Sender<u64>),
    /// Do not compare what is dirty only because it was asked for. Answers how many namespaces.
    StopFull(oneshot::Sender<u64>),
    /// What is missing on the source of these dirty namespaces is meant to be. Answers how many are dirty.
    Confirm(Vec<Namespace>, oneshot::Sender<u64>),
    /// Follow what this filter names; whether it was ordered beside the configuration.
    Filter(Filter, bool, oneshot::Sender<Result<(), ServerError>>),
}

impl Shared {
    /// Starts a stopped worker.
    pub fn start(&self) -> Result<(), ControlError> {
        self.change(Desired::Running, |now| now == Desired::Stopped)
    }

    /// Stops the worker: the target's connections are closed after the batch.
    pub fn stop(&self) -> Result<(), ControlError> {
        self.change(Desired::Stopped, |now| now != Desired::Stopped)
    }

    /// Pauses the worker after the batch; connections stay.
    pub fn pause(&self) -> Result<(), ControlError> {
        self.change(Desired::Paused, |now| now == Desired::Running)
    }

    /// Resumes a paused worker.
    pub fn resume(&self) -> Result<(), ControlError> {
        self.change(Desired::Running, |now| now == Desired::Paused)
    }

    fn change(&self, to: Desired, allowed: impl Fn(Desired) -> bool) -> Result<(), ControlError> {
        let mut state = self.state();
        let now = state.desired();
        if !allowed(now) {
            let name = match now {
                Desired::Running => "running",
                Desired::Paused => "paused",
                Desired::Stopped => "stopped",
            };
            return Err(ControlError::WrongState(name));
        }
        state.set_desired(to);
        drop(state);
        if self.save_state().is_err() {
            self.state().set_desired(now);
            return Err(ControlError::NotSaved);
        }
        self.0.changed.notify_one();
        Ok(())
    }

    /// Changes that, over restarts too. What is not named is as configured.
    pub fn retune(&self, to: Retuned) -> Result<(), ControlError> {
        let mut state = self.state();
        let before = state.retuned();
        state.set_retuned(to);
        drop(state);
        if self.save_state().is_err() {
            self.state().set_retuned(before);
            return Err(ControlError::NotSaved);
        }
        self.0.changed.notify_one();
        Ok(())
    }

    /// Gives up everything pending; its namespaces become dirty. Says how many entries.
    pub async fn clear(&self) -> Result<u64, ControlError> {
        self.order(Order::Clear).await
    }

    /// Copies the documents of these dead letters (all when empty). Says how many are tried.
    pub async fn retry(&self, ids: Vec<u64>) -> Result<u64, ControlError> {
        self.order(|answer| Order::Retry(ids, answer)).await
    }

    /// Forgets these dead letters (all when empty); their namespaces become dirty. Says how many.
    pub async fn discard(&self, ids: Vec<u64>) -> Result<u64, ControlError> {
        self.order(|answer| Order::Discard(ids, answer)).await
    }

    /// Everything is compared as a whole, on disk when this returns; says whether that was not under way.
    pub async fn start_full(&self) -> Result<bool, ControlError> {
        Ok(self.order(Order::Full).await? > 0)
    }

    /// Gives up what is left of a comparison that was asked for. Says how many namespaces, everything counting as one.
    pub async fn stop_full(&self) -> Result<u64, ControlError> {
        self.order(Order::StopFull).await
    }

    /// Documents that only the target has in these dirty namespaces may be deleted. Says how many of them are dirty.
    pub async fn confirm_deletes(&self, namespaces: Vec<Namespace>) -> Result<u64, ControlError> {
        self.order(|answer| Order::Confirm(namespaces, answer)).await
    }

    /// What is captured, and whether that was ordered beside the configuration.
    pub fn filter(&self) -> (Filter, bool) {
        let state = self.state();
        (state.filter().clone(), state.ordered_filter().is_some())
    }

    /// Follows what `filter` names from now on, over restarts too when it is `ordered`. Capture must look by it already.
    pub async fn set_filter(&self, filter: Filter, ordered: bool) -> Result<(), ControlError> {
        let set = self.order(|answer| Order::Filter(filter, ordered, answer)).await?;
        set.map_err(|error| ControlError::SourceAway(error.to_string()))
    }

    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, ControlError> {
        let (answer, answered) = oneshot::channel();
        self.0.orders.try_send(order(answer)).map_err(|_| ControlError::NoAnswer)?;
        self.0.changed.notify_one();
        answered.await.map_err(|_| ControlError::NoAnswer)
    }
}
