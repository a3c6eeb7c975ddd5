//! The part of an orchestrator: telling an overlay daemon what to do, ours or another of the same contract.

use crate::ipc::blocking::BlockingClient;
use crate::ipc::client::ClientError;
use crate::ipc::wire::{
    AddPeer, AttachContainer, AttachHandle, ListPage, ListQuery, NatConfigSpec, ObjectKind, Objects, OverlayMode,
    PeerScope, PeerSpec, Request, Response, SetupGlobalOverlay, StatusSnapshot,
};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// An answer that takes longer counts as none.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Why the daemon did not do as it was told.
#[derive(Debug, thiserror::Error)]
#[error("{op}: {source}")]
pub struct OrchestratorError {
    op: &'static str,
    source: ClientError,
}

impl OrchestratorError {
    /// Whether the daemon is well and said no.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self.source, ClientError::Refused(_))
    }
}

/// The overlay of one node.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// Deployment; part of the interface name.
    pub deployment: String,
    /// Instance; part of the interface name.
    pub instance: String,
    /// Addresses of the whole overlay.
    pub cluster: IpNet,
    /// Addresses of this node; the node itself takes the first host.
    pub slice: IpNet,
    /// UDP port of WireGuard.
    pub port: u16,
}

/// Where the containers of a service are on a node.
#[derive(Clone, Debug)]
pub struct ServicePlace {
    /// Their subnets.
    pub subnets: Vec<IpNet>,
    /// The addresses of the node there, which answer names, too.
    pub gateways: Vec<IpAddr>,
}

/// A connection to one daemon.
#[derive(Debug)]
pub struct Orchestrator(BlockingClient);

impl Orchestrator {
    /// Connects to the daemon at `path`, which may still be starting.
    ///
    /// # Errors
    /// [`OrchestratorError`] where nobody listens within the time.
    pub fn connect(path: &Path, within: Duration) -> Result<Self, OrchestratorError> {
        let start = Instant::now();
        loop {
            match BlockingClient::connect(path, ANSWER_WITHIN) {
                Ok(client) => return Ok(Self(client)),
                Err(source) if start.elapsed() >= within => return Err(OrchestratorError { op: "connect", source }),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Names the node and sets up its overlay. Returns the name of the interface.
    ///
    /// # Errors
    /// [`OrchestratorError`].
    pub fn set_up(&mut self, node_id: u64, overlay: &Overlay) -> Result<String, OrchestratorError> {
        self.call(Request::SetLocalNodeId { node_id })?;
        let setup = SetupGlobalOverlay {
            deployment: overlay.deployment.clone(),
            instance_id: overlay.instance.clone(),
            cluster_cidr: overlay.cluster.to_string(),
            slice_cidr: Some(overlay.slice.to_string()),
            wg_port: overlay.port,
            host_adapter_mandatory: false,
            // Switched off: nothing outside the laboratory is to be asked for an address.
            nat: Some(NatConfigSpec::default()),
        };
        match self.call(Request::SetupGlobalOverlay(setup))? {
            Response::BridgeName { name } => Ok(name),
            other => Err(unintelligible("setup_global_overlay", &other)),
        }
    }

    /// Brings up the overlay of a service. Returns its subnets and gateways.
    ///
    /// # Errors
    /// [`OrchestratorError`].
    pub fn set_up_service(&mut self, service: &str, mode: OverlayMode) -> Result<ServicePlace, OrchestratorError> {
        self.call(Request::SetupServiceOverlay { service: service.to_owned(), mode })?;
        let query = ListQuery { kind: ObjectKind::Services, after: None, limit: None };
        match self.call(Request::List(query))? {
            Response::List(ListPage { objects: Objects::Services(items), .. }) => {
                let found = items.iter().find(|item| item.service == service);
                let place = found.and_then(|item| {
                    let subnets = item.subnets.iter().map(|subnet| subnet.parse()).collect::<Result<_, _>>().ok()?;
                    Some(ServicePlace { subnets, gateways: item.gateways.clone() })
                });
                place.ok_or_else(|| unintelligible("list", &items))
            }
            other => Err(unintelligible("list", &other)),
        }
    }

    /// Attaches the process `pid` to a service, fenced into a network where one is named. Returns its address.
    ///
    /// # Errors
    /// [`OrchestratorError`].
    pub fn attach(&mut self, pid: u32, service: &str, network: Option<&str>) -> Result<IpAddr, OrchestratorError> {
        let attach = AttachContainer {
            isolation_network: network.map(str::to_owned),
            ..AttachContainer::new(AttachHandle::LinuxPid { pid }, service)
        };
        match self.call(Request::AttachContainer(attach))? {
            Response::Attached { ip, .. } => Ok(ip),
            other => Err(unintelligible("attach_container", &other)),
        }
    }

    /// Makes a peer known: where it is and which addresses are behind it.
    ///
    /// # Errors
    /// [`OrchestratorError`].
    pub fn add_peer(
        &mut self,
        public_key: &str,
        endpoint: SocketAddr,
        allowed: &[IpNet],
        keepalive_secs: u16,
    ) -> Result<(), OrchestratorError> {
        let peer = PeerSpec {
            public_key: public_key.to_owned(),
            endpoint: endpoint.to_string(),
            allowed_ips: allowed.iter().map(IpNet::to_string).collect::<Vec<_>>().join(","),
            persistent_keepalive_secs: keepalive_secs.into(),
            candidates: Vec::new(),
        };
        self.call(Request::AddPeer(AddPeer { peer, scope: PeerScope::Global })).map(drop)
    }

    /// Asks how things are.
    ///
    /// # Errors
    /// [`OrchestratorError`].
    pub fn status(&mut self) -> Result<StatusSnapshot, OrchestratorError> {
        self.0.status().map_err(|source| OrchestratorError { op: "status", source })
    }

    /// Any other request.
    ///
    /// # Errors
    /// [`OrchestratorError`].
    pub fn call(&mut self, request: Request) -> Result<Response, OrchestratorError> {
        let op = request.op();
        self.0.call(request).map_err(|source| OrchestratorError { op, source })
    }
}

fn unintelligible(op: &'static str, answer: &dyn std::fmt::Debug) -> OrchestratorError {
    OrchestratorError { op, source: ClientError::Unintelligible(format!("{answer:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::server::{Handler, Limits, Order, serve};
    use crate::ipc::socket::BoundSocket;
    use crate::ipc::stop::Stop;
    use crate::ipc::sync::Keep;
    use crate::ipc::wire::{ErrorCode, Fault, ObjectName};
    use crate::temp_dir::TempDir;
    use std::sync::{Arc, Mutex};

    /// Answers as a daemon would, and keeps what it is asked.
    #[derive(Default)]
    struct Recorder(Mutex<Vec<Request>>);

    impl Handler for Recorder {
        async fn handle(&self, order: Order) -> Response {
            self.0.lock().unwrap().push(order.request.clone());
            match order.request {
                Request::SetupGlobalOverlay(_) => Response::BridgeName { name: "zl-x-1-g".into() },
                Request::AddPeer(_) => Response::Err(Fault::new(ErrorCode::Conflict, "no slice")),
                Request::Status => Response::Status(Box::default()),
                _ => Response::Ok,
            }
        }

        async fn list(&self, _: &ListQuery) -> Result<ListPage, Fault> {
            Ok(ListPage { objects: Objects::Peers(Vec::new()), next: None })
        }

        async fn retain(&self, _: &Keep) -> Result<Vec<ObjectName>, Fault> {
            Ok(Vec::new())
        }

        fn boot_id(&self) -> String {
            "b".into()
        }
    }

    #[test]
    fn a_daemon_that_still_starts_is_told_what_to_do() {
        let dir = TempDir::new();
        let path = dir.join("s");
        let recorder = Arc::new(Recorder::default());
        let stop = Stop::default();
        let daemon = {
            let (path, recorder, stop) = (path.clone(), recorder.clone(), stop.clone());
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(100));
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let socket = BoundSocket::bind(&path, None).unwrap();
                    serve(&socket, recorder, Limits::default(), stop).await;
                });
            })
        };
        let mut orchestrator = Orchestrator::connect(&path, Duration::from_secs(20)).unwrap();
        let overlay = Overlay {
            deployment: "x".into(),
            instance: "1".into(),
            cluster: "10.200.0.0/16".parse().unwrap(),
            slice: "10.200.1.0/24".parse().unwrap(),
            port: 51_820,
        };
        assert_eq!(orchestrator.set_up(7, &overlay).unwrap(), "zl-x-1-g");
        let endpoint = "192.0.2.1:51820".parse().unwrap();
        let error = orchestrator.add_peer("k", endpoint, &[overlay.slice], 25).unwrap_err();
        assert!(error.is_refusal());
        assert_eq!(error.to_string(), "add_peer: no slice");
        assert_eq!(orchestrator.status().unwrap(), StatusSnapshot::default());
        stop.trigger();
        daemon.join().unwrap();

        let asked = recorder.0.lock().unwrap();
        assert_eq!(asked[0], Request::SetLocalNodeId { node_id: 7 });
        let Request::SetupGlobalOverlay(setup) = &asked[1] else { panic!("{asked:?}") };
        assert_eq!((setup.slice_cidr.as_deref(), setup.wg_port), (Some("10.200.1.0/24"), 51_820));
        assert!(setup.nat.as_ref().is_some_and(|nat| !nat.enabled));
        let Request::AddPeer(add) = &asked[2] else { panic!("{asked:?}") };
        assert_eq!((add.peer.endpoint.as_str(), add.peer.persistent_keepalive_secs), ("192.0.2.1:51820", 25));
    }

    #[test]
    fn nobody_there_is_no_refusal() {
        let missing = Orchestrator::connect(Path::new("/nonexistent/sock"), Duration::ZERO).unwrap_err();
        assert!(!missing.is_refusal(), "{missing}");
    }
}
