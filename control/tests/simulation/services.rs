//! The catalogue in virtual time: who sees which services when, and that only owners write.

use std::collections::BTreeMap;

use weaved::catalogue::{Drain, Instance, InstanceId, Readiness, Source, View};

use super::{
    each_seed, secs,
    world::{Faults, World},
};

fn instance(host: usize, number: usize) -> Instance {
    Instance {
        id: InstanceId(format!("h{host}:web-{number}:80")),
        service: "web".into(),
        address: None,
        port: 8000 + number as u16,
        tags: vec!["blue".into()],
        meta: BTreeMap::from([("owner".into(), format!("h{host}"))]),
        source: Source::Docker(format!("{host:032}{number:032}")),
        drain: Drain::Serving,
        checks: vec![],
    }
}

impl World {
    /// Containers with services start, and control sees it.
    fn serve(&mut self, host: usize, count: usize) {
        self.hosts[host].instances = (0..count).map(|number| instance(host, number)).collect();
        self.scan(host);
    }

    /// Control looks what runs there.
    fn scan(&mut self, host: usize) {
        let (now, instances) = (self.now, self.hosts[host].instances.clone());
        if let Some(node) = &mut self.hosts[host].node {
            node.handle_instances(instances, now);
            self.drain(host);
        }
    }

    fn view(&self, host: usize) -> &View {
        self.hosts[host].node.as_ref().expect("the host runs").view()
    }

    /// How many instances of `web` a host would send requests to, of those that run on another one.
    fn passing(&self, host: usize, on: usize) -> usize {
        let (view, id) = (self.view(host), self.hosts[on].config.id);
        view.service("web").map_or(0, |web| web.passing().filter(|listed| listed.node.id == id).count())
    }

    /// Every running host sees of every running host what runs there, and nothing passing of the others.
    fn services_are_right(&self) -> Result<(), String> {
        for us in self.running() {
            if self.view(us).readiness != Readiness::Ready {
                return Err(format!("h{us} is not ready"));
            }
            for (them, host) in self.hosts.iter().enumerate() {
                let expected = if host.node.is_some() { host.instances.len() } else { 0 };
                let seen = self.passing(us, them);
                if seen != expected {
                    return Err(format!("h{us} sees {seen} of {expected} instances on h{them}"));
                }
                if host.node.is_some() {
                    let listed = self.view(us).nodes.get(&host.config.id).into_iter().flat_map(|node| &node.instances);
                    let mut listed: Vec<_> = listed.map(|listed| listed.instance.clone()).collect();
                    let mut truth = host.instances.clone();
                    listed.sort_unstable();
                    truth.sort_unstable();
                    if listed != truth {
                        return Err(format!("h{us} has an old state of h{them}"));
                    }
                }
            }
        }
        Ok(())
    }
}

#[test]
fn services_are_seen_by_all_and_those_of_a_dead_host_by_none() {
    each_seed(0..4, |seed| {
        let mut world = World::star(seed, Faults::LAN, 5);
        (0..5).for_each(|host| world.serve(host, 3));
        world.run_until(secs(10), World::services_are_right);
        world.crash(2);
        world.run_until(secs(7), World::services_are_right);
        let listed = world.view(0).instances().filter(|listed| listed.node.name == "h2").count();
        assert_eq!(listed, 3, "they are listed as critical");
    });
}
