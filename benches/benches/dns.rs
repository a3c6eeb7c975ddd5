//! Names: the answer to a query, bytes to bytes, and the change of a record.
//!
//! What the numbers mean, all on one core and in memory; sockets are `names` under dnsperf:
//! - `answer`: one query out of a table of 10,000 names, each with one address: found, of another type, unknown, and one
//!   address asked the other way round.
//! - `change`: a name registered and taken away again, in a table that holds so many.
//!
//! Run with `cargo bench -p ginnel-benches --bench dns`.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ginnel_benches::names::{address, fill, name, query, server};
use std::hint::black_box;
use std::net::IpAddr;

criterion_group!(benches, answer, change);
criterion_main!(benches);

/// The table the aim is set for.
const NAMES: u32 = 10_000;

/// RFC 1035, section 3.2.2, and RFC 3596.
const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;

fn answer(criterion: &mut Criterion) {
    let server = server();
    fill(&server, NAMES);
    let client = IpAddr::from([10, 200, 0, 1]);
    let reverse = |number| match address(number) {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(_) => unreachable!("the table has none"),
    };
    let queries = |text: &dyn Fn(u32) -> String, kind| (0..NAMES).map(|n| query(&text(n), kind)).collect::<Vec<_>>();
    let mut group = criterion.benchmark_group("dns/answer");
    for (what, queries) in [
        ("found", queries(&name, A)),
        ("other_type", queries(&name, AAAA)),
        ("unknown", queries(&|number| format!("x{}", name(number)), A)),
        ("reverse", queries(&reverse, PTR)),
    ] {
        // A stride that shares no divisor with the table, so that each query is another name.
        let mut next = (0..).map(|step: usize| &queries[step * 7_919 % queries.len()]);
        group.bench_function(what, |bencher| {
            bencher.iter(|| {
                let query = next.next().expect("it never ends");
                black_box(server.answer(query, client)).expect("an answer")
            });
        });
    }
}

fn change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dns/change");
    for names in [100, NAMES, 100_000] {
        let server = server();
        fill(&server, names);
        group.bench_function(BenchmarkId::from_parameter(names), |bencher| {
            bencher.iter(|| {
                let records = server.records();
                records.register("one-more.prod.local", address(names)).expect("a name");
                records.unregister("one-more.prod.local", None).expect("a name");
            });
        });
    }
}
