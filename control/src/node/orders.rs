//! Changes of one object happen one after the other, those of different objects beside each other. Whoever only needs an
//! object to stay as it is shares it with others of the kind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// A lock for each object that is being changed.
#[derive(Debug, Default)]
pub(super) struct Orders(Mutex<HashMap<String, Arc<RwLock<()>>>>);

impl Orders {
    /// Waits for earlier changes of `object` to end. The next one waits for the guard to be dropped.
    pub(super) async fn turn(&self, object: &str) -> OwnedRwLockWriteGuard<()> {
        self.lock(object).write_owned().await
    }

    /// Waits for earlier changes of `object` to end, and keeps later ones waiting until the guard is dropped.
    pub(super) async fn share(&self, object: &str) -> OwnedRwLockReadGuard<()> {
        self.lock(object).read_owned().await
    }

    fn lock(&self, object: &str) -> Arc<RwLock<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds or waits for are forgotten.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(object.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_object_waits_and_others_do_not() {
        let orders = Arc::new(Orders::default());
        let first = orders.turn("a").await;
        let other = orders.turn("b").await;
        let (waiting, order) = (orders.clone(), Arc::new(Mutex::new(Vec::new())));
        let noted = order.clone();
        let second = tokio::spawn(async move {
            let _turn = waiting.turn("a").await;
            noted.lock().unwrap().push("second");
        });
        tokio::task::yield_now().await;
        order.lock().unwrap().push("first");
        drop((first, other));
        second.await.unwrap();
        assert_eq!(*order.lock().unwrap(), ["first", "second"]);
        let (shared, also) = (orders.share("a").await, orders.share("a").await);
        assert!(orders.lock("a").try_write().is_err());
        drop((shared, also));
        let _ = orders.turn("c").await;
        assert_eq!(orders.0.lock().unwrap().len(), 1, "what nobody wants is forgotten");
    }
}
