//! Bridge and TAP: what is wanted against what is there.
//!
//! Applying is repeatable: what is as wanted is left alone, so that a data plane that starts again touches nothing
//! that containers use. The bridge is made under another name, marked as ours and renamed last, so that a process
//! killed at any moment leaves nothing that its successor would take for somebody else's.
//!
//! INVARIANT: a device without our mark (interface alias [`MARK`]) is never changed and never deleted.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use weaved_api::{MacAddr, Overlay, Switch};

use crate::{
    netlink::{Link, LinkKind, Netlink, NetlinkError},
    tap::{Layout, Steering, TAP_QUEUE_FRAMES, Tap, TapError, Unsteered},
};

/// The interface alias of all devices that are ours.
pub const MARK: &str = "weaved";

/// Name of a bridge that is being made.
const UNFINISHED_BRIDGE: &str = "weaved-setup";

/// Its MTU: anything but the 1500 that the kernel gives a bridge.
const UNFINISHED_BRIDGE_MTU: u32 = 1400;

/// The TAP takes any frame that a container can send, whatever the container's MTU is. It is the kernel's maximum
/// for a TAP, and the bridge has an MTU of its own.
const TAP_MTU: u32 = 65_521;

/// What every IPv6 link must carry (RFC 8200 §5); IPv4 in the overlay is to be no narrower.
const MIN_OVERLAY_MTU: u16 = 1280;

/// How long a TAP may be held by a process that does not keep it, and how often that is looked at.
const HELD_PATIENCE: Duration = Duration::from_millis(500);
const HELD_PAUSE: Duration = Duration::from_millis(5);

/// The devices of the overlay.
pub struct Devices {
    netlink: Netlink,
    /// What several queues take.
    steering: Result<Arc<Steering>, Unsteered>,
    tap: Option<Arc<Tap>>,
    /// Why the TAP has one queue where several are wanted.
    queue_shortfall: Option<String>,
    /// Frames that the kernel had dropped at the TAP when it was looked at last.
    tap_drops: u64,
    /// What was applied last; tells which names and which address are ours.
    applied: Option<Overlay>,
}

/// How the TAP is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapPlan {
    /// Whether super-frames are to pass whole.
    pub offload: Switch,
    /// Workers and their queues. One of each if the kernel does not give more.
    pub layout: Layout,
}

/// Why the devices are not as wanted. `Display` is one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A name that the kernel does not take.
    #[error("{0:?} is no name for a network device: 1 to 15 letters, digits, `-`, `_` and `.`, not beginning with `-`")]
    Name(String),
    /// Bridge and TAP are asked to have the same name.
    #[error("bridge and TAP cannot both be named {0}")]
    SameName(String),
    /// An MTU that makes no sense.
    #[error("the overlay's MTU is {0}: it has to be {MIN_OVERLAY_MTU} to {TAP_MTU}")]
    Mtu(u16),
    /// A device of that name is somebody else's.
    #[error(
        "the network device {0} exists and was not made by weaved, so it is left as it is: \
         delete it (`ip link delete {0}`) or give weaved another name"
    )]
    NotOurs(String),
    /// Another route leads to the overlay's addresses.
    #[error(
        "the overlay's range {range} overlaps the route {route} of this host by {device}: \
         choose another range for the cluster, or remove that route. {consequence}"
    )]
    RouteOverlap {
        /// All addresses of the overlay.
        range: IpNet,
        /// The route in the way.
        route: IpNet,
        /// Where it leads.
        device: String,
        /// What follows for the bridge's address.
        consequence: &'static str,
    },
    /// Somebody deleted a device while it was being set up.
    #[error("the network device {0} was deleted while weaved was setting it up: is another program managing it?")]
    Vanished(String),
    /// The TAP.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// Several queues, and no program to choose among them.
    #[error(transparent)]
    Unsteered(#[from] Unsteered),
    /// The kernel refuses a change.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl DeviceError {
    /// A TAP of one queue would meet the same as one of several.
    fn concerns_one_queue_too(&self) -> bool {
        matches!(
            self,
            Self::Tap(TapError::Busy(_) | TapError::NoDriver | TapError::NotPermitted(_))
                | Self::NotOurs(_)
                | Self::Netlink(_)
        )
    }
}

impl Devices {
    /// Nothing is done to any device yet.
    pub fn open() -> Result<Self, DeviceError> {
        let (netlink, steering) = (Netlink::open()?, Err(Unsteered::default()));
        Ok(Self { netlink, steering, tap: None, queue_shortfall: None, tap_drops: 0, applied: None })
    }

    /// With what it takes for a TAP of several queues.
    pub(crate) fn with_steering(self, steering: Result<Steering, Unsteered>) -> Self {
        Self { steering: steering.map(Arc::new), ..self }
    }

    /// Makes the devices as wanted. What could not be done is told; what could be done is.
    pub fn apply(&mut self, wanted: &Overlay, plan: TapPlan) -> Result<(), Vec<DeviceError>> {
        validate(wanted).map_err(|error| vec![error])?;
        // Both are looked at before either is touched.
        for (name, kind) in [(&wanted.bridge, LinkKind::Bridge), (&wanted.tap, LinkKind::Tun)] {
            self.ours(name, kind).map_err(|error| vec![error])?;
        }
        let bridge = self.apply_bridge(wanted).map_err(|error| vec![error])?;
        let mut errors = Vec::new();
        errors.extend(self.apply_tap(wanted, bridge, plan).err());
        errors.extend(self.apply_gateway(wanted, bridge).err());
        self.applied = Some(wanted.clone());
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// The TAP, when it is open.
    pub fn tap(&self) -> Option<&Arc<Tap>> {
        self.tap.as_ref()
    }

    /// Why the TAP has one queue where several are wanted.
    pub fn queue_shortfall(&self) -> Option<&str> {
        self.queue_shortfall.as_deref()
    }

    /// Frames of containers that the kernel has dropped at the TAP since the last call, because its queue was full.
    ///
    /// Counted from the opening of the TAP: while nobody reads it, nothing gets through anyhow.
    pub fn take_tap_drops(&mut self) -> u64 {
        let Some(tap) = &self.tap else { return 0 };
        // A device that somebody has deleted has no frames any more; its reader notices and ends.
        let Ok(dropped) = self.netlink.dropped_frames(tap.name()) else { return 0 };
        dropped.saturating_sub(std::mem::replace(&mut self.tap_drops, dropped))
    }

    /// Closes the TAP, so that the next [`Devices::apply`] opens it anew. The device stays.
    ///
    /// It is really closed when the workers that share it have ended.
    pub fn close_tap(&mut self) {
        self.tap = None;
    }

    /// Deletes the devices that are ours: those applied last, or all with our mark when none were.
    pub fn delete(&mut self) -> Result<(), DeviceError> {
        self.tap = None;
        let names: Vec<String> = match self.applied.take() {
            Some(overlay) => vec![overlay.tap, overlay.bridge],
            None => self.netlink.link_names()?.into_iter().map(|(_, name)| name).collect(),
        };
        for name in names {
            let link = self.netlink.link(&name)?;
            if let Some(link) = link.filter(is_marked) {
                self.netlink.delete_link(link.index)?;
            }
        }
        Ok(())
    }

    /// The device of this name if it is ours, none if there is none.
    fn ours(&mut self, name: &str, kind: LinkKind) -> Result<Option<Link>, DeviceError> {
        match self.netlink.link(name)? {
            Some(link) if link.kind == kind && is_marked(&link) => Ok(Some(link)),
            Some(_) => Err(DeviceError::NotOurs(name.to_owned())),
            None => Ok(None),
        }
    }

    /// Makes the bridge as wanted and tells its index.
    fn apply_bridge(&mut self, wanted: &Overlay) -> Result<u32, DeviceError> {
        let bridge = match self.ours(&wanted.bridge, LinkKind::Bridge)? {
            Some(bridge) => bridge,
            None => self.create_bridge(&wanted.bridge)?,
        };
        if bridge.mtu != u32::from(wanted.mtu) {
            self.netlink.set_mtu(bridge.index, wanted.mtu.into())?;
        }
        if !bridge.is_up {
            self.netlink.set_up(bridge.index)?;
        }
        Ok(bridge.index)
    }

    fn create_bridge(&mut self, name: &str) -> Result<Link, DeviceError> {
        if let Some(left_over) = self.netlink.link(UNFINISHED_BRIDGE)? {
            self.netlink.delete_link(left_over.index)?;
        }
        self.netlink.create_bridge(UNFINISHED_BRIDGE, random_mac())?;
        let index = self.expect_link(UNFINISHED_BRIDGE)?.index;
        self.netlink.set_alias(index, MARK)?;
        // An MTU that was never changed follows the ports, and setting what is there already is no change.
        self.netlink.set_mtu(index, UNFINISHED_BRIDGE_MTU)?;
        self.netlink.rename(index, name)?;
        self.expect_link(name)
    }

    /// Opens the TAP if it is not open and makes it a port of the bridge.
    fn apply_tap(&mut self, wanted: &Overlay, bridge: u32, plan: TapPlan) -> Result<(), DeviceError> {
        if self.tap.is_none() {
            self.tap = Some(self.open_tap(&wanted.tap, plan)?);
        }
        let link = self.expect_link(&wanted.tap)?;
        if link.mtu != TAP_MTU {
            self.netlink.set_mtu(link.index, TAP_MTU)?;
        }
        if link.queue_len != TAP_QUEUE_FRAMES {
            self.netlink.set_queue_len(link.index, TAP_QUEUE_FRAMES)?;
        }
        if link.controller != Some(bridge) {
            self.netlink.set_controller(link.index, bridge)?;
        }
        if !link.is_up {
            self.netlink.set_up(link.index)?;
        }
        Ok(())
    }

    /// Opens the TAP. A new one is marked before it becomes persistent.
    fn open_tap(&mut self, name: &str, plan: TapPlan) -> Result<Arc<Tap>, DeviceError> {
        let tap = self.open_queues(name, plan)?;
        let link = self.expect_link(name)?;
        if !is_marked(&link) {
            self.netlink.set_alias(link.index, MARK)?;
            if let Err(error) = self.netlink.set_no_ipv6_address(link.index) {
                // A host without IPv6 has no such setting.
                tracing::debug!(%error, "IPv6 is not turned off on the TAP");
            }
        }
        tap.persist()?;
        self.tap_drops = self.netlink.dropped_frames(name)?;
        Ok(Arc::new(tap))
    }

    /// Opens the TAP with the queues wanted, or with one where the kernel does not give several.
    fn open_queues(&mut self, name: &str, TapPlan { offload, layout }: TapPlan) -> Result<Tap, DeviceError> {
        self.queue_shortfall = None;
        if layout.queue_count() > 1 {
            match self.open_several(name, offload, layout) {
                // If what is in the way goes this moment, one queue would have to do for no reason.
                Err(error) if error.concerns_one_queue_too() => return Err(error),
                Err(error) => {
                    tracing::info!("one worker with one queue has to do: {error}");
                    self.queue_shortfall = Some(error.to_string());
                }
                opened => return opened,
            }
        }
        self.or_made_anew(name, || Tap::open(name, offload))
    }

    fn open_several(&mut self, name: &str, offload: Switch, layout: Layout) -> Result<Tap, DeviceError> {
        let steering = self.steering.clone()?;
        self.await_unused(name)?;
        let open = || Tap::open_several(name, offload, layout, &steering);
        let tap = self.or_made_anew(name, open)?;
        // Another process may have begun at the same time. Then both give way, and try again later.
        self.expect_open_queues(name, layout.queue_count())?;
        Ok(tap)
    }

    /// The TAP, if there is one, and no process has it, with one queue or several. Waits a little: a process that was just made has
    /// for a moment all that its parent had.
    fn await_unused(&mut self, name: &str) -> Result<Option<Link>, DeviceError> {
        let end = Instant::now() + HELD_PATIENCE;
        loop {
            let link = self.ours(name, LinkKind::Tun)?;
            if !link.as_ref().is_some_and(|link| link.is_open) {
                return Ok(link);
            }
            if Instant::now() >= end {
                return Err(TapError::Busy(name.to_owned()).into());
            }
            thread::sleep(HELD_PAUSE);
        }
    }

    /// That another process has queues, too, is for us to find out: the kernel gives them to everybody with the right to.
    fn expect_open_queues(&mut self, name: &str, expected: usize) -> Result<(), DeviceError> {
        let count = self.netlink.open_queues(name)?;
        if count == expected { Ok(()) } else { Err(TapError::Busy(name.to_owned()).into()) }
    }

    /// Opens the TAP. Where a process has left one of ours of the other kind, with one queue or several, it is made anew: the
    /// kernel does not change that of a device. Nothing but the bridge knows the TAP, so nobody misses the old one.
    fn or_made_anew(&mut self, name: &str, open: impl Fn() -> Result<Tap, TapError>) -> Result<Tap, DeviceError> {
        match open() {
            Err(TapError::OtherDevice(_)) => {
                if let Some(link) = self.await_unused(name)? {
                    self.netlink.delete_link(link.index)?;
                }
                Ok(open()?)
            }
            opened => Ok(opened?),
        }
    }

    /// Gives the bridge its address, unless the host reaches that range in another way already.
    fn apply_gateway(&mut self, wanted: &Overlay, bridge: u32) -> Result<(), DeviceError> {
        let present = self.netlink.addresses(bridge)?;
        let before = self.applied.as_ref().and_then(|overlay| overlay.gateway);
        for address in &present {
            let is_same_range = wanted.gateway.is_some_and(|gateway| gateway.trunc() == address.trunc());
            let is_old = is_same_range || Some(*address) == before;
            if is_old && Some(*address) != wanted.gateway {
                self.netlink.delete_address(bridge, *address)?;
            }
        }
        let Some(gateway) = wanted.gateway else {
            return Ok(());
        };
        let is_present = present.contains(&gateway);
        self.check_routes(gateway.trunc(), bridge, is_present)?;
        if !is_present {
            self.netlink.add_address(bridge, gateway)?;
        }
        Ok(())
    }

    fn check_routes(&mut self, range: IpNet, bridge: u32, is_present: bool) -> Result<(), DeviceError> {
        let routes = self.netlink.routes()?;
        let in_the_way = routes.into_iter().find(|route| {
            let leads_elsewhere = route.link_index != Some(bridge);
            // A default route is what more specific ones are exceptions to.
            leads_elsewhere && route.destination.prefix_len() > 0 && overlap(range, route.destination)
        });
        let Some(route) = in_the_way else {
            return Ok(());
        };
        let names = self.netlink.link_names()?;
        let device = names.into_iter().find(|(index, _)| Some(*index) == route.link_index);
        Err(DeviceError::RouteOverlap {
            range,
            route: route.destination,
            device: device.map_or_else(|| "several devices".to_owned(), |(_, name)| name),
            consequence: if is_present {
                "Some addresses may not be reachable until then."
            } else {
                "Until then the bridge has no address."
            },
        })
    }

    /// A device that has just been there.
    fn expect_link(&mut self, name: &str) -> Result<Link, DeviceError> {
        self.netlink.link(name)?.ok_or_else(|| DeviceError::Vanished(name.to_owned()))
    }
}

fn is_marked(link: &Link) -> bool {
    link.alias.as_deref() == Some(MARK)
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// An address for the bridge: locally administered, unicast (IEEE 802 §8.4).
fn random_mac() -> MacAddr {
    let mut octets = [0; 6];
    getrandom::fill(&mut octets).expect("the kernel has random numbers from its boot on");
    octets[0] = octets[0] & !0b01 | 0b10;
    MacAddr(octets)
}

fn validate(overlay: &Overlay) -> Result<(), DeviceError> {
    for name in [&overlay.bridge, &overlay.tap] {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let is_dots = name.bytes().all(|byte| byte == b'.');
        if !(1..=15).contains(&name.len()) || !is_plain || is_dots || name.starts_with('-') {
            return Err(DeviceError::Name(name.clone()));
        }
    }
    if overlay.bridge == overlay.tap {
        return Err(DeviceError::SameName(overlay.bridge.clone()));
    }
    if overlay.mtu < MIN_OVERLAY_MTU || u32::from(overlay.mtu) > TAP_MTU {
        return Err(DeviceError::Mtu(overlay.mtu));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, in_namespace};

    const PLAN: TapPlan = TapPlan { offload: Switch::Auto, layout: Layout::SINGLE };

    fn overlay() -> Overlay {
        Overlay {
            bridge: "weave".into(),
            tap: "weave-tap".into(),
            mtu: 1400,
            gateway: Some("10.32.1.1/12".parse().unwrap()),
        }
    }

    fn apply(devices: &mut Devices, overlay: &Overlay) {
        devices.apply(overlay, PLAN).unwrap();
    }

    fn refusal(devices: &mut Devices, overlay: &Overlay) -> DeviceError {
        devices.apply(overlay, PLAN).unwrap_err().remove(0)
    }

    fn link(devices: &mut Devices, name: &str) -> Link {
        devices.netlink.link(name).unwrap().unwrap_or_else(|| panic!("no {name}"))
    }

    fn gateway(devices: &mut Devices) -> Vec<IpNet> {
        let bridge = link(devices, "weave").index;
        let mut addresses = devices.netlink.addresses(bridge).unwrap();
        addresses.retain(|address| address.addr().is_ipv4());
        addresses
    }

    #[test]
    fn the_devices_are_made_and_left_alone_when_they_are_right() {
        in_namespace(|| {
            let mut devices = Devices::open().unwrap();
            apply(&mut devices, &overlay());
            let (bridge, tap) = (link(&mut devices, "weave"), link(&mut devices, "weave-tap"));
            assert!(bridge.is_up && tap.is_up);
            assert_eq!((bridge.mtu, tap.mtu, tap.queue_len), (1400, TAP_MTU, TAP_QUEUE_FRAMES));
            assert_eq!(tap.controller, Some(bridge.index));
            assert_eq!(gateway(&mut devices), vec![overlay().gateway.unwrap()]);
            // A process that starts again.
            close(|| drop(devices));
            let mut devices = Devices::open().unwrap();
            apply(&mut devices, &overlay());
            assert_eq!(link(&mut devices, "weave"), bridge);
            assert_eq!(link(&mut devices, "weave-tap"), tap);
        });
    }

    fn queue_count(devices: &Devices) -> usize {
        devices.tap().unwrap().queues().len()
    }

    #[test]
    fn the_tap_is_made_anew_when_it_has_to_have_several_queues_or_one_again() {
        in_namespace(|| {
            for (worker_count, queues_per_worker) in [(1, 1), (3, 1), (1, 16), (8, 16), (2, 1), (1, 1)] {
                // A process that starts again each time.
                let mut devices = Devices::open().unwrap().with_steering(Steering::load());
                let layout = Layout { worker_count, queues_per_worker };
                devices.apply(&overlay(), TapPlan { layout, ..PLAN }).unwrap();
                assert_eq!((queue_count(&devices), devices.queue_shortfall()), (layout.queue_count(), None));
                let bridge = link(&mut devices, "weave").index;
                assert_eq!(link(&mut devices, "weave-tap").controller, Some(bridge));
                close(|| drop(devices));
            }
        });
    }

    #[test]
    fn a_second_process_gets_no_queue_of_a_tap_in_use() {
        in_namespace(|| {
            let plan = TapPlan { layout: Layout { worker_count: 3, queues_per_worker: 2 }, ..PLAN };
            let [mut first, mut second] = [(); 2].map(|()| Devices::open().unwrap().with_steering(Steering::load()));
            first.apply(&overlay(), plan).unwrap();
            let refused = second.apply(&overlay(), plan).unwrap_err().remove(0);
            assert!(matches!(refused, DeviceError::Tap(TapError::Busy(_))), "{refused}");
            assert_eq!(first.netlink.open_queues("weave-tap").unwrap(), plan.layout.queue_count());
            close(|| drop(first));
            second.apply(&overlay(), plan).unwrap();
        });
    }

    #[test]
    fn a_tap_in_use_is_not_made_anew_for_a_process_that_wants_one_of_the_other_kind() {
        in_namespace(|| {
            let several = TapPlan { layout: Layout { worker_count: 3, queues_per_worker: 2 }, ..PLAN };
            for (theirs, ours) in [(PLAN, several), (several, PLAN), (PLAN, PLAN)] {
                let [mut first, mut second] =
                    [(); 2].map(|()| Devices::open().unwrap().with_steering(Steering::load()));
                first.apply(&overlay(), theirs).unwrap();
                let before = link(&mut first, "weave-tap");
                let refused = second.apply(&overlay(), ours).unwrap_err().remove(0);
                assert!(matches!(refused, DeviceError::Tap(TapError::Busy(_))), "{refused}");
                assert_eq!(link(&mut second, "weave-tap"), before);
                close(|| drop(first));
                second.apply(&overlay(), ours).unwrap();
                close(|| drop(second));
            }
        });
    }

    #[test]
    fn what_the_kernel_does_not_tell_for_a_moment_is_no_reason_for_one_queue() {
        in_namespace(|| {
            let refused = Netlink::open().unwrap().set_up(u32::MAX >> 1).unwrap_err();
            assert!(DeviceError::from(refused).concerns_one_queue_too());
            assert!(!DeviceError::from(Unsteered::default()).concerns_one_queue_too());
        });
    }

    #[test]
    fn of_two_processes_that_begin_at_the_same_time_neither_shares_a_tap() {
        in_namespace(|| {
            let steering = Steering::load().unwrap();
            let layout = Layout { worker_count: 3, queues_per_worker: 2 };
            let mut devices = Devices::open().unwrap();
            let _ours = Tap::open_several("weave-tap", Switch::Auto, layout, &steering).unwrap();
            devices.expect_open_queues("weave-tap", layout.queue_count()).unwrap();
            let _theirs = Tap::open_several("weave-tap", Switch::Auto, layout, &steering).unwrap();
            assert!(devices.expect_open_queues("weave-tap", layout.queue_count()).is_err());
        });
    }

    #[test]
    fn without_a_program_to_choose_among_queues_there_is_one_and_it_is_said_why() {
        in_namespace(|| {
            let mut devices = Devices::open().unwrap().with_steering(Err(Unsteered::default()));
            let layout = Layout { worker_count: 3, queues_per_worker: 2 };
            devices.apply(&overlay(), TapPlan { layout, ..PLAN }).unwrap();
            assert_eq!(queue_count(&devices), 1);
            assert!(devices.queue_shortfall().unwrap().contains("keeps a flow on its queue"));
        });
    }

    #[test]
    fn bridge_mtu_and_mac_do_not_follow_the_ports() {
        // 1500 is what a bridge has by itself.
        [1500, 1400, 9000].into_iter().for_each(|mtu| in_namespace(move || ports_change_nothing(mtu)));
    }

    fn ports_change_nothing(mtu: u16) {
        let mut devices = Devices::open().unwrap();
        apply(&mut devices, &Overlay { mtu, ..overlay() });
        let before = link(&mut devices, "weave");
        assert_eq!(before.mtu, u32::from(mtu));
        assert_ne!(before.mac, link(&mut devices, "weave-tap").mac, "a bridge without its own takes a port's");
        let port = Tap::open("aaa", Switch::Auto).unwrap();
        let index = link(&mut devices, port.name()).index;
        devices.netlink.set_mtu(index, 1300).unwrap();
        devices.netlink.set_controller(index, before.index).unwrap();
        let after = link(&mut devices, "weave");
        assert_eq!((after.mtu, after.mac), (before.mtu, before.mac));
    }

    #[test]
    fn a_changed_gateway_replaces_the_old_one_and_no_other_address() {
        in_namespace(|| {
            let mut devices = Devices::open().unwrap();
            apply(&mut devices, &overlay());
            let bridge = link(&mut devices, "weave").index;
            let operators: IpNet = "192.0.2.1/24".parse().unwrap();
            devices.netlink.add_address(bridge, operators).unwrap();
            // Also in a new process, which does not know what was applied before.
            let mut devices = Devices { tap: devices.tap.take(), ..Devices::open().unwrap() };
            let changed = Overlay { gateway: Some("10.32.2.1/12".parse().unwrap()), ..overlay() };
            apply(&mut devices, &changed);
            assert_eq!(gateway(&mut devices), vec![operators, changed.gateway.unwrap()]);
            apply(&mut devices, &Overlay { gateway: None, ..overlay() });
            assert_eq!(gateway(&mut devices), vec![operators]);
        });
    }

    #[test]
    fn a_bridge_that_is_not_ours_is_refused_and_left_untouched() {
        in_namespace(|| {
            let mut devices = Devices::open().unwrap();
            devices.netlink.create_bridge("weave", MacAddr([2, 0, 0, 0, 0, 7])).unwrap();
            let before = link(&mut devices, "weave");
            let error = refusal(&mut devices, &overlay());
            assert!(matches!(&error, DeviceError::NotOurs(name) if name == "weave"), "{error}");
            devices.delete().unwrap();
            assert_eq!(link(&mut devices, "weave"), before);
            assert_eq!(devices.netlink.link("weave-tap").unwrap(), None, "nothing else is touched either");
        });
    }

    #[test]
    fn a_device_that_is_not_ours_under_the_name_of_the_tap_is_refused_before_a_bridge_is_made() {
        in_namespace(|| {
            let mut devices = Devices::open().unwrap();
            let _foreign = Tap::open("weave-tap", Switch::Auto).unwrap();
            let error = refusal(&mut devices, &overlay());
            assert!(matches!(&error, DeviceError::NotOurs(name) if name == "weave-tap"), "{error}");
            assert_eq!(devices.netlink.link("weave").unwrap(), None);
        });
    }

    #[test]
    fn a_range_that_the_host_reaches_elsewhere_is_named_and_not_taken() {
        in_namespace(|| {
            let mut devices = Devices::open().unwrap();
            let other = Tap::open("vpn0", Switch::Auto).unwrap();
            let index = link(&mut devices, other.name()).index;
            devices.netlink.set_up(index).unwrap();
            devices.netlink.add_address(index, "10.40.0.1/16".parse().unwrap()).unwrap();
            let error = refusal(&mut devices, &overlay()).to_string();
            assert!(error.contains("10.32.0.0/12") && error.contains("10.40.0.0/16 of this host by vpn0"), "{error}");
            assert_eq!(gateway(&mut devices), vec![]);
            assert!(devices.tap().is_some(), "the overlay itself works");
        });
    }

    #[test]
    fn frames_that_find_the_queue_of_the_tap_full_are_counted_once() {
        in_namespace(|| {
            let mut devices = Devices::open().unwrap();
            apply(&mut devices, &overlay());
            let socket = std::net::UdpSocket::bind("10.32.1.1:0").unwrap();
            socket.set_broadcast(true).unwrap();
            let mut flood = || {
                for _ in 0..TAP_QUEUE_FRAMES + 100 {
                    socket.send_to(b"frame", "10.47.255.255:9").unwrap();
                }
                devices.take_tap_drops()
            };
            // A port that has just been attached takes frames when its carrier is noticed.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while flood() == 0 {
                assert!(std::time::Instant::now() < deadline, "nothing is dropped");
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            assert!(flood() >= u64::from(TAP_QUEUE_FRAMES), "all of them, because the queue is full");
            assert!(devices.take_tap_drops() < 100, "nothing is counted twice");
        });
    }

    #[test]
    fn a_bridge_left_half_made_by_a_killed_process_is_no_obstacle() {
        in_namespace(|| {
            let mut devices = Devices::open().unwrap();
            devices.netlink.create_bridge(UNFINISHED_BRIDGE, random_mac()).unwrap();
            apply(&mut devices, &overlay());
            assert_eq!(devices.netlink.link(UNFINISHED_BRIDGE).unwrap(), None);
        });
    }

    #[test]
    fn deleting_leaves_nothing_that_is_ours_even_in_a_new_process() {
        in_namespace(|| {
            let mut devices = Devices::open().unwrap();
            let names_before = devices.netlink.link_names().unwrap();
            apply(&mut devices, &overlay());
            close(|| drop(devices));
            let mut devices = Devices::open().unwrap();
            devices.delete().unwrap();
            assert_eq!(devices.netlink.link_names().unwrap(), names_before);
        });
    }

    #[test]
    fn names_and_sizes_that_make_no_sense_are_refused() {
        let with_bridge = |name: &str| validate(&Overlay { bridge: name.into(), ..overlay() });
        for name in ["", "a-name-too-long-", "a/b", "..", "-a", "weave tap", "weave-tap"] {
            assert!(with_bridge(name).is_err(), "{name:?}");
        }
        assert!(with_bridge("weave.0_x-y").is_ok());
        for mtu in [0, 1279, 65_522] {
            assert!(validate(&Overlay { mtu, ..overlay() }).is_err(), "{mtu}");
        }
    }

    #[test]
    fn made_up_macs_are_unicast_and_local() {
        for _ in 0..64 {
            assert_eq!(random_mac().0[0] & 0b11, 0b10);
        }
    }
}
