//! Ends of veth pairs that lie in other network namespaces: which there are, and how long super-frames they make.
//!
//! The kernel shows a device of another namespace to whoever asks with that namespace's id (`IFLA_TARGET_NETNSID`).
//! It does not change one in that way: in `RTM_SETLINK` the same attribute moves the device there. Changing takes a
//! socket in the other namespace.

use std::os::fd::{AsRawFd, BorrowedFd};

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
        nsid::{NsidAttribute, NsidMessage},
    },
};

use super::{Netlink, Result, failed};

/// The number by which this namespace knows another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamespaceId(pub i32);

/// A port of a bridge whose other end is in another network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PairPort {
    /// The kernel's number for the port.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Where the other end is.
    pub namespace: NamespaceId,
    /// The other end's number there.
    pub end_index: u32,
}

/// How long the super-frames may be that a device is given, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GsoLimit {
    /// `gso_max_size`
    pub any: u32,
    /// `gso_ipv4_max_size`, where the kernel has it (since 6.3).
    pub ipv4: Option<u32>,
}

impl GsoLimit {
    /// The limit where neither part is above `max`; none when that is so already.
    pub fn lowered_to(self, max: u32) -> Option<Self> {
        let lowered = Self { any: self.any.min(max), ipv4: self.ipv4.map(|ipv4| ipv4.min(max)) };
        (lowered != self).then_some(lowered)
    }
}

impl Netlink {
    /// Ports of a bridge that lead to other namespaces.
    pub fn pair_ports(&mut self, bridge: u32) -> Result<Vec<PairPort>> {
        let request = self.handle.link().get().execute();
        let links: Vec<LinkMessage> = self
            .runtime
            .block_on(Box::pin(request).try_collect())
            .map_err(|error| failed("list the network devices".into(), error))?;
        Ok(links.into_iter().filter_map(|link| parse_pair_port(link, bridge)).collect())
    }

    /// How long the super-frames of a device are, here or in another namespace.
    pub fn gso_limit(&mut self, index: u32, namespace: Option<NamespaceId>) -> Result<GsoLimit> {
        let mut request = self.handle.link().get().match_index(index);
        request.message_mut().attributes.extend(namespace.map(|NamespaceId(id)| LinkAttribute::IfNetnsId(id)));
        let request = request.execute();
        let message = self.runtime.block_on(async move { Box::pin(request).try_next().await });
        let message = message.map_err(|error| failed(format!("look up device {index}"), error))?;
        let mut limit = GsoLimit { any: 0, ipv4: None };
        for attribute in message.map(|message| message.attributes).unwrap_or_default() {
            match attribute {
                LinkAttribute::GsoMaxSize(bytes) => limit.any = bytes,
                LinkAttribute::GsoIpv4MaxSize(bytes) => limit.ipv4 = Some(bytes),
                _ => {}
            }
        }
        Ok(limit)
    }

    /// Sets how long the super-frames of a device of this namespace are.
    pub fn set_gso_limit(&mut self, index: u32, limit: GsoLimit) -> Result<()> {
        self.change(index, "limit the super-frames of", |link| {
            // The kernel lets the general one lower IPv4's too, so that IPv4's comes second.
            let link = link.append_extra_attribute(LinkAttribute::GsoMaxSize(limit.any));
            match limit.ipv4 {
                Some(ipv4) => link.append_extra_attribute(LinkAttribute::GsoIpv4MaxSize(ipv4)),
                None => link,
            }
        })
    }

    /// The number by which this namespace knows another one, if it has one.
    pub fn namespace_id(&mut self, namespace: BorrowedFd<'_>) -> Result<Option<NamespaceId>> {
        let mut message = NsidMessage::default();
        message.attributes = vec![NsidAttribute::Fd(namespace.as_raw_fd().cast_unsigned())];
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let cannot = |error| failed("ask for the number of a network namespace".into(), error);
        let mut answers = self.handle.request(request).map_err(cannot)?;
        self.runtime.block_on(async {
            while let Some(answer) = answers.next().await {
                match answer.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(message)) => {
                        return Ok(message.attributes.iter().find_map(parse_id));
                    }
                    NetlinkPayload::Error(error) => return Err(cannot(rtnetlink::Error::NetlinkError(error))),
                    _ => {}
                }
            }
            Ok(None)
        })
    }
}

fn parse_id(attribute: &NsidAttribute) -> Option<NamespaceId> {
    match attribute {
        // -1: it has none.
        NsidAttribute::Id(id) if *id >= 0 => Some(NamespaceId(*id)),
        _ => None,
    }
}

fn parse_pair_port(link: LinkMessage, bridge: u32) -> Option<PairPort> {
    let (mut name, mut namespace, mut end_index) = (String::new(), None, None);
    let (mut is_port, mut is_pair) = (false, false);
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = text,
            LinkAttribute::Link(index) => end_index = Some(index),
            LinkAttribute::LinkNetNsId(id) => namespace = Some(NamespaceId(id)),
            LinkAttribute::Controller(index) => is_port = index == bridge,
            LinkAttribute::LinkInfo(infos) => is_pair = infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
            _ => {}
        }
    }
    let port = PairPort { index: link.header.index, name, namespace: namespace?, end_index: end_index? };
    (is_port && is_pair).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_lowered_in_each_part_and_never_raised() {
        let limit = |any, ipv4| GsoLimit { any, ipv4 };
        assert_eq!(limit(65_536, None).lowered_to(63_000), Some(limit(63_000, None)));
        assert_eq!(limit(65_536, Some(65_536)).lowered_to(63_000), Some(limit(63_000, Some(63_000))));
        assert_eq!(limit(65_536, Some(30_000)).lowered_to(63_000), Some(limit(63_000, Some(30_000))));
        assert_eq!(limit(30_000, Some(65_536)).lowered_to(63_000), Some(limit(30_000, Some(63_000))));
        assert_eq!(limit(30_000, Some(63_000)).lowered_to(63_000), None);
    }
}
