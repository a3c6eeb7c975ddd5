//! What fuzz targets need of the engine and nobody else: the naive twins of the segmenter, the lanes and the routing table,
//! and the check of the table's structure. Behind the feature `fuzzing`, which adds this module and changes nothing.

pub use crate::offload::naive::{Delivered, Unit, coalesce, cut, flow_of, uncoalesce, without_atomic_id};
pub use crate::route::naive::List;
pub use crate::route::sound::check as check_routes;
