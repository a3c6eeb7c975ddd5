//! Every example of the published contract, and the proof that the types read and write it unchanged.

/// One frame per line, requests followed by their answers, then the two events.
pub(crate) const EXAMPLES: &[&str] = &[
    r#"{"frame":"request","id":1,"request":{"op":"set_local_node_id","node_id":7}}"#,
    r#"{"frame":"response","id":1,"response":{"result":"ok"}}"#,
    r#"{"frame":"request","id":2,"request":{"op":"set_local_wg_pubkey","pubkey":"4AElotbq1WFIQS1gXC08H4KIZU0ufarA+N6/FDl3elI="}}"#,
    r#"{"frame":"response","id":2,"response":{"result":"ok"}}"#,
    r#"{"frame":"request","id":3,"request":{"op":"setup_global_overlay","deployment":"prod","instance_id":"0","cluster_cidr":"10.200.0.0/16","slice_cidr":"10.200.5.0/28","wg_port":51420,"host_adapter_mandatory":false,"nat":{"enabled":true,"stun_servers":["stun.l.google.com:19302"],"turn_servers":[{"addr":"turn.example.com:3478","username":"u","credential":"p"}],"hole_punch_timeout_secs":15,"stun_refresh_interval_secs":60,"max_candidate_pairs":10,"relay_server":{"listen_port":3478,"external_addr":"203.0.113.7:3478","max_sessions":100,"auth_credential":"shared-secret"}}}}"#,
    r#"{"frame":"response","id":3,"response":{"result":"bridge_name","name":"zl-prod-0-g"}}"#,
    r#"{"frame":"request","id":4,"request":{"op":"teardown_global_overlay"}}"#,
    r#"{"frame":"response","id":4,"response":{"result":"ok"}}"#,
    r#"{"frame":"request","id":6,"request":{"op":"teardown_service_overlay","service":"web"}}"#,
    r#"{"frame":"response","id":6,"response":{"result":"ok"}}"#,
    r#"{"frame":"request","id":23,"request":{"op":"shutdown"}}"#,
    r#"{"frame":"response","id":23,"response":{"result":"ok"}}"#,
    r#"{"frame":"request","id":5,"request":{"op":"setup_service_overlay","service":"web","mode":"auto"}}"#,
    r#"{"frame":"response","id":5,"response":{"result":"service_overlay","name":"zl-prod-0-web-b","mode":"auto"}}"#,
    r#"{"frame":"request","id":51,"request":{"op":"setup_service_overlay","service":"cache","mode":"shared"}}"#,
    r#"{"frame":"response","id":51,"response":{"result":"service_overlay","name":"zl-2cd15931d-sh","mode":"shared"}}"#,
    r#"{"frame":"request","id":52,"request":{"op":"setup_service_overlay","service":"pay","mode":"dedicated"}}"#,
    r#"{"frame":"response","id":52,"response":{"result":"service_overlay","name":"zl-prod-0-pay-b","mode":"dedicated","wg_public_key":"58BqK+3IPIpznbDf6U68Me8U/dCas4eBTSXh0RNaBkI=","wg_port":51421,"overlay_ip":"10.200.141.129","subnet":"10.200.141.128/26"}}"#,
    r#"{"frame":"request","id":7,"request":{"op":"allocate_ip","service":"web","join_global":false}}"#,
    r#"{"frame":"response","id":7,"response":{"result":"ip","ip":"10.200.187.130"}}"#,
    r#"{"frame":"request","id":8,"request":{"op":"release_ip","ip":"10.200.187.130"}}"#,
    r#"{"frame":"response","id":8,"response":{"result":"ok"}}"#,
    r#"{"frame":"request","id":9,"request":{"op":"attach_container","handle":{"platform":"linux_pid","pid":4242},"service":"web","join_global":true,"ephemeral":false,"isolation_network":"job-net","dns_server":"10.200.5.1","dns_domain":"prod.local"}}"#,
    r#"{"frame":"response","id":9,"response":{"result":"attached","ip":"10.200.187.130"}}"#,
    r#"{"frame":"request","id":91,"request":{"op":"attach_container","handle":{"platform":"windows_container","container_id":"ctr-abc","ip":"10.200.5.5"},"service":"web","join_global":false,"ephemeral":false}}"#,
    r#"{"frame":"response","id":91,"response":{"result":"attached","ip":"10.200.5.5","namespace_guid":"aabbccdd-eeff-0011-2233-445566778899"}}"#,
    r#"{"frame":"request","id":92,"request":{"op":"attach_container","handle":{"platform":"host_shared","id":"ctr-7"},"service":"web","join_global":false,"ephemeral":true}}"#,
    r#"{"frame":"response","id":92,"response":{"result":"attached","ip":"10.200.5.4"}}"#,
    r#"{"frame":"request","id":93,"request":{"op":"attach_container","handle":{"platform":"guest_managed","id":"vm-1"},"service":"web","join_global":true,"ephemeral":false,"dns_server":"10.200.5.1","dns_domain":"overlay"}}"#,
    r#"{"frame":"response","id":93,"response":{"result":"guest_config","overlay_ip":"10.200.5.3","prefix_len":28,"private_key":"VHY4enyG/NFNuz0JF4jDunwdEOD9ZDKjsYwSMLPcgiw=","public_key":"yknafqvboGE4jsrKuNeyKiwe5didl8uQ7PN/ENhzXyQ=","listen_port":51420,"peers":[{"public_key":"4AElotbq1WFIQS1gXC08H4KIZU0ufarA+N6/FDl3elI=","endpoint":"10.200.5.1:51420","allowed_ips":"10.200.0.0/16","persistent_keepalive_secs":25}],"dns_server":"10.200.5.1","dns_domain":"overlay"}}"#,
    r#"{"frame":"request","id":10,"request":{"op":"detach_container","handle":{"platform":"linux_pid","pid":4242}}}"#,
    r#"{"frame":"response","id":10,"response":{"result":"ok"}}"#,
    r#"{"frame":"request","id":101,"request":{"op":"detach_container","handle":{"platform":"windows_container","container_id":"aabbccdd-eeff-0011-2233-445566778899"}}}"#,
    r#"{"frame":"response","id":101,"response":{"result":"ok"}}"#,
    r#"{"frame":"request","id":11,"request":{"op":"add_peer","public_key":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=","endpoint":"192.0.2.50:51420","allowed_ips":"10.200.9.0/28","persistent_keepalive_secs":25,"candidates":[{"candidate_type":"host","address":"192.168.1.5:51420","priority":100}],"scope":{"scope":"global"}}}"#,
    r#"{"frame":"response","id":11,"response":{"result":"ok"}}"#,
    r#"{"frame":"request","id":12,"request":{"op":"remove_peer","pubkey":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=","scope":{"scope":"service","service":"pay"}}}"#,
    r#"{"frame":"response","id":12,"response":{"result":"err","message":"no dedicated overlay for service pay"}}"#,
    r#"{"frame":"request","id":13,"request":{"op":"add_allowed_ip","pubkey":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=","cidr":"10.200.10.0/26","scope":{"scope":"global"}}}"#,
    r#"{"frame":"response","id":13,"response":{"result":"ok"}}"#,
    r#"{"frame":"request","id":14,"request":{"op":"remove_allowed_ip","pubkey":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=","cidr":"10.200.10.0/26","scope":{"scope":"global"}}}"#,
    r#"{"frame":"response","id":14,"response":{"result":"ok"}}"#,
    r#"{"frame":"request","id":15,"request":{"op":"register_dns","name":"web.prod.local","ip":"10.200.187.130"}}"#,
    r#"{"frame":"response","id":15,"response":{"result":"ok"}}"#,
    r#"{"frame":"request","id":16,"request":{"op":"unregister_dns","name":"web.prod.local"}}"#,
    r#"{"frame":"response","id":16,"response":{"result":"ok"}}"#,
    r#"{"frame":"request","id":17,"request":{"op":"write_scoped_resolver","zone":"prod.local","node_ip":"10.200.5.1","port":15353}}"#,
    r#"{"frame":"response","id":17,"response":{"result":"err","message":"overlay engine error: scoped resolver is macOS-only"}}"#,
    r#"{"frame":"request","id":18,"request":{"op":"remove_scoped_resolver","zone":"prod.local"}}"#,
    r#"{"frame":"response","id":18,"response":{"result":"ok"}}"#,
    r#"{"frame":"request","id":19,"request":{"op":"prune_orphan_bridges","live_bridge_names":["zl-prod-0-web-b"]}}"#,
    r#"{"frame":"response","id":19,"response":{"result":"pruned_bridges","reclaimed":["zl-1ca4568944-b"]}}"#,
    r#"{"frame":"request","id":20,"request":{"op":"status"}}"#,
    r#"{"frame":"response","id":20,"response":{"result":"status","interface":"zl-prod-0-g","node_ip":"10.200.5.1","public_key":"4AElotbq1WFIQS1gXC08H4KIZU0ufarA+N6/FDl3elI=","overlay_cidr":"10.200.0.0/16","slice_cidr":"10.200.5.0/28","peer_count":1,"service_count":1,"peers":[{"public_key":"0909090909090909090909090909090909090909090909090909090909090909","endpoint":"192.0.2.50:51420","allowed_ips":"10.200.9.0/28","last_handshake_unix_secs":0}],"dedicated_services":[{"service":"pay","interface":"zl-prod-0-pay-d","public_key":"58BqK+3IPIpznbDf6U68Me8U/dCas4eBTSXh0RNaBkI=","listen_port":51421,"overlay_ip":"10.200.141.129","subnet":"10.200.141.128/26","peer_count":1}]}}"#,
    r#"{"frame":"request","id":21,"request":{"op":"nat_tick"}}"#,
    r#"{"frame":"response","id":21,"response":{"result":"err","message":"overlay engine error: NAT maintenance tick failed: STUN discovery failed: STUN query timed out"}}"#,
    r#"{"frame":"request","id":22,"request":{"op":"nat_status"}}"#,
    r#"{"frame":"response","id":22,"response":{"result":"nat_status","candidates":[{"candidate_type":"host","address":"192.0.2.10:51420","priority":100}],"peers":[{"node_id":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=","connection_type":"hole-punched","remote_endpoint":"203.0.113.9:51420"}],"last_refresh":1700000000}}"#,
    r#"{"frame":"event","event":"peer_health_changed","pubkey":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=","healthy":false}"#,
    r#"{"frame":"event","event":"nat_endpoint_changed","pubkey":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=","endpoint":"203.0.113.9:51420"}"#,
];

/// Forms a server must accept that are not written the way it would write them.
pub(crate) const ACCEPTED: &[&str] = &[
    r#"{"frame":"request","id":3,"request":{"op":"setup_global_overlay","deployment":"prod","instance_id":"0","cluster_cidr":"10.200.0.0/16","wg_port":51420}}"#,
    r#"{"frame":"request","id":11,"request":{"op":"add_peer","public_key":"base64key","endpoint":"1.2.3.4:51420","allowed_ips":"10.200.0.2/32","persistent_keepalive_secs":25}}"#,
];

#[cfg(test)]
mod tests {
    use super::super::{Event, Frame, Request, Response, decode};
    use super::{ACCEPTED, EXAMPLES};
    use std::collections::HashSet;

    /// Answers of a daemon that has just started.
    const FRESH: &[&str] = &[
        r#"{"frame":"response","id":1,"response":{"result":"status","overlay_cidr":"10.200.0.0/16","peer_count":0,"service_count":0}}"#,
        r#"{"frame":"response","id":1,"response":{"result":"nat_status","last_refresh":0}}"#,
    ];

    #[test]
    fn every_example_reads_and_writes_unchanged() {
        for line in EXAMPLES.iter().chain(FRESH) {
            let frame = decode(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error:?}"));
            assert_eq!(&serde_json::to_string(&frame).unwrap(), line);
        }
    }

    #[test]
    fn accepted_forms_read_and_their_written_form_means_the_same() {
        for line in ACCEPTED {
            let frame = decode(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error:?}"));
            assert_eq!(decode(serde_json::to_string(&frame).unwrap().as_bytes()), Ok(frame));
        }
    }

    #[test]
    fn the_examples_cover_every_word() {
        let mut ops = HashSet::new();
        let mut results = HashSet::new();
        let mut events = 0;
        for line in EXAMPLES {
            match decode(line.as_bytes()).unwrap() {
                Frame::Request { request, .. } => {
                    assert!(line.contains(&format!("\"op\":\"{}\"", request.op())), "{line}");
                    ops.insert(request.op());
                }
                Frame::Response { response, .. } => {
                    results.insert(std::mem::discriminant(&response));
                    if let Response::Err(fault) = response {
                        assert!(!fault.message.is_empty());
                    }
                }
                Frame::Event(record) => {
                    assert!(matches!(record.event, Event::PeerHealthChanged { .. } | Event::NatEndpointChanged { .. }));
                    events += 1;
                }
            }
        }
        assert_eq!((ops.len(), results.len(), events), (23, 10, 2));
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let Frame::Request { request: Request::SetupGlobalOverlay(setup), .. } =
            decode(ACCEPTED[0].as_bytes()).unwrap()
        else {
            panic!("not a setup")
        };
        assert_eq!((setup.slice_cidr, setup.host_adapter_mandatory, setup.nat), (None, false, None));
        let nat = r#"{"frame":"request","id":3,"request":{"op":"setup_global_overlay","deployment":"p","instance_id":"0","cluster_cidr":"c","wg_port":1,"nat":{}}}"#;
        let Frame::Request { request: Request::SetupGlobalOverlay(setup), .. } = decode(nat.as_bytes()).unwrap() else {
            panic!("not a setup")
        };
        let nat = setup.nat.unwrap();
        assert!(!nat.enabled && nat.stun_servers.is_empty() && nat.relay_server.is_none());
    }
}
