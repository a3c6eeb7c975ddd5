//! Values of flags that more than one command takes.

use ginnel_engine::limits::WORKERS_MAX;
use ginnel_engine::port::Offload;
use tracing_subscriber::EnvFilter;

/// The offload called `name`.
pub(crate) fn offload(name: &str) -> Result<Offload, String> {
    let known = || Offload::ALL.map(Offload::name).join(", ");
    let found = Offload::ALL.into_iter().find(|offload| offload.name() == name);
    found.ok_or_else(|| format!("known offloads: {}", known()))
}

/// A number of worker threads; 0 leaves it to the device.
pub(crate) fn workers(text: &str) -> Result<usize, String> {
    let workers = text.parse().map_err(|_| "a number is wanted".to_owned())?;
    if workers <= WORKERS_MAX { Ok(workers) } else { Err(format!("a device has at most {WORKERS_MAX} workers")) }
}

/// A filter of the log.
pub(crate) fn log_filter(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_refusals() {
        for known in Offload::ALL {
            assert_eq!(offload(known.name()), Ok(known));
        }
        assert!(offload("gro").unwrap_err().contains("link_segmentation"));
        assert_eq!((workers("0"), workers(&WORKERS_MAX.to_string())), (Ok(0), Ok(WORKERS_MAX)));
        for bad in ["-1", "many", "", &(WORKERS_MAX + 1).to_string()] {
            assert!(workers(bad).is_err(), "{bad:?}");
        }
    }
}
