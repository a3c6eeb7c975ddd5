//! A node: a daemon that is killed, ended and started again, and asked again until it answers.

use super::{Broken, Deed, Run, lock};
use ginnel_control::host::Netns;
use ginnel_control::ipc::blocking::BlockingClient;
use ginnel_control::ipc::wire::{ErrorCode, ListPage, ListQuery, ObjectKind, Objects, Request, Response};
use ginnel_control::lab;
use ginnel_control::lab::process::{Keeper, Process};
use ipnet::IpNet;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

/// How long an address rests, in seconds: short, so that the addresses of a small subnet are used again and again.
pub const QUARANTINE_SECS: u64 = 5;

/// What a daemon is to tell: what is wrong, but not of each frame that is none.
const LOG: &str = "warn,ginnel_control::ipc::server=error";

/// What a daemon gets to start, to end, and to answer at all.
const START_WITHIN: Duration = Duration::from_secs(15);
const END_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(40);

/// What one try of a request gets.
const CALL_WITHIN: Duration = Duration::from_secs(20);

/// A node.
#[derive(Debug)]
pub struct Node {
    /// `a` or `b`.
    pub name: &'static str,
    /// Its network.
    pub netns: Netns,
    run: &'static Run,
    keeper: Keeper,
    program: PathBuf,
    files: PathBuf,
    underlay: Mutex<Ipv4Addr>,
    life: Mutex<Life>,
}

/// The daemon that runs at the moment; whoever holds it may end it.
#[derive(Debug)]
struct Life {
    number: u32,
    process: Process,
}

impl Node {
    /// Starts one with nothing set up.
    pub fn start(
        name: &'static str,
        ground: &lab::Node,
        program: &Path,
        scratch: &Path,
        keeper: &Keeper,
        run: &'static Run,
    ) -> Result<Self, Broken> {
        let files = scratch.join(name);
        let config = format!("[ipam]\nquarantine_secs = {QUARANTINE_SECS}\n");
        fs::create_dir(&files)
            .and_then(|()| fs::write(files.join("config"), config))
            .map_err(|error| Broken(format!("write {}: {error}", files.display())))?;
        let netns = ground.netns.clone();
        let life = Mutex::new(Life { number: 1, process: launch(&netns, program, &files, keeper)? });
        let underlay = Mutex::new(ground.underlay_v4);
        let (keeper, program) = (keeper.clone(), program.to_owned());
        let node = Self { name, netns, run, keeper, program, files, underlay, life };
        node.answers()?;
        Ok(node)
    }

    /// Where it is on the underlay.
    pub fn underlay(&self) -> Ipv4Addr {
        *lock(&self.underlay)
    }

    /// Moves it to another address of the underlay.
    pub fn move_to(&self, address: Ipv4Addr) -> Result<(), Broken> {
        let mut underlay = lock(&self.underlay);
        let [old, new] = [*underlay, address].map(|address| IpNet::new_assert(address.into(), 24));
        self.netns.configure(async |netlink| {
            let link = netlink.link(lab::UNDERLAY_LINK).await?.index;
            netlink.remove_address(link, old).await?;
            netlink.add_address(link, new).await
        })?;
        *underlay = address;
        Ok(())
    }

    /// Process and number of the daemon.
    pub fn life(&self) -> (u32, u32) {
        let life = lock(&self.life);
        (life.process.pid(), life.number)
    }

    /// The daemon runs, unless somebody is about to end it.
    pub fn check_alive(&self) -> Result<(), Broken> {
        let Ok(life) = self.life.try_lock() else { return Ok(()) };
        match life.process.ended() {
            None => Ok(()),
            Some(status) => Err(Broken(format!("daemon {} ended by itself, {status}", self.name))),
        }
    }

    /// What it said last.
    pub fn last_words(&self) -> String {
        lock(&self.life).process.last_words()
    }

    /// A file or directory of it: `sock`, `log`, `data`, `wg`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.files.join(name)
    }

    /// Kills the daemon, and starts it again after a while.
    pub fn kill(&self, down: Duration) -> Result<(), Broken> {
        let mut life = lock(&self.life);
        self.run.did(Deed::Kill, 1);
        self.signal(&life.process, Signal::SIGKILL)?;
        self.revive(&mut life, down)
    }

    /// Ends the daemon in order, looks at what is left with `look`, and starts it again after a while.
    pub fn end(&self, down: Duration, look: impl FnOnce() -> Result<(), Broken>) -> Result<(), Broken> {
        let mut life = lock(&self.life);
        self.run.did(Deed::End, 1);
        self.end_in_order(&life.process)?;
        look()?;
        self.revive(&mut life, down)
    }

    /// Ends the daemon in order for good.
    pub fn finish(&self) -> Result<(), Broken> {
        self.end_in_order(&lock(&self.life).process)
    }

    fn end_in_order(&self, process: &Process) -> Result<(), Broken> {
        let status = self.signal(process, Signal::SIGTERM)?;
        let name = self.name;
        if status.success() { Ok(()) } else { Err(Broken(format!("daemon {name} ended on SIGTERM with {status}"))) }
    }

    fn signal(&self, process: &Process, signal: Signal) -> Result<ExitStatus, Broken> {
        if let Some(status) = process.ended() {
            return Err(Broken(format!("daemon {} ended by itself, {status}", self.name)));
        }
        let number = i32::try_from(process.pid()).map_err(|error| Broken(error.to_string()))?;
        kill(Pid::from_raw(number), signal)
            .map_err(|errno| Broken(format!("{signal} to daemon {}: {errno}", self.name)))?;
        let mut ended = None;
        self.run.within(END_WITHIN, &format!("daemon {} ends on {signal}", self.name), || {
            ended = process.ended();
            Ok(ended.is_none().then(|| "it runs".into()))
        })?;
        ended.ok_or_else(|| Broken("no status".into()))
    }

    fn revive(&self, life: &mut Life, down: Duration) -> Result<(), Broken> {
        thread::sleep(down);
        life.process = launch(&self.netns, &self.program, &self.files, &self.keeper)?;
        life.number += 1;
        self.answers()
    }

    /// Waits for the first answer, which a daemon gives once all is up that was before.
    fn answers(&self) -> Result<(), Broken> {
        self.run.within(START_WITHIN, &format!("daemon {} answers after its start", self.name), || {
            let mut client = match BlockingClient::connect(&self.file("sock"), CALL_WITHIN) {
                Ok(client) => client,
                Err(error) => return Ok(Some(error.to_string())),
            };
            Ok(client.status().err().map(|error| error.to_string()))
        })
    }

    /// A connection to it, whether it runs at the moment or not.
    pub fn caller(&self) -> Caller<'_> {
        Caller { node: self, client: None }
    }
}

fn launch(netns: &Netns, program: &Path, files: &Path, keeper: &Keeper) -> Result<Process, Broken> {
    let mut command = Command::new(program);
    command.args(["daemon", "--config"]).arg(files.join("config")).arg("--data-dir").arg(files.join("data"));
    command.arg("--socket").arg(files.join("sock")).arg("--uapi-dir").arg(files.join("wg")).env("RUST_LOG", LOG);
    Ok(keeper.start(netns, &mut command, &files.join("log"))?)
}

/// Asks a daemon, and asks again where it went away meanwhile: to repeat a request is safe.
#[derive(Debug)]
pub struct Caller<'a> {
    node: &'a Node,
    client: Option<BlockingClient>,
}

impl Caller<'_> {
    /// The answer, which may be a refusal that time does not cure.
    pub fn ask(&mut self, request: &Request) -> Result<Response, Broken> {
        let Self { node, client } = self;
        let mut answer = None;
        node.run.within(ANSWER_WITHIN, &format!("daemon {} answers {}", node.name, request.op()), || {
            let connected = match client.take() {
                Some(client) => Ok(client),
                None => BlockingClient::connect(&node.file("sock"), CALL_WITHIN),
            };
            let mut connected = match connected {
                Ok(connected) => connected,
                Err(error) => return Ok(Some(error.to_string())),
            };
            match connected.ask(request.clone()) {
                Ok(Response::Err(fault)) if fault.retryable || fault.code == Some(ErrorCode::Stopping) => {
                    return Ok(Some(fault.message));
                }
                Ok(response) => answer = Some(response),
                Err(error) if error.is_unreachable() => return Ok(Some(error.to_string())),
                Err(error) => return Err(Broken(format!("daemon {}, {}: {error}", node.name, request.op()))),
            }
            *client = Some(connected);
            Ok(None)
        })?;
        answer.ok_or_else(|| Broken("no answer".into()))
    }

    /// The answer, which is to be no refusal.
    pub fn call(&mut self, request: &Request) -> Result<Response, Broken> {
        match self.ask(request)? {
            Response::Err(fault) => {
                Err(Broken(format!("daemon {} refuses {request:?}: {}", self.node.name, fault.message)))
            }
            response => Ok(response),
        }
    }

    /// All objects of a kind; there are fewer than a page has.
    pub fn list(&mut self, kind: ObjectKind) -> Result<Objects, Broken> {
        match self.call(&Request::List(ListQuery { kind, after: None, limit: None }))? {
            Response::List(ListPage { objects, .. }) => Ok(objects),
            other => Err(Broken(format!("daemon {} answers list with {other:?}", self.node.name))),
        }
    }
}
