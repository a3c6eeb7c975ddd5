//! The log to an OpenTelemetry collector (OTLP over HTTP, protobuf), where one is named in the environment as that
//! standard has it: `OTEL_EXPORTER_OTLP_ENDPOINT` and its kin. Besides the other sinks, and without their limits per place:
//! collectors have their own.

use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::LogExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};

/// The variables that name a collector.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"];

/// The way to the collector. Dropping it sends what waits.
pub(super) struct Collector(SdkLoggerProvider);

impl Drop for Collector {
    fn drop(&mut self) {
        // Nobody can be told any more.
        let _ = self.0.shutdown();
    }
}

pub(super) type Bridge = OpenTelemetryTracingBridge<SdkLoggerProvider, SdkLogger>;

/// A layer for the collector that the environment names, if it names one. It sends on a thread of its own.
pub(super) fn connect(service: &'static str) -> (Option<Bridge>, Option<Collector>) {
    let named = ENDPOINTS.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if !named {
        return (None, None);
    }
    match LogExporter::builder().with_http().build() {
        Ok(exporter) => {
            let resource = Resource::builder().with_service_name(service).build();
            let provider = SdkLoggerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
            (Some(OpenTelemetryTracingBridge::new(&provider)), Some(Collector(provider)))
        }
        Err(error) => {
            eprintln!("no log to the OpenTelemetry collector: {error}");
            (None, None)
        }
    }
}
