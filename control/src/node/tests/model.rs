//! The node against the model that the crash campaign uses, too: random operations, with a kernel that refuses, hangs or is
//! changed by others, containers that end, and daemons that are killed in the middle of it. Time does not pass but when all
//! wait.
//!
//! After each step, once everything has settled: the disk is one of the states it may be in, the kernel is exactly what the
//! disk says, every lease has one holder. A failure shrinks to the shortest sequence that still fails, and prints it.
//!
//! `GINNEL_TEST_CASES` is how many sequences are tried.

use super::image::{check_leases, check_names_and_guests, kernel, wanted};
use super::*;
use crate::ipc::access::Caller;
use crate::ipc::health::HealthBoard;
use crate::ipc::live::Live;
use crate::ipc::server::desk::Desk;
use crate::ipc::server::{Order, ServerSettings};
use crate::node::fake::Trouble;
use crate::state::Attachment;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use reference::{Choices, Operation, Workload, World};
use std::process::{Child, Command, Stdio};

#[path = "../../../tests/common/model/mod.rs"]
mod reference;

/// Processes that stand for containers.
const CONTAINERS: usize = 4;

/// Steps of a sequence, at most.
const STEPS_MAX: usize = 14;

/// Two rounds of everything that is tried again.
const SETTLED: Duration = Duration::from_secs(70);

type Bytes = [u8; 10];

#[derive(Clone, Debug)]
enum What {
    /// An operation.
    Ask(Bytes),
    /// Two at once.
    AskBoth(Bytes, Bytes),
    /// A container ends.
    End(usize),
    /// The daemon is killed while it does something, and starts again. A container may end meanwhile.
    Kill { during: Bytes, ended: Option<usize> },
}

#[derive(Clone, Debug)]
struct Step {
    what: What,
    /// Which of its calls to the kernel have which trouble.
    troubles: Vec<(usize, Trouble)>,
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        4 => Just(Trouble::Refused),
        2 => Just(Trouble::DoneAndRefused),
        2 => Just(Trouble::Slow),
        1 => Just(Trouble::Usurped),
        1 => Just(Trouble::Removed),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        14 => any::<Bytes>().prop_map(What::Ask),
        3 => any::<(Bytes, Bytes)>().prop_map(|(one, other)| What::AskBoth(one, other)),
        1 => (0..CONTAINERS).prop_map(What::End),
        2 => (any::<Bytes>(), prop::option::weighted(0.3, 0..CONTAINERS))
            .prop_map(|(during, ended)| What::Kill { during, ended }),
    ];
    let troubles = prop_oneof![
        1 => Just(Vec::new()),
        1 => prop::collection::vec((0..12_usize, trouble()), 1..3),
    ];
    (what, troubles).prop_map(|(what, troubles)| Step { what, troubles })
}

/// A process that stands for a container.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        let mut command = Command::new("sleep");
        Self(command.arg("infinity").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node, what it is to be, and its containers.
struct Run {
    dir: TempDir,
    lab: Lab,
    desk: Option<Arc<Desk<Node<Lab, Lab>>>>,
    node: Option<Arc<Node<Lab, Lab>>>,
    world: World,
    containers: Vec<Sleeper>,
}

impl Run {
    async fn start() -> Self {
        let containers = (0..CONTAINERS).map(|_| Sleeper::start()).collect();
        let (dir, lab, world) = (TempDir::in_memory(), Lab::default(), World::default());
        let mut run = Self { dir, lab, desk: None, node: None, world, containers };
        run.launch().await;
        run
    }

    async fn launch(&mut self) {
        let events = EventHub::default();
        let tuning = Tuning { look_interval: Duration::from_secs(600), ..Tuning::default() };
        let options = NodeOptions { tuning, events: events.clone(), ..NodeOptions::new(&self.dir.join("state")) };
        let node = Node::open(self.lab.clone(), self.lab.clone(), options).await.unwrap();
        let settings = Live::new(ServerSettings::default());
        self.desk = Some(Arc::new(Desk::new(node.clone(), settings, events, HealthBoard::default())));
        self.node = Some(node);
    }

    /// Ends all of the process but its kernel.
    async fn kill(&mut self) {
        self.desk = None;
        let Some(node) = self.node.take() else { return };
        let (store, life) = (node.kit.store.life(), Arc::downgrade(&node));
        drop(node);
        while life.strong_count() + store.strong_count() > 0 || !self.lab.world().links.is_empty() {
            std::thread::sleep(Duration::from_micros(100));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn node(&self) -> &Node<Lab, Lab> {
        self.node.as_deref().unwrap()
    }

    fn draw(&self, bytes: &Bytes) -> Operation {
        let pids: Vec<_> = self.containers.iter().map(|sleeper| sleeper.0.id()).collect();
        let operation = Operation::draw(&mut Choices::new(bytes), self.world.state(), &Workload::all(&pids));
        println!("{}", operation.request());
        operation
    }

    /// Asks the node as a connection does.
    fn ask(&self, operation: &Operation) -> impl Future<Output = String> + use<> {
        let request = request(&format!(r#"{{"frame":"request","id":1,"request":{}}}"#, operation.request()));
        let desk = self.desk.clone().unwrap();
        async move {
            let order = Order { caller: Caller::default(), request, descriptors: Vec::new() };
            let response = desk.record(order).await;
            serde_json::to_string(&response).unwrap()
        }
    }

    async fn step(&mut self, step: &Step) {
        println!("{step:?}");
        self.lab.world().troubles = step.troubles.iter().copied().collect();
        self.lab.world().troubled = 0;
        match &step.what {
            What::Ask(bytes) => {
                let operation = self.draw(bytes);
                let answer = self.ask(&operation).await;
                let failed = answer.contains(r#""result":"err""#) && self.lab.world().troubled > 0;
                self.world = match failed {
                    true => self.world.interrupted(&operation),
                    false => self.world.answered(&operation, &answer),
                };
            }
            What::AskBoth(one, other) => {
                let (one, other) = (self.draw(one), self.draw(other));
                tokio::join!(self.ask(&one), self.ask(&other));
                self.world = World::adopt(&self.tables());
            }
            What::End(number) => self.end_container(*number),
            What::Kill { during, ended } => {
                let operation = self.draw(during);
                let task = tokio::spawn(self.ask(&operation));
                // As far as it comes: what is slow has not happened yet by then.
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.world = match task.is_finished() {
                    true => {
                        let answer = task.await.unwrap();
                        let failed = answer.contains(r#""result":"err""#) && self.lab.world().troubled > 0;
                        match failed {
                            true => self.world.interrupted(&operation),
                            false => self.world.answered(&operation, &answer),
                        }
                    }
                    false => {
                        task.abort();
                        let _ = task.await;
                        self.world.interrupted(&operation)
                    }
                };
                self.kill().await;
                ended.iter().for_each(|number| self.end_container(*number));
                self.launch().await;
            }
        }
        self.lab.world().troubles.clear();
        self.lab.world().foreign.clear();
        self.settle().await;
        self.world = self.world.found(&self.tables());
        assert_eq!(kernel(&self.lab), self.wanted(), "the kernel");
        check_leases(self.node());
        check_names_and_guests(self.node());
        self.check_answers().await;
    }

    /// Lets everything that is tried again be tried. Time passes at once but for threads, such as those that hear devices.
    async fn settle(&self) {
        for _ in 0..25 {
            tokio::time::sleep(SETTLED).await;
            if kernel(&self.lab) == self.wanted() && self.world.allows(&self.tables()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn wanted(&self) -> Vec<String> {
        let key = self.node().overlay().public_key();
        self.node().kit.store.read(|tables| wanted(tables, key))
    }

    fn end_container(&mut self, number: usize) {
        let ended = std::mem::replace(&mut self.containers[number], Sleeper::start());
        self.world = self.world.ended(&format!("linux_pid:{}", ended.0.id()));
    }

    fn tables(&self) -> crate::state::Tables {
        self.node().kit.store.read(Clone::clone)
    }

    /// What is told is what there is, and a sync that names nothing and covers nothing of ours changes nothing.
    async fn check_answers(&mut self) {
        let desk = self.desk.clone().unwrap();
        let ask = async |fields: &str| {
            let order = Order { caller: Caller::default(), request: super::ask(fields), descriptors: Vec::new() };
            desk.record(order).await
        };
        let Response::Status(status) = ask(r#""op":"status""#).await else { panic!("no status") };
        let state = self.world.state();
        assert_eq!(usize::try_from(status.service_count), Ok(state.services.len()));
        assert_eq!(status.interface.is_some(), state.global.is_some_and(|(.., up)| up));
        for (kind, count) in
            [("attachments", state.attached.len()), ("dns", self.node().kit.store.all::<crate::state::Name>().len())]
        {
            let Response::List(page) = ask(&format!(r#""op":"list","kind":"{kind}","limit":1000"#)).await else {
                panic!("no list of {kind}")
            };
            let items = serde_json::to_value(&page).unwrap()["items"].as_array().unwrap().len();
            assert_eq!(items, count, "{kind}");
        }
    }
}

fn run(steps: &[Step]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        println!("a sequence of {}", steps.len());
        let mut run = Run::start().await;
        for step in steps {
            run.step(step).await;
        }
        let attached = run.node().kit.store.all::<Attachment>().len();
        assert!(attached <= CONTAINERS + 2);
        // Nothing is left when all is taken away.
        run.node().shut_down().await.unwrap();
        assert_eq!(kernel(&run.lab), Vec::<String>::new());
    });
}

/// The same sequences each time, so that a change fails for what it does; as many others as `GINNEL_TEST_CASES` asks for.
fn config() -> Config {
    let asked = std::env::var("GINNEL_TEST_CASES").ok();
    let cases = asked.as_ref().map_or(120, |cases| cases.parse().expect("GINNEL_TEST_CASES is a number"));
    let rng_seed = if asked.is_some() { RngSeed::Random } else { RngSeed::Fixed(1) };
    Config { cases, rng_seed, max_shrink_iters: 2_000, failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn disk_kernel_and_answers_agree_whatever_happens(steps in prop::collection::vec(step(), 1..STEPS_MAX)) {
        run(&steps);
    }
}
