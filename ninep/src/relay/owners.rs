//! Numbers of users and groups where the kernel's processes are in a user namespace (user_namespaces(7)). v9fs takes the numbers
//! of a server for those of the initial namespace, in which the processes of a namespace have others: root's files would be
//! nobody's. So the relay adds the beginning of the namespace's range to what the server says, and subtracts it from what the
//! kernel says.
//!
//! Access control lists also have such numbers, but as values of extended attributes, whose contents pass in pieces. They
//! are not supported there.

use bytes::Bytes;

use super::{Error, Relay};
use crate::errno::Errno;
use crate::msg::{Attr, Header, Kind, NO_ID, Reply, Request};
use crate::wire::HEADER;

/// `nobody`, as which an owner is shown that is not in the namespace.
const NOBODY: u32 = 65_534;

const ACLS: &[u8] = b"system.posix_acl_";

/// The users and groups of a user namespace: its 0 is `base` outside, and it has `count` of them, more than [`NOBODY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// What 0 is outside.
    pub base: u32,
    /// How many there are.
    pub count: u32,
}

impl IdRange {
    fn outer(self, id: u32) -> u32 {
        let inner = if id < self.count { id } else { NOBODY };
        self.base.saturating_add(inner)
    }

    /// Kernels know more numbers than are in the namespace, but no process of it can name one. [`NO_ID`] stays.
    fn inner(self, id: u32) -> u32 {
        let inner = id.checked_sub(self.base).filter(|id| *id < self.count);
        inner.unwrap_or(NO_ID)
    }

    pub(super) fn shown(self, attr: Attr) -> Attr {
        Attr {
            uid: self.outer(attr.uid),
            gid: self.outer(attr.gid),
            ..attr
        }
    }
}

impl Relay {
    /// The same for a mount in a user namespace that has these users and groups.
    #[must_use]
    pub fn in_namespace(self, ids: Option<IdRange>) -> Self {
        Self { ids, ..self }
    }

    /// A request of the kernel with the server's numbers; none if the relay has answered it.
    pub(super) fn with_servers_ids(&mut self, header: Header, message: Bytes) -> Option<Bytes> {
        let Some(ids) = self.ids else {
            return Some(message);
        };
        let body = message.get(HEADER..).unwrap_or_default();
        let Ok(mut request) = Kind::new(header.kind).and_then(|kind| Request::decode(kind, body))
        else {
            // The server will refuse it.
            return Some(message);
        };
        match &mut request {
            Request::Attach { n_uname: id, .. }
            | Request::Lcreate { gid: id, .. }
            | Request::Symlink { gid: id, .. }
            | Request::Mknod { gid: id, .. }
            | Request::Mkdir { gid: id, .. } => *id = ids.inner(*id),
            Request::Setattr { attr, .. } => {
                (attr.uid, attr.gid) = (ids.inner(attr.uid), ids.inner(attr.gid));
            }
            Request::Xattrwalk { name, .. } | Request::Xattrcreate { name, .. }
                if name.bytes().starts_with(ACLS) =>
            {
                let ecode = Errno::EOPNOTSUPP.raw();
                self.reply_locally(header.tag, &Reply::Error { ecode });
                return None;
            }
            _ => return Some(message),
        }
        request.encode(header.tag, &mut self.frame);
        Some(Bytes::copy_from_slice(self.frame.finish()))
    }

    /// A reply of the server with the kernel's numbers.
    pub(super) fn with_kernels_ids(
        &mut self,
        header: Header,
        message: Bytes,
    ) -> Result<Bytes, Error> {
        let Some(ids) = self
            .ids
            .filter(|_| header.kind == Kind::Getattr.number() + 1)
        else {
            return Ok(message);
        };
        let body = message.get(HEADER..).unwrap_or_default();
        Ok(
            match Reply::decode(header.kind, body).map_err(Error::Reply)? {
                Reply::Getattr { attr } => {
                    let attr = ids.shown(attr);
                    self.reply_bytes(header.tag, &Reply::Getattr { attr })
                }
                _ => message,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::msg::{SetAttr, VERSION};
    use crate::relay::Upstream;
    use crate::wire::{Frame, Name, Str};

    const IDS: IdRange = IdRange {
        base: 7 << 20,
        count: 1 << 20,
    };

    fn encoded(encode: impl FnOnce(&mut Frame)) -> Bytes {
        let mut frame = Frame::default();
        encode(&mut frame);
        Bytes::copy_from_slice(frame.finish())
    }

    /// What the server gets, and what the kernel gets for it at once.
    fn sent(relay: &mut Relay, request: &Request<'_>) -> (Bytes, Bytes) {
        let (mut server, mut kernel) = (Vec::new(), Vec::new());
        let bytes = encoded(|frame| request.encode(3, frame));
        relay
            .from_kernel(bytes, Instant::now(), &mut server)
            .unwrap();
        relay.take_replies(&mut kernel);
        (server.concat().into(), kernel.concat().into())
    }

    #[test]
    fn owners_are_translated_in_every_request_that_has_one() {
        for server in [Upstream::Any, Upstream::URoot] {
            let mut relay = Relay::new(server).in_namespace(Some(IDS));
            let name = Name::new(b"a").unwrap();
            let text = Str::new(b"b").unwrap_or_default();
            let root = IDS.base;
            let attr = |uid, gid| SetAttr {
                valid: SetAttr::UID | SetAttr::GID,
                uid,
                gid,
                ..SetAttr::default()
            };
            let with = |id: u32, uid: u32| {
                [
                    Request::Attach {
                        fid: 1,
                        afid: 2,
                        uname: text,
                        aname: text,
                        n_uname: id,
                    },
                    Request::Lcreate {
                        fid: 1,
                        name,
                        flags: 0,
                        mode: 0,
                        gid: id,
                    },
                    Request::Symlink {
                        dfid: 1,
                        name,
                        target: text,
                        gid: id,
                    },
                    Request::Mknod {
                        dfid: 1,
                        name,
                        mode: 0,
                        major: 0,
                        minor: 0,
                        gid: id,
                    },
                    Request::Mkdir {
                        dfid: 1,
                        name,
                        mode: 0,
                        gid: id,
                    },
                    Request::Setattr {
                        fid: 1,
                        attr: attr(uid, id),
                    },
                ]
            };
            for (kernels, servers) in with(root, root + 5).iter().zip(&with(0, 5)) {
                let wanted = encoded(|frame| servers.encode(3, frame));
                assert_eq!(sent(&mut relay, kernels), (wanted, Bytes::new()));
            }
            // Without a namespace nothing is.
            let mut plain = Relay::new(server);
            for request in &with(root, root) {
                let wanted = encoded(|frame| request.encode(3, frame));
                assert_eq!(sent(&mut plain, request).0, wanted);
            }
        }
    }

    #[test]
    fn owners_are_translated_in_attributes_however_they_come() {
        for server in [Upstream::Any, Upstream::URoot] {
            let attr = |uid, gid| {
                let attr = Attr {
                    valid: Attr::BASIC,
                    uid,
                    gid,
                    ..Attr::default()
                };
                encoded(|frame| Reply::Getattr { attr }.encode(3, frame))
            };
            let mut relay = Relay::new(server).in_namespace(Some(IDS));
            let mut out = Vec::new();
            for byte in attr(0, 2_000_000).chunks(1) {
                let byte = Bytes::copy_from_slice(byte);
                relay.from_server(byte, Instant::now(), &mut out).unwrap();
            }
            let out = BytesMut::from(out.concat().as_slice()).freeze();
            assert_eq!(out.len(), attr(0, 0).len());
            let Ok(Reply::Getattr { attr }) = Reply::decode(25, &out[HEADER..]) else {
                panic!("{out:?}");
            };
            assert_eq!((attr.uid, attr.gid), (IDS.base, IDS.base + NOBODY));
        }
    }

    #[test]
    fn attributes_that_come_with_a_walk_are_translated() {
        let mut relay = Relay::new(Upstream::Any).in_namespace(Some(IDS));
        let version = |version| Request::Version {
            msize: 1 << 16,
            version,
        };
        let plain = Str::new(VERSION).unwrap_or_default();
        let extended = Str::new(crate::msg::EXTENDED).unwrap_or_default();
        sent(&mut relay, &version(plain));
        let now = Instant::now();
        let agreed = Reply::Version {
            msize: 1 << 16,
            version: extended,
        };
        let agreed = encoded(|frame| agreed.encode(3, frame));
        relay.from_server(agreed, now, &mut Vec::new()).unwrap();
        let mut names = crate::wire::WalkVec::default();
        names.push(Name::new(b"a").unwrap());
        sent(
            &mut relay,
            &Request::Walk {
                fid: 1,
                newfid: 2,
                names,
            },
        );
        let attr = Attr {
            valid: Attr::BASIC,
            uid: 0,
            gid: 3,
            ..Attr::default()
        };
        let walked = encoded(|frame| Reply::Walkgetattr { attr }.encode(3, frame));
        relay.from_server(walked, now, &mut Vec::new()).unwrap();
        let (to_server, reply) = sent(&mut relay, &Request::Getattr { fid: 2, mask: 0 });
        assert!(to_server.is_empty());
        let Ok(Reply::Getattr { attr }) = Reply::decode(25, &reply[HEADER..]) else {
            panic!("{reply:?}");
        };
        assert_eq!((attr.uid, attr.gid), (IDS.base, IDS.base + 3));
    }

    #[test]
    fn access_control_lists_are_not_supported_and_other_attributes_are() {
        let mut relay = Relay::new(Upstream::Any).in_namespace(Some(IDS));
        let name = |name: &'static [u8]| Str::new(name).unwrap_or_default();
        let walk = |text| Request::Xattrwalk {
            fid: 1,
            newfid: 2,
            name: name(text),
        };
        let create = |text| Request::Xattrcreate {
            fid: 1,
            name: name(text),
            size: 1,
            flags: 0,
        };
        let refusal = Reply::Error {
            ecode: Errno::EOPNOTSUPP.raw(),
        };
        let refusal = encoded(|frame| refusal.encode(3, frame));
        for acl in [&b"system.posix_acl_access"[..], b"system.posix_acl_default"] {
            for request in [walk(acl), create(acl)] {
                assert_eq!(sent(&mut relay, &request), (Bytes::new(), refusal.clone()));
            }
        }
        for request in [walk(b"user.x"), create(b"user.x"), walk(b"")] {
            assert!(sent(&mut relay, &request).1.is_empty());
        }
    }

    proptest! {
        #[test]
        fn every_number_is_in_the_range_and_those_of_the_namespace_come_back(
            slot in 1..4095_u32,
            id in prop_oneof![0..4_u32, (1 << 20) - 2..(1 << 20) + 2_u32, any::<u32>()],
        ) {
            let ids = IdRange { base: slot << 20, count: 1 << 20 };
            let outer = ids.outer(id);
            prop_assert_eq!(outer >> 20, slot);
            let back = if id < ids.count { id } else { NOBODY };
            prop_assert_eq!(ids.inner(outer), back);
            // Nobody in the namespace is root outside.
            prop_assert_eq!(ids.inner(0), NO_ID);
            prop_assert_eq!(ids.inner(NO_ID), NO_ID);
        }
    }
}
